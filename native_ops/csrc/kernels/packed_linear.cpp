#include "kernels/packed_linear.h"

#include <cfloat>

#include "kernels/packed_linear_formats.h"
#ifdef IRONCLIW_USE_AMX
#include "kernels/packed_linear_amx.h"
#endif
#ifdef IRONCLIW_USE_AVX2
#include "kernels/packed_linear_avx2.h"
#endif
#ifdef IRONCLIW_USE_I8MM
#include "kernels/packed_linear_i8mm.h"
#endif

IRONCLIW_BEGIN

namespace {

// Rows of activations that one pass over a block of weights serves: as many as registers hold.
#if defined(IRONCLIW_USE_AVX512)
constexpr int kTile = 8;
#elif defined(IRONCLIW_USE_NEON) || defined(IRONCLIW_USE_AVX2)
constexpr int kTile = 4;
#else
constexpr int kTile = 1;
#endif
#ifdef IRONCLIW_USE_AVX2
constexpr int kTileOfPlanes = 2;  // more rows are words
#else
constexpr int kTileOfPlanes = kTile;
#endif
constexpr int64_t kCachedWeights = 262144;
constexpr int64_t kAhead = 4096;  // bytes of weights: the processor's own prefetching stops at the end of each small page

#if defined(IRONCLIW_USE_AVX512) || defined(IRONCLIW_USE_AVX2) || defined(IRONCLIW_USE_NEON)
#define IRONCLIW_DOT IRONCLIW_INLINE
#define IRONCLIW_UNROLL _Pragma("GCC unroll 8")
#else  // 64 scalar products a line: unrolled, they would take minutes to compile
#define IRONCLIW_DOT __attribute__((noinline))
#define IRONCLIW_UNROLL _Pragma("GCC unroll 1")
#endif

// ---------------------------------------------------------------- activations

struct Quantized { Ints a, b; };

IRONCLIW_INLINE void store_plane(Quantized q, int8_t* bytes) {
  store_int8(bytes, q.a);
  store_int8(bytes + 16, q.b);
}

// Values below 1e-30 are taken for zero: 127 / value would overflow.
IRONCLIW_INLINE void quantize_block(const float* x, const QuantizedRows& out, int64_t row, int64_t block) {
  const Floats a = load(x), b = load(x + 16);
  const float most = largest(larger(abs(a), abs(b)));
  const bool finite = most <= FLT_MAX;  // not so for NaN either
  const float inverse = finite && most >= 1e-30f ? 127.0f / most : 0.0f;
  const float scale = finite ? (inverse > 0.0f ? most / 127.0f : 0.0f) : __builtin_nanf("");
  const Floats left = finite ? a * broadcast(inverse) : zero(), right = finite ? b * broadcast(inverse) : zero();
  const int64_t at = block * out.rows + row;
  int8_t* bytes = out.block(row, block);
  const Quantized first{to_ints(left), to_ints(right)};
  Quantized second{broadcast_int(0), broadcast_int(0)};
  store_plane(first, bytes);
  if (out.stored == 2) {
    const Floats fine = broadcast(static_cast<float>(out.steps));
    second = {to_ints((left - to_floats(first.a)) * fine), to_ints((right - to_floats(first.b)) * fine)};
    store_plane(second, bytes + kBlock);
  }
  int32_t sums[4];
  sum_each(first.a, first.b, second.a, second.b, sums);
  out.halves[at] = sums[0];
  out.sums[at] = sums[0] + sums[1];
  out.scales[at] = scale;
  float total = static_cast<float>(sums[0] + sums[1]);
  if (out.stored == 2) {
    out.halves2[at] = sums[2];
    out.sums2[at] = sums[2] + sums[3];
    total += static_cast<float>(sums[2] + sums[3]) * (1.0f / static_cast<float>(out.steps));
  }
  out.offsets[at] = scale * total;
}

void quantize(const float* x, int64_t x_stride, int64_t rows, int64_t columns, QuantizedRows out) {
  for (int64_t row = 0; row < rows; ++row, x += x_stride)
    for (int64_t block = 0; block < columns / kBlock; ++block) quantize_block(x + block * kBlock, out, row, block);
}

// ------------------------------------------------------- products with blocks

#if !defined(IRONCLIW_USE_AVX512)
IRONCLIW_INLINE int32_t four_at(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return four;
}
#endif

// Below, three times: the sum over lines [from, from + count) of (u - zero) * x; exact. `total` is the
// sum of those x.
#if defined(IRONCLIW_USE_AVX512)
// Compilers load the broadcast by itself, which makes decoding instructions the limit.
IRONCLIW_INLINE Ints dot_from(Ints acc, Bytes w, const int8_t* x) {
  typedef int32_t __attribute__((may_alias, aligned(1))) Four;
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc.v) : "v"(w.v), "m"(*reinterpret_cast<const Four*>(x)));
  return acc;
}
IRONCLIW_INLINE Bytes plus_128(Bytes w) { return {_mm512_xor_si512(w.v, _mm512_set1_epi8(static_cast<char>(0x80)))}; }

