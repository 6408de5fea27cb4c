// 16 lanes without a named instruction set: the compiler lowers its own vectors to what there is.
#pragma once

#include <cmath>

IRONCLIW_BEGIN

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t IntLanes __attribute__((vector_size(64)));
typedef uint8_t ByteLanes __attribute__((vector_size(64)));

struct Floats { Lanes v; };
struct Ints { IntLanes v; };
struct Bytes { ByteLanes v; };

#define IRONCLIW_LANES for (int i = 0; i < 16; ++i)

IRONCLIW_INLINE Floats broadcast(float x) { return {Lanes{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}}; }
IRONCLIW_INLINE Floats zero() { return broadcast(0.0f); }
IRONCLIW_INLINE Floats load(const float* p) {
  Floats x;
  std::memcpy(&x.v, p, 64);
  return x;
}
IRONCLIW_INLINE void store(float* p, Floats x) { std::memcpy(p, &x.v, 64); }
IRONCLIW_INLINE Floats load_first(const float* p, int count) {
  Floats x = zero();
  std::memcpy(&x.v, p, sizeof(float) * static_cast<size_t>(count));
  return x;
}
IRONCLIW_INLINE void store_first(float* p, Floats x, int count) { std::memcpy(p, &x.v, sizeof(float) * static_cast<size_t>(count)); }

IRONCLIW_INLINE Floats operator+(Floats x, Floats y) { return {x.v + y.v}; }
IRONCLIW_INLINE Floats operator-(Floats x, Floats y) { return {x.v - y.v}; }
IRONCLIW_INLINE Floats operator*(Floats x, Floats y) { return {x.v * y.v}; }
IRONCLIW_INLINE Floats operator/(Floats x, Floats y) { return {x.v / y.v}; }
// Rounded twice here: a call of fmaf a lane would cost ten times as much.
IRONCLIW_INLINE Floats fma(Floats x, Floats y, Floats z) { return {x.v * y.v + z.v}; }
IRONCLIW_INLINE Floats sqrt(Floats x) { IRONCLIW_LANES x.v[i] = __builtin_sqrtf(x.v[i]); return x; }
IRONCLIW_INLINE Floats abs(Floats x) { return {reinterpret_cast<Lanes>(reinterpret_cast<IntLanes>(x.v) & 0x7fffffff)}; }
IRONCLIW_INLINE Floats at_least(Floats x, float bound) { return {x.v < bound ? broadcast(bound).v : x.v}; }
IRONCLIW_INLINE Floats at_most(Floats x, float bound) { return {x.v > bound ? broadcast(bound).v : x.v}; }
IRONCLIW_INLINE Floats larger(Floats x, Floats y) { return {((x.v > y.v) | (x.v != x.v)) ? x.v : y.v}; }
IRONCLIW_INLINE IntLanes first_of(int count) {
  const IntLanes index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return index < count;
}
IRONCLIW_INLINE Floats choose_first(int count, Floats x, Floats y) { return {first_of(count) ? x.v : y.v}; }
IRONCLIW_INLINE Floats where_not_negative(Floats c, Floats x, Floats y) { return {c.v >= 0.0f ? x.v : y.v}; }
IRONCLIW_INLINE Floats copy_sign(Floats size, Floats sign) {
  const IntLanes bit = IntLanes{} + static_cast<int32_t>(0x80000000u);
  return {reinterpret_cast<Lanes>((reinterpret_cast<IntLanes>(size.v) & ~bit) | (reinterpret_cast<IntLanes>(sign.v) & bit))};
}

// Adding and taking away 1.5 * 2^23 rounds to the nearest, ties to even, for |x| up to 2^22.
IRONCLIW_INLINE Floats round(Floats x) {
  const Lanes shift = broadcast(12582912.0f).v;
  const Lanes rounded = (x.v + shift) - shift;
  return {abs(x).v < 4194304.0f ? rounded : x.v};
}
IRONCLIW_INLINE Ints to_ints(Floats x) {
  Ints y;
  const Floats whole = round(x);
  IRONCLIW_LANES y.v[i] = static_cast<int32_t>(whole.v[i]);
  return y;
}
IRONCLIW_INLINE Floats to_floats(Ints x) { return {__builtin_convertvector(x.v, Lanes)}; }
IRONCLIW_INLINE Ints broadcast_int(int32_t x) { return {IntLanes{} + x}; }
IRONCLIW_INLINE Ints load_ints(const int32_t* p) {
  Ints x;
  std::memcpy(&x.v, p, 64);
  return x;
}
IRONCLIW_INLINE void store_ints(int32_t* p, Ints x) { std::memcpy(p, &x.v, 64); }
IRONCLIW_INLINE Ints operator+(Ints x, Ints y) { return {x.v + y.v}; }
IRONCLIW_INLINE Ints operator-(Ints x, Ints y) { return {x.v - y.v}; }
IRONCLIW_INLINE Ints operator*(Ints x, Ints y) { return {x.v * y.v}; }
IRONCLIW_INLINE void store_int8(int8_t* p, Ints x) {
  IRONCLIW_LANES p[i] = static_cast<int8_t>(x.v[i] < -128 ? -128 : x.v[i] > 127 ? 127 : x.v[i]);
}
IRONCLIW_INLINE Ints load_int8(const int8_t* p) {
  Ints x;
  IRONCLIW_LANES x.v[i] = p[i];
  return x;
}
IRONCLIW_INLINE Floats scale_by_power(Floats x, Floats n) {
  const IntLanes whole = to_ints(n).v, part = whole >> 1, rest = whole - part;
  x.v *= reinterpret_cast<Lanes>((part + 127) << 23);
  return {x.v * reinterpret_cast<Lanes>((rest + 127) << 23)};
}

