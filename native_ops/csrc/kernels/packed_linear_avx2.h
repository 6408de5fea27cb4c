// Quantised products with activations in two planes at AVX2. Both planes are one number of 16 bits,
// steps * first + second, and the integer sums are sums of its products: exact, in 32 bits.
//
// Up to three rows are multiplied plane by plane, as bytes, while their weights pass through the registers
// (`add_block_of_planes`). For more rows, weights and activations become words, of which one VPMADDWD
// multiplies 16 and adds them by twos (`multiply_words`). What follows the integer sums is `add_products`
// in both: a row has the same bits here and there.
//
// The limit is arithmetic, on processors with three vector ports of which two multiply: 512 products of 16
// bits, their sums and their scales are 70 instructions, 23.3 cycles. In float32 they would be 32 cycles.
#pragma once

#include "kernels/packed_linear.h"
#include "kernels/packed_linear_formats.h"

IRONCLIW_BEGIN

constexpr int64_t kPiece = 24;       // blocks at a time: whole super-blocks, whose words fit the first level cache
constexpr int64_t kWordRows = 4;     // rows that one pass over these words serves: as many as registers hold
constexpr int64_t kRowsAtOnce = 128; // whose words fit the second level cache; weights are unpacked once for them

// The sum, and here and now: compilers put chains of integer sums in an order of their own, for which the
// registers do not suffice.
IRONCLIW_INLINE __m256i add_words_now(__m256i sum, __m256i term) {
  sum = _mm256_add_epi16(sum, term);
  asm("" : "+x"(sum));
  return sum;
}
IRONCLIW_INLINE __m256i add_ints_now(__m256i sum, __m256i term) {
  sum = _mm256_add_epi32(sum, term);
  asm("" : "+x"(sum));
  return sum;
}