template <class F, int from, int count> IRONCLIW_DOT Ints dot_lines(const Block& w, const int8_t* x, int32_t total) {
  Ints dot = F::kSigned ? start_signed(total) : broadcast_int(-F::kZero * total);
  IRONCLIW_UNROLL
  for (int l = from; l < from + count; ++l) dot = dot_from(dot, F::kSigned ? plus_128(w.u[l]) : w.u[l], x + 4 * l);
  return dot;
}
#elif defined(IRONCLIW_USE_AVX2)
// Products of nibbles fit 16 bits for 8 lines together (8 * 2 * 15 * 127), those of 6 bits for 2.
template <class F, int from, int count> IRONCLIW_DOT Ints dot_lines(const Block& w, const int8_t* x, int32_t total) {
  Ints dot = broadcast_int(-F::kZero * total);
  if constexpr (F::kSigned) {
    for (int l = from; l < from + count; ++l) dot = dot_signed(dot, w.u[l], four_at(x + 4 * l));
    return dot;
  }
  constexpr int together = F::kTwoScales ? 2 : 8;
  const __m256i ones = _mm256_set1_epi16(1);
  for (int l = from; l < from + count; l += together) {
    __m256i a = _mm256_setzero_si256(), b = a;
    for (int i = l; i < l + together; ++i) {
      const __m256i four = _mm256_set1_epi32(four_at(x + 4 * i));
      a = _mm256_add_epi16(a, _mm256_maddubs_epi16(w.u[i].a, four));
      b = _mm256_add_epi16(b, _mm256_maddubs_epi16(w.u[i].b, four));
    }
    dot = dot + Ints{_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)};
  }
  return dot;
}
#else
template <class F, int from, int count> IRONCLIW_DOT Ints dot_lines(const Block& w, const int8_t* x, int32_t total) {
  Ints dot = F::kSigned ? start_signed(total) : broadcast_int(-F::kZero * total);
  IRONCLIW_UNROLL
  for (int l = from; l < from + count; ++l) {
    if (F::kSigned) dot = dot_signed(dot, w.u[l], four_at(x + 4 * l));
    else dot = dot_small(dot, w.u[l], four_at(x + 4 * l));
  }
  return dot;
}
#endif

// dot_lines of one plane, or of two: first + second / steps.
template <class F, int planes, int from, int count>
IRONCLIW_INLINE Floats dot_planes(const Block& w, const int8_t* x, const int8_t* x2, int32_t total, int32_t total2, Floats step) {
  const Floats first = to_floats(dot_lines<F, from, count>(w, x, total));
  if constexpr (planes == 1) return first;
  else return fma(to_floats(dot_lines<F, from, count>(w, x2, total2)), step, first);
}