IRONCLIW_INLINE float sum(Floats x) {
  float a[8];
  for (int i = 0; i < 8; ++i) a[i] = x.v[i] + x.v[i + 8];
  for (int i = 0; i < 4; ++i) a[i] += a[i + 4];
  return (a[0] + a[2]) + (a[1] + a[3]);
}
IRONCLIW_INLINE int32_t sum(Ints x) {
  int32_t total = 0;
  IRONCLIW_LANES total += x.v[i];
  return total;
}
IRONCLIW_INLINE float largest(Floats x) {
  float most = x.v[0];
  for (int i = 1; i < 16; ++i) most = (x.v[i] > most || x.v[i] != x.v[i]) ? x.v[i] : most;
  return most;
}

IRONCLIW_INLINE Floats load_bf16(const uint16_t* p) {
  IntLanes bits;
  IRONCLIW_LANES bits[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16);
  return {reinterpret_cast<Lanes>(bits)};
}
IRONCLIW_INLINE void store_bf16(uint16_t* p, Floats x) {
  IRONCLIW_LANES {
    uint32_t bits;
    const float lane = x.v[i];
    std::memcpy(&bits, &lane, 4);
    p[i] = lane != lane ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}
// Half precision by hand: subnormals by scaling, since this level has no instruction for it.
IRONCLIW_INLINE float from_half(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, rest = static_cast<uint32_t>(h & 0x7fff) << 13;
  uint32_t bits = rest + 0x38000000u;                       // exponent from bias 15 to 127
  if (rest >= 0x0f800000u) bits = rest + 0x70000000u;       // infinity and NaN
  float x;
  if (rest < 0x00800000u) {                                 // zero and subnormal
    x = static_cast<float>(h & 0x3ff) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &x, 4);
  }
  bits |= sign;
  std::memcpy(&x, &bits, 4);
  return x;
}
IRONCLIW_INLINE uint16_t to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (bits < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, rounded by adding 1/2 (ulp 2^-24)
    float small;
    std::memcpy(&small, &bits, 4);
    small += 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &small, 4);
    return static_cast<uint16_t>(sign | (rounded - 0x3f000000u));
  }
  bits += 0xfffu + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
}
IRONCLIW_INLINE Floats load_half(const uint16_t* p) {
  Floats x;
  IRONCLIW_LANES x.v[i] = from_half(p[i]);
  return x;
}
IRONCLIW_INLINE void store_half(uint16_t* p, Floats x) { IRONCLIW_LANES p[i] = to_half(x.v[i]); }

IRONCLIW_INLINE Bytes load_bytes(const uint8_t* p) {
  Bytes x;
  std::memcpy(&x.v, p, 64);
  return x;
}
IRONCLIW_INLINE Bytes low_nibbles(Bytes x) { return {x.v & 15}; }
IRONCLIW_INLINE Bytes high_nibbles(Bytes x) { return {x.v >> 4}; }
template <int shift> IRONCLIW_INLINE Bytes bit_pairs(Bytes x) { return {((x.v >> shift) & 3) << 4}; }
IRONCLIW_INLINE Bytes operator|(Bytes x, Bytes y) { return {x.v | y.v}; }

IRONCLIW_INLINE Ints dot_signed(Ints acc, Bytes weights, int32_t four) {
  int8_t x[4];
  std::memcpy(x, &four, 4);
  IRONCLIW_LANES {
    int32_t total = 0;
    for (int k = 0; k < 4; ++k) total += static_cast<int8_t>(weights.v[4 * i + k]) * x[k];
    acc.v[i] += total;
  }
  return acc;
}
IRONCLIW_INLINE Ints dot_small(Ints acc, Bytes weights, int32_t four) { return dot_signed(acc, weights, four); }
IRONCLIW_INLINE Ints start_signed(int32_t) { return broadcast_int(0); }

IRONCLIW_END
