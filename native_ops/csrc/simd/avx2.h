// 16 lanes on AVX2 with FMA and F16C: two registers.
#pragma once

#include <immintrin.h>

IRONCLIW_BEGIN

struct Floats { __m256 a, b; };
struct Ints { __m256i a, b; };
struct Bytes { __m256i a, b; };

IRONCLIW_INLINE __m256i first_of(int count) {  // lanes below `count`, all ones
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), index);
}

IRONCLIW_INLINE Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
IRONCLIW_INLINE Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
IRONCLIW_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
IRONCLIW_INLINE void store(float* p, Floats x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
IRONCLIW_INLINE Floats load_first(const float* p, int count) {
  return {_mm256_maskload_ps(p, first_of(count)), count > 8 ? _mm256_maskload_ps(p + 8, first_of(count - 8)) : _mm256_setzero_ps()};
}
IRONCLIW_INLINE void store_first(float* p, Floats x, int count) {
  _mm256_maskstore_ps(p, first_of(count), x.a);
  if (count > 8) _mm256_maskstore_ps(p + 8, first_of(count - 8), x.b);
}

#define IRONCLIW_BOTH(name, op) \
  IRONCLIW_INLINE Floats name(Floats x, Floats y) { return {op(x.a, y.a), op(x.b, y.b)}; }
IRONCLIW_BOTH(operator+, _mm256_add_ps)
IRONCLIW_BOTH(operator-, _mm256_sub_ps)
IRONCLIW_BOTH(operator*, _mm256_mul_ps)
IRONCLIW_BOTH(operator/, _mm256_div_ps)
#undef IRONCLIW_BOTH
IRONCLIW_INLINE Floats fma(Floats x, Floats y, Floats z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
IRONCLIW_INLINE Floats sqrt(Floats x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
IRONCLIW_INLINE Floats abs(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
IRONCLIW_INLINE Floats at_least(Floats x, float bound) {
  const __m256 y = _mm256_set1_ps(bound);
  return {_mm256_max_ps(y, x.a), _mm256_max_ps(y, x.b)};
}
IRONCLIW_INLINE Floats at_most(Floats x, float bound) {
  const __m256 y = _mm256_set1_ps(bound);
  return {_mm256_min_ps(y, x.a), _mm256_min_ps(y, x.b)};
}
IRONCLIW_INLINE __m256 larger_half(__m256 a, __m256 b) {
  return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
IRONCLIW_INLINE Floats larger(Floats x, Floats y) { return {larger_half(x.a, y.a), larger_half(x.b, y.b)}; }
IRONCLIW_INLINE Floats choose_first(int count, Floats x, Floats y) {
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(first_of(count))),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(first_of(count - 8)))};
}
IRONCLIW_INLINE Floats where_not_negative(Floats c, Floats x, Floats y) {
  const __m256 o = _mm256_setzero_ps();
  return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(c.a, o, _CMP_GE_OQ)), _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(c.b, o, _CMP_GE_OQ))};
}
IRONCLIW_INLINE Floats copy_sign(Floats size, Floats sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, size.a), _mm256_and_ps(bit, sign.a)),
          _mm256_or_ps(_mm256_andnot_ps(bit, size.b), _mm256_and_ps(bit, sign.b))};
}

IRONCLIW_INLINE Ints to_ints(Floats x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
IRONCLIW_INLINE Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
IRONCLIW_INLINE Ints broadcast_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
IRONCLIW_INLINE Ints load_ints(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
IRONCLIW_INLINE void store_ints(int32_t* p, Ints x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
IRONCLIW_INLINE Ints operator+(Ints x, Ints y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
IRONCLIW_INLINE Ints operator-(Ints x, Ints y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
IRONCLIW_INLINE Ints operator*(Ints x, Ints y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
IRONCLIW_INLINE void store_int8(int8_t* p, Ints x) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
IRONCLIW_INLINE Ints load_int8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}
IRONCLIW_INLINE Floats round(Floats x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, nearest), _mm256_round_ps(x.b, nearest)};
}
// x * 2^n for -252 <= n <= 254, in two steps so that the result may be subnormal.
IRONCLIW_INLINE __m256 scale_half(__m256 x, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i part = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, part);
  const __m256i one = _mm256_set1_epi32(127);
  x = _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(part, one), 23)));
  return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23)));
}
IRONCLIW_INLINE Floats scale_by_power(Floats x, Floats n) { return {scale_half(x.a, n.a), scale_half(x.b, n.b)}; }

