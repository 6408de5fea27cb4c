// Vectors of 16 lanes, the same on every instruction set.
//
// A kernel is written once with `Floats` (16 floats), `Ints` (16 int32) and `Bytes` (16 x 4 bytes),
// and compiled once for each level with IRONCLIW_LEVEL set to its name. 16 lanes are one register of
// AVX-512, two of AVX2 and four of NEON; sums run over lanes in one fixed order, so that the order of
// additions, and with it a row's bits, never depend on how much else is computed.
//
// NaN: every function gives NaN where an operand is NaN, `largest` included.
#pragma once

#include <cstdint>
#include <cstring>

#define IRONCLIW_JOIN_(a, b) a##b
#define IRONCLIW_JOIN(a, b) IRONCLIW_JOIN_(a, b)

// What a level defines must not meet its namesake of another: the linker would keep one of the two.
#define IRONCLIW_BEGIN namespace ironcliw { namespace IRONCLIW_LEVEL {
#define IRONCLIW_END } }
// The name of a level's table: attention -> attention_avx2.
#define IRONCLIW_TABLE(area) IRONCLIW_JOIN(area##_, IRONCLIW_LEVEL)

#define IRONCLIW_INLINE inline __attribute__((always_inline))

#if defined(IRONCLIW_USE_AVX512)
#include "simd/avx512.h"
#elif defined(IRONCLIW_USE_AVX2)
#include "simd/avx2.h"
#elif defined(IRONCLIW_USE_NEON)
#include "simd/neon.h"
#else
#include "simd/baseline.h"
#endif

#if !defined(IRONCLIW_USE_AVX512) && !defined(IRONCLIW_USE_AVX2)
IRONCLIW_BEGIN
// The sums of four vectors.
IRONCLIW_INLINE void sum_each(Ints a, Ints b, Ints c, Ints d, int32_t* out) {
  out[0] = sum(a);
  out[1] = sum(b);
  out[2] = sum(c);
  out[3] = sum(d);
}
IRONCLIW_END
#endif

#include "simd/math.h"
