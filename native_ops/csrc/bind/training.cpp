#include <optional>

#include "bind/bind.h"
#include "kernels/loss_head.h"

namespace ironcliw {
namespace {

// Written in place, so a copy of it would be of no use.
void check_in_place(const char* op, const char* name, const Tensor& t) {
  IRONCLIW_CHECK(t.is_contiguous(), op, name, " must be contiguous; its shape is ", shape_text(t));
}

void check_tile(const char* op, const Tensor& logits, const Tensor& targets) {
  const ScalarType type = logits.scalar_type();
  IRONCLIW_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, op, "logits must be float32 or bfloat16; it is ", dtype_name(type));
  check_dim(op, "logits", logits, 2);
  IRONCLIW_CHECK(logits.size(1) > 0, op, "logits must have columns; its shape is ", shape_text(logits));
  check_in_place(op, "logits", logits);
  check_dtype(op, "targets", targets, ScalarType::Long);
  check_dim(op, "targets", targets, 1);
  check_size(op, "targets", targets, 0, logits.size(0));
}

void check_rows(const char* op, const char* name, const Tensor& t, int64_t rows) {
  check_dtype(op, name, t, ScalarType::Float);
  check_dim(op, name, t, 1);
  check_size(op, name, t, 0, rows);
}

int64_t grain(int64_t columns) { return 1 + 32768 / (columns + 1); }

void online_softmax_(Tensor logits, const Tensor& targets, int64_t first, Tensor maximum, Tensor total, Tensor target_logit, std::optional<Tensor> gradient) {
  constexpr auto op = "online_softmax_";
  check_tile(op, logits, targets);
  const int64_t rows = logits.size(0), columns = logits.size(1);
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"maximum", maximum}, {"total", total}, {"target_logit", target_logit}}) {
    check_rows(op, name, t, rows);
    check_in_place(op, name, t);
  }
  if (gradient) {
    check_dtype(op, "gradient", *gradient, ScalarType::Float);
    check_dim(op, "gradient", *gradient, 2);
    check_size(op, "gradient", *gradient, 0, rows);
    check_in_place(op, "gradient", *gradient);
  }
  const Tensor wanted = dense(targets);
  const OnlineSoftmax state{mutable_data<float>(maximum), mutable_data<float>(total), mutable_data<float>(target_logit), gradient ? mutable_data<float>(*gradient) : nullptr, gradient ? gradient->size(1) : 0};
  aten_threads().parallel(rows, grain(columns), [&](int64_t begin, int64_t end) {
    const int64_t at = begin * columns, count = end - begin;
    const int64_t* ids = data<int64_t>(wanted) + begin;
    if (logits.scalar_type() == ScalarType::Float) loss_head().online_softmax(mutable_data<float>(logits) + at, columns, ids, first, count, state.from(begin));
    else loss_head().online_softmax_bf16(mutable_data<uint16_t>(logits) + at, columns, ids, first, count, state.from(begin));
  });
}

void softmax_gradient_(Tensor logits, const Tensor& targets, int64_t first, const Tensor& logsumexp, const Tensor& scale) {
  constexpr auto op = "softmax_gradient_";
  check_tile(op, logits, targets);
  const int64_t rows = logits.size(0), columns = logits.size(1);
  check_rows(op, "logsumexp", logsumexp, rows);
  check_rows(op, "scale", scale, rows);
  const Tensor wanted = dense(targets), sums = dense(logsumexp), scales = dense(scale);
  aten_threads().parallel(rows, grain(columns), [&](int64_t begin, int64_t end) {
    const int64_t at = begin * columns, count = end - begin;
    const int64_t* ids = data<int64_t>(wanted) + begin;
    const float *sum = data<float>(sums) + begin, *factor = data<float>(scales) + begin;
    if (logits.scalar_type() == ScalarType::Float) loss_head().softmax_gradient(mutable_data<float>(logits) + at, columns, ids, first, count, sum, factor);
    else loss_head().softmax_gradient_bf16(mutable_data<uint16_t>(logits) + at, columns, ids, first, count, sum, factor);
  });
}

const Binding binding([](Implementations& m) {
  m.impl("online_softmax_", TORCH_BOX(&online_softmax_));
  m.impl("softmax_gradient_", TORCH_BOX(&softmax_gradient_));
});

}  // namespace
}  // namespace ironcliw
