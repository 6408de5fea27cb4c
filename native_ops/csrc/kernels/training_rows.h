// What is between the matrix products of a transformer's layer, forward and backward: RMSNorm after an
// addition, and the gated activation SwiGLU. T rows of width D; arithmetic in float, rounded once.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

// Value: float, or uint16_t for bfloat16.
template <class Value> struct TrainingRows {
  // total = x + residual, rounded; out = total / sqrt(mean(total^2) + epsilon) * weight, of the rounded
  // total; inverse [T] = 1 / sqrt(...). Without a residual (null) nothing is written to `total`.
  void (*add_rms_norm)(const Value* x, const Value* residual, const Value* weight, float epsilon, int64_t rows, int64_t width, Value* total, Value* out, float* inverse);
  // out = added + the gradient by total. `added`, what reached total by other ways, may be null.
  void (*rms_norm_gradient)(const Value* gradient, const Value* added, const Value* total, const Value* weight, const float* inverse, int64_t rows, int64_t width, Value* out);
  // sums [D] = sum over rows of gradient * total * inverse
  void (*rms_norm_weight_gradient)(const Value* gradient, const Value* total, const float* inverse, int64_t rows, int64_t width, float* sums);
  // out = silu(gate) * up
  void (*swiglu)(const Value* gate, const Value* up, int64_t count, Value* out);
  void (*swiglu_gradient)(const Value* gradient, const Value* gate, const Value* up, int64_t count, Value* for_gate, Value* for_up);
};

struct TrainingRowKernels {
  TrainingRows<float> f32;
  TrainingRows<uint16_t> bf16;
};
IRONCLIW_TABLES(TrainingRowKernels, training_rows)

}  // namespace ironcliw
