#include "kernels/training_rows.h"

#include <algorithm>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

constexpr float kEpsilon = 1e-5f;

double norm_scale(const float* x, int64_t width) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += double(x[i]) * x[i];
  return 1 / std::sqrt(squares / double(width) + kEpsilon);
}

}  // namespace

TEST(add_rms_norm_against_double) {
  const int64_t rows = 3;
  for (const int64_t width : {1, 15, 16, 17, 576}) {
    const auto size = static_cast<size_t>(rows * width);
    const auto x = normals(size, 1), residual = normals(size, 2), weight = normals(static_cast<size_t>(width), 3);
    std::vector<float> total(size), out(size), inverse(rows);
    training_rows(level).f32.add_rms_norm(x.data(), residual.data(), weight.data(), kEpsilon, rows, width, total.data(), out.data(), inverse.data());
    for (int64_t row = 0; row < rows; ++row) {
      const double scale = norm_scale(&total[row * width], width);
      CHECK(close(inverse[row], scale, 1e-6));
      for (int64_t i = row * width; i < (row + 1) * width; ++i) {
        CHECK(total[i] == x[i] + residual[i]);
        CHECK(close(out[i], total[i] * scale * weight[i - row * width], 2e-6), "width %d", int(width));
      }
    }
  }
}

TEST(rms_norm_gradient_against_double) {
  const int64_t rows = 3;
  for (const int64_t width : {2, 16, 33, 576}) {
    const auto size = static_cast<size_t>(rows * width);
    const auto gradient = normals(size, 4), added = normals(size, 5), total = normals(size, 6), weight = normals(static_cast<size_t>(width), 7);
    std::vector<float> inverse(rows), out(size), sums(static_cast<size_t>(width));
    for (int64_t row = 0; row < rows; ++row) inverse[row] = float(norm_scale(&total[row * width], width));
    training_rows(level).f32.rms_norm_gradient(gradient.data(), added.data(), total.data(), weight.data(), inverse.data(), rows, width, out.data());
    training_rows(level).f32.rms_norm_weight_gradient(gradient.data(), total.data(), inverse.data(), rows, width, sums.data());
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t at = row * width;
      double mean = 0;
      for (int64_t i = 0; i < width; ++i) mean += double(gradient[at + i]) * weight[i] * total[at + i] * inverse[row] / double(width);
      for (int64_t i = 0; i < width; ++i) {
        const double expected = added[at + i] + inverse[row] * (double(gradient[at + i]) * weight[i] - total[at + i] * inverse[row] * mean);
        CHECK(close(out[at + i], expected, 1e-5), "width %d: %g for %g", int(width), out[at + i], expected);
      }
    }
    for (int64_t i = 0; i < width; ++i) {
      double expected = 0;
      for (int64_t row = 0; row < rows; ++row) expected += double(gradient[row * width + i]) * total[row * width + i] * inverse[row];
      CHECK(close(sums[i], expected, 1e-5));
    }
  }
}

TEST(swiglu_against_double) {
  for (const int64_t count : {1, 16, 17, 100}) {
    const auto size = static_cast<size_t>(count);
    auto gate = normals(size, 8);
    const auto up = normals(size, 9), gradient = normals(size, 10);
    for (auto& x : gate) x *= 5.0f;
    std::vector<float> out(size), for_gate(size), for_up(size);
    training_rows(level).f32.swiglu(gate.data(), up.data(), count, out.data());
    training_rows(level).f32.swiglu_gradient(gradient.data(), gate.data(), up.data(), count, for_gate.data(), for_up.data());
    for (int64_t i = 0; i < count; ++i) {
      const double s = 1 / (1 + std::exp(-double(gate[i]))), silu = gate[i] * s;
      CHECK(close(out[i], silu * up[i], 2e-6));
      CHECK(close(for_gate[i], double(gradient[i]) * up[i] * s * (1 + gate[i] * (1 - s)), 5e-6));
      CHECK(close(for_up[i], gradient[i] * silu, 2e-6));
    }
  }
}