IRONCLIW_INLINE __m256i broadcast_four(const void* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// The numbers that a row's integer sums of a block are multiplied with. The sums are so many steps too
// large: `step`, 1 / steps, goes into the weights' scale. Where they have two it is taken first: both parts
// must be whole numbers where x is, however far they take each other away.
struct Scales {
  Floats weights, second;  // second: scale2 or offset
  float x, x_offset;
};

template <class F> IRONCLIW_INLINE Floats first_scale(const Block& w, Floats step) {
  return !F::kScale ? zero() : F::kTwoScales ? w.scale : w.scale * step;
}
template <class F> IRONCLIW_INLINE Floats second_scale(const Block& w) { return F::kTwoScales ? w.scale2 : F::kOffset ? w.offset : zero(); }

// Integer sums `low`, or `low` and `high` of the two halves of a block, added to a row's 16 sums.
template <class F> IRONCLIW_INLINE Floats add_products(Floats total, Ints low, Ints high, const Scales& scales, Floats step) {
  if constexpr (F::kTwoScales) {
    return fma(fma(to_floats(low) * step, scales.weights, to_floats(high) * step * scales.second), broadcast(scales.x), total);
  } else {
    total = fma(F::kScale ? to_floats(low) * scales.weights : to_floats(low), broadcast(scales.x), total);
    return F::kOffset ? fma(scales.second, broadcast(scales.x_offset), total) : total;
  }
}

// ------------------------------------------------------- up to three rows

// Over lines [from, from + count), steps times the sums of the first plane and those of the second.
// Products of nibbles fit 16 bits for 8 lines together (8 * 2 * 15 * 127), those of 6 bits for 2. Signed
// weights: |w| * sign(x by w) = w * x; |-128| is 128 as an unsigned byte, and 2 * 128 * 127 still fits.
template <class F, int from, int count> IRONCLIW_INLINE Ints dot_both_planes(const Block& w, const int8_t* x, int steps, int32_t total) {
  constexpr int together = F::kSigned ? 1 : F::kTwoScales ? 2 : 8;
  const __m256i ones = _mm256_set1_epi16(1), many = _mm256_set1_epi16(static_cast<int16_t>(steps));
  Ints dot = broadcast_int(-F::kZero * total);
#pragma GCC unroll 8
  for (int l = from; l < from + count; l += together) {
    __m256i a = _mm256_setzero_si256(), b = a, a2 = a, b2 = a;
#pragma GCC unroll 8
    for (int i = l; i < l + together; ++i) {
      const __m256i four = broadcast_four(x + 4 * i), four2 = broadcast_four(x + kBlock + 4 * i);
      const Bytes u = w.u[i];
      if constexpr (F::kSigned) {
        const Bytes size{_mm256_abs_epi8(u.a), _mm256_abs_epi8(u.b)};
        a = _mm256_maddubs_epi16(size.a, _mm256_sign_epi8(four, u.a));
        b = _mm256_maddubs_epi16(size.b, _mm256_sign_epi8(four, u.b));
        a2 = _mm256_maddubs_epi16(size.a, _mm256_sign_epi8(four2, u.a));
        b2 = _mm256_maddubs_epi16(size.b, _mm256_sign_epi8(four2, u.b));
      } else {
        a = add_words_now(a, _mm256_maddubs_epi16(u.a, four));
        b = add_words_now(b, _mm256_maddubs_epi16(u.b, four));
        a2 = add_words_now(a2, _mm256_maddubs_epi16(u.a, four2));
        b2 = add_words_now(b2, _mm256_maddubs_epi16(u.b, four2));
      }
    }
    dot = dot + Ints{_mm256_madd_epi16(a, many), _mm256_madd_epi16(b, many)};
    dot = dot + Ints{_mm256_madd_epi16(a2, ones), _mm256_madd_epi16(b2, ones)};
  }
  return dot;
}

// `at`: of the row's numbers of this block.
template <class F> IRONCLIW_INLINE Floats add_block_of_planes(Floats total, const Block& w, const QuantizedRows& x, const int8_t* bytes, int64_t at, Floats step) {
  const Scales scales{first_scale<F>(w, step), second_scale<F>(w), x.scales[at], x.offsets[at]};
  if constexpr (F::kTwoScales) {
    const int32_t half = x.steps * x.halves[at] + x.halves2[at], sum = x.steps * x.sums[at] + x.sums2[at];
    const Ints low = dot_both_planes<F, 0, 4>(w, bytes, x.steps, half), high = dot_both_planes<F, 4, 4>(w, bytes, x.steps, sum - half);
    return add_products<F>(total, low, high, scales, step);
  } else {
    const int32_t sum = F::kZero ? x.steps * x.sums[at] + x.sums2[at] : 0;
    const Ints dot = dot_both_planes<F, 0, 8>(w, bytes, x.steps, sum);
    return add_products<F>(total, dot, dot, scales, step);
  }
}

// ------------------------------------------------------ four rows and more

// Of 16 outputs, one after the other, two columns: 4l and 4l + 2 in pair 2l, 4l + 1 and 4l + 3 in the next
// one, which is how bytes of four neighbours fall apart. What F::kZero stands for is taken off.
struct alignas(32) WordBlock {
  int16_t pairs[16][2 * kGroup];
  float scale[kGroup], second[kGroup];
};

// The rows' words of a piece, in the same order of columns.
struct alignas(32) WordRows {
  int16_t blocks[kPiece][kWordRows][kBlock];
};

IRONCLIW_INLINE __m256i load_words(const int16_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
IRONCLIW_INLINE void store_words(int16_t* p, __m256i words) { _mm256_store_si256(reinterpret_cast<__m256i*>(p), words); }

template <class F> IRONCLIW_INLINE void put_pair(WordBlock& out, int pair, int half, __m256i words) {
  if (F::kZero) words = _mm256_sub_epi16(words, _mm256_set1_epi16(F::kZero));
  store_words(out.pairs[pair] + half * kGroup, words);
}

// A line's bytes of 8 outputs: words of the even ones and of the odd ones.
template <class F> IRONCLIW_INLINE void put_line(WordBlock& out, int line, int half, __m256i bytes) {
  if constexpr (F::kSigned) {
    put_pair<F>(out, 2 * line, half, _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8));
    put_pair<F>(out, 2 * line + 1, half, _mm256_srai_epi16(bytes, 8));
  } else {
    put_pair<F>(out, 2 * line, half, _mm256_and_si256(bytes, _mm256_set1_epi16(255)));
    put_pair<F>(out, 2 * line + 1, half, _mm256_srli_epi16(bytes, 8));
  }
}

// The same of two lines that share their bytes, straight from the nibbles.
template <class F> IRONCLIW_INLINE void put_nibble_lines(WordBlock& out, int line, int half, __m256i both) {
  const __m256i nibble = _mm256_set1_epi16(15);
  put_pair<F>(out, 2 * line, half, _mm256_and_si256(both, nibble));
  put_pair<F>(out, 2 * line + 1, half, _mm256_and_si256(_mm256_srli_epi16(both, 8), nibble));
  put_pair<F>(out, 2 * line + 8, half, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble));
  put_pair<F>(out, 2 * line + 9, half, _mm256_srli_epi16(both, 12));
}

