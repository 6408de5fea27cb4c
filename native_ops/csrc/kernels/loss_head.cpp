#include "kernels/loss_head.h"

#include <cmath>

#include "simd/rows.h"

IRONCLIW_BEGIN

namespace {

// One logit of either type.
float one(const float* p) { return *p; }
float one(const uint16_t* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float exp_of(float x) {
  float all[16];
  store(all, exp(broadcast(x)));
  return all[0];
}

// Two chains, since one would wait for itself.
template <class Value> float largest_of(const Value* row, int64_t columns) {
  Floats a = broadcast(-INFINITY), b = a;
  int64_t i = 0;
  for (; i + 32 <= columns; i += 32) {
    a = larger(a, get(row + i, 16));
    b = larger(b, get(row + i + 16, 16));
  }
  for (; i < columns; i += 16) {
    const int count = lanes(columns, i);
    a = larger(a, choose_first(count, get(row + i, count), a));
  }
  return largest(larger(a, b));
}

// Leaves exp(x - maximum) and gives its sum.
template <class Value> float exponentials(Value* row, int64_t columns, float maximum) {
  const Floats shift = broadcast(maximum);
  Floats a = zero(), b = zero();
  int64_t i = 0;
  for (; i + 32 <= columns; i += 32) {
    const Floats x = exp(get(row + i, 16) - shift), y = exp(get(row + i + 16, 16) - shift);
    put(row + i, x, 16);
    put(row + i + 16, y, 16);
    a = a + x;
    b = b + y;
  }
  for (; i < columns; i += 16) {
    const int count = lanes(columns, i);
    const Floats x = exp(get(row + i, count) - shift);
    put(row + i, x, count);
    a = a + choose_first(count, x, zero());
  }
  return sum(a + b);
}

void multiply(float* row, int64_t width, float factor) {
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    put(row + i, get(row + i, count) * broadcast(factor), count);
  }
}

template <class Value>
void online_softmax_rows(Value* logits, int64_t columns, const int64_t* targets, int64_t first, int64_t rows, OnlineSoftmax state) {
  for (int64_t row = 0; row < rows; ++row, logits += columns) {
    const int64_t column = targets[row] - first;
    if (column >= 0 && column < columns) state.target_logit[row] = one(logits + column);
    const float before = state.maximum[row], here = largest_of(logits, columns);
    // NaN from before stays, and a NaN here fails the comparison
    const float maximum = here <= before || std::isnan(before) ? before : here;
    // a row of nothing but -infinity: exp(-infinity), not exp(NaN)
    const float shift = maximum == -INFINITY ? 0.0f : maximum;
    const float here_total = exponentials(logits, columns, shift);
    const float factor = maximum == before ? 1.0f : exp_of(before - shift);
    state.maximum[row] = maximum;
    state.total[row] = state.total[row] * factor + here_total;
    if (state.gradient && factor != 1.0f) multiply(state.gradient + row * state.width, state.width, factor);
  }
}

template <class Value>
void softmax_gradient_rows(Value* logits, int64_t columns, const int64_t* targets, int64_t first, int64_t rows, const float* logsumexp, const float* scale) {
  for (int64_t row = 0; row < rows; ++row, logits += columns) {
    const Floats shift = broadcast(logsumexp[row]), factor = broadcast(-scale[row]);
    const int64_t column = targets[row] - first;
    const bool has_target = column >= 0 && column < columns;
    const float target = has_target ? scale[row] * (1.0f - exp_of(one(logits + column) - logsumexp[row])) : 0.0f;
    for (int64_t i = 0; i < columns; i += 16) {
      const int count = lanes(columns, i);
      put(logits + i, exp(get(logits + i, count) - shift) * factor, count);
    }
    if (has_target) put(logits + column, broadcast(target), 1);
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const LossHeadKernels IRONCLIW_TABLE(loss_head);
const LossHeadKernels IRONCLIW_TABLE(loss_head) = {IRONCLIW_LEVEL::online_softmax_rows<float>, IRONCLIW_LEVEL::online_softmax_rows<uint16_t>, IRONCLIW_LEVEL::softmax_gradient_rows<float>, IRONCLIW_LEVEL::softmax_gradient_rows<uint16_t>};
}  // namespace ironcliw
