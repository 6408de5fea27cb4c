#include "kernels/norms.h"

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

TEST(rms_norm_against_double) {
  for (const int64_t width : {1, 15, 16, 17, 576, 1000}) {
    const int64_t rows = 3;
    const auto x = normals(static_cast<size_t>(rows * width), 1), weight = normals(static_cast<size_t>(width), 2);
    std::vector<float> out(x.size());
    norms(level).rms_norm(x.data(), weight.data(), 1e-5f, rows, width, out.data());
    for (int64_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (int64_t i = 0; i < width; ++i) squares += double(x[row * width + i]) * x[row * width + i];
      const double scale = 1 / std::sqrt(squares / double(width) + 1e-5);
      for (int64_t i = 0; i < width; ++i) {
        const double expected = x[row * width + i] * scale * weight[i];
        CHECK(close(out[row * width + i], expected, 1e-6), "width %d: %g for %g", int(width), out[row * width + i], expected);
      }
    }
  }
}

TEST(layer_norm_gives_nan_for_nan_in_its_own_row_only) {
  const int64_t width = 20;
  auto x = normals(2 * width, 3);
  x[5] = NAN;
  const std::vector<float> weight(width, 1.0f), bias(width, 0.0f);
  std::vector<float> out(x.size());
  norms(level).layer_norm(x.data(), nullptr, weight.data(), bias.data(), 1e-5f, 2, width, out.data());
  for (int64_t i = 0; i < width; ++i) {
    CHECK(std::isnan(out[i]));
    CHECK(!std::isnan(out[width + i]));
  }
}
