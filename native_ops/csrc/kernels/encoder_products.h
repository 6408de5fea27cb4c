// x w^T with weights in float, bf16 or int8, and what follows a product.
#pragma once

#include "kernels/encoder_int8.h"

IRONCLIW_BEGIN
namespace encoder {

template <class Number> auto prepare(const typename Number::Value* x, int64_t x_stride, int64_t rows, int64_t inputs, uint8_t* scratch) {
  if constexpr (Number::number == EncoderNumber::int8) return Number::prepare(x, x_stride, rows, inputs, scratch);
  else return Rows<typename Number::Value>{x, x_stride};
}

// x w^T for rows of working memory, 32 by 32 sums at a time: epilogue(first row, rows, first output,
// outputs, float [32, 32]). Sums of outputs from the 17th on are there only where there are so many.
template <class Number, class Epilogue>
void multiply(const typename Number::Value* x, int64_t x_stride, int64_t rows, const EncoderLinear& w, uint8_t* scratch, const Tiles& tiles, Epilogue&& epilogue) {
  alignas(64) float sums[kRows * kPanelColumns];
  const auto prepared = prepare<Number>(x, x_stride, rows, w.inputs, scratch);
  for (int64_t n = 0; n < w.outputs; n += kPanelColumns) {
    const void* panel = Number::panel(w, n / kPanelColumns, scratch);
    const int64_t outputs = w.outputs - n < kPanelColumns ? w.outputs - n : kPanelColumns;
    for (int64_t m = 0; m < rows; m += kRows) {
      const int count = static_cast<int>(rows - m < kRows ? rows - m : kRows);
      if constexpr (Number::number == EncoderNumber::int8) Number::block(prepared, m, panel, w.inputs, count, sums, tiles);
      else if (outputs > 16) Number::block(prepared.at + m * prepared.stride, prepared.stride, panel, w.inputs, count, sums, kPanelColumns, tiles);
      else Number::half_block(prepared.at + m * prepared.stride, prepared.stride, panel, w.inputs, count, sums, kPanelColumns, tiles);
      epilogue(m, count, n, outputs, sums);
    }
  }
}

IRONCLIW_INLINE Floats activate(EncoderActivation activation, Floats x) {
  switch (activation) {
    case EncoderActivation::relu: return where_not_negative(zero() - x, zero(), x);
    case EncoderActivation::gelu: return gelu(x);
    case EncoderActivation::gelu_tanh: return gelu_tanh(x);
    default: return x;
  }
}

// sums + bias through the activation, into rows of any type.
template <class Value>
void store_activated(EncoderActivation activation, const float* sums, int rows, const float* bias, int64_t outputs, Value* out, int64_t out_stride) {
  for (int64_t c = 0; c < outputs; c += 16) {
    const int count = lanes(outputs, c);
    const Floats b = get(bias + c, count);
    for (int r = 0; r < rows; ++r) put_rounded(out + r * out_stride + c, activate(activation, load(sums + r * kPanelColumns + c) + b), count);
  }
}

}  // namespace encoder
IRONCLIW_END
