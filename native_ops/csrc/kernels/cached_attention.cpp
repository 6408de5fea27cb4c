#include "kernels/cached_attention.h"

#include <cmath>

#include "simd/simd.h"

IRONCLIW_BEGIN

namespace {

// Accumulators that fit the registers, and queries that share one read.
#if defined(IRONCLIW_USE_AVX512)
constexpr int kAccumulators = 24, kQueries = 12;
#elif defined(IRONCLIW_USE_AVX2) || defined(IRONCLIW_USE_NEON)
constexpr int kAccumulators = 6, kQueries = 6;
#else
constexpr int kAccumulators = 2, kQueries = 2;
#endif
constexpr int64_t kSpan = 128;

template <int queries> constexpr int vectors() {
  constexpr int fit = kAccumulators / queries;
  return fit < 1 ? 1 : fit > 4 ? 4 : fit;
}

void append(const CachedHead& head, int64_t position, const float* key, const float* value) {
  uint16_t* keys = head.keys + position / 16 * 16 * head.width + position % 16;
  uint16_t* values = head.values + position * rounded_up(head.width, 16);
  for (int64_t i = 0; i < head.width; i += 16) {
    const int count = head.width - i < 16 ? static_cast<int>(head.width - i) : 16;
    uint16_t halves[16];
    store_half(halves, load_first(key + i, count));
    for (int j = 0; j < count; ++j) keys[(i + j) * 16] = halves[j];
    store_half(values + i, load_first(value + i, count));
  }
}

// What a query has seen so far: its largest score, the sum of exp(score - largest), and in the
// query's row of `out` the values weighted by the same.
struct Seen {
  float largest, total;
};

// Up to kQueries of them, and one span's results.
template <int Q> struct Tile {
  const CachedHead& head;
  int64_t padded;                     // width filled up to 16
  float queries[kMaxHeadWidth * Q];   // [width][Q]: one pointer reaches all
  float weights[Q][kSpan];            // scores, then exp(score - largest)
  float values[Q][kMaxHeadWidth];
  float sums[Q][kMaxHeadWidth];       // over all spans so far
  int64_t lengths[Q];                 // positions that a query sees, rising
  Seen seen[Q];
  // the arrays are left as they are: filling them would cost as much as a short sequence
  explicit Tile(const CachedHead& head_) : head(head_), padded(rounded_up(head_.width, 16)) {}
};

template <int Q, int B> void score_blocks(Tile<Q>& tile, const uint16_t* keys, int64_t at) {
  const int64_t width = tile.head.width;
  Floats scores[Q][B];
  for (int q = 0; q < Q; ++q)
    for (int b = 0; b < B; ++b) scores[q][b] = zero();
  for (int64_t i = 0; i < width; ++i) {
    Floats key[B];
    for (int b = 0; b < B; ++b) key[b] = load_half(keys + (b * width + i) * 16);
    const float* query = tile.queries + i * Q;
    for (int q = 0; q < Q; ++q) {
      const Floats x = broadcast(query[q]);
      for (int b = 0; b < B; ++b) scores[q][b] = fma(x, key[b], scores[q][b]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int b = 0; b < B; ++b) store(tile.weights[q] + at + 16 * b, scores[q][b]);
}

template <int Q> void score_span(Tile<Q>& tile, int64_t begin, int64_t count) {
  constexpr int B = vectors<Q>();
  const int64_t block = 16 * tile.head.width;
  const uint16_t* keys = tile.head.keys + begin / 16 * block;
  int64_t at = 0;
  for (; at + 16 * B <= rounded_up(count, 16); at += 16 * B) score_blocks<Q, B>(tile, keys + at / 16 * block, at);
  for (; at < count; at += 16) score_blocks<Q, 1>(tile, keys + at / 16 * block, at);
}

// Scores to weights; lanes behind `count` hold what the cache held and are not looked at.
Seen soften(float* weights, int64_t count) {
  const float least = -__builtin_inff();
  Floats most = broadcast(least);
  for (int64_t i = 0; i < count; i += 16) {
    const Floats scores = load(weights + i);
    most = larger(most, count - i < 16 ? choose_first(static_cast<int>(count - i), scores, broadcast(least)) : scores);
  }
  const Seen seen{largest(most), 0.0f};
  Floats total = zero();
  for (int64_t i = 0; i < count; i += 16) {
    Floats weight = exp(load(weights + i) - broadcast(seen.largest));
    if (count - i < 16) weight = choose_first(static_cast<int>(count - i), weight, zero());
    store(weights + i, weight);
    total = total + weight;
  }
  return {seen.largest, sum(total)};
}

// Adds the values of positions [begin, end) of the span for queries [first, first + Q).
template <int Q, int Z, int All> void add_values(Tile<All>& tile, int first, const uint16_t* values, int64_t begin, int64_t end, int64_t column) {
  Floats sums[Q][Z];
  for (int q = 0; q < Q; ++q)
    for (int z = 0; z < Z; ++z) sums[q][z] = load(tile.values[first + q] + column + 16 * z);
  for (int64_t t = begin; t < end; ++t) {
    Floats value[Z];
    for (int z = 0; z < Z; ++z) value[z] = load_half(values + t * tile.padded + column + 16 * z);
    for (int q = 0; q < Q; ++q) {
      const Floats weight = broadcast(tile.weights[first + q][t]);
      for (int z = 0; z < Z; ++z) sums[q][z] = fma(weight, value[z], sums[q][z]);
    }
  }
  for (int q = 0; q < Q; ++q)
    for (int z = 0; z < Z; ++z) store(tile.values[first + q] + column + 16 * z, sums[q][z]);
}

template <int Q, int All> void add_all_values(Tile<All>& tile, int first, const uint16_t* values, int64_t begin, int64_t end) {
  constexpr int Z = vectors<Q>();
  int64_t column = 0;
  for (; column + 16 * Z <= tile.padded; column += 16 * Z) add_values<Q, Z>(tile, first, values, begin, end, column);
  for (; column < tile.padded; column += 16) add_values<Q, 1>(tile, first, values, begin, end, column);
}

// Joins a span's results to those before it; the first span's are taken as they are.
template <int Q> void join(Tile<Q>& tile, int q, Seen span, bool is_first) {
  float *sums = tile.sums[q], *values = tile.values[q];
  Seen& seen = tile.seen[q];
  if (is_first) {
    std::memcpy(sums, values, sizeof(float) * static_cast<size_t>(tile.padded));
    seen = span;
    return;
  }
  const Floats most = larger(broadcast(seen.largest), broadcast(span.largest));
  const Floats before = exp(broadcast(seen.largest) - most), now = exp(broadcast(span.largest) - most);
  for (int64_t i = 0; i < tile.padded; i += 16) store(sums + i, fma(load(values + i), now, load(sums + i) * before));
  float totals[16], mosts[16];
  store(totals, fma(broadcast(span.total), now, broadcast(seen.total) * before));
  store(mosts, most);
  seen = {mosts[0], totals[0]};
}

template <int Q> void attend_span(Tile<Q>& tile, int64_t begin) {
  const int64_t left = tile.lengths[Q - 1] - begin, count = left < kSpan ? left : kSpan;
  score_span<Q>(tile, begin, count);
  int64_t counts[Q];
  Seen spans[Q];
  for (int q = 0; q < Q; ++q) {
    const int64_t seen = tile.lengths[q] - begin;
    counts[q] = seen < 0 ? 0 : seen < kSpan ? seen : kSpan;
    if (counts[q] > 0) spans[q] = soften(tile.weights[q], counts[q]);
    std::memset(tile.values[q], 0, sizeof(float) * static_cast<size_t>(tile.padded));
  }
  // what all see together, then what only the later ones do: a weight of 0 times NaN would be NaN
  const uint16_t* values = tile.head.values + begin * tile.padded;
  add_all_values<Q>(tile, 0, values, 0, counts[0]);
  for (int q = 0; q < Q; ++q)
    if (counts[q] > counts[0]) add_all_values<1>(tile, q, values, counts[0], counts[q]);
  for (int q = 0; q < Q; ++q)
    if (counts[q] > 0) join(tile, q, spans[q], begin == 0);
}

// Queries [first, first + Q) of the tokens' queries, counted token by token.
template <int Q> void attend_queries(const CachedHead& head, const QueryTile& all, int64_t first) {
  Tile<Q> tile(head);
  int64_t places[Q];
  for (int q = 0; q < Q; ++q) {
    const int64_t token = (first + q) / all.group;
    places[q] = token * all.stride + (first + q) % all.group * head.width;
    tile.lengths[q] = all.first_position + token + 1;
    for (int64_t i = 0; i < head.width; ++i) tile.queries[i * Q + q] = all.queries[places[q] + i];
  }
  for (int64_t begin = 0; begin < tile.lengths[Q - 1]; begin += kSpan) attend_span<Q>(tile, begin);
  for (int q = 0; q < Q; ++q) {
    const Floats total = broadcast(tile.seen[q].total);
    for (int64_t i = 0; i < head.width; i += 16) {
      const int64_t left = head.width - i;
      store_first(all.out + places[q] + i, load(tile.sums[q] + i) / total, left < 16 ? static_cast<int>(left) : 16);
    }
  }
}

// The largest tiles first; gives the queries taken.
template <int Q, int... Smaller> int64_t attend_some(const CachedHead& head, const QueryTile& tile, int64_t first, int64_t left) {
  if constexpr (Q <= kQueries) {
    if (left >= Q) {
      attend_queries<Q>(head, tile, first);
      return Q;
    }
  }
  if constexpr (sizeof...(Smaller) > 0) return attend_some<Smaller...>(head, tile, first, left);
  return left;
}

void attend(const CachedHead& head, const QueryTile& tile) {
  const int64_t count = tile.tokens * tile.group;
  for (int64_t first = 0; first < count;) first += attend_some<12, 8, 6, 4, 3, 2, 1>(head, tile, first, count - first);
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const CachedAttentionKernels IRONCLIW_TABLE(cached_attention);
const CachedAttentionKernels IRONCLIW_TABLE(cached_attention) = {IRONCLIW_LEVEL::append, IRONCLIW_LEVEL::attend, IRONCLIW_LEVEL::kQueries};
}  // namespace ironcliw
