// One step of a causal model over a ragged batch.
#pragma once

#include "cpu_level.h"
#include "decoder_adapters.h"
#include "decoder_plan.h"
#include "threads.h"

namespace ironcliw {

// Checked by the caller against the plan. A slot's tokens stand together.
struct DecoderStep {
  const int32_t *tokens, *positions, *slots;  // [count]
  int64_t count;
  const int32_t* logit_rows;  // [logit_count]
  int64_t logit_count;
  const std::vector<DecoderAdapter>* adapters = nullptr;  // null: none
  const int32_t* row_adapters = nullptr;                  // [count], -1: none
};

// Writes the step's keys and values to `cache` (see cached_attention.h; slot, layer, head) and its
// logits [logit_count, vocabulary].
void run_decoder(const DecoderPlan& plan, uint16_t* cache, const DecoderStep& step, float* logits, const Threads& threads, Level level);

}  // namespace ironcliw