template <class F, int planes>
IRONCLIW_INLINE Floats add_block(Floats total, const Block& w, const QuantizedRows& x, const int8_t* bytes, int64_t at, Floats step) {
#ifdef IRONCLIW_USE_AVX2
  if constexpr (planes == 2) return add_block_of_planes<F>(total, w, x, bytes, at, step);
#endif
  const int8_t* bytes2 = bytes + kBlock;
  const int32_t sum = x.sums[at], sum2 = planes == 2 ? x.sums2[at] : 0;
  const Floats scale = broadcast(x.scales[at]);
  if constexpr (F::kTwoScales) {
    const int32_t half = x.halves[at], half2 = planes == 2 ? x.halves2[at] : 0;
    const Floats low = dot_planes<F, planes, 0, 4>(w, bytes, bytes2, half, half2, step);
    const Floats high = dot_planes<F, planes, 4, 4>(w, bytes, bytes2, sum - half, sum2 - half2, step);
    return fma(fma(low, w.scale, high * w.scale2), scale, total);
  } else {
    const Floats dot = dot_planes<F, planes, 0, 8>(w, bytes, bytes2, sum, sum2, step);
    total = fma(F::kScale ? dot * w.scale : dot, scale, total);
    return F::kOffset ? fma(w.offset, broadcast(x.offsets[at]), total) : total;
  }
}

// Asks for `bytes` from `p` on to be brought near. Nothing is read, so `p` may be behind the last weight.
IRONCLIW_INLINE void prefetch(uintptr_t p, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(reinterpret_cast<const void*>(p + static_cast<uintptr_t>(at)));
}

// Where integer sums are those of both planes, they are so many steps too large.
template <int planes> IRONCLIW_INLINE Floats row_scale(const float* scales, [[maybe_unused]] Floats step) {
#ifdef IRONCLIW_USE_AVX2
  if constexpr (planes == 2) return load(scales) * step;
#endif
  return load(scales);
}

// Rows [row, row + tile) with one group of 16 outputs.
template <class F, int planes, int tile>
void multiply_tile(const uint8_t* group, int64_t columns, const QuantizedRows& x, int64_t row, float* out, int64_t out_stride) {
  const int64_t blocks = columns / kBlock;
  const Floats step = broadcast(1.0f / static_cast<float>(x.steps));
  Floats total[tile];
  for (int m = 0; m < tile; ++m) total[m] = zero();
  const uint8_t* w = group + F::kGroupHead;
  const int8_t* bytes[tile];
  for (int m = 0; m < tile; ++m) bytes[m] = x.block(row + m, 0);
  for (int64_t block = 0; block < blocks;) {
    const Head head = F::head(w);
    w += F::kHead;
    for (int b = 0; b < F::kBlocks; ++b, ++block, w += F::kBytes) {
      // more rows than these have enough to compute: there, prefetching costs more than it hides
      if constexpr (tile <= 2) prefetch(reinterpret_cast<uintptr_t>(w) + kAhead, F::kBytes);
      const Block weights = F::block(w, head);
#ifdef IRONCLIW_USE_I8MM
      if constexpr (tile > 1) {
        add_block_by_twos<F, planes, tile>(total, weights, x, bytes, block * x.rows + row, step);
        continue;
      }
#endif
  IRONCLIW_UNROLL
      for (int m = 0; m < tile; ++m) {
        total[m] = add_block<F, planes>(total[m], weights, x, bytes[m], block * x.rows + row + m, step);
        bytes[m] += x.block_bytes();
        // keeps each row's address in one register: of two, it takes VNNI instructions apart
        asm("" : "+r"(bytes[m]));
      }
    }
  }
  for (int m = 0; m < tile; ++m) {
    if (F::kGroupHead) total[m] = total[m] * row_scale<planes>(reinterpret_cast<const float*>(group), step);
    store(out + (row + m) * out_stride, total[m]);
  }
}

template <class F> int64_t bytes_of_group(int64_t columns) {
  return F::kGroupHead + columns / kBlock / F::kBlocks * F::kHead + columns / kBlock * F::kBytes;
}

// A tile's activations stay in the first level cache while the weights of the groups pass.
template <class F, int planes, int tile>
void multiply_rows(const PackedMatrix& w, int64_t begin, int64_t end, const QuantizedRows& x, int64_t row, int64_t rows, float* out,
    int64_t out_stride) {
  const int64_t bytes = bytes_of_group<F>(w.columns);
  for (; row + tile <= rows; row += tile)
    for (int64_t g = begin; g < end; ++g) multiply_tile<F, planes, tile>(w.data + g * bytes, w.columns, x, row, out + g * kGroup,
        out_stride);
  if constexpr (tile > 1) multiply_rows<F, planes, tile / 2>(w, begin, end, x, row, rows, out, out_stride);
}

