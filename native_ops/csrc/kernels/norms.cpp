#include "kernels/norms.h"

#include <cmath>

#include "simd/simd.h"

IRONCLIW_BEGIN

namespace {

// Two types of rows behind one name; `count` below 16 only at a row's end.
struct Bf16 {
  using Value = uint16_t;
  static Floats get(const uint16_t* p, int count) {
    if (count == 16) return load_bf16(p);
    uint16_t lanes[16] = {};
    std::memcpy(lanes, p, 2 * static_cast<size_t>(count));
    return load_bf16(lanes);
  }
  static void put(uint16_t* p, Floats x, int count) {
    if (count == 16) return store_bf16(p, x);
    uint16_t lanes[16];
    store_bf16(lanes, x);
    std::memcpy(p, lanes, 2 * static_cast<size_t>(count));
  }
};
struct Float {
  using Value = float;
  static Floats get(const float* p, int count) { return count == 16 ? load(p) : load_first(p, count); }
  static void put(float* p, Floats x, int count) { count == 16 ? store(p, x) : store_first(p, x, count); }
};

int lanes(int64_t width, int64_t at) { return width - at < 16 ? static_cast<int>(width - at) : 16; }

template <class Row>
void layer_norm_row(const typename Row::Value* x, const typename Row::Value* residual, const float* weight, const float* bias, float epsilon, int64_t width, typename Row::Value* out) {
  const auto value = [&](int64_t i, int count) {
    const Floats a = Row::get(x + i, count);
    return residual ? a + Row::get(residual + i, count) : a;
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
    Row::put(out + i, fma(d, Float::get(weight + i, count), Float::get(bias + i, count)), count);
  }
}

template <class Row>
void layer_norm_rows(const typename Row::Value* x, const typename Row::Value* residual, const float* weight, const float* bias, float epsilon, int64_t rows, int64_t width, typename Row::Value* out) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * width;
    layer_norm_row<Row>(x + at, residual ? residual + at : nullptr, weight, bias, epsilon, width, out + at);
  }
}

void rms_norm_rows(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += width, out += width) {
    Floats squares = zero();
    for (int64_t i = 0; i < width; i += 16) {
      const Floats v = Float::get(x + i, lanes(width, i));
      squares = fma(v, v, squares);
    }
    const Floats scale = broadcast(1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon));
    for (int64_t i = 0; i < width; i += 16) {
      const int count = lanes(width, i);
      Float::put(out + i, Float::get(x + i, count) * scale * Float::get(weight + i, count), count);
    }
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const NormKernels IRONCLIW_TABLE(norms);
const NormKernels IRONCLIW_TABLE(norms) = {IRONCLIW_LEVEL::layer_norm_rows<IRONCLIW_LEVEL::Bf16>, IRONCLIW_LEVEL::layer_norm_rows<IRONCLIW_LEVEL::Float>, IRONCLIW_LEVEL::rms_norm_rows};
}  // namespace ironcliw
