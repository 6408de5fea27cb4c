// One panel of weights times up to 32 rows: the product that everything in an encoder is made of,
// attention included (keys and values are packed like weights).
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/encoder.h"
#include "simd/rows.h"

#if defined(IRONCLIW_USE_BF16)
#include "kernels/encoder_tiles.h"
#endif

IRONCLIW_BEGIN
namespace encoder {

constexpr int kRows = 32;  // of a block

#if !defined(IRONCLIW_USE_BF16)
struct Tiles {
  explicit Tiles(bool) {}
  static constexpr bool on = false;
};
#endif

// As `put`, rounded by the level's own instruction, which takes subnormals for zero.
template <class Value> IRONCLIW_INLINE void put_rounded(Value* p, Floats x, int count) {
#if defined(IRONCLIW_USE_BF16)
  if constexpr (sizeof(Value) == 2) {
    const __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v));
    if (count == 16) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded);
    return _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1u), rounded);
  }
#endif
  put(p, x, count);
}

// Elements from row to row in working memory: rows that are a multiple of 4 KB apart would share
// few places in the cache.
inline int64_t row_stride(int64_t width) { return encoder_round_up(width, 64) + 32; }
inline int64_t row_count(int64_t rows) { return encoder_round_up(rows, kRows); }

// Hands out working memory; without a base it only counts.
struct Memory {
  explicit Memory(uint8_t* start) : base(start) {}
  template <class T> T* take(int64_t count) {
    T* given = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += encoder_round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return given;
  }
  uint8_t* base;
  int64_t used = 0;
};

#if defined(IRONCLIW_USE_AVX512)
constexpr int kFloatRows = 8, kFloatGroups = 2;
#elif defined(IRONCLIW_USE_AVX2) || defined(IRONCLIW_USE_NEON)
constexpr int kFloatRows = 6, kFloatGroups = 1;
#else
constexpr int kFloatRows = 2, kFloatGroups = 1;
#endif

template <int rows, int groups>
void float_rows(const float* a, int64_t a_stride, const float* b, int64_t inputs, float* out, int64_t out_stride) {
  Floats sums[rows][groups];
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < groups; ++g) sums[r][g] = zero();
  for (int64_t i = 0; i < inputs; ++i, b += kPanelColumns) {
    Floats w[groups];
    for (int g = 0; g < groups; ++g) w[g] = load(b + 16 * g);
    for (int r = 0; r < rows; ++r) {
      const Floats x = broadcast(a[r * a_stride + i]);
      for (int g = 0; g < groups; ++g) sums[r][g] = fma(x, w[g], sums[r][g]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < groups; ++g) store(out + r * out_stride + 16 * g, sums[r][g]);
}

template <int most> void last_float_rows(int rows, const float* a, int64_t a_stride, const float* b, int64_t inputs, float* out, int64_t out_stride) {
  if constexpr (most > 0) {
    if (rows == most) return float_rows<most, kFloatGroups>(a, a_stride, b, inputs, out, out_stride);
    last_float_rows<most - 1>(rows, a, a_stride, b, inputs, out, out_stride);
  }
}

// out [rows, 32] = a [rows, K] times a panel [K, 32] of floats.
inline void float_block(const float* a, int64_t a_stride, const float* b, int64_t inputs, int rows, float* out, int64_t out_stride) {
  for (int g = 0; g < 2; g += kFloatGroups) {
    int r = 0;
    for (; r + kFloatRows <= rows; r += kFloatRows)
      float_rows<kFloatRows, kFloatGroups>(a + r * a_stride, a_stride, b + 16 * g, inputs, out + r * out_stride + 16 * g, out_stride);
    last_float_rows<kFloatRows - 1>(rows - r, a + r * a_stride, a_stride, b + 16 * g, inputs, out + r * out_stride + 16 * g, out_stride);
  }
}

// Rows of activations in working memory, as a product reads them.
template <class Value> struct Rows {
  const Value* at;
  int64_t stride;
};

// Weights and activations in float.
struct Float {
  using Value = float;
  static constexpr EncoderNumber number = EncoderNumber::f32;
  static int64_t scratch_bytes(int64_t, int64_t) { return 0; }
  static const void* panel(const EncoderLinear& w, int64_t index, uint8_t*) { return w.packed + index * encoder_panel_bytes(number, w.inputs); }
  static void block(const float* a, int64_t a_stride, const void* b, int64_t inputs, int rows, float* out, int64_t out_stride, const Tiles&) {
    float_block(a, a_stride, static_cast<const float*>(b), inputs, rows, out, out_stride);
  }
};

// Weights in bf16, widened a panel at a time; activations in float.
struct Widened : Float {
  static constexpr EncoderNumber number = EncoderNumber::bf16;
  static int64_t scratch_bytes(int64_t, int64_t inputs) { return encoder_round_up(inputs, 32) * kPanelColumns * 4; }
  static const void* panel(const EncoderLinear& w, int64_t index, uint8_t* work) {
    auto* scratch = reinterpret_cast<float*>(work);
    const int64_t filled = encoder_round_up(w.inputs, 32);
    const uint8_t* from = w.packed + index * encoder_panel_bytes(number, w.inputs);
    for (int64_t i = 0; i < filled / 2; ++i) {
      for (int g = 0; g < 2; ++g) {
        uint32_t pairs[16], even[16], odd[16];
        std::memcpy(pairs, from + g * filled * 32 + i * 64, 64);
        for (int c = 0; c < 16; ++c) {
          even[c] = pairs[c] << 16;
          odd[c] = pairs[c] & 0xffff0000u;
        }
        std::memcpy(scratch + 2 * i * kPanelColumns + 16 * g, even, 64);
        std::memcpy(scratch + (2 * i + 1) * kPanelColumns + 16 * g, odd, 64);
      }
    }
    return scratch;
  }
};

#if defined(IRONCLIW_USE_BF16)
template <int rows>
void pair_rows(const uint16_t* a, int64_t a_stride, const uint8_t* b, int64_t group_bytes, int64_t pairs, float* out, int64_t out_stride) {
  __m512 sums[rows][2];
  for (int r = 0; r < rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_ps();
  for (int64_t i = 0; i < pairs; ++i) {
    const auto w0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 64 * i));
    const auto w1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + group_bytes + 64 * i));
    for (int r = 0; r < rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * a_stride + 2 * i, 4);
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, w0);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, w1);
    }
  }
  for (int r = 0; r < rows; ++r) {
    _mm512_storeu_ps(out + r * out_stride, sums[r][0]);
    _mm512_storeu_ps(out + r * out_stride + 16, sums[r][1]);
  }
}

