#include <algorithm>
#include <cstring>

#include "kernels/loss_head.h"
#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float from_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct State {
  std::vector<float> maximum, total, target_logit, gradient;
  State(int64_t rows, int64_t width)
      : maximum(rows, -INFINITY), total(rows), target_logit(rows), gradient(rows * width), width(width) {}
  int64_t width;
  OnlineSoftmax view() { return {maximum.data(), total.data(), target_logit.data(), width ? gradient.data() : nullptr, width}; }
};

// log(sum of exp) of one row in double.
double logsumexp(const float* row, int64_t columns) {
  const double largest = *std::max_element(row, row + columns);
  double total = 0;
  for (int64_t i = 0; i < columns; ++i) total += std::exp(row[i] - largest);
  return largest + std::log(total);
}

// A tile [rows, columns] of x [rows, all], as a matrix of its own.
template <class Value> std::vector<Value> tile_of(const std::vector<Value>& x, int64_t rows, int64_t all, int64_t from, int64_t columns) {
  std::vector<Value> tile;
  for (int64_t row = 0; row < rows; ++row) tile.insert(tile.end(), &x[row * all + from], &x[row * all + from] + columns);
  return tile;
}

}  // namespace

TEST(online_softmax_over_tiles_against_double) {
  const int64_t rows = 4, width = 19;
  for (const int64_t columns : {1, 15, 16, 17, 31, 33, 100, 257}) {
    for (const int64_t tile : {1, 16, 40, 300}) {
      auto x = normals(static_cast<size_t>(rows * columns), 7);
      for (auto& value : x) value *= 20.0f;
      const std::vector<int64_t> targets = {0, columns - 1, columns / 2, -100};
      State state(rows, width);
      for (int64_t from = 0; from < columns; from += tile) {
        const int64_t size = std::min(tile, columns - from);
        auto part = tile_of(x, rows, columns, from, size);
        loss_head(level).online_softmax(part.data(), size, targets.data(), from, rows, state.view());
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < size; ++i)
            CHECK(close(part[row * size + i], std::exp(double(x[row * columns + from + i]) - state.maximum[row]), 1e-6), "columns %d", int(columns));
        // a gradient that came with the first tile, to follow the maximum
        if (from == 0) std::fill(state.gradient.begin(), state.gradient.end(), 1.0f);
      }
      for (int64_t row = 0; row < rows; ++row) {
        const double expected = logsumexp(&x[row * columns], columns);
        CHECK(close(state.maximum[row] + std::log(state.total[row]), expected, 1e-6), "columns %d tile %d: for %g", int(columns), int(tile), expected);
        if (targets[row] >= 0) CHECK(state.target_logit[row] == x[row * columns + targets[row]]);
        const double first = *std::max_element(&x[row * columns], &x[row * columns] + std::min(tile, columns));
        const double kept = std::exp(first - state.maximum[row]);
        for (int64_t i = 0; i < width; ++i) CHECK(close(state.gradient[row * width + i], kept, 1e-5), "gradient %g for %g", state.gradient[row * width + i], kept);
      }
    }
  }
}

TEST(online_softmax_bf16_against_double) {
  const int64_t rows = 2, columns = 67;
  const auto x = normals(rows * columns, 8);
  std::vector<uint16_t> rounded(x.size());
  std::vector<float> values(x.size());
  for (size_t i = 0; i < x.size(); ++i) values[i] = from_bf16(rounded[i] = to_bf16(x[i]));
  const std::vector<int64_t> targets = {66, 3};
  State state(rows, 0);
  loss_head(level).online_softmax_bf16(rounded.data(), columns, targets.data(), 0, rows, state.view());
  for (int64_t row = 0; row < rows; ++row) {
    CHECK(close(state.maximum[row] + std::log(state.total[row]), logsumexp(&values[row * columns], columns), 1e-6));
    CHECK(state.target_logit[row] == values[row * columns + targets[row]]);
    for (int64_t i = 0; i < columns; ++i) {
      const double expected = std::exp(double(values[row * columns + i]) - state.maximum[row]);
      CHECK(std::fabs(from_bf16(rounded[row * columns + i]) - expected) <= expected / 250, "at %d", int(i));
    }
  }
}

TEST(online_softmax_keeps_nan_in_its_row_and_takes_minus_infinity) {
  const int64_t rows = 3, columns = 20;
  const std::vector<int64_t> targets = {1, 2, 3};
  State state(rows, 1);
  for (const bool second : {false, true}) {
    auto x = normals(rows * columns, 9);
    if (!second) x[5] = NAN;
    if (!second) std::fill(&x[columns], &x[columns] + columns, -INFINITY);
    loss_head(level).online_softmax(x.data(), columns, targets.data(), second ? columns : 0, rows, state.view());
    CHECK(std::isnan(state.maximum[0]) && std::isnan(state.total[0]));
    CHECK(second ? state.total[1] > 0 && std::isfinite(state.maximum[1]) : state.total[1] == 0);
    CHECK(std::isfinite(state.total[2]) && state.total[2] > 0);
  }
}

TEST(softmax_gradient_against_double) {
  const int64_t rows = 3;
  for (const int64_t columns : {1, 16, 17, 100}) {
    const auto x = normals(static_cast<size_t>(rows * columns), 10);
    // the last row's target is in another tile
    const std::vector<int64_t> targets = {1000, 1000 + columns - 1, 3};
    const std::vector<float> scale = {1.0f, -0.25f, 2.0f};
    std::vector<float> totals(rows), out = x;
    std::vector<uint16_t> rounded(x.size());
    for (size_t i = 0; i < x.size(); ++i) rounded[i] = to_bf16(x[i]);
    for (int64_t row = 0; row < rows; ++row) totals[row] = static_cast<float>(logsumexp(&x[row * columns], columns) + 0.5);
    loss_head(level).softmax_gradient(out.data(), columns, targets.data(), 1000, rows, totals.data(), scale.data());
    loss_head(level).softmax_gradient_bf16(rounded.data(), columns, targets.data(), 1000, rows, totals.data(), scale.data());
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < columns; ++i) {
        const double hit = targets[row] == 1000 + i, p = std::exp(double(x[row * columns + i]) - totals[row]);
        const double expected = scale[row] * (hit - p);
        CHECK(close(out[row * columns + i], expected, 1e-6), "%g for %g", out[row * columns + i], expected);
        CHECK(std::fabs(from_bf16(rounded[row * columns + i]) - expected) <= std::fabs(scale[row]) * (0.02 * p + hit / 200), "bf16 for %g", expected);
      }
    }
  }
}
