#include "decoder.h"

#include <vector>

#include "bind/bind.h"

namespace ironcliw {
namespace {

constexpr auto kOp = "decoder_step";

void check_row(const char* name, const Tensor& t, ScalarType type) {
  check_dtype(kOp, name, t, type);
  check_dim(kOp, name, t, 1);
}

void check_ids(const char* name, const int32_t* values, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i)
    IRONCLIW_CHECK(values[i] >= 0 && values[i] < limit, kOp, name, " must be from 0 to ", limit - 1, "; element ", i, " is ", values[i]);
}

void check_step(const DecoderStep& step, const DecoderPlan& plan) {
  check_ids("tokens", step.tokens, step.count, plan.vocabulary);
  check_ids("positions", step.positions, step.count, plan.context);
  check_ids("slots", step.slots, step.count, plan.slots);
  check_ids("logit_rows", step.logit_rows, step.logit_count, step.count);
  for (int64_t i = 1; i < step.logit_count; ++i)
    IRONCLIW_CHECK(step.logit_rows[i - 1] < step.logit_rows[i], kOp, "logit_rows must rise; elements ", i - 1, " and ", i, " are ", step.logit_rows[i - 1], " and ", step.logit_rows[i]);
  std::vector<bool> seen(static_cast<size_t>(plan.slots));
  for (int64_t i = 0; i < step.count; ++i) {
    const int32_t slot = step.slots[i];
    if (i > 0 && slot == step.slots[i - 1]) {
      IRONCLIW_CHECK(step.positions[i] == step.positions[i - 1] + 1, kOp, "positions must rise by one in a slot; elements ", i - 1, " and ", i, " are ", step.positions[i - 1], " and ", step.positions[i]);
      continue;
    }
    IRONCLIW_CHECK(!seen[static_cast<size_t>(slot)], kOp, "slots must have their tokens together; slot ", slot, " comes again at element ", i);
    seen[static_cast<size_t>(slot)] = true;
  }
}

// The adapters of a step, each of one tensor and a plan; checks what the rows say of them.
std::vector<DecoderAdapter> adapters_of(const std::vector<Tensor>& adapters, const std::vector<Tensor>& plans, const Tensor& rows, const DecoderPlan& plan) {
  IRONCLIW_CHECK(adapters.size() == plans.size(), kOp, "adapter_plans must be one for each of the ", adapters.size(), " adapters; they are ", plans.size());
  const int32_t* ids = data<int32_t>(rows);
  for (int64_t i = 0; i < rows.size(0); ++i)
    IRONCLIW_CHECK(ids[i] >= -1 && ids[i] < static_cast<int64_t>(adapters.size()), kOp, "row_adapters must be from -1 to ", static_cast<int64_t>(adapters.size()) - 1, "; element ", i, " is ", ids[i]);
  std::vector<DecoderAdapter> found(adapters.size());
  for (size_t i = 0; i < adapters.size(); ++i) {
    const std::string at = "[" + std::to_string(i) + "]";
    check_row(("adapters" + at).c_str(), adapters[i], ScalarType::Byte);
    check_row(("adapter_plans" + at).c_str(), plans[i], ScalarType::Long);
    IRONCLIW_CHECK(adapters[i].is_contiguous() && plans[i].is_contiguous(), kOp, "adapters and adapter_plans must be contiguous");
    IRONCLIW_CHECK(reinterpret_cast<uintptr_t>(adapters[i].const_data_ptr()) % alignof(float) == 0, kOp, "adapters must start at a multiple of 4 bytes");
    const std::string wrong = read_adapter(data<int64_t>(plans[i]), plans[i].size(0), data<uint8_t>(adapters[i]), adapters[i].size(0), plan, found[i]);
    IRONCLIW_CHECK(wrong.empty(), kOp, wrong);
  }
  return found;
}

Tensor decoder_step(const Tensor& weights, const Tensor& plan_numbers, Tensor cache, const Tensor& tokens, const Tensor& positions, const Tensor& slots, const Tensor& logit_rows, int64_t vocabulary, std::vector<Tensor> adapters, std::vector<Tensor> adapter_plans, const Tensor& row_adapters) {
  check_row("weights", weights, ScalarType::Byte);
  check_row("plan", plan_numbers, ScalarType::Long);
  check_row("cache", cache, ScalarType::Half);
  check_row("tokens", tokens, ScalarType::Int);
  check_row("positions", positions, ScalarType::Int);
  check_row("slots", slots, ScalarType::Int);
  check_row("logit_rows", logit_rows, ScalarType::Int);
  check_row("row_adapters", row_adapters, ScalarType::Int);
  const int64_t count = tokens.size(0);
  IRONCLIW_CHECK(count > 0, kOp, "tokens must have an element");
  check_size(kOp, "positions", positions, 0, count);
  check_size(kOp, "slots", slots, 0, count);
  check_size(kOp, "row_adapters", row_adapters, 0, adapters.empty() ? 0 : count);
  IRONCLIW_CHECK(weights.is_contiguous() && cache.is_contiguous(), kOp, "weights and cache must be contiguous");

  const Tensor numbers = dense(plan_numbers), ids = dense(tokens), places = dense(positions), owners = dense(slots), wanted = dense(logit_rows), changes = dense(row_adapters);
  DecoderPlan plan;
  const std::string wrong = read_plan(data<int64_t>(numbers), numbers.size(0), data<uint8_t>(weights), weights.size(0), cache.size(0), plan);
  IRONCLIW_CHECK(wrong.empty(), kOp, wrong);
  IRONCLIW_CHECK(vocabulary == plan.vocabulary, kOp, "vocabulary must be the plan's ", plan.vocabulary, "; it is ", vocabulary);
  const std::vector<DecoderAdapter> changing = adapters_of(adapters, adapter_plans, changes, plan);
  DecoderStep step{data<int32_t>(ids), data<int32_t>(places), data<int32_t>(owners), count, data<int32_t>(wanted), wanted.size(0)};
  check_step(step, plan);
  if (!changing.empty()) step.adapters = &changing, step.row_adapters = data<int32_t>(changes);

  Tensor logits = torch::stable::new_empty(weights, {step.logit_count, vocabulary}, ScalarType::Float);
  run_decoder(plan, mutable_data<uint16_t>(cache), step, mutable_data<float>(logits), aten_threads(), level());
  return logits;
}

const Binding binding([](Implementations& m) { m.impl("decoder_step", TORCH_BOX(&decoder_step)); });

}  // namespace
}  // namespace ironcliw
