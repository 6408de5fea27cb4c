#include "kernels/norms.h"

#include <optional>

#include "bind/bind.h"

namespace ironcliw {
namespace {

void check_vector(const char* op, const char* name, const Tensor& t, int64_t width) {
  check_dtype(op, name, t, ScalarType::Float);
  check_dim(op, name, t, 1);
  check_size(op, name, t, 0, width);
}

Tensor add_layer_norm(const Tensor& x, std::optional<Tensor> residual, const Tensor& weight, const Tensor& bias, double epsilon) {
  constexpr auto op = "add_layer_norm";
  check_dim(op, "x", x, 2);
  const int64_t rows = x.size(0), width = x.size(1);
  const ScalarType type = x.scalar_type();
  IRONCLIW_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, op, "x must be float32 or bfloat16; it is ", dtype_name(type));
  IRONCLIW_CHECK(width > 0, op, "x must have columns; its shape is ", shape_text(x));
  check_vector(op, "weight", weight, width);
  check_vector(op, "bias", bias, width);
  if (residual) {
    check_dtype(op, "residual", *residual, type);
    check_dim(op, "residual", *residual, 2);
    check_size(op, "residual", *residual, 0, rows);
    check_size(op, "residual", *residual, 1, width);
  }
  const Tensor xs = dense(x), weights = dense(weight), biases = dense(bias);
  const std::optional<Tensor> added = residual ? std::optional<Tensor>(dense(*residual)) : std::nullopt;
  Tensor out = torch::stable::new_empty(xs, {rows, width});
  const auto& kernels = norms();
  const auto part = [&](auto kernel, auto* to, int64_t begin, int64_t end) {
    using Value = std::remove_pointer_t<decltype(to)>;
    const int64_t at = begin * width;
    kernel(data<Value>(xs) + at, added ? data<Value>(*added) + at : nullptr, data<float>(weights), data<float>(biases), static_cast<float>(epsilon), end - begin, width, to + at);
  };
  const int64_t grain = 1 + 32768 / width;
  aten_threads().parallel(rows, grain, [&](int64_t begin, int64_t end) {
    if (type == ScalarType::Float) part(kernels.layer_norm, mutable_data<float>(out), begin, end);
    else part(kernels.layer_norm_bf16, mutable_data<uint16_t>(out), begin, end);
  });
  return out;
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double epsilon) {
  constexpr auto op = "rms_norm";
  check_dtype(op, "x", x, ScalarType::Float);
  check_dim(op, "x", x, 2);
  const int64_t rows = x.size(0), width = x.size(1);
  IRONCLIW_CHECK(width > 0, op, "x must have columns; its shape is ", shape_text(x));
  check_vector(op, "weight", weight, width);
  const Tensor xs = dense(x), weights = dense(weight);
  Tensor out = torch::stable::new_empty(xs, {rows, width});
  aten_threads().parallel(rows, 1 + 32768 / width, [&](int64_t begin, int64_t end) {
    norms().rms_norm(data<float>(xs) + begin * width, data<float>(weights), static_cast<float>(epsilon), end - begin, width, mutable_data<float>(out) + begin * width);
  });
  return out;
}

const Binding binding([](Implementations& m) {
  m.impl("add_layer_norm", TORCH_BOX(&add_layer_norm));
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
});

}  // namespace
}  // namespace ironcliw
