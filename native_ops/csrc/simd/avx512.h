// 16 lanes on AVX-512 (F, BW, DQ, VL, VNNI).
#pragma once

#include <immintrin.h>

IRONCLIW_BEGIN

struct Floats { __m512 v; };
struct Ints { __m512i v; };
struct Bytes { __m512i v; };

IRONCLIW_INLINE __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }

IRONCLIW_INLINE Floats zero() { return {_mm512_setzero_ps()}; }
IRONCLIW_INLINE Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
IRONCLIW_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
IRONCLIW_INLINE void store(float* p, Floats x) { _mm512_storeu_ps(p, x.v); }
// The first `count` lanes (0 to 16); the others are 0 and are not read.
IRONCLIW_INLINE Floats load_first(const float* p, int count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
IRONCLIW_INLINE void store_first(float* p, Floats x, int count) { _mm512_mask_storeu_ps(p, first(count), x.v); }

IRONCLIW_INLINE Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
IRONCLIW_INLINE Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
IRONCLIW_INLINE Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
IRONCLIW_INLINE Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c, rounded once.
IRONCLIW_INLINE Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
IRONCLIW_INLINE Floats sqrt(Floats a) { return {_mm512_sqrt_ps(a.v)}; }
IRONCLIW_INLINE Floats abs(Floats a) { return {_mm512_abs_ps(a.v)}; }
// `x` against a bound that is no NaN (x86 gives the second operand where one is NaN).
IRONCLIW_INLINE Floats at_least(Floats x, float bound) { return {_mm512_max_ps(_mm512_set1_ps(bound), x.v)}; }
IRONCLIW_INLINE Floats at_most(Floats x, float bound) { return {_mm512_min_ps(_mm512_set1_ps(bound), x.v)}; }
IRONCLIW_INLINE Floats larger(Floats a, Floats b) {
  const __m512 m = _mm512_max_ps(a.v, b.v);  // b where a is NaN or b is
  return {_mm512_mask_mov_ps(m, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), a.v)};
}
// Lanes of `a` where its index is below `count`, else those of `b`.
IRONCLIW_INLINE Floats choose_first(int count, Floats a, Floats b) { return {_mm512_mask_mov_ps(b.v, first(count), a.v)}; }
// Where condition >= 0 `a`, else `b`.
IRONCLIW_INLINE Floats where_not_negative(Floats condition, Floats a, Floats b) {
  return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(condition.v, _mm512_setzero_ps(), _CMP_GE_OQ), a.v)};
}
IRONCLIW_INLINE Floats copy_sign(Floats size, Floats sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, size.v), _mm512_and_ps(bit, sign.v))};
}

IRONCLIW_INLINE Ints to_ints(Floats x) { return {_mm512_cvtps_epi32(x.v)}; }  // to the nearest, ties to even
IRONCLIW_INLINE Floats to_floats(Ints x) { return {_mm512_cvtepi32_ps(x.v)}; }
IRONCLIW_INLINE Ints broadcast_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
IRONCLIW_INLINE Ints load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
IRONCLIW_INLINE void store_ints(int32_t* p, Ints x) { _mm512_storeu_si512(p, x.v); }
IRONCLIW_INLINE Ints operator+(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
IRONCLIW_INLINE Ints operator-(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
IRONCLIW_INLINE Ints operator*(Ints a, Ints b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
// 16 int8, saturated.
IRONCLIW_INLINE void store_int8(int8_t* p, Ints x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x.v)); }
IRONCLIW_INLINE Ints load_int8(const int8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
// x * 2^n
IRONCLIW_INLINE Floats scale_by_power(Floats x, Floats n) { return {_mm512_scalef_ps(x.v, n.v)}; }
IRONCLIW_INLINE Floats round(Floats x) { return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

// Sums in one fixed order: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
IRONCLIW_INLINE float sum(Floats x) {
  const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
IRONCLIW_INLINE int32_t sum(Ints x) { return _mm512_reduce_add_epi32(x.v); }
// The sums of four vectors: each step halves what is left of all of them.
IRONCLIW_INLINE void sum_each(Ints a, Ints b, Ints c, Ints d, int32_t* out) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a.v, b.v), _mm512_unpackhi_epi32(a.v, b.v));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c.v, d.v), _mm512_unpackhi_epi32(c.v, d.v));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
IRONCLIW_INLINE float largest(Floats x) {
  if (_mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q)) return __builtin_nanf("");
  return _mm512_reduce_max_ps(x.v);
}

// bfloat16 and IEEE half, 16 of them, rounded to the nearest even.
IRONCLIW_INLINE Floats load_bf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
IRONCLIW_INLINE void store_bf16(uint16_t* p, Floats x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}
IRONCLIW_INLINE Floats load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
IRONCLIW_INLINE void store_half(uint16_t* p, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// 64 bytes: 4 neighbouring inputs of each of 16 outputs.
IRONCLIW_INLINE Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
IRONCLIW_INLINE Bytes low_nibbles(Bytes x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
IRONCLIW_INLINE Bytes high_nibbles(Bytes x) { return {_mm512_and_si512(_mm512_srli_epi16(x.v, 4), _mm512_set1_epi8(15))}; }
// Bits [shift, shift + 2) of each byte, moved to bits 4 and 5.
template <int shift> IRONCLIW_INLINE Bytes bit_pairs(Bytes x) {
  const __m512i moved = shift <= 4 ? _mm512_slli_epi16(x.v, 4 - (shift <= 4 ? shift : 4)) : _mm512_srli_epi16(x.v, shift > 4 ? shift - 4 : 0);
  return {_mm512_and_si512(moved, _mm512_set1_epi8(0x30))};
}
IRONCLIW_INLINE Bytes operator|(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }

// acc + the dot products of 4 weights a lane with the same 4 signed bytes.
// `dot_small`: weights 0 to 127. `dot_signed`: signed weights (stored as they are), started with
// `start_signed(sum of all the signed bytes that will be multiplied)`.
IRONCLIW_INLINE Ints dot_small(Ints acc, Bytes weights, int32_t four) { return {_mm512_dpbusd_epi32(acc.v, weights.v, _mm512_set1_epi32(four))}; }
IRONCLIW_INLINE Ints start_signed(int32_t total) { return {_mm512_set1_epi32(-128 * total)}; }
IRONCLIW_INLINE Ints dot_signed(Ints acc, Bytes weights, int32_t four) {
  const __m512i shifted = _mm512_xor_si512(weights.v, _mm512_set1_epi8(static_cast<char>(0x80)));  // + 128
  return {_mm512_dpbusd_epi32(acc.v, shifted, _mm512_set1_epi32(four))};
}

IRONCLIW_END
