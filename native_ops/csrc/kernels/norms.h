// Normalisation of rows: LayerNorm after a residual, and RMSNorm. T rows of width D.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

struct NormKernels {
  // out = LayerNorm(x + residual) * weight + bias. bf16 in and out, arithmetic in float.
  // `residual` may be null; `out` may be x or residual.
  void (*layer_norm_bf16)(const uint16_t* x, const uint16_t* residual, const float* weight, const float* bias, float epsilon, int64_t rows, int64_t width, uint16_t* out);
  void (*layer_norm)(const float* x, const float* residual, const float* weight, const float* bias, float epsilon, int64_t rows, int64_t width, float* out);
  // out = x / sqrt(mean(x^2) + epsilon) * weight
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t rows, int64_t width, float* out);
};
IRONCLIW_TABLES(NormKernels, norms)

}  // namespace ironcliw
