// A text's rows to one.
#pragma once

#include <cfloat>

#include "kernels/encoder_blocks.h"

IRONCLIW_BEGIN
namespace encoder {

template <class In> Floats pooled(EncoderPooling pooling, const In* x, int64_t rows, int64_t width, int count) {
  switch (pooling) {
    case EncoderPooling::cls: return get(x, count);
    case EncoderPooling::last: return get(x + (rows - 1) * width, count);
    case EncoderPooling::max: {
      Floats most = get(x, count);
      for (int64_t row = 1; row < rows; ++row) most = larger(get(x + row * width, count), most);
      return most;
    }
    default: break;
  }
  const auto n = static_cast<float>(rows);
  const bool weighted = pooling == EncoderPooling::weighted_mean;
  Floats total = zero();
  for (int64_t row = 0; row < rows; ++row)
    total = fma(get(x + row * width, count), broadcast(weighted ? static_cast<float>(row + 1) : 1.0f), total);
  const float divisor = weighted ? n * (n + 1) / 2 : pooling == EncoderPooling::mean ? n : std::sqrt(n);
  return total / broadcast(divisor);
}

// Of a row whose squares are more than float holds; gives its length then, infinite where a number of
// it is.
inline float divide_by_largest(int64_t width, float* row) {
  Floats most = zero();
  for (int64_t i = 0; i < width; i += 16) most = larger(abs(get(row + i, lanes(width, i))), most);
  const float divisor = largest(most);
  if (divisor > FLT_MAX) return divisor;
  Floats squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    const Floats y = get(row + i, count) / broadcast(divisor);
    squares = fma(y, y, squares);
    put(row + i, y, count);
  }
  return std::sqrt(sum(squares));
}

template <class In> void pool_rows(EncoderPooling pooling, bool normalize, const In* x, int64_t rows, int64_t width, float* out) {
  Floats squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    const Floats y = pooled(pooling, x + i, rows, width, count);
    squares = fma(y, y, squares);
    put(out + i, y, count);
  }
  if (!normalize) return;
  float length = std::sqrt(sum(squares));
  if (length > FLT_MAX) length = divide_by_largest(width, out);
  const Floats divisor = broadcast(length < 1e-12f ? 1e-12f : length);
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    put(out + i, get(out + i, count) / divisor, count);
  }
}

}  // namespace encoder
IRONCLIW_END
