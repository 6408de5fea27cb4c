#include "kernels/rotary_attention.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <tuple>

#include "bind/encoder.h"

namespace ironcliw {
namespace {

using Rotation = std::optional<Tensor>;

void check_matrix(const char* op, const char* name, const Tensor& t, ScalarType type, int64_t rows, int64_t columns) {
  check_dtype(op, name, t, type);
  check_dim(op, name, t, 2);
  check_size(op, name, t, 0, rows);
  check_size(op, name, t, 1, columns);
}

void check_all(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Rotation& cos, const Rotation& sin, const Tensor& cu_seqlens, int64_t width, double scale) {
  check_float_or_bf16(op, "q", q);
  check_dim(op, "q", q, 2);
  const int64_t tokens = q.size(0), columns = q.size(1);
  IRONCLIW_CHECK(width > 0 && columns > 0 && columns % width == 0, op, "width must divide the columns of q; it is ", width, " of ", columns);
  check_dtype(op, "k", k, q.scalar_type());
  check_dim(op, "k", k, 2);
  check_size(op, "k", k, 0, tokens);
  const int64_t keys = k.size(1);
  IRONCLIW_CHECK(keys > 0 && keys % width == 0 && columns % keys == 0, op, "k must have columns that divide those of q, ", columns, ", in heads of ", width, "; its shape is ", shape_text(k));
  check_matrix(op, "v", v, q.scalar_type(), tokens, keys);
  IRONCLIW_CHECK(cos.has_value() == sin.has_value(), op, "cos and sin must be given together");
  if (cos) {
    IRONCLIW_CHECK(width % 2 == 0, op, "width must be even where there is a rotation; it is ", width);
    check_matrix(op, "cos", *cos, q.scalar_type(), tokens, width);
    check_matrix(op, "sin", *sin, q.scalar_type(), tokens, width);
  }
  check_seqlens(op, "cu_seqlens", cu_seqlens, tokens);
  IRONCLIW_CHECK(scale > 0, op, "scale must be above 0; it is ", scale);
}

// The arguments side by side in memory, and views of them for the kernels.
struct Inputs {
  Inputs(const Tensor& q, const Tensor& k, const Tensor& v, const Rotation& cos, const Rotation& sin, const Tensor& cu_seqlens, int64_t width, double scale)
      : q(dense(q)), k(dense(k)), v(dense(v)), cos(cos ? Rotation(dense(*cos)) : std::nullopt), sin(sin ? Rotation(dense(*sin)) : std::nullopt), starts(dense(cu_seqlens)), width(width), scale(scale) {}

  template <class Value> RotaryAttentionInputs<Value> of() const {
    return {data<Value>(q), data<Value>(k), data<Value>(v), cos ? data<Value>(*cos) : nullptr, sin ? data<Value>(*sin) : nullptr, q.size(0), q.size(1) / width, k.size(1) / width, width, static_cast<float>(scale)};
  }

  // f(first, end, key head, working memory) for each head of each row, by whichever thread is free:
  // rows differ in length, and no two write to one place.
  template <class F> void each(F&& f) const {
    const int32_t* at = data<int32_t>(starts);
    const int64_t rows = starts.size(0) - 1, heads = k.size(1) / width, all = rows * heads;
    int64_t longest = 0;
    for (int64_t row = 0; row < rows; ++row) longest = std::max<int64_t>(longest, at[row + 1] - at[row]);
    std::atomic<int64_t> next{0};
    aten_threads().parallel(std::min<int64_t>(all, aten_threads().count()), 1, [&](int64_t, int64_t) {
      float* memory = nullptr;
      for (int64_t unit = next++; unit < all; unit = next++) {
        if (!memory) memory = reinterpret_cast<float*>(working_memory(rotary_attention_memory(longest, width) * int64_t{sizeof(float)}));
        f(at[unit / heads], at[unit / heads + 1], unit % heads, memory);
      }
    });
  }

  Tensor q, k, v;
  Rotation cos, sin;
  Tensor starts;
  int64_t width;
  double scale;
};

template <class F> void with_values(const Tensor& t, F&& f) {
  if (t.scalar_type() == ScalarType::Float) f(rotary_attention().f32, static_cast<float*>(nullptr));
  else f(rotary_attention().bf16, static_cast<uint16_t*>(nullptr));
}

std::tuple<Tensor, Tensor> forward(const Tensor& q, const Tensor& k, const Tensor& v, Rotation cos, Rotation sin, const Tensor& cu_seqlens, int64_t width, double scale) {
  check_all("rotary_attention", q, k, v, cos, sin, cu_seqlens, width, scale);
  const Inputs given(q, k, v, cos, sin, cu_seqlens, width, scale);
  Tensor out = torch::stable::new_empty(given.q, {q.size(0), q.size(1)});
  Tensor sums = torch::stable::new_empty(given.q, {q.size(1) / width, q.size(0)}, ScalarType::Float);
  with_values(q, [&](const auto& kernels, auto* null) {
    using Value = std::remove_pointer_t<decltype(null)>;
    const auto in = given.of<Value>();
    Value* outs = mutable_data<Value>(out);
    float* logarithms = mutable_data<float>(sums);
    given.each([&](int64_t first, int64_t end, int64_t head, float* memory) { kernels.forward(in, first, end, head, outs, logarithms, memory); });
  });
  return {out, sums};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& gradient, const Tensor& q, const Tensor& k, const Tensor& v, Rotation cos, Rotation sin, const Tensor& cu_seqlens, const Tensor& sums, int64_t width, double scale) {
  constexpr auto op = "rotary_attention_backward";
  check_all(op, q, k, v, cos, sin, cu_seqlens, width, scale);
  check_matrix(op, "gradient", gradient, q.scalar_type(), q.size(0), q.size(1));
  check_matrix(op, "sums", sums, ScalarType::Float, q.size(1) / width, q.size(0));
  const Inputs given(q, k, v, cos, sin, cu_seqlens, width, scale);
  const Tensor gradients = dense(gradient), logarithms = dense(sums);
  Tensor for_q = torch::stable::new_empty(given.q, {q.size(0), q.size(1)});
  Tensor for_k = torch::stable::new_empty(given.q, {k.size(0), k.size(1)}), for_v = torch::stable::new_empty(given.q, {k.size(0), k.size(1)});
  with_values(q, [&](const auto& kernels, auto* null) {
    using Value = std::remove_pointer_t<decltype(null)>;
    const auto in = given.of<Value>();
    Value *to_q = mutable_data<Value>(for_q), *to_k = mutable_data<Value>(for_k), *to_v = mutable_data<Value>(for_v);
    given.each([&](int64_t first, int64_t end, int64_t head, float* memory) {
      kernels.backward(in, first, end, head, data<Value>(gradients), data<float>(logarithms), to_q, to_k, to_v, memory);
    });
  });
  return {for_q, for_k, for_v};
}

const Binding binding([](Implementations& m) {
  m.impl("rotary_attention", TORCH_BOX(&forward));
  m.impl("rotary_attention_backward", TORCH_BOX(&backward));
});

}  // namespace
}  // namespace ironcliw
