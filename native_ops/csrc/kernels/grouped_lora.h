// Low-rank updates of the rows of one batch under different adapters: of row m with adapter a,
// y[m] += scale_a * (x[m] A_a^T) B_a^T. M rows, K inputs, N outputs, r_a ranks of at most rmax.
// Rows of one adapter are computed together, so that its weights are read once; a row's bits do not
// depend on its company.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

struct LoraBatch {
  const float* x;  // [M, K]
  float* y;        // [M, N]
  float* hidden;   // [M, rmax], between the two products
  const void *a_weights, *b_weights;  // [adapters, rmax, K]; [adapters, N, rmax], by its strides
  int64_t b_adapter, b_output, b_rank;  // strides of b_weights
  int64_t inputs, outputs, most_ranks;
  int64_t x_stride = inputs, y_stride = outputs;
  // whether each 16 outputs from a multiple of 16 on are neighbours in b_weights
  bool b_together = b_output == 1;
};

// Rows of one adapter.
struct LoraGroup {
  int64_t adapter, ranks;
  float scale;
  const int64_t* rows;
  int64_t count;
};

struct LoraKernels {
  // hidden[m][begin .. end) = scale * x[m] A^T; ranks of the group
  void (*down)(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end);
  void (*down_bf16)(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end);
  // y[m][begin .. end) += hidden[m] B^T; outputs
  void (*up)(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end);
  void (*up_bf16)(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end);
};
IRONCLIW_TABLES(LoraKernels, lora_groups)

}  // namespace ironcliw
