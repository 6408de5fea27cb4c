// Rows of float or bfloat16 (uint16_t), 16 elements at a time; fewer only at a row's end.
#pragma once

#include "simd/simd.h"

IRONCLIW_BEGIN

// How many of the 16 elements from `at` on are before `end`.
IRONCLIW_INLINE int lanes(int64_t end, int64_t at) { return end - at < 16 ? static_cast<int>(end - at) : 16; }

// `count` elements as floats, zeros behind them.
IRONCLIW_INLINE Floats get(const float* p, int count) { return count == 16 ? load(p) : load_first(p, count); }
IRONCLIW_INLINE Floats get(const uint16_t* p, int count) {
  if (count == 16) return load_bf16(p);
  uint16_t part[16] = {};
  std::memcpy(part, p, 2 * static_cast<size_t>(count));
  return load_bf16(part);
}

IRONCLIW_INLINE void put(float* p, Floats x, int count) { count == 16 ? store(p, x) : store_first(p, x, count); }
IRONCLIW_INLINE void put(uint16_t* p, Floats x, int count) {
  if (count == 16) return store_bf16(p, x);
  uint16_t part[16];
  store_bf16(part, x);
  std::memcpy(p, part, 2 * static_cast<size_t>(count));
}

IRONCLIW_END
