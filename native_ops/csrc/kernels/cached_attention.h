// Attention of new tokens over the keys and values of one head that a cache holds as IEEE halves.
//
// A cached head: keys [ceil(context / 16)][width][16], so that one vector is an element of 16
// positions, then values [16 * ceil(context / 16)][width filled up to 16].
//
// Softmax goes over spans of 128 positions: each has its own largest score, sum and weighted values,
// and these are joined from the first span to the last. A query's bits depend on its own position
// and what the cache holds up to there, not on which queries are computed together.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

constexpr int64_t kMaxHeadWidth = 256;

inline int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }
inline int64_t cached_head_elements(int64_t context, int64_t width) { return rounded_up(context, 16) * (width + rounded_up(width, 16)); }

struct CachedHead {
  uint16_t* keys;
  uint16_t* values;
  int64_t width;
  CachedHead(uint16_t* head, int64_t context, int64_t width_) : keys(head), values(head + rounded_up(context, 16) * width_), width(width_) {}
};

// Queries of neighbouring positions: [tokens][group][width], a token's at `stride` floats from the
// one before. `out` is the same.
struct QueryTile {
  const float* queries;
  float* out;
  int64_t stride;
  int64_t tokens, group;
  int64_t first_position;  // of the first token, which sees first_position + 1 positions
};

struct CachedAttentionKernels {
  // Stores a key and a value [width] at a position.
  void (*append)(const CachedHead& head, int64_t position, const float* key, const float* value);
  // out = softmax(queries . keys) values; queries are scaled already.
  void (*attend)(const CachedHead& head, const QueryTile& tile);
  // Queries that one pass over keys and values serves; a good tile has this many.
  int64_t queries;
};
IRONCLIW_TABLES(CachedAttentionKernels, cached_attention)

}  // namespace ironcliw
