#include "kernels/sampling.h"

#include <algorithm>
#include <numeric>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

SampleRow plain(double number) { return {number, 1.0, 1.0, 0, 1.0, 0.0, 0.0, nullptr, 0, 0, nullptr, nullptr, 0, -1}; }

struct Work {
  std::vector<float> row, weights;
  std::vector<uint64_t> keys, spare;
  Work(int64_t width, int64_t history) : row(size_t(width)), weights(size_t(sample_scratch(width, history))), keys(weights.size()), spare(2 * weights.size()) {}
  SampleScratch scratch() { return {row.data(), keys.data(), spare.data(), weights.data()}; }
};

SampleResult run(Level level, const std::vector<float>& row, const SampleRow& ask, int64_t* top = nullptr) {
  Work work(int64_t(row.size()), ask.history_count);
  return sampling(level).sample(row.data(), int64_t(row.size()), ask, work.scratch(), top);
}

std::vector<int64_t> falling(const std::vector<float>& row) {
  std::vector<int64_t> ids(row.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) { return row[size_t(a)] > row[size_t(b)]; });
  return ids;
}

// The draw in doubles; `slack` is how near the draw came to the border of its token.
int64_t expected(const std::vector<float>& row, const SampleRow& ask, double& slack) {
  std::vector<int64_t> ids = falling(row);
  const bool all = ask.top_k == 0 && ask.top_p >= 1;
  const double most = row[size_t(ids[0])];
  const auto weight = [&](int64_t id) { return std::exp((double(row[size_t(id)]) - most) / ask.temperature); };
  if (ask.top_k) ids.resize(std::min(ids.size(), size_t(ask.top_k)));
  double total = 0, kept = 0;
  for (const int64_t id : ids) total += weight(id);
  size_t end = 0;
  slack = 1;
  while (end < ids.size() && (end == 0 || kept < total * ask.top_p)) {
    kept += weight(ids[end++]);
    if (ask.top_p < 1) slack = std::min(slack, std::fabs(kept / total - ask.top_p));
  }
  ids.resize(end);
  if (all) std::sort(ids.begin(), ids.end());
  double before = 0;
  for (const int64_t id : ids) {
    slack = std::min(slack, std::fabs(before + weight(id) - ask.number * kept) / kept);
    before += weight(id);
    if (before > ask.number * kept) return id;
  }
  return ids.back();
}

}  // namespace

TEST(sampling_draws_as_in_doubles) {
  std::mt19937 generator(5);
  std::uniform_real_distribution<double> uniform;
  int compared = 0;
  for (const int64_t width : {1, 2, 15, 17, 300, 5000}) {
    for (int i = 0; i < 40; ++i) {
      auto row = normals(size_t(width), unsigned(i));
      for (auto& value : row) value = i % 4 ? 3 * value : std::round(value);  // every fourth has ties
      SampleRow ask = plain(uniform(generator));
      ask.temperature = i % 3 ? 0.3 + uniform(generator) : 1.0;
      ask.top_k = i % 2 ? 0 : int64_t(uniform(generator) * double(width));
      ask.top_p = i % 5 < 2 ? 1.0 : uniform(generator);
      double slack;
      const int64_t wanted = expected(row, ask, slack), got = run(level, row, ask).token;
      compared += slack > 1e-6;
      CHECK(got == wanted || slack <= 1e-6, "width %d row %d: %d for %d", int(width), i, int(got), int(wanted));
    }
  }
  CHECK(compared > 200, "%d", compared);
}

TEST(sampling_finds_the_nucleus_of_a_flat_row) {
  for (const float spread : {0.0f, 0.3f, 2.0f}) {
    auto row = normals(6000, 11);
    for (auto& value : row) value *= spread;
    for (const double top_p : {0.1, 0.5, 0.9, 0.999, 1 - 1e-15}) {
      for (const double number : {0.0, 0.3, 0.97}) {
        SampleRow ask = plain(number);
        ask.top_p = top_p;
        double slack;
        const int64_t wanted = expected(row, ask, slack), got = run(level, row, ask).token;
        // of unequal ones the neighbours' logits are within float rounding of each other
        CHECK(got == wanted || (spread > 0 && close(row[size_t(got)], row[size_t(wanted)], 1e-3)), "%g %g %g: %d for %d", spread, top_p, number, int(got), int(wanted));
      }
    }
  }
}

