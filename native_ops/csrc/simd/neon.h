// 16 lanes on NEON with dot products and half precision (ARMv8.2, the M1): four registers. With
// IRONCLIW_USE_I8MM also products of two rows at once.
#pragma once

#include <arm_neon.h>

IRONCLIW_BEGIN

struct Floats { float32x4_t v[4]; };
struct Ints { int32x4_t v[4]; };
struct Bytes { uint8x16_t v[4]; };

#define IRONCLIW_EACH for (int i = 0; i < 4; ++i)

IRONCLIW_INLINE Floats broadcast(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
IRONCLIW_INLINE Floats zero() { return broadcast(0.0f); }
IRONCLIW_INLINE Floats load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
IRONCLIW_INLINE void store(float* p, Floats x) { IRONCLIW_EACH vst1q_f32(p + 4 * i, x.v[i]); }
IRONCLIW_INLINE Floats load_first(const float* p, int count) {
  float lanes[16] = {};
  std::memcpy(lanes, p, sizeof(float) * static_cast<size_t>(count));
  return load(lanes);
}
IRONCLIW_INLINE void store_first(float* p, Floats x, int count) {
  float lanes[16];
  store(lanes, x);
  std::memcpy(p, lanes, sizeof(float) * static_cast<size_t>(count));
}

#define IRONCLIW_FLOATS(name, op) \
  IRONCLIW_INLINE Floats name(Floats x, Floats y) { \
    Floats z; \
    IRONCLIW_EACH z.v[i] = op(x.v[i], y.v[i]); \
    return z; \
  }
IRONCLIW_FLOATS(operator+, vaddq_f32)
IRONCLIW_FLOATS(operator-, vsubq_f32)
IRONCLIW_FLOATS(operator*, vmulq_f32)
IRONCLIW_FLOATS(operator/, vdivq_f32)
IRONCLIW_FLOATS(larger, vmaxq_f32)  // NaN where one is NaN
#undef IRONCLIW_FLOATS
IRONCLIW_INLINE Floats fma(Floats x, Floats y, Floats z) {
  IRONCLIW_EACH z.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]);
  return z;
}
IRONCLIW_INLINE Floats sqrt(Floats x) { IRONCLIW_EACH x.v[i] = vsqrtq_f32(x.v[i]); return x; }
IRONCLIW_INLINE Floats abs(Floats x) { IRONCLIW_EACH x.v[i] = vabsq_f32(x.v[i]); return x; }
IRONCLIW_INLINE Floats at_least(Floats x, float bound) { return larger(x, broadcast(bound)); }
IRONCLIW_INLINE Floats at_most(Floats x, float bound) {
  IRONCLIW_EACH x.v[i] = vminq_f32(x.v[i], vdupq_n_f32(bound));
  return x;
}
IRONCLIW_INLINE uint32x4_t first_of(int count, int part) {
  const int32_t index[4] = {4 * part, 4 * part + 1, 4 * part + 2, 4 * part + 3};
  return vcltq_s32(vld1q_s32(index), vdupq_n_s32(count));
}
IRONCLIW_INLINE Floats choose_first(int count, Floats x, Floats y) {
  IRONCLIW_EACH x.v[i] = vbslq_f32(first_of(count, i), x.v[i], y.v[i]);
  return x;
}
IRONCLIW_INLINE Floats where_not_negative(Floats c, Floats x, Floats y) {
  IRONCLIW_EACH x.v[i] = vbslq_f32(vcgeq_f32(c.v[i], vdupq_n_f32(0.0f)), x.v[i], y.v[i]);
  return x;
}
IRONCLIW_INLINE Floats copy_sign(Floats size, Floats sign) {
  IRONCLIW_EACH size.v[i] = vbslq_f32(vdupq_n_u32(0x80000000u), sign.v[i], size.v[i]);
  return size;
}

