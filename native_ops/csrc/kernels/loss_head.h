// The elementwise half of the language model's loss: softmax over a vocabulary that comes in tiles.
// M rows (tokens), T columns (a tile of the vocabulary, starting at token `first`), H wide gradients.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

// What is known of each row after some tiles; starts at -infinity, 0, 0 and zeros.
struct OnlineSoftmax {
  float* maximum;       // [M] of the logits so far
  float* total;         // [M] sum of exp(logit - maximum)
  float* target_logit;  // [M] once its tile was there
  float* gradient;      // [M, H] sum of exp(logit - maximum) * weight, kept to the same maximum; or null
  int64_t width;        // H
  OnlineSoftmax from(int64_t row) const {
    return {maximum + row, total + row, target_logit + row, gradient ? gradient + row * width : nullptr, width};
  }
};

struct LossHeadKernels {
  // Takes a tile in: logits [M, T] become exp(logit - maximum), and the state follows the new maximum
  // (Milakov and Gimelshein 2018, arXiv 1805.02867).
  void (*online_softmax)(float* logits, int64_t columns, const int64_t* targets, int64_t first, int64_t rows, OnlineSoftmax state);
  void (*online_softmax_bf16)(uint16_t* logits, int64_t columns, const int64_t* targets, int64_t first, int64_t rows, OnlineSoftmax state);
  // logits [M, T] become scale * ((is the target) - exp(logit - logsumexp)), the gradient of
  // scale * log p(target) by the logits.
  void (*softmax_gradient)(float* logits, int64_t columns, const int64_t* targets, int64_t first, int64_t rows, const float* logsumexp, const float* scale);
  void (*softmax_gradient_bf16)(uint16_t* logits, int64_t columns, const int64_t* targets, int64_t first, int64_t rows, const float* logsumexp, const float* scale);
};
IRONCLIW_TABLES(LossHeadKernels, loss_head)

}  // namespace ironcliw
