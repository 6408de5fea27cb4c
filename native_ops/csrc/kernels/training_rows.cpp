#include "kernels/training_rows.h"

#include <cmath>

#include "simd/rows.h"

IRONCLIW_BEGIN

namespace {

// f(at, count) for each 16 elements; the last count may be lower.
template <class F> IRONCLIW_INLINE void each(int64_t count, F&& f) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) f(i, 16);
  if (i < count) f(i, lanes(count, i));
}

template <class Value>
void add_rms_norm_rows(const Value* x, const Value* residual, const Value* weight, float epsilon, int64_t rows, int64_t width, Value* total, Value* out, float* inverse) {
  for (int64_t row = 0; row < rows; ++row, x += width, out += width) {
    const Value* values = x;
    Floats squares = zero();
    if (residual) {
      each(width, [&](int64_t i, int count) {
        put(total + i, get(x + i, count) + get(residual + i, count), count);
        const Floats v = get(total + i, count);
        squares = fma(v, v, squares);
      });
      values = total;
      residual += width;
      total += width;
    } else {
      each(width, [&](int64_t i, int count) {
        const Floats v = get(x + i, count);
        squares = fma(v, v, squares);
      });
    }
    inverse[row] = 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon);
    const Floats scale = broadcast(inverse[row]);
    each(width, [&](int64_t i, int count) { put(out + i, get(values + i, count) * scale * get(weight + i, count), count); });
  }
}

// With u = gradient * weight and n = total * inverse: inverse * (u - n * mean(u * n)).
template <class Value>
void rms_norm_gradient_rows(const Value* gradient, const Value* added, const Value* total, const Value* weight, const float* inverse, int64_t rows, int64_t width, Value* out) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * width;
    Floats products = zero();
    each(width, [&](int64_t i, int count) {
      products = fma(get(gradient + at + i, count) * get(weight + i, count), get(total + at + i, count), products);
    });
    const Floats scale = broadcast(inverse[row]);
    const Floats part = broadcast(-sum(products) / static_cast<float>(width) * inverse[row] * inverse[row]);
    each(width, [&](int64_t i, int count) {
      const Floats u = get(gradient + at + i, count) * get(weight + i, count);
      const Floats found = fma(get(total + at + i, count), part, u) * scale;
      put(out + at + i, added ? found + get(added + at + i, count) : found, count);
    });
  }
}

template <class Value> void rms_norm_weight_gradient_rows(const Value* gradient, const Value* total, const float* inverse, int64_t rows, int64_t width, float* sums) {
  for (int64_t i = 0; i < width; ++i) sums[i] = 0.0f;
  for (int64_t row = 0; row < rows; ++row, gradient += width, total += width) {
    const Floats scale = broadcast(inverse[row]);
    each(width, [&](int64_t i, int count) { put(sums + i, fma(get(gradient + i, count), get(total + i, count) * scale, get(sums + i, count)), count); });
  }
}

template <class Value> void swiglu_rows(const Value* gate, const Value* up, int64_t count, Value* out) {
  each(count, [&](int64_t i, int n) { put(out + i, silu(get(gate + i, n)) * get(up + i, n), n); });
}

// silu'(x) = s (1 + x (1 - s)) with s = sigmoid(x)
template <class Value> void swiglu_gradient_rows(const Value* gradient, const Value* gate, const Value* up, int64_t count, Value* for_gate, Value* for_up) {
  each(count, [&](int64_t i, int n) {
    const Floats g = get(gradient + i, n), x = get(gate + i, n), u = get(up + i, n);
    const Floats s = sigmoid(x), one = broadcast(1.0f);
    put(for_gate + i, g * u * (s * fma(x, one - s, one)), n);
    put(for_up + i, g * (x * s), n);
  });
}

template <class Value> constexpr TrainingRows<Value> rows_of() {
  return {add_rms_norm_rows<Value>, rms_norm_gradient_rows<Value>, rms_norm_weight_gradient_rows<Value>, swiglu_rows<Value>, swiglu_gradient_rows<Value>};
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const TrainingRowKernels IRONCLIW_TABLE(training_rows);
const TrainingRowKernels IRONCLIW_TABLE(training_rows) = {IRONCLIW_LEVEL::rows_of<float>(), IRONCLIW_LEVEL::rows_of<uint16_t>()};
}  // namespace ironcliw
