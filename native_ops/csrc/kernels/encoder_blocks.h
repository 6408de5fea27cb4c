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

template <int rows, int groups, bool adding>
void float_rows(const float* a, int64_t a_stride, const float* b, int64_t inputs, float* out, int64_t out_stride) {
  Floats sums[rows][groups];
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < groups; ++g) sums[r][g] = adding ? load(out + r * out_stride + 16 * g) : zero();
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

template <int most, int groups, bool adding> void last_float_rows(int rows, const float* a, int64_t a_stride, const float* b, int64_t inputs, float* out, int64_t out_stride) {
  if constexpr (most > 0) {
    if (rows == most) return float_rows<most, groups, adding>(a, a_stride, b, inputs, out, out_stride);
    last_float_rows<most - 1, groups, adding>(rows, a, a_stride, b, inputs, out, out_stride);
  }
}

// out [rows, 16 groups] = a [rows, K] times a panel [K, 32] of floats, or its first 16 columns;
// `adding`: onto what stands there.
template <int groups, bool adding>
void float_block(const float* a, int64_t a_stride, const float* b, int64_t inputs, int rows, float* out, int64_t out_stride) {
  constexpr int together = groups < kFloatGroups ? groups : kFloatGroups;
  for (int g = 0; g < groups; g += together) {
    int r = 0;
    for (; r + kFloatRows <= rows; r += kFloatRows)
      float_rows<kFloatRows, together, adding>(a + r * a_stride, a_stride, b + 16 * g, inputs, out + r * out_stride + 16 * g, out_stride);
    last_float_rows<kFloatRows - 1, together, adding>(rows - r, a + r * a_stride, a_stride, b + 16 * g, inputs, out + r * out_stride + 16 * g, out_stride);
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
    float_block<2, false>(a, a_stride, static_cast<const float*>(b), inputs, rows, out, out_stride);
  }
  // The first 16 outputs alone, with the bits that `block` gives them.
  static void half_block(const float* a, int64_t a_stride, const void* b, int64_t inputs, int rows, float* out, int64_t out_stride, const Tiles&) {
    float_block<1, false>(a, a_stride, static_cast<const float*>(b), inputs, rows, out, out_stride);
  }
  // Onto what stands in `out`; never on tiles.
  static void add_block(const float* a, int64_t a_stride, const void* b, int64_t inputs, int rows, float* out, int64_t out_stride) {
    float_block<2, true>(a, a_stride, static_cast<const float*>(b), inputs, rows, out, out_stride);
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
template <int rows, int groups, bool adding>
void pair_rows(const uint16_t* a, int64_t a_stride, const uint8_t* b, int64_t group_bytes, int64_t pairs, float* out, int64_t out_stride) {
  __m512 sums[rows][groups];
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < groups; ++g) sums[r][g] = adding ? _mm512_loadu_ps(out + r * out_stride + 16 * g) : _mm512_setzero_ps();
  for (int64_t i = 0; i < pairs; ++i) {
    __m512bh w[groups];
    for (int g = 0; g < groups; ++g) w[g] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + g * group_bytes + 64 * i));
    for (int r = 0; r < rows; ++r) {
      int32_t pair;
      std::memcpy(&pair, a + r * a_stride + 2 * i, 4);
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int g = 0; g < groups; ++g) sums[r][g] = _mm512_dpbf16_ps(sums[r][g], x, w[g]);
    }
  }
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < groups; ++g) _mm512_storeu_ps(out + r * out_stride + 16 * g, sums[r][g]);
}

template <int most, int groups, bool adding> void last_pair_rows(int rows, const uint16_t* a, int64_t a_stride, const uint8_t* b, int64_t group_bytes, int64_t pairs, float* out, int64_t out_stride) {
  if constexpr (most > 0) {
    if (rows == most) return pair_rows<most, groups, adding>(a, a_stride, b, group_bytes, pairs, out, out_stride);
    last_pair_rows<most - 1, groups, adding>(rows, a, a_stride, b, group_bytes, pairs, out, out_stride);
  }
}

// As `float_block`, of neighbouring inputs in pairs; 16 sums at a time stay in registers.
template <int groups, bool adding>
void pair_block(const uint16_t* a, int64_t a_stride, const uint8_t* b, int64_t group_bytes, int64_t pairs, int rows, float* out, int64_t out_stride) {
  constexpr int together = 16 / groups;
  int r = 0;
  for (; r + together <= rows; r += together) pair_rows<together, groups, adding>(a + r * a_stride, a_stride, b, group_bytes, pairs, out + r * out_stride, out_stride);
  last_pair_rows<together - 1, groups, adding>(rows - r, a + r * a_stride, a_stride, b, group_bytes, pairs, out + r * out_stride, out_stride);
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
    pair_block<2, false>(a, a_stride, b, group_bytes, filled / 2, rows, out, out_stride);
  }
  // The first 16 outputs alone, with the bits that `block` gives them.
  static void half_block(const uint16_t* a, int64_t a_stride, const void* panel, int64_t inputs, int rows, float* out, int64_t out_stride, const Tiles& tiles) {
    if (tiles.on) return block(a, a_stride, panel, inputs, rows, out, out_stride, tiles);
    const int64_t filled = encoder_round_up(inputs, 32);
    pair_block<1, false>(a, a_stride, static_cast<const uint8_t*>(panel), filled * 32, filled / 2, rows, out, out_stride);
  }
  // Onto what stands in `out`; never on tiles. Reads no more inputs than a last pair needs.
  static void add_block(const uint16_t* a, int64_t a_stride, const void* panel, int64_t inputs, int rows, float* out, int64_t out_stride) {
    pair_block<2, true>(a, a_stride, static_cast<const uint8_t*>(panel), encoder_round_up(inputs, 32) * 32, (inputs + 1) / 2, rows, out, out_stride);
  }
};
#else
using Bf16 = Widened;
#endif

}  // namespace encoder
IRONCLIW_END
