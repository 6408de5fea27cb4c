// Values in falling order without sorting all of them: a bound below which none can count, then a
// radix sort of the few above it. Included by sampling.cpp alone.
#pragma once

#include <cmath>

#include "simd/simd.h"

IRONCLIW_BEGIN

namespace {

constexpr int64_t kBlocks = 256;
constexpr float kNone = -__builtin_inff();

// The largest value of each lane of each block of a row.
struct Maxima {
  float lanes[16 * kBlocks];
  float of_block[kBlocks];
  float largest;  // NaN where the row has one
  int64_t block, blocks;
  int64_t width;
  int64_t end(int64_t index) const { return (index + 1) * block < width ? (index + 1) * block : width; }
};

inline int64_t block_size(int64_t width) {
  const int64_t share = (width + kBlocks - 1) / kBlocks, whole = (share + 15) / 16 * 16;
  return whole < 256 ? 256 : whole;
}

inline Floats values_at(const float* row, int64_t i, int64_t end, float other) {
  if (end - i >= 16) return load(row + i);
  const int count = static_cast<int>(end - i);
  return choose_first(count, load_first(row + i, count), broadcast(other));
}

inline void find_maxima(const float* row, int64_t width, Maxima& found) {
  found.width = width;
  found.block = block_size(width);
  found.blocks = (width + found.block - 1) / found.block;
  Floats all = broadcast(kNone);
  for (int64_t b = 0; b < found.blocks; ++b) {
    Floats even = broadcast(kNone), odd = even;
    const int64_t end = found.end(b);
    int64_t i = b * found.block;
    for (; i + 32 <= end; i += 32) {
      even = larger(even, load(row + i));
      odd = larger(odd, load(row + i + 16));
    }
    for (; i < end; i += 16) even = larger(even, values_at(row, i, end, kNone));
    even = larger(even, odd);
    store(found.lanes + 16 * b, even);
    found.of_block[b] = largest(even);
    all = larger(all, even);
  }
  found.largest = largest(all);
}

// The first index of the largest value, which is no NaN.
inline int64_t first_largest(const float* row, const Maxima& maxima) {
  int64_t b = 0;
  while (maxima.of_block[b] != maxima.largest) ++b;
  int64_t i = b * maxima.block;
  while (row[i] != maxima.largest) ++i;
  return i;
}

// A key that rises where the value falls; its low half is the id. Both zeros have one key.
inline uint64_t key_of(float value, int64_t id) {
  value += 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rising = bits ^ ((0u - (bits >> 31)) | 0x80000000u);
  return static_cast<uint64_t>(~rising) << 32 | static_cast<uint32_t>(id);
}
inline float value_of(uint64_t key) {
  const uint32_t rising = ~static_cast<uint32_t>(key >> 32);
  const uint32_t bits = rising ^ (rising >> 31 ? 0x80000000u : 0xffffffffu);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline int64_t id_of(uint64_t key) { return static_cast<int64_t>(key & 0xffffffffu); }

// Rising by the four bytes from `shift` on, equal ones in the order they came in. The result is in
// `keys` or in `spare`.
inline uint64_t* sort_keys(uint64_t* keys, uint64_t* spare, int64_t count, int shift) {
  if (count <= 32) {
    for (int64_t i = 1; i < count; ++i) {
      const uint64_t key = keys[i];
      int64_t at = i;
      for (; at > 0 && keys[at - 1] >> shift > key >> shift; --at) keys[at] = keys[at - 1];
      keys[at] = key;
    }
    return keys;
  }
  for (const int end = shift + 32; shift < end; shift += 8) {
    int64_t starts[256] = {};
    for (int64_t i = 0; i < count; ++i) ++starts[keys[i] >> shift & 255];
    if (starts[keys[0] >> shift & 255] == count) continue;
    int64_t at = 0;
    for (int64_t& start : starts) {
      const int64_t size = start;
      start = at;
      at += size;
    }
    for (int64_t i = 0; i < count; ++i) spare[starts[keys[i] >> shift & 255]++] = keys[i];
    uint64_t* const other = keys;
    keys = spare;
    spare = other;
  }
  return keys;
}

// A value that at least `count` of the row reach: the count-th of the blocks' largest, or of the lanes'.
inline float bound_of_largest(const Maxima& maxima, int64_t count, uint64_t* keys, uint64_t* spare) {
  const bool of_blocks = count <= maxima.blocks / 2;
  const int64_t known = of_blocks ? maxima.blocks : 16 * maxima.blocks;
  if (count > known / 2) return kNone;
  const float* values = of_blocks ? maxima.of_block : maxima.lanes;
  for (int64_t i = 0; i < known; ++i) keys[i] = key_of(values[i], i);
  return value_of(sort_keys(keys, spare, known, 32)[count - 1]);
}

struct Ordered {
  const uint64_t* keys;
  int64_t count;
};

// The places in [begin, end) of values of at least `bound`; how many. At most 256 are asked for.
inline int places_above(const float* row, int64_t begin, int64_t end, float bound, int32_t* places) {
  int count = 0;
  int64_t i = begin;
#if defined(IRONCLIW_USE_AVX512)
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (; i + 16 <= end; i += 16) {
    const __mmask16 above = _mm512_cmp_ps_mask(load(row + i).v, _mm512_set1_ps(bound), _CMP_GE_OQ);
    if (above == 0) continue;
    const __m512i place = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int32_t>(i)));
    _mm512_mask_compressstoreu_epi32(places + count, above, place);
    count += __builtin_popcount(above);
  }
#endif
  for (; i < end; ++i) {
    places[count] = static_cast<int32_t>(i);  // overwritten by the next one unless it counts
    count += row[i] >= bound;
  }
  return count;
}

// The keys of all values of at least `bound`, by rising id; how many.
inline int64_t gather_above(const float* row, const Maxima& maxima, float bound, uint64_t* keys) {
  int64_t count = 0;
  for (int64_t b = 0; b < maxima.blocks; ++b) {
    if (maxima.of_block[b] < bound) continue;
    for (int64_t i = b * maxima.block, end = maxima.end(b); i < end; i += 256) {
      int32_t places[256];
      const int found = places_above(row, i, i + 256 < end ? i + 256 : end, bound, places);
      for (int j = 0; j < found; ++j) keys[count++] = key_of(row[places[j]], places[j]);
    }
  }
  return count;
}

// The `count` largest values, largest first, equal ones by rising id.
inline Ordered ordered_largest(const float* row, const Maxima& maxima, int64_t count, uint64_t* keys, uint64_t* spare) {
  const float bound = bound_of_largest(maxima, count, keys, spare);
  const int64_t gathered = gather_above(row, maxima, bound, keys);
  return {sort_keys(keys, spare, gathered, 32), count};
}

}  // namespace

IRONCLIW_END
