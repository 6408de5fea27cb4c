#include "kernels/norms.h"

#include <cmath>

#include "simd/rows.h"

IRONCLIW_BEGIN

namespace {

template <class Value>
void layer_norm_row(const Value* x, const Value* residual, const float* weight, const float* bias, float epsilon, int64_t width, Value* out) {
  const auto value = [&](int64_t i, int count) {
    const Floats a = get(x + i, count);
    return residual ? a + get(residual + i, count) : a;
  };
  Floats total = zero();
  for (int64_t i = 0; i < width; i += 16) total = total + value(i, lanes(width, i));
  const float mean = sum(total) / static_cast<float>(width);
  // a second pass, since E[x^2] - E[x]^2 cancels where the mean is large
  Floats squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    const Floats d = choose_first(count, value(i, count) - broadcast(mean), zero());
    squares = fma(d, d, squares);
  }
  const float scale = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    const Floats d = (value(i, count) - broadcast(mean)) * broadcast(scale);
    put(out + i, fma(d, get(weight + i, count), get(bias + i, count)), count);
  }
}

template <class Value>
void layer_norm_rows(const Value* x, const Value* residual, const float* weight, const float* bias, float epsilon, int64_t rows, int64_t width, Value* out) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * width;
    layer_norm_row(x + at, residual ? residual + at : nullptr, weight, bias, epsilon, width, out + at);
  }
}

void rms_norm_rows(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += width, out += width) {
    Floats squares = zero();
    for (int64_t i = 0; i < width; i += 16) {
      const Floats v = get(x + i, lanes(width, i));
      squares = fma(v, v, squares);
    }
    const Floats scale = broadcast(1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon));
    for (int64_t i = 0; i < width; i += 16) {
      const int count = lanes(width, i);
      put(out + i, get(x + i, count) * scale * get(weight + i, count), count);
    }
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const NormKernels IRONCLIW_TABLE(norms);
const NormKernels IRONCLIW_TABLE(norms) = {IRONCLIW_LEVEL::layer_norm_rows<uint16_t>, IRONCLIW_LEVEL::layer_norm_rows<float>, IRONCLIW_LEVEL::rms_norm_rows};
}  // namespace ironcliw