template <int most> void last_pair_rows(int rows, const uint16_t* a, int64_t a_stride, const uint8_t* b, int64_t group_bytes, int64_t pairs, float* out, int64_t out_stride) {
  if constexpr (most > 0) {
    if (rows == most) return pair_rows<most>(a, a_stride, b, group_bytes, pairs, out, out_stride);
    last_pair_rows<most - 1>(rows, a, a_stride, b, group_bytes, pairs, out, out_stride);
  }
}

// Weights and activations in bf16. Rows of activations are filled with zeros up to a multiple of 32
// columns, and there are 32 of them (or 16, where no more than 16 are wanted), whatever the last hold.
struct Bf16 {
  using Value = uint16_t;
  static constexpr EncoderNumber number = EncoderNumber::bf16;
  static int64_t scratch_bytes(int64_t, int64_t) { return 0; }
  static const void* panel(const EncoderLinear& w, int64_t index, uint8_t*) { return w.packed + index * encoder_panel_bytes(number, w.inputs); }
  static void block(const uint16_t* a, int64_t a_stride, const void* panel, int64_t inputs, int rows, float* out, int64_t out_stride, const Tiles& tiles) {
    const int64_t filled = encoder_round_up(inputs, 32), group_bytes = filled * 32;
    const auto* b = static_cast<const uint8_t*>(panel);
    if (tiles.on) {
      const auto multiply = rows > 16 ? tiles_bf16_32 : tiles_bf16_16;
      return multiply(reinterpret_cast<const uint8_t*>(a), 2 * a_stride, b, group_bytes, filled / 32, reinterpret_cast<uint8_t*>(out), 4 * out_stride);
    }
    int r = 0;
    for (; r + 8 <= rows; r += 8) pair_rows<8>(a + r * a_stride, a_stride, b, group_bytes, filled / 2, out + r * out_stride, out_stride);
    last_pair_rows<7>(rows - r, a + r * a_stride, a_stride, b, group_bytes, filled / 2, out + r * out_stride, out_stride);
  }
};
#else
using Bf16 = Widened;
#endif

}  // namespace encoder
IRONCLIW_END
