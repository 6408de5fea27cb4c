#include "bind/encoder.h"

namespace ironcliw {
namespace {

Tensor encoder_pack_weight(const Tensor& weight, const std::string& number_name) {
  constexpr auto op = "encoder_pack";
  const EncoderNumber number = encoder_number(op, number_name);
  check_dtype(op, "weight", weight, ScalarType::Float);
  check_dim(op, "weight", weight, 2);
  IRONCLIW_CHECK(weight.size(0) > 0 && weight.size(1) > 0, op, "weight must not be empty; its shape is ", shape_text(weight));
  check_inputs(op, "weight", number, weight);
  const Tensor weights = dense(weight);
  Tensor packed = torch::stable::new_empty(weights, {encoder_packed_bytes(number, weights.size(0), weights.size(1))}, ScalarType::Byte);
  encoder_pack(number, data<float>(weights), weights.size(0), weights.size(1), mutable_data<uint8_t>(packed));
  return packed;
}

Tensor encoder_linear(const Tensor& x, const Tensor& packed, const Tensor& bias, const std::string& activation_name, const std::string& number_name) {
  constexpr auto op = "encoder_linear";
  const EncoderNumber number = encoder_number(op, number_name);
  const EncoderActivation activation = encoder_activation(op, activation_name);
  check_float_or_bf16(op, "x", x);
  check_dim(op, "x", x, 2);
  check_dtype(op, "bias", bias, ScalarType::Float);
  check_dim(op, "bias", bias, 1);
  const int64_t rows = x.size(0), inputs = x.size(1), outputs = bias.size(0);
  IRONCLIW_CHECK(inputs > 0, op, "x must have columns; its shape is ", shape_text(x));
  check_inputs(op, "x", number, x);
  const Tensor xs = dense(x), biases = dense(bias);
  const EncoderLinear w = encoder_linear_of(op, "packed", number, packed, biases, outputs, inputs);
  Tensor out = torch::stable::new_empty(xs, {rows, outputs});
  const bool bf16 = x.scalar_type() == ScalarType::BFloat16;
  const int64_t size = bf16 ? 2 : 4;
  const auto* from = static_cast<const uint8_t*>(xs.const_data_ptr());
  auto* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  const auto& kernels = encoder();
  aten_threads().parallel(rows, 32, [&](int64_t begin, int64_t end) {
    uint8_t* work = working_memory(kernels.linear_bytes(number, end - begin, inputs));
    kernels.linear(number, w, activation, bf16, from + begin * inputs * size, end - begin, to + begin * outputs * size, work);
  });
  return out;
}

// Rows [T, H d] whose columns stand side by side; rows may be further apart (a part of q, k and v).
Tensor head_rows(const char* op, const char* name, const Tensor& t, ScalarType type, int64_t columns) {
  check_dtype(op, name, t, type);
  check_dim(op, name, t, 2);
  check_size(op, name, t, 1, columns);
  return t.stride(1) == 1 && t.stride(0) >= columns ? t : torch::stable::contiguous(t);
}

Tensor packed_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cu_queries, const Tensor& cu_keys, int64_t heads, double scale, bool causal) {
  constexpr auto op = "packed_attention";
  check_float_or_bf16(op, "q", q);
  check_dim(op, "q", q, 2);
  const int64_t columns = q.size(1), tokens = q.size(0);
  IRONCLIW_CHECK(heads > 0 && columns > 0 && columns % heads == 0, op, "heads must divide the columns of q; it is ", heads, " of ", columns);
  const ScalarType type = q.scalar_type();
  const Tensor qs = head_rows(op, "q", q, type, columns), ks = head_rows(op, "k", k, type, columns), vs = head_rows(op, "v", v, type, columns);
  check_size(op, "v", vs, 0, ks.size(0));
  const Tensor query_starts = dense(cu_queries), key_starts = dense(cu_keys);
  check_seqlens(op, "cu_queries", query_starts, tokens);
  check_seqlens(op, "cu_keys", key_starts, ks.size(0));
  check_size(op, "cu_keys", key_starts, 0, query_starts.size(0));
  const int64_t texts = query_starts.size(0) - 1;
  const int32_t *first_query = data<int32_t>(query_starts), *first_key = data<int32_t>(key_starts);
  int64_t longest = 0;
  for (int64_t i = 0; i < texts; ++i) {
    const int64_t queries = first_query[i + 1] - first_query[i], keys = first_key[i + 1] - first_key[i];
    IRONCLIW_CHECK(!causal || queries <= keys, op, "cu_keys must give a text as many keys as queries where causal; text ", i, " has ", keys, " for ", queries);
    longest = std::max<int64_t>(longest, std::max(queries, keys));
  }
  Tensor out = torch::stable::new_empty(qs, {tokens, columns});
  const bool bf16 = type == ScalarType::BFloat16;
  const EncoderAttention shape{heads, columns / heads, qs.stride(0), ks.stride(0), vs.stride(0), columns, static_cast<float>(scale), causal};
  const int64_t size = bf16 ? 2 : 4;
  const auto row = [&](const Tensor& t, int64_t index, int64_t head) {
    return static_cast<const uint8_t*>(t.const_data_ptr()) + (index * t.stride(0) + head * shape.head_width) * size;
  };
  auto* to = static_cast<uint8_t*>(out.mutable_data_ptr());
  const auto& kernels = encoder();
  const int64_t work = 1 + tokens * longest * columns;
  aten_threads().parallel(texts * heads, 1 + texts * heads * 200000 / work, [&](int64_t begin, int64_t end) {
    uint8_t* memory = working_memory(kernels.attention_bytes(bf16, longest, longest, shape.head_width));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t text = item / heads, head = item % heads, at = first_query[text];
      kernels.attention(shape, bf16, row(qs, at, head), first_query[text + 1] - at, row(ks, first_key[text], head), row(vs, first_key[text], head),
                        first_key[text + 1] - first_key[text], to + (at * columns + head * shape.head_width) * size, memory);
    }
  });
  return out;
}