// As many groups at a time as the second level cache holds: every tile of rows reads them again.
template <class F>
void multiply_groups(const PackedMatrix& w, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end, float* out,
    int64_t out_stride) {
#ifdef IRONCLIW_USE_AMX
  if (rows >= kTileRows && w.columns > 0)
    return multiply_tiles<F>(w, bytes_of_group<F>(w.columns), x, rows, begin, end, out, out_stride);
#endif
#ifdef IRONCLIW_USE_AVX2
  if (x.planes == 2 && rows >= kWordRows && w.columns > 0)
    return multiply_words<F>(w, bytes_of_group<F>(w.columns), x, rows, begin, end, out, out_stride);
#endif
  const int64_t step = 1 + kCachedWeights / (1 + bytes_of_group<F>(w.columns));
  for (int64_t first = begin; first < end; first += step) {
    const int64_t last = end - first < step ? end : first + step;
    if (x.planes == 2) multiply_rows<F, 2, kTileOfPlanes>(w, first, last, x, 0, rows, out, out_stride);
    else multiply_rows<F, 1, kTile>(w, first, last, x, 0, rows, out, out_stride);
  }
}

void multiply_quantized(const PackedMatrix& w, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end, float* out,
    int64_t out_stride) {
  switch (w.format) {
    case Format::q4_0: return multiply_groups<Q4_0>(w, x, rows, begin, end, out, out_stride);
    case Format::q4_1: return multiply_groups<Q4_1>(w, x, rows, begin, end, out, out_stride);
    case Format::q8_0: return multiply_groups<Q8_0>(w, x, rows, begin, end, out, out_stride);
    case Format::int8: return multiply_groups<Int8>(w, x, rows, begin, end, out, out_stride);
    case Format::q4_k: return multiply_groups<Q4_K>(w, x, rows, begin, end, out, out_stride);
    case Format::q6_k: return multiply_groups<Q6_K>(w, x, rows, begin, end, out, out_stride);
    default: return;
  }
}

// ------------------------------------------------------- products with floats

struct Float32 {
  using Value = float;
  static IRONCLIW_INLINE Floats get(const float* p) { return load(p); }
};
struct Float16 {
  using Value = uint16_t;
  static IRONCLIW_INLINE Floats get(const uint16_t* p) { return load_half(p); }
};
struct BFloat16 {
  using Value = uint16_t;
  static IRONCLIW_INLINE Floats get(const uint16_t* p) { return load_bf16(p); }
};

// Even and odd columns apart: two chains of additions.
template <class F, int tile>
void float_tile(const typename F::Value* w, int64_t columns, const float* x, int64_t x_stride, float* out, int64_t out_stride) {
  Floats even[tile], odd[tile];
  for (int m = 0; m < tile; ++m) even[m] = odd[m] = zero();
  int64_t k = 0;
  for (; k + 2 <= columns; k += 2) {
    const Floats left = F::get(w + k * kGroup), right = F::get(w + (k + 1) * kGroup);
  IRONCLIW_UNROLL
    for (int m = 0; m < tile; ++m) {
      even[m] = fma(left, broadcast(x[m * x_stride + k]), even[m]);
      odd[m] = fma(right, broadcast(x[m * x_stride + k + 1]), odd[m]);
    }
  }
  for (int m = 0; m < tile; ++m) {
    if (k < columns) even[m] = fma(F::get(w + k * kGroup), broadcast(x[m * x_stride + k]), even[m]);
    store(out + m * out_stride, even[m] + odd[m]);
  }
}

template <class F, int tile>
void float_rows(const typename F::Value* w, int64_t columns, const float* x, int64_t x_stride, int64_t row, int64_t rows, float* out,
    int64_t out_stride) {
  for (; row + tile <= rows; row += tile) float_tile<F, tile>(w, columns, x + row * x_stride, x_stride, out + row * out_stride, out_stride);
  if constexpr (tile > 1) float_rows<F, tile / 2>(w, columns, x, x_stride, row, rows, out, out_stride);
}

