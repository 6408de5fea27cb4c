#include "kernels/cached_attention.h"

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

constexpr int64_t kContext = 300;

// A cache of one head with keys and values at positions [0, length); NaN behind.
struct Cache {
  int64_t context;
  std::vector<uint16_t> memory;
  std::vector<float> keys, values;
  int64_t width;
  Cache(Level level, int64_t length, int64_t width_, unsigned seed, int64_t context_ = kContext) : context(context_), memory(size_t(cached_head_elements(context, width_)), 0x7e00), keys(normals(size_t(length * width_), seed)), values(normals(size_t(length * width_), seed + 1)), width(width_) {
    for (auto* rows : {&keys, &values})
      for (auto& x : *rows) x = std::round(x * 256) / 256;  // what half precision holds exactly
    for (int64_t t = 0; t < length; ++t) cached_attention(level).append(head(), t, &keys[size_t(t * width)], &values[size_t(t * width)]);
  }
  CachedHead head() { return CachedHead(memory.data(), context, width); }
};

std::vector<float> attend(Level level, Cache& cache, const std::vector<float>& queries, int64_t tokens, int64_t group, int64_t first) {
  std::vector<float> out(queries.size());
  cached_attention(level).attend(cache.head(), {queries.data(), out.data(), group * cache.width, tokens, group, first});
  return out;
}

std::vector<double> in_double(const Cache& cache, const float* query, int64_t length) {
  std::vector<double> weights(static_cast<size_t>(length)), out(static_cast<size_t>(cache.width));
  double most = -1e300, total = 0;
  for (int64_t t = 0; t < length; ++t) {
    double score = 0;
    for (int64_t i = 0; i < cache.width; ++i) score += double(query[i]) * cache.keys[size_t(t * cache.width + i)];
    weights[size_t(t)] = score;
    most = std::max(most, score);
  }
  for (auto& weight : weights) total += weight = std::exp(weight - most);
  for (int64_t t = 0; t < length; ++t)
    for (int64_t i = 0; i < cache.width; ++i) out[size_t(i)] += weights[size_t(t)] / total * cache.values[size_t(t * cache.width + i)];
  return out;
}

}  // namespace

TEST(cached_attention_against_double) {
  for (const int64_t width : {1, 12, 16, 64, 80, 256})
    for (const int64_t length : {1, 15, 16, 17, 128, 129, 256, 300}) {
      Cache cache(level, length, width, 7);
      const int64_t group = 1 + length % 7;
      auto queries = normals(size_t(group * width), 9);
      for (auto& x : queries) x /= std::sqrt(float(width));
      const auto out = attend(level, cache, queries, 1, group, length - 1);
      for (int64_t q = 0; q < group; ++q) {
        const auto expected = in_double(cache, &queries[size_t(q * width)], length);
        for (int64_t i = 0; i < width; ++i)
          CHECK(close(out[size_t(q * width + i)], expected[size_t(i)], 3e-6), "width %d, length %d: %g for %g", int(width), int(length), out[size_t(q * width + i)], expected[size_t(i)]);
      }
    }
}

// Up to 32 spans are joined: of scores that fall, rise, and are about the same.
TEST(cached_attention_of_long_contexts_against_double) {
  const int64_t width = 40, group = 3;
  for (const int64_t length : {1000, 1025, 4096})
    for (const float slope : {0.0f, 0.01f, -0.01f}) {
      Cache cache(level, length, width, 11, 4096);
      auto queries = normals(size_t(group * width), 12);
      for (auto& x : queries) x /= std::sqrt(float(width));
      for (int64_t q = 0; q < group; ++q) queries[size_t(q * width)] = 1;
      for (int64_t t = 0; t < length; ++t) {
        float& key = cache.keys[size_t(t * width)];
        key = std::round(slope * float(t) * 8) / 8;
        cached_attention(level).append(cache.head(), t, &cache.keys[size_t(t * width)], &cache.values[size_t(t * width)]);
      }
      const auto out = attend(level, cache, queries, 1, group, length - 1);
      for (int64_t q = 0; q < group; ++q) {
        const auto expected = in_double(cache, &queries[size_t(q * width)], length);
        for (int64_t i = 0; i < width; ++i)
          CHECK(close(out[size_t(q * width + i)], expected[size_t(i)], 5e-6), "length %d, slope %g: %g for %g", int(length), slope, out[size_t(q * width + i)], expected[size_t(i)]);
      }
    }
}

TEST(cached_attention_of_tokens_together_has_the_bits_of_each_alone) {
  for (const int64_t width : {12, 64})
    for (const int64_t group : {1, 2, 3, 5})
      for (const int64_t first : {0, 14, 120, 127, 250}) {
        const int64_t tokens = 13;
        Cache cache(level, first + tokens, width, 3);
        const auto queries = normals(size_t(tokens * group * width), 4);
        const auto together = attend(level, cache, queries, tokens, group, first);
        for (int64_t t = 0; t < tokens; ++t) {
          const auto begin = queries.begin() + t * group * width;
          const auto alone = attend(level, cache, std::vector<float>(begin, begin + group * width), 1, group, first + t);
          for (size_t i = 0; i < alone.size(); ++i) {
            const float there = together[size_t(t * group * width) + i];
            CHECK(alone[i] == there, "group %d, first %d, token %d: %g for %g", int(group), int(first), int(t), there, alone[i]);
          }
        }
      }
}

// A later token's keys and values may be anything: an earlier one does not see them.
TEST(cached_attention_does_not_look_ahead) {
  const int64_t width = 16, first = 126, tokens = 4;
  Cache cache(level, first + 1, width, 5);  // NaN from first + 1 on
  const auto queries = normals(size_t(tokens * width), 6);
  const auto out = attend(level, cache, queries, tokens, 1, first);
  for (int64_t i = 0; i < width; ++i) {
    CHECK(std::isfinite(out[size_t(i)]));
    for (int64_t t = 1; t < tokens; ++t) CHECK(std::isnan(out[size_t(t * width + i)]));
  }
}

TEST(cached_attention_of_large_scores_stays_finite) {
  const int64_t width = 64, length = 200;
  Cache cache(level, length, width, 8);
  auto queries = normals(size_t(width), 2);
  for (auto& x : queries) x *= 1e4f;
  for (const float x : attend(level, cache, queries, 1, 1, length - 1)) CHECK(std::isfinite(x) && std::fabs(x) < 5);
}

TEST(append_writes_one_position) {
  for (const int64_t width : {12, 16, 40}) {
    Cache cache(level, 33, width, 1);
    const auto before = cache.memory;
    const std::vector<float> key(size_t(width), 2.0f), value(size_t(width), 3.0f);
    cached_attention(level).append(cache.head(), 20, key.data(), value.data());
    size_t twos = 0, threes = 0, others = 0;
    for (size_t i = 0; i < before.size(); ++i) {
      if (cache.memory[i] == before[i]) continue;
      twos += cache.memory[i] == 0x4000;
      threes += cache.memory[i] == 0x4200;
      others += cache.memory[i] != 0x4000 && cache.memory[i] != 0x4200;
    }
    CHECK(twos == size_t(width) && threes == size_t(width) && others == 0, "width %d: %d, %d, %d", int(width), int(twos), int(threes), int(others));
  }
}
