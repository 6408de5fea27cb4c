// Small matrix products of rotary_attention, over elements of 32 bits: a float, or two neighbouring
// bfloat16 whose products are added (level avx512_bf16). Sums are floats in one fixed order.
#pragma once

#include "simd/rows.h"

IRONCLIW_BEGIN

struct Single { static constexpr int64_t unit = 1; };  // numbers of an element along the summed axis
#if defined(IRONCLIW_USE_BF16) && defined(IRONCLIW_USE_AVX512)
struct Pairs { static constexpr int64_t unit = 2; };
template <class Value> struct KindOf { using type = Single; };
template <> struct KindOf<uint16_t> { using type = Pairs; };
#else
template <class Value> struct KindOf { using type = Single; };
#endif

#if defined(IRONCLIW_USE_AVX512)
constexpr int kTileRows = 8, kTileVectors = 3;
#else
constexpr int kTileRows = 4, kTileVectors = 1;
#endif

IRONCLIW_INLINE Floats multiply_add(Single, Floats sum, Floats a, Floats b) { return fma(a, b, sum); }

// Rows of floats as rows of elements along the columns: [count, width] to [count, width / unit], and as
// elements along the rows: to [ceil(count / unit), width]. Nothing to do for single numbers.
inline const float* along_columns(Single, const float* rows, int64_t, int64_t, float*) { return rows; }
inline const float* along_rows(Single, const float* rows, int64_t, int64_t, float*) { return rows; }

#if defined(IRONCLIW_USE_BF16) && defined(IRONCLIW_USE_AVX512)
IRONCLIW_INLINE Floats multiply_add(Pairs, Floats sum, Floats a, Floats b) {
  return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}
IRONCLIW_INLINE __m256i rounded(Floats x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x.v)); }
// 16 elements of (low, high).
IRONCLIW_INLINE Floats pair(Floats low, Floats high) {
  const __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(high)), 16);
  return {_mm512_castsi512_ps(_mm512_or_si512(upper, _mm512_cvtepu16_epi32(rounded(low))))};
}
inline const float* along_columns(Pairs, const float* rows, int64_t count, int64_t width, float* out) {
  uint16_t* to = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < count * width; i += 16) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), rounded(load(rows + i)));
  return out;
}
inline const float* along_rows(Pairs, const float* rows, int64_t count, int64_t width, float* out) {
  for (int64_t row = 0; row < count; row += 2)
    for (int64_t i = 0; i < width; i += 16) {
      const float* at = rows + row * width + i;
      store(out + row / 2 * width + i, pair(load(at), row + 1 < count ? load(at + width) : zero()));
    }
  return out;
}
#endif

// elements [count, depth] to [depth, stride], columns up to a multiple of 16 filled with zeros
inline void transpose(const float* rows, int64_t count, int64_t depth, float* out, int64_t stride) {
  for (int64_t first = 0; first < count; first += 16) {
    const int64_t here = count - first < 16 ? count - first : 16;
    for (int64_t i = 0; i < depth; ++i) {
      float* to = out + i * stride + first;
      const float* from = rows + first * depth + i;
      for (int64_t j = 0; j < here; ++j) std::memcpy(to + j, from + j * depth, sizeof(float));
      if (here < 16) std::memset(to + here, 0, sizeof(float) * static_cast<size_t>(16 - here));
    }
  }
}

// Where the first operand's element (row, k) lies.
struct Operand {
  const float* at;
  int64_t row, k;
};

template <class Kind, int vectors, bool add>
IRONCLIW_INLINE void tile_product(const Operand& a, const float* b, int64_t b_stride, int64_t depth, float* c, int64_t c_stride) {
  Floats sums[kTileRows][vectors];
  for (int i = 0; i < kTileRows; ++i)
    for (int j = 0; j < vectors; ++j) sums[i][j] = add ? load(c + i * c_stride + 16 * j) : zero();
  for (int64_t k = 0; k < depth; ++k) {
    Floats right[vectors];
    for (int j = 0; j < vectors; ++j) right[j] = load(b + k * b_stride + 16 * j);
    for (int i = 0; i < kTileRows; ++i) {
      const Floats left = broadcast(a.at[i * a.row + k * a.k]);
      for (int j = 0; j < vectors; ++j) sums[i][j] = multiply_add(Kind{}, sums[i][j], left, right[j]);
    }
  }
  for (int i = 0; i < kTileRows; ++i)
    for (int j = 0; j < vectors; ++j) store(c + i * c_stride + 16 * j, sums[i][j]);
}

template <class Kind, int vectors, bool add>
void panel_product(Operand a, const float* b, int64_t b_stride, int64_t depth, int64_t rows, float* c, int64_t c_stride) {
  for (int64_t row = 0; row < rows; row += kTileRows, a.at += kTileRows * a.row) tile_product<Kind, vectors, add>(a, b, b_stride, depth, c + row * c_stride, c_stride);
}

// c [rows, columns] = a [rows, depth] b [depth, columns], or += where `add`. rows are a multiple of
// kTileRows, columns of 16.
template <class Kind, bool add>
void product(const Operand& a, const float* b, int64_t b_stride, int64_t depth, int64_t rows, int64_t columns, float* c, int64_t c_stride) {
  for (int64_t left = columns / 16; left > 0;) {
    const int64_t take = kTileVectors == 3 ? (left == 4 ? 2 : left < 3 ? left : 3) : 1;
    if (kTileVectors == 3 && take == 3) panel_product<Kind, kTileVectors, add>(a, b, b_stride, depth, rows, c, c_stride);
    else if (kTileVectors == 3 && take == 2) panel_product<Kind, (kTileVectors > 1 ? 2 : 1), add>(a, b, b_stride, depth, rows, c, c_stride);
    else panel_product<Kind, 1, add>(a, b, b_stride, depth, rows, c, c_stride);
    left -= take;
    b += 16 * take;
    c += 16 * take;
  }
}

IRONCLIW_END