IRONCLIW_INLINE Ints to_ints(Floats x) {
  Ints y;
  IRONCLIW_EACH y.v[i] = vcvtnq_s32_f32(x.v[i]);
  return y;
}
IRONCLIW_INLINE Floats to_floats(Ints x) {
  Floats y;
  IRONCLIW_EACH y.v[i] = vcvtq_f32_s32(x.v[i]);
  return y;
}
IRONCLIW_INLINE Ints broadcast_int(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {{v, v, v, v}};
}
IRONCLIW_INLINE Ints load_ints(const int32_t* p) { return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}}; }
IRONCLIW_INLINE void store_ints(int32_t* p, Ints x) { IRONCLIW_EACH vst1q_s32(p + 4 * i, x.v[i]); }
#define IRONCLIW_INTS(name, op) \
  IRONCLIW_INLINE Ints name(Ints x, Ints y) { \
    IRONCLIW_EACH x.v[i] = op(x.v[i], y.v[i]); \
    return x; \
  }
IRONCLIW_INTS(operator+, vaddq_s32)
IRONCLIW_INTS(operator-, vsubq_s32)
IRONCLIW_INTS(operator*, vmulq_s32)
#undef IRONCLIW_INTS
IRONCLIW_INLINE void store_int8(int8_t* p, Ints x) {
  const int16x8_t a = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1]));
  const int16x8_t b = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
  vst1q_s8(p, vcombine_s8(vqmovn_s16(a), vqmovn_s16(b)));
}
IRONCLIW_INLINE Ints load_int8(const int8_t* p) {
  const int8x16_t x = vld1q_s8(p);
  const int16x8_t a = vmovl_s8(vget_low_s8(x)), b = vmovl_s8(vget_high_s8(x));
  return {{vmovl_s16(vget_low_s16(a)), vmovl_s16(vget_high_s16(a)), vmovl_s16(vget_low_s16(b)), vmovl_s16(vget_high_s16(b))}};
}
IRONCLIW_INLINE Floats round(Floats x) { IRONCLIW_EACH x.v[i] = vrndnq_f32(x.v[i]); return x; }
IRONCLIW_INLINE Floats scale_by_power(Floats x, Floats n) {
  IRONCLIW_EACH {
    const int32x4_t whole = vcvtnq_s32_f32(n.v[i]), part = vshrq_n_s32(whole, 1);
    const int32x4_t rest = vsubq_s32(whole, part), one = vdupq_n_s32(127);
    x.v[i] = vmulq_f32(x.v[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(part, one), 23)));
    x.v[i] = vmulq_f32(x.v[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, one), 23)));
  }
  return x;
}

IRONCLIW_INLINE float sum(Floats x) {
  const float32x4_t a = vaddq_f32(x.v[0], x.v[2]), b = vaddq_f32(x.v[1], x.v[3]), c = vaddq_f32(a, b);
  const float32x2_t d = vadd_f32(vget_low_f32(c), vget_high_f32(c));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
IRONCLIW_INLINE int32_t sum(Ints x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3]))); }
IRONCLIW_INLINE float largest(Floats x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}

IRONCLIW_INLINE Floats load_bf16(const uint16_t* p) {
  Floats x;
  IRONCLIW_EACH x.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return x;
}
IRONCLIW_INLINE void store_bf16(uint16_t* p, Floats x) {
  IRONCLIW_EACH {
    const uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    rounded = vbslq_u32(vceqq_f32(x.v[i], x.v[i]), rounded, vdupq_n_u32(0x7fc0));
    vst1_u16(p + 4 * i, vmovn_u32(rounded));
  }
}
IRONCLIW_INLINE Floats load_half(const uint16_t* p) {
  Floats x;
  IRONCLIW_EACH x.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return x;
}
IRONCLIW_INLINE void store_half(uint16_t* p, Floats x) { IRONCLIW_EACH vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i]))); }