TEST(sampling_gives_the_same_bits_on_every_level) {
  const auto row = normals(20000, 9);
  for (const double temperature : {1.0, 0.7}) {
    SampleRow ask = plain(0.5);
    ask.temperature = temperature;
    ask.top_count = 0;
    const SampleResult here = run(level, row, ask), base = run(Level::baseline, row, ask);
    CHECK(here.token == base.token && here.normaliser == base.normaliser, "%.17g for %.17g", here.normaliser, base.normaliser);
  }
}

TEST(sampling_takes_the_first_of_equal_likeliest_when_greedy) {
  for (const size_t width : {5u, 40u, 9000u}) {
    std::vector<float> row(width, 1.0f);
    row[width - 1] = row[width - 2] = 2.0f;
    SampleRow ask = plain(0.9);
    ask.temperature = 0;
    CHECK(run(level, row, ask).token == int64_t(width) - 2);
  }
}

TEST(sampling_lists_the_likeliest_and_normalises) {
  for (const int64_t width : {1, 7, 4000}) {
    auto row = normals(size_t(width), 4);
    for (auto& value : row) value = std::round(4 * value) / 4;
    SampleRow ask = plain(0.1);
    ask.top_count = std::min<int64_t>(width, 50);
    std::vector<int64_t> top(50, -7);
    const SampleResult result = run(level, row, ask, top.data());
    const auto ids = falling(row);
    for (int64_t i = 0; i < ask.top_count; ++i) CHECK(top[size_t(i)] == ids[size_t(i)], "rank %d of %d", int(i), int(width));
    double total = 0;
    for (const float value : row) total += std::exp(double(value));
    CHECK(close(result.normaliser, std::log(total), 1e-6), "%g for %g", result.normaliser, std::log(total));
  }
}

TEST(sampling_edits_each_repeated_token_once) {
  const std::vector<float> row = {3.0f, -1.0f, 2.5f, 0.0f};
  const int32_t history[] = {0, 0, 1, 0, 2, 2}, bias_ids[] = {3, 3};
  const float bias[] = {1.0f, 1.25f};
  SampleRow ask = plain(0);
  ask.temperature = 0;
  ask.history = history;
  ask.history_count = 6;
  ask.answer_at = 4;
  ask.repetition = 2;  // 1.5, -2, 1.25, 0
  CHECK(run(level, row, ask).token == 0);
  ask.bias_ids = bias_ids;
  ask.bias_values = bias;
  ask.bias_count = 2;  // 1.5, -2, 1.25, 2.25
  CHECK(run(level, row, ask).token == 3);
  ask.repetition = 1;
  ask.bias_count = 0;
  ask.answer_at = 0;  // 3 - 3 * 0.5, -1 - 0.5, 2.5 - 2 * 0.5, 0: the first of two equals
  ask.frequency = 0.5;
  CHECK(run(level, row, ask).token == 0);
  ask.presence = 2.0;   // -0.5, -3.5, -0.5, 0
  CHECK(run(level, row, ask).token == 3);
}

TEST(sampling_refuses_rows_without_a_finite_largest) {
  for (const float broken : {float(NAN), float(INFINITY)}) {
    auto row = normals(700, 2);
    row[600] = broken;
    CHECK(run(level, row, plain(0.5)).token == -1);
  }
  CHECK(run(level, std::vector<float>(20, -INFINITY), plain(0.5)).token == -1);
}

TEST(sampling_never_draws_what_is_banned) {
  std::vector<float> row(3000, -INFINITY);
  row[3] = row[2999] = 1.0f;
  for (const double number : {0.0, 0.49, 0.51, 1 - 1.2e-16}) {
    for (int kind = 0; kind < 3; ++kind) {
      SampleRow ask = plain(number);
      if (kind == 1) ask.top_k = 20;
      if (kind == 2) ask.top_p = 0.999;
      CHECK(run(level, row, ask).token == (number < 0.5 ? 3 : 2999), "kind %d at %g", kind, number);
    }
  }
}
