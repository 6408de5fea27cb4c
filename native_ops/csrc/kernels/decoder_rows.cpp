#include "kernels/decoder_rows.h"

#include <cmath>

#include "simd/rows.h"

IRONCLIW_BEGIN

namespace {

// f(first lane, lanes) over a row; a full vector is the common case.
template <class F> IRONCLIW_INLINE void each(int64_t width, F&& f) {
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) f(i, 16);
  if (i < width) f(i, lanes(width, i));
}

void add(float* x, const float* y, const float* bias, int64_t width) {
  each(width, [&](int64_t i, int count) {
    const Floats added = bias ? get(y + i, count) + get(bias + i, count) : get(y + i, count);
    put(x + i, get(x + i, count) + added, count);
  });
}

void scale_by(float* x, const float* weight, float factor, int64_t width) {
  each(width, [&](int64_t i, int count) {
    const Floats scaled = get(x + i, count) * broadcast(factor);
    put(x + i, weight ? scaled * get(weight + i, count) : scaled, count);
  });
}

void rms_norm_in_place(float* x, const float* weight, float epsilon, int64_t width) {
  Floats squares = zero();
  each(width, [&](int64_t i, int count) {
    const Floats v = get(x + i, count);
    squares = fma(v, v, squares);
  });
  scale_by(x, weight, 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + epsilon), width);
}

void rotate(float* x, const float* cosine, const float* sine, int64_t width) {
  float* second = x + width / 2;
  each(width / 2, [&](int64_t i, int count) {
    const Floats a = get(x + i, count), b = get(second + i, count), c = get(cosine + i, count), s = get(sine + i, count);
    put(x + i, fma(a, c, zero() - b * s), count);
    put(second + i, fma(b, c, a * s), count);
  });
}

void turn_head(float* x, const float* bias, const float* norm, float epsilon, const float* cosine, const float* sine, float scale, int64_t width) {
  if (bias) add(x, bias, nullptr, width);
  if (norm) rms_norm_in_place(x, norm, epsilon, width);
  if (cosine) rotate(x, cosine, sine, width);
  if (scale != 1.0f) scale_by(x, nullptr, scale, width);
}

template <class F> void activate_with(F&& function, float* x, const float* bias, const float* up, const float* up_bias, int64_t width) {
  each(width, [&](int64_t i, int count) {
    Floats value = get(x + i, count);
    if (bias) value = value + get(bias + i, count);
    value = function(value);
    if (up) value = value * (up_bias ? get(up + i, count) + get(up_bias + i, count) : get(up + i, count));
    put(x + i, value, count);
  });
}

void activate(Activation activation, float* x, const float* bias, const float* up, const float* up_bias, int64_t width) {
  switch (activation) {
    case Activation::silu: return activate_with([](Floats v) { return silu(v); }, x, bias, up, up_bias, width);
    case Activation::gelu: return activate_with([](Floats v) { return gelu(v); }, x, bias, up, up_bias, width);
    case Activation::gelu_tanh: return activate_with([](Floats v) { return gelu_tanh(v); }, x, bias, up, up_bias, width);
    case Activation::relu: return activate_with([](Floats v) { return larger(v, zero()); }, x, bias, up, up_bias, width);
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const DecoderRowKernels IRONCLIW_TABLE(decoder_rows);
const DecoderRowKernels IRONCLIW_TABLE(decoder_rows) = {IRONCLIW_LEVEL::turn_head, IRONCLIW_LEVEL::add, IRONCLIW_LEVEL::activate};
}  // namespace ironcliw