template <class F> void unpack_words(const uint8_t* w, int64_t count, Floats step, WordBlock* out) {
  for (int64_t at = 0; at < count;) {
    const Head head = F::head(w);
    w += F::kHead;
    for (int b = 0; b < F::kBlocks; ++b, ++at, w += F::kBytes) {
      const Block block = F::block(w, head);
      if constexpr (F::kNibbles) {
        for (int l = 0; l < 4; ++l) {
          const Bytes both = load_bytes(w + l * kLine);
          put_nibble_lines<F>(out[at], l, 0, both.a);
          put_nibble_lines<F>(out[at], l, 1, both.b);
        }
      } else {
        for (int l = 0; l < 8; ++l) {
          put_line<F>(out[at], l, 0, block.u[l].a);
          put_line<F>(out[at], l, 1, block.u[l].b);
        }
      }
      store(out[at].scale, first_scale<F>(block, step));
      store(out[at].second, second_scale<F>(block));
    }
  }
}

// `bytes` of both planes to steps * first + second.
IRONCLIW_INLINE void join_planes(const int8_t* bytes, int steps, int16_t* out) {
  const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
  const __m256i factors = _mm256_set1_epi16(static_cast<int16_t>(steps | 1 << 8));
  const Bytes planes = load_bytes(reinterpret_cast<const uint8_t*>(bytes));
  const __m256i first = _mm256_shuffle_epi8(planes.a, order), second = _mm256_shuffle_epi8(planes.b, order);
  const __m256i low = _mm256_maddubs_epi16(factors, _mm256_unpacklo_epi8(first, second));
  const __m256i high = _mm256_maddubs_epi16(factors, _mm256_unpackhi_epi8(first, second));
  store_words(out, _mm256_permute2x128_si256(low, high, 0x20));
  store_words(out + 16, _mm256_permute2x128_si256(low, high, 0x31));
}

// Blocks from `first` on of rows from `row` on.
struct RowsOfPiece {
  const QuantizedRows& x;
  int64_t row, rows, first, count;
  int64_t tiles() const { return (rows + kWordRows - 1) / kWordRows; }
};

IRONCLIW_INLINE void join_rows(const RowsOfPiece& part, WordRows* out) {
  for (int64_t m = 0; m < part.rows; ++m) {
    const int8_t* bytes = part.x.block(part.row + m, part.first);
    for (int64_t b = 0; b < part.count; ++b) join_planes(bytes + b * part.x.block_bytes(), part.x.steps, out[m / kWordRows].blocks[b][m % kWordRows]);
  }
}

// Sums over pairs [from, from + count) for so many rows.
template <int rows, int from, int count> IRONCLIW_INLINE void dot_words(Ints* dots, const WordBlock& w, const int16_t (*x)[kBlock]) {
  for (int m = 0; m < rows; ++m) dots[m] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 16
  for (int p = from; p < from + count; ++p) {
    const __m256i a = load_words(w.pairs[p]), b = load_words(w.pairs[p] + kGroup);
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) {
      const __m256i two = broadcast_four(x[m] + 2 * p);
      dots[m].a = add_ints_now(dots[m].a, _mm256_madd_epi16(a, two));
      dots[m].b = add_ints_now(dots[m].b, _mm256_madd_epi16(b, two));
    }
  }
}

// Packed bytes of the next group, which are asked for while this one's rows are multiplied: `lines` of the
// cache with each block of each tile of rows, as long as there are some left. Nothing is read, so the
// next group may be behind the last one.
struct Ahead {
  uintptr_t at, end;
  int64_t lines;
  Ahead(const uint8_t* next, int64_t bytes, int64_t blocks) : at(reinterpret_cast<uintptr_t>(next)), end(at + static_cast<uintptr_t>(bytes)), lines(1 + (bytes - 1) / (kLine * blocks)) {}
  IRONCLIW_INLINE void ask() {
    for (int64_t i = 0; i < lines && at < end; ++i, at += kLine) __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
  }
};

