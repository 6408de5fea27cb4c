// What a decoder does to rows of floats between its products.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

enum class Activation : int { silu = 0, gelu = 1, gelu_tanh = 2, relu = 3 };

struct DecoderRowKernels {
  // A head in place: x + bias; RMS norm; rotary embedding, which turns element i together with
  // i + width / 2; times scale. Null: not that step. `cosine` and `sine` have width / 2 elements.
  void (*turn_head)(float* x, const float* bias, const float* norm, float epsilon, const float* cosine, const float* sine, float scale, int64_t width);
  // x = x + (y + bias); `bias` may be null.
  void (*add)(float* x, const float* y, const float* bias, int64_t width);
  // x = activation(x + bias) * (up + up_bias), or activation(x + bias) where `up` is null.
  void (*activate)(Activation activation, float* x, const float* bias, const float* up, const float* up_bias, int64_t width);
};
IRONCLIW_TABLES(DecoderRowKernels, decoder_rows)

}  // namespace ironcliw
