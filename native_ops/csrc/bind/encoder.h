// What the bindings of encoders share: names to kinds, cu_seqlens, working memory.
#pragma once

#include <cstdlib>

#include "bind/bind.h"
#include "kernels/encoder.h"

namespace ironcliw {

inline EncoderNumber encoder_number(const char* op, const std::string& name) {
  if (name == "float32") return EncoderNumber::f32;
  if (name == "bfloat16") return EncoderNumber::bf16;
  IRONCLIW_CHECK(name == "int8", op, "number must be float32, bfloat16 or int8; it is ", name);
  return EncoderNumber::int8;
}

inline EncoderActivation encoder_activation(const char* op, const std::string& name) {
  if (name == "none") return EncoderActivation::none;
  if (name == "relu") return EncoderActivation::relu;
  if (name == "gelu") return EncoderActivation::gelu;
  IRONCLIW_CHECK(name == "gelu_tanh", op, "activation must be none, relu, gelu or gelu_tanh; it is ", name);
  return EncoderActivation::gelu_tanh;
}

inline void check_float_or_bf16(const char* op, const char* name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  IRONCLIW_CHECK(type == ScalarType::Float || type == ScalarType::BFloat16, op, name, " must be float32 or bfloat16; it is ", dtype_name(type));
}

// int32 [B + 1], from 0, rising, to the number of tokens.
inline void check_seqlens(const char* op, const char* name, const Tensor& t, int64_t tokens) {
  check_dtype(op, name, t, ScalarType::Int);
  check_dim(op, name, t, 1);
  IRONCLIW_CHECK(t.size(0) > 0, op, name, " must have at least one entry; its shape is ", shape_text(t));
  const int32_t* starts = data<int32_t>(t);
  const int64_t count = t.size(0) - 1;
  IRONCLIW_CHECK(starts[0] == 0, op, name, " must begin with 0; it begins with ", starts[0]);
  for (int64_t i = 0; i < count; ++i)
    IRONCLIW_CHECK(starts[i] < starts[i + 1], op, name, " must rise; entry ", i + 1, " is ", starts[i + 1], " after ", starts[i]);
  IRONCLIW_CHECK(starts[count] == tokens, op, name, " must end with the number of tokens, ", tokens, "; it ends with ", starts[count]);
}

// Columns are the inputs of a product, which int8 sums in int32.
inline void check_inputs(const char* op, const char* name, EncoderNumber number, const Tensor& t) {
  IRONCLIW_CHECK(number != EncoderNumber::int8 || t.size(1) <= kInt8Inputs, op, name, " must have at most ", kInt8Inputs, " columns for int8; its shape is ", shape_text(t));
}

// A weight of [outputs, inputs] in packed form.
inline EncoderLinear encoder_linear_of(const char* op, const char* name, EncoderNumber number, const Tensor& packed, const Tensor& bias, int64_t outputs, int64_t inputs) {
  check_dtype(op, name, packed, ScalarType::Byte);
  check_dim(op, name, packed, 1);
  check_size(op, name, packed, 0, encoder_packed_bytes(number, outputs, inputs));
  IRONCLIW_CHECK(packed.is_contiguous(), op, name, " must be contiguous; its shape is ", shape_text(packed));
  return {data<uint8_t>(packed), data<float>(bias), outputs, inputs};
}

// This thread's working memory, aligned to 64, kept from call to call: to have the system map some
// megabytes anew for each call would cost more than a short text's whole computation.
inline uint8_t* working_memory(int64_t bytes) {
  struct Kept {
    ~Kept() { std::free(at); }
    void* at = nullptr;
    int64_t size = 0;
  };
  static thread_local Kept kept;
  if (kept.size < bytes) {
    std::free(kept.at);
    kept.size = 0;
    kept.at = std::aligned_alloc(64, static_cast<size_t>(encoder_round_up(bytes, 64)));
    if (!kept.at) throw std::bad_alloc();
    kept.size = bytes;
  }
  return static_cast<uint8_t*>(kept.at);
}

}  // namespace ironcliw
