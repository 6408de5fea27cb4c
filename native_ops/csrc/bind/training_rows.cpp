#include "kernels/training_rows.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bind/bind.h"

namespace ironcliw {
namespace {

constexpr int64_t kWork = 16384;      // elements, at least, that are worth a thread
constexpr int64_t kChunk = 64;        // rows whose part of a weight's gradient is summed together

// float32 or bfloat16 [T, D] with columns.
void check_values(const char* op, const char* name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  IRONCLIW_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, op, name, " must be float32 or bfloat16; it is ", dtype_name(type));
  check_dim(op, name, t, 2);
  IRONCLIW_CHECK(t.size(1) > 0, op, name, " must have columns; its shape is ", shape_text(t));
}

void check_like(const char* op, const char* name, const Tensor& t, const Tensor& other) {
  check_dtype(op, name, t, other.scalar_type());
  check_dim(op, name, t, 2);
  check_size(op, name, t, 0, other.size(0));
  check_size(op, name, t, 1, other.size(1));
}

void check_vector(const char* op, const char* name, const Tensor& t, ScalarType type, int64_t size) {
  check_dtype(op, name, t, type);
  check_dim(op, name, t, 1);
  check_size(op, name, t, 0, size);
}

// f(kernels, a null pointer of the element's type)
template <class F> void with_values(const Tensor& t, F&& f) {
  if (t.scalar_type() == ScalarType::Float) f(training_rows().f32, static_cast<float*>(nullptr));
  else f(training_rows().bf16, static_cast<uint16_t*>(nullptr));
}

std::optional<Tensor> dense(const std::optional<Tensor>& t) { return t ? std::optional<Tensor>(ironcliw::dense(*t)) : std::nullopt; }

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, std::optional<Tensor> residual, const Tensor& weight, double epsilon) {
  constexpr auto op = "add_rms_norm";
  check_values(op, "x", x);
  if (residual) check_like(op, "residual", *residual, x);
  const int64_t rows = x.size(0), width = x.size(1);
  check_vector(op, "weight", weight, x.scalar_type(), width);
  const Tensor xs = ironcliw::dense(x), weights = ironcliw::dense(weight);
  const std::optional<Tensor> added = dense(residual);
  Tensor total = torch::stable::new_empty(xs, {residual ? rows : 0, width}), out = torch::stable::new_empty(xs, {rows, width});
  Tensor inverse = torch::stable::new_empty(xs, {rows}, ScalarType::Float);
  with_values(xs, [&](const auto& kernels, auto* null) {
    using Value = std::remove_pointer_t<decltype(null)>;
    Value *totals = mutable_data<Value>(total), *outs = mutable_data<Value>(out);
    float* inverses = mutable_data<float>(inverse);
    aten_threads().parallel(rows, 1 + kWork / width, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * width;
      kernels.add_rms_norm(data<Value>(xs) + at, added ? data<Value>(*added) + at : nullptr, data<Value>(weights), static_cast<float>(epsilon), end - begin, width, added ? totals + at : nullptr, outs + at, inverses + begin);
    });
  });
  return {total, out, inverse};
}

// Parts of fixed rows, added in their order: the number of threads changes nothing.
template <class Value, class Kernels> void weight_gradient(const Kernels& kernels, const Tensor& gradient, const Tensor& total, const float* inverse, Tensor& found) {
  const int64_t rows = total.size(0), width = total.size(1), chunks = (rows + kChunk - 1) / kChunk;
  std::vector<float> parts(static_cast<size_t>(chunks * width));
  aten_threads().parallel(chunks, 1 + kWork / (kChunk * width), [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunk, at = first * width;
      kernels.rms_norm_weight_gradient(data<Value>(gradient) + at, data<Value>(total) + at, inverse + first, std::min(kChunk, rows - first), width, &parts[static_cast<size_t>(chunk * width)]);
    }
  });
  float* sums = mutable_data<float>(found);
  for (int64_t i = 0; i < width; ++i) {
    float sum = 0.0f;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += parts[static_cast<size_t>(chunk * width + i)];
    sums[i] = sum;
  }
}