EncoderPooling pooling_of(const char* op, const std::string& name) {
  constexpr const char* names[] = {"mean", "cls", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"};
  for (int32_t i = 0; i < 6; ++i)
    if (name == names[i]) return static_cast<EncoderPooling>(i);
  IRONCLIW_CHECK(false, op, "mode must be mean, cls, max, lasttoken, mean_sqrt_len_tokens or weightedmean; it is ", name);
  return EncoderPooling::mean;
}

Tensor pool_texts(const Tensor& hidden, const Tensor& cu_seqlens, const std::string& mode, bool normalize) {
  constexpr auto op = "pool_texts";
  check_float_or_bf16(op, "hidden", hidden);
  check_dim(op, "hidden", hidden, 2);
  const Tensor rows = dense(hidden), starts = dense(cu_seqlens);
  check_seqlens(op, "cu_seqlens", starts, rows.size(0));
  const EncoderPooling pooling = pooling_of(op, mode);
  const int64_t texts = starts.size(0) - 1, width = rows.size(1);
  Tensor out = torch::stable::new_empty(rows, {texts, width}, ScalarType::Float);
  const bool bf16 = rows.scalar_type() == ScalarType::BFloat16;
  const int32_t* first = data<int32_t>(starts);
  aten_threads().parallel(texts, 1 + 64 * texts / (1 + rows.size(0)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto* from = static_cast<const uint8_t*>(rows.const_data_ptr()) + first[i] * width * (bf16 ? 2 : 4);
      encoder().pool(pooling, normalize, bf16, from, first[i + 1] - first[i], width, mutable_data<float>(out) + i * width);
    }
  });
  return out;
}

const Binding binding([](Implementations& m) {
  m.impl("encoder_pack", TORCH_BOX(&encoder_pack_weight));
  m.impl("encoder_linear", TORCH_BOX(&encoder_linear));
  m.impl("packed_attention", TORCH_BOX(&packed_attention));
  m.impl("pool_texts", TORCH_BOX(&pool_texts));
});

}  // namespace
}  // namespace ironcliw