// What is the same for all rows of a piece. `row_scales`: null where there are none, or more pieces follow.
struct WordGroup {
  const WordBlock* blocks;
  int64_t count;
  bool is_first;
  const float* row_scales;
  Floats step;
};

// out += the product of so many rows, or = where it is the first piece. `numbers`: of the first block's
// scales and offsets.
template <class F, int rows>
void multiply_word_rows(const WordGroup& w, Ahead& ahead, const WordRows& words, const QuantizedRows& x, int64_t numbers, float* out, int64_t out_stride) {
  // rows of `out` are far apart: a store that waits for its line holds up those behind it
  for (int m = 0; m < rows; ++m) __builtin_prefetch(out + m * out_stride, 1);
  Floats total[rows];
  for (int m = 0; m < rows; ++m) total[m] = w.is_first ? zero() : load(out + m * out_stride);
  for (int64_t b = 0; b < w.count; ++b, numbers += x.rows) {
    ahead.ask();
    const WordBlock& block = w.blocks[b];
    const int16_t(*row)[kBlock] = words.blocks[b];
    Ints low[rows], high[rows];
    dot_words<rows, 0, F::kTwoScales ? 8 : 16>(low, block, row);
    if constexpr (F::kTwoScales) dot_words<rows, 8, 8>(high, block, row);
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) {
      const Scales scales{load(block.scale), load(block.second), x.scales[numbers + m], x.offsets[numbers + m]};
      total[m] = add_products<F>(total[m], low[m], F::kTwoScales ? high[m] : low[m], scales, w.step);
    }
  }
  for (int m = 0; m < rows; ++m) {
    if (w.row_scales) total[m] = total[m] * (load(w.row_scales) * w.step);
    store(out + m * out_stride, total[m]);
  }
}

// All rows of a part with one group.
template <class F> void multiply_word_group(const WordGroup& w, Ahead ahead, const WordRows* words, const RowsOfPiece& part, float* out, int64_t out_stride) {
  const int64_t numbers = part.first * part.x.rows + part.row;
  int64_t m = 0;
  for (; m + kWordRows <= part.rows; m += kWordRows) multiply_word_rows<F, kWordRows>(w, ahead, words[m / kWordRows], part.x, numbers + m, out + m * out_stride, out_stride);
  const WordRows& last = words[m / kWordRows];
  switch (part.rows - m) {
    case 1: return multiply_word_rows<F, 1>(w, ahead, last, part.x, numbers + m, out + m * out_stride, out_stride);
    case 2: return multiply_word_rows<F, 2>(w, ahead, last, part.x, numbers + m, out + m * out_stride, out_stride);
    case 3: return multiply_word_rows<F, 3>(w, ahead, last, part.x, numbers + m, out + m * out_stride, out_stride);
    default: return;
  }
}

// Groups [begin, end) of `bytes` each; one block at least.
template <class F>
void multiply_words(const PackedMatrix& w, int64_t bytes, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end, float* out, int64_t out_stride) {
  WordRows words[kRowsAtOnce / kWordRows + 1];
  WordBlock unpacked[kPiece];
  const Floats step = broadcast(1.0f / static_cast<float>(x.steps));
  const int64_t blocks = w.columns / kBlock;
  for (int64_t row = 0; row < rows; row += kRowsAtOnce)
    for (int64_t first = 0; first < blocks; first += kPiece) {
      const RowsOfPiece part{x, row, rows - row < kRowsAtOnce ? rows - row : kRowsAtOnce, first, blocks - first < kPiece ? blocks - first : kPiece};
      join_rows(part, words);
      for (int64_t g = begin; g < end; ++g) {
        const uint8_t* group = w.data + g * bytes;
        const uint8_t* piece = group + F::kGroupHead + first / F::kBlocks * (F::kHead + F::kBlocks * F::kBytes);
        unpack_words<F>(piece, part.count, step, unpacked);
        const Ahead ahead(piece + bytes, part.count * F::kBytes, part.tiles() * part.count);
        const float* row_scales = F::kGroupHead && first + part.count == blocks ? reinterpret_cast<const float*>(group) : nullptr;
        multiply_word_group<F>({unpacked, part.count, first == 0, row_scales, step}, ahead, words, part, out + row * out_stride + g * kGroup, out_stride);
      }
    }
}

IRONCLIW_END