template <class F>
void float_groups(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t rows, int64_t begin, int64_t end, float* out,
    int64_t out_stride) {
  const auto* data = reinterpret_cast<const typename F::Value*>(w.data);
  for (int64_t g = begin; g < end; ++g) float_rows<F, kTile>(data + g * kGroup * w.columns, w.columns, x, x_stride, 0, rows,
      out + g * kGroup, out_stride);
}

void multiply_float(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t rows, int64_t begin, int64_t end, float* out,
    int64_t out_stride) {
  switch (w.format) {
    case Format::f32: return float_groups<Float32>(w, x, x_stride, rows, begin, end, out, out_stride);
    case Format::f16: return float_groups<Float16>(w, x, x_stride, rows, begin, end, out, out_stride);
    case Format::bf16: return float_groups<BFloat16>(w, x, x_stride, rows, begin, end, out, out_stride);
    default: return;
  }
}

// ----------------------------------------------------------------- one row

// Lane `lane` of a block's 32 weights, rounded as ggml rounds them.
template <class F> void read_block(const Block& block, int lane, float row_scale, float* out) {
  float scales[16], seconds[16], offsets[16];
  if (F::kScale) store(scales, block.scale);
  if (F::kTwoScales) store(seconds, block.scale2);
  if (F::kOffset) store(offsets, block.offset);
  for (int l = 0; l < 8; ++l) {
    uint8_t line[64];
    std::memcpy(line, &block.u[l], 64);
    const float scale = !F::kScale ? row_scale : F::kTwoScales && l >= 4 ? seconds[lane] : scales[lane];
    for (int k = 0; k < 4; ++k) {
      const uint8_t byte = line[4 * lane + k];
      const int u = F::kSigned ? static_cast<int8_t>(byte) : byte - F::kZero;
      out[4 * l + k] = scale * static_cast<float>(u) + (F::kOffset ? offsets[lane] : 0.0f);
    }
  }
}

template <class F> void read_blocks(const PackedMatrix& w, int64_t row, float* out) {
  const uint8_t* group = w.data + row / kGroup * bytes_of_group<F>(w.columns);
  const int lane = static_cast<int>(row % kGroup);
  float row_scale = 1.0f;
  if (F::kGroupHead) std::memcpy(&row_scale, group + 4 * lane, 4);
  const uint8_t* p = group + F::kGroupHead;
  for (int64_t k = 0; k < w.columns;) {
    const Head head = F::head(p);
    p += F::kHead;
    for (int b = 0; b < F::kBlocks; ++b, k += kBlock, p += F::kBytes) read_block<F>(F::block(p, head), lane, row_scale, out + k);
  }
}

template <class F> void read_floats(const PackedMatrix& w, int64_t row, float* out) {
  const auto* group = reinterpret_cast<const typename F::Value*>(w.data) + row / kGroup * kGroup * w.columns;
  float lanes[16];
  for (int64_t k = 0; k < w.columns; ++k) {
    store(lanes, F::get(group + k * kGroup));
    out[k] = lanes[row % kGroup];
  }
}

void read_row(const PackedMatrix& w, int64_t row, float* out) {
  switch (w.format) {
    case Format::f32: return read_floats<Float32>(w, row, out);
    case Format::f16: return read_floats<Float16>(w, row, out);
    case Format::bf16: return read_floats<BFloat16>(w, row, out);
    case Format::q4_0: return read_blocks<Q4_0>(w, row, out);
    case Format::q4_1: return read_blocks<Q4_1>(w, row, out);
    case Format::q8_0: return read_blocks<Q8_0>(w, row, out);
    case Format::int8: return read_blocks<Int8>(w, row, out);
    case Format::q4_k: return read_blocks<Q4_K>(w, row, out);
    case Format::q6_k: return read_blocks<Q6_K>(w, row, out);
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const PackedLinearKernels IRONCLIW_TABLE(packed_linear);
const PackedLinearKernels IRONCLIW_TABLE(packed_linear) = {IRONCLIW_LEVEL::quantize, IRONCLIW_LEVEL::multiply_quantized,
    IRONCLIW_LEVEL::multiply_float, IRONCLIW_LEVEL::read_row};
}  // namespace ironcliw