IRONCLIW_INLINE float sum(Floats x) {
  const __m256 a = _mm256_add_ps(x.a, x.b);
  const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
IRONCLIW_INLINE int32_t sum(Ints x) {
  const __m256i a = _mm256_add_epi32(x.a, x.b);
  __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}
// The sums of four vectors: each step halves what is left of all of them.
IRONCLIW_INLINE void sum_each(Ints a, Ints b, Ints c, Ints d, int32_t* out) {
  const __m256i ab = _mm256_hadd_epi32(_mm256_add_epi32(a.a, a.b), _mm256_add_epi32(b.a, b.b));
  const __m256i cd = _mm256_hadd_epi32(_mm256_add_epi32(c.a, c.b), _mm256_add_epi32(d.a, d.b));
  const __m256i all = _mm256_hadd_epi32(ab, cd);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}
IRONCLIW_INLINE float largest(Floats x) {
  const __m256 nan = _mm256_or_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
  if (_mm256_movemask_ps(nan)) return __builtin_nanf("");
  const __m256 a = _mm256_max_ps(x.a, x.b);
  const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

IRONCLIW_INLINE __m256 bf16_half(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
IRONCLIW_INLINE Floats load_bf16(const uint16_t* p) { return {bf16_half(p), bf16_half(p + 8)}; }
IRONCLIW_INLINE void store_bf16_half(uint16_t* p, __m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(words));
}
IRONCLIW_INLINE void store_bf16(uint16_t* p, Floats x) { store_bf16_half(p, x.a); store_bf16_half(p + 8, x.b); }
IRONCLIW_INLINE Floats load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
IRONCLIW_INLINE void store_half(uint16_t* p, Floats x) {
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, nearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, nearest));
}

IRONCLIW_INLINE Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
IRONCLIW_INLINE Bytes low_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
IRONCLIW_INLINE Bytes high_nibbles(Bytes x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), mask)};
}
template <int shift> IRONCLIW_INLINE __m256i bit_pairs_half(__m256i x) {
  const __m256i moved = shift <= 4 ? _mm256_slli_epi16(x, 4 - (shift <= 4 ? shift : 4)) : _mm256_srli_epi16(x, shift > 4 ? shift - 4 : 0);
  return _mm256_and_si256(moved, _mm256_set1_epi8(0x30));
}
template <int shift> IRONCLIW_INLINE Bytes bit_pairs(Bytes x) { return {bit_pairs_half<shift>(x.a), bit_pairs_half<shift>(x.b)}; }
IRONCLIW_INLINE Bytes operator|(Bytes x, Bytes y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }

// Products of neighbours are added in 16 bits first: 2 * 127 * 127 fits.
IRONCLIW_INLINE __m256i dot_small_half(__m256i acc, __m256i weights, __m256i four) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, four), _mm256_set1_epi16(1)));
}
IRONCLIW_INLINE Ints dot_small(Ints acc, Bytes weights, int32_t four) {
  const __m256i x = _mm256_set1_epi32(four);
  return {dot_small_half(acc.a, weights.a, x), dot_small_half(acc.b, weights.b, x)};
}
IRONCLIW_INLINE Ints start_signed(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// |w| * sign(x by w) = w * x; |-128| is 128 as an unsigned byte, and 2 * 128 * 127 still fits.
IRONCLIW_INLINE Ints dot_signed(Ints acc, Bytes weights, int32_t four) {
  const __m256i x = _mm256_set1_epi32(four);
  return {dot_small_half(acc.a, _mm256_abs_epi8(weights.a), _mm256_sign_epi8(x, weights.a)),
          dot_small_half(acc.b, _mm256_abs_epi8(weights.b), _mm256_sign_epi8(x, weights.b))};
}

IRONCLIW_END