IRONCLIW_INLINE Bytes load_bytes(const uint8_t* p) { return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}}; }
IRONCLIW_INLINE Bytes low_nibbles(Bytes x) { IRONCLIW_EACH x.v[i] = vandq_u8(x.v[i], vdupq_n_u8(15)); return x; }
IRONCLIW_INLINE Bytes high_nibbles(Bytes x) { IRONCLIW_EACH x.v[i] = vshrq_n_u8(x.v[i], 4); return x; }
template <int shift> IRONCLIW_INLINE Bytes bit_pairs(Bytes x) {
  IRONCLIW_EACH {
    const uint8x16_t moved = vshlq_u8(x.v[i], vdupq_n_s8(4 - shift));  // a negative count shifts right
    x.v[i] = vandq_u8(moved, vdupq_n_u8(0x30));
  }
  return x;
}
IRONCLIW_INLINE Bytes operator|(Bytes x, Bytes y) { IRONCLIW_EACH x.v[i] = vorrq_u8(x.v[i], y.v[i]); return x; }

IRONCLIW_INLINE Ints dot_signed(Ints acc, Bytes weights, int32_t four) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  IRONCLIW_EACH acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u8(weights.v[i]), x);
  return acc;
}
// weights up to 127 are the same signed or not
IRONCLIW_INLINE Ints dot_small(Ints acc, Bytes weights, int32_t four) { return dot_signed(acc, weights, four); }
IRONCLIW_INLINE Ints start_signed(int32_t) { return broadcast_int(0); }

#if defined(IRONCLIW_USE_I8MM)
// SMMLA multiplies 8 columns of two outputs with those of two rows: four sums of 8 products, where a dot
// product gives four of 4. The sums are exact, so they are those of `dot_signed`. That they are faster
// is not measured: the level has only run under an emulator.
struct IntsOfTwo { int32x4_t v[8]; };  // v[j]: outputs 2j and 2j + 1 of the first row, then of the second

IRONCLIW_INLINE IntsOfTwo broadcast_ints(int32_t first, int32_t second) {
  const int32x4_t v = vcombine_s32(vdup_n_s32(first), vdup_n_s32(second));
  return {{v, v, v, v, v, v, v, v}};
}
// Two lines, 4 columns of 16 outputs each, to 8 columns an output: those of outputs 4i and 4i + 1 to
// register i of `left`, of 4i + 2 and 4i + 3 to that of `right`.
IRONCLIW_INLINE void join_lines(Bytes& left, Bytes& right) {
  IRONCLIW_EACH {
    const uint32x4_t a = vreinterpretq_u32_u8(left.v[i]), b = vreinterpretq_u32_u8(right.v[i]);
    left.v[i] = vreinterpretq_u8_u32(vzip1q_u32(a, b));
    right.v[i] = vreinterpretq_u8_u32(vzip2q_u32(a, b));
  }
}
// Joined lines, signed or up to 127, with 8 columns of each row.
IRONCLIW_INLINE IntsOfTwo dot_two(IntsOfTwo acc, Bytes left, Bytes right, const int8_t* first, const int8_t* second) {
  const int8x16_t x = vcombine_s8(vld1_s8(first), vld1_s8(second));
  IRONCLIW_EACH {
    acc.v[2 * i] = vmmlaq_s32(acc.v[2 * i], x, vreinterpretq_s8_u8(left.v[i]));
    acc.v[2 * i + 1] = vmmlaq_s32(acc.v[2 * i + 1], x, vreinterpretq_s8_u8(right.v[i]));
  }
  return acc;
}
IRONCLIW_INLINE Ints first_row(IntsOfTwo x) {
  Ints y;
  IRONCLIW_EACH y.v[i] = vcombine_s32(vget_low_s32(x.v[2 * i]), vget_low_s32(x.v[2 * i + 1]));
  return y;
}
IRONCLIW_INLINE Ints second_row(IntsOfTwo x) {
  Ints y;
  IRONCLIW_EACH y.v[i] = vcombine_s32(vget_high_s32(x.v[2 * i]), vget_high_s32(x.v[2 * i + 1]));
  return y;
}
#endif

IRONCLIW_END
