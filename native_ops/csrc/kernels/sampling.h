// The next token of a row of logits: penalties, temperature, top_k, top_p, and the draw.
//
// The contract, which the reference in native_ops/sampling.py keeps too: the weight of a logit x is
// exp((x - largest) / temperature) in float32, of additions, multiplications and one division, each
// rounded (no fused ones) in a fixed order, so that its bits are the same on every level and machine;
// weights below exp(-87) are 0. Sums of weights are float64. The draw looks `number` times the sum up
// in the cumulative sums, listed by rising id, or with top_k or top_p from likely to unlikely, equal
// logits by rising id.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

struct SampleRow {
  double number;       // uniform in [0, 1)
  double temperature;  // below 1e-5: the likeliest token, the first of equals
  double top_p;        // 1: off
  int64_t top_k;       // 0, or the width and more: off
  double repetition, presence, frequency;
  const int32_t* history;  // the prompt, then the answer from `answer_at` on; ids below the width
  int64_t history_count, answer_at;
  const int32_t* bias_ids;
  const float* bias_values;
  int64_t bias_count;
  int64_t top_count;  // likeliest tokens wanted; -1: not even the normaliser
};

// Memory to work in. `row` (width of them) for bias and penalties; the others (`sample_scratch` of
// them, twice as many in `spare`) for penalties, top_k, top_p and the likeliest tokens; null where
// nothing needs them.
struct SampleScratch {
  float* row;
  uint64_t *keys, *spare;
  float* weights;
};
inline int64_t sample_scratch(int64_t width, int64_t history_count) {
  const int64_t more = width > history_count ? width : history_count;
  return more > 4096 ? more : 4096;
}

struct SampleResult {
  int64_t token;      // -1: the largest logit is NaN or infinite, and the rest is not filled in
  double normaliser;  // log of the sum of exp(logits), before bias, penalties and temperature
};

struct SamplingKernels {
  // `top_ids`: the min(top_count, width) likeliest tokens of the row as it came, largest first.
  SampleResult (*sample)(const float* logits, int64_t width, const SampleRow& ask, const SampleScratch& scratch, int64_t* top_ids);
};
IRONCLIW_TABLES(SamplingKernels, sampling)

}  // namespace ironcliw