std::tuple<Tensor, Tensor> add_rms_norm_backward(const Tensor& gradient, std::optional<Tensor> added, const Tensor& total, const Tensor& weight, const Tensor& inverse, bool for_weight) {
  constexpr auto op = "add_rms_norm_backward";
  check_values(op, "total", total);
  check_like(op, "gradient", gradient, total);
  if (added) check_like(op, "added", *added, total);
  const int64_t rows = total.size(0), width = total.size(1);
  check_vector(op, "weight", weight, total.scalar_type(), width);
  check_vector(op, "inverse", inverse, ScalarType::Float, rows);
  const Tensor gradients = ironcliw::dense(gradient), totals = ironcliw::dense(total), weights = ironcliw::dense(weight), inverses = ironcliw::dense(inverse);
  const std::optional<Tensor> others = dense(added);
  Tensor out = torch::stable::new_empty(totals, {rows, width});
  Tensor found = torch::stable::new_empty(totals, {for_weight ? width : 0}, ScalarType::Float);
  with_values(totals, [&](const auto& kernels, auto* null) {
    using Value = std::remove_pointer_t<decltype(null)>;
    Value* outs = mutable_data<Value>(out);
    const float* scales = data<float>(inverses);
    aten_threads().parallel(rows, 1 + kWork / width, [&](int64_t begin, int64_t end) {
      const int64_t at = begin * width;
      kernels.rms_norm_gradient(data<Value>(gradients) + at, others ? data<Value>(*others) + at : nullptr, data<Value>(totals) + at, data<Value>(weights), scales + begin, end - begin, width, outs + at);
    });
    if (for_weight) weight_gradient<Value>(kernels, gradients, totals, scales, found);
  });
  return {out, found};
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  constexpr auto op = "swiglu";
  check_values(op, "gate", gate);
  check_like(op, "up", up, gate);
  const Tensor gates = ironcliw::dense(gate), ups = ironcliw::dense(up);
  Tensor out = torch::stable::new_empty(gates, {gate.size(0), gate.size(1)});
  with_values(gates, [&](const auto& kernels, auto* null) {
    using Value = std::remove_pointer_t<decltype(null)>;
    Value* outs = mutable_data<Value>(out);
    aten_threads().parallel(gate.size(0) * gate.size(1), kWork, [&](int64_t begin, int64_t end) {
      kernels.swiglu(data<Value>(gates) + begin, data<Value>(ups) + begin, end - begin, outs + begin);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& gradient, const Tensor& gate, const Tensor& up) {
  constexpr auto op = "swiglu_backward";
  check_values(op, "gate", gate);
  check_like(op, "up", up, gate);
  check_like(op, "gradient", gradient, gate);
  const Tensor gradients = ironcliw::dense(gradient), gates = ironcliw::dense(gate), ups = ironcliw::dense(up);
  Tensor for_gate = torch::stable::new_empty(gates, {gate.size(0), gate.size(1)}), for_up = torch::stable::new_empty(gates, {gate.size(0), gate.size(1)});
  with_values(gates, [&](const auto& kernels, auto* null) {
    using Value = std::remove_pointer_t<decltype(null)>;
    Value *to_gate = mutable_data<Value>(for_gate), *to_up = mutable_data<Value>(for_up);
    aten_threads().parallel(gate.size(0) * gate.size(1), kWork, [&](int64_t begin, int64_t end) {
      kernels.swiglu_gradient(data<Value>(gradients) + begin, data<Value>(gates) + begin, data<Value>(ups) + begin, end - begin, to_gate + begin, to_up + begin);
    });
  });
  return {for_gate, for_up};
}

const Binding binding([](Implementations& m) {
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("add_rms_norm_backward", TORCH_BOX(&add_rms_norm_backward));
  m.impl("swiglu", TORCH_BOX(&swiglu));
  m.impl("swiglu_backward", TORCH_BOX(&swiglu_backward));
});

}  // namespace
}  // namespace ironcliw
