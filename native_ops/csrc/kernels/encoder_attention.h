// Attention of one head over one text: two products with packed keys and values, softmax between.
#pragma once

#include "kernels/encoder_products.h"

IRONCLIW_BEGIN
namespace encoder {

// Packed keys are a weight [keys, d], packed values a weight [d, keys].
template <class Value> void pack_keys(const Value* k, int64_t stride, int64_t keys, int64_t width, float* packed) {
  for (int64_t n = 0; n < keys; n += kPanelColumns, packed += width * kPanelColumns) {
    const int64_t here = keys - n < kPanelColumns ? keys - n : kPanelColumns;
    if (here < kPanelColumns) std::memset(packed, 0, static_cast<size_t>(width * kPanelColumns * 4));
    for (int64_t c = 0; c < here; ++c) {
      for (int64_t i = 0; i < width; i += 16) {
        float row[16];
        const int count = lanes(width, i);
        store(row, get(k + (n + c) * stride + i, count));
        for (int j = 0; j < count; ++j) packed[(i + j) * kPanelColumns + c] = row[j];
      }
    }
  }
}

template <class Value> void pack_values(const Value* v, int64_t stride, int64_t keys, int64_t width, float* packed) {
  for (int64_t n = 0; n < width; n += kPanelColumns) {
    for (int64_t i = 0; i < keys; ++i, packed += kPanelColumns) {
      for (int64_t c = 0; c < kPanelColumns; c += 16) {
        const int64_t left = width - n - c;
        store(packed + c, left > 0 ? get(v + i * stride + n + c, left < 16 ? static_cast<int>(left) : 16) : zero());
      }
    }
  }
}

#if defined(IRONCLIW_USE_BF16)
inline void pack_keys(const uint16_t* k, int64_t stride, int64_t keys, int64_t width, uint16_t* packed) {
  const int64_t filled = encoder_round_up(width, 32), group = filled * 16;
  if (keys % kPanelColumns || filled != width) std::memset(packed, 0, static_cast<size_t>(2 * encoder_round_up(keys, kPanelColumns) * filled));
  for (int64_t n = 0; n < keys; ++n) {
    uint16_t* column = packed + n / 16 * group + n % 16 * 2;
    const uint16_t* row = k + n * stride;
    for (int64_t i = 0; i + 2 <= width; i += 2) std::memcpy(column + i * 16, row + i, 4);
    if (width % 2) column[(width - 1) * 16] = row[width - 1];
  }
}

inline void pack_values(const uint16_t* v, int64_t stride, int64_t keys, int64_t width, uint16_t* packed) {
  const int64_t filled = encoder_round_up(keys, 32), group = filled * 16;
  if (keys != filled || width % kPanelColumns) std::memset(packed, 0, static_cast<size_t>(2 * encoder_round_up(width, kPanelColumns) * filled));
  for (int64_t i = 0; i < keys; i += 2) {
    const uint16_t *one = v + i * stride, *two = one + stride;
    const bool pair = i + 1 < keys;
    for (int64_t n = 0; n < width; n += 16) {
      uint16_t* to = packed + n / 16 * group + i * 16;
      const int count = lanes(width, n);
      for (int c = 0; c < count; ++c) {
        to[2 * c] = one[n + c];
        if (pair) to[2 * c + 1] = two[n + c];
      }
    }
  }
}
#endif

// Working memory of `attend`.
template <class Number> struct AttentionMemory {
  using Value = typename Number::Value;
  AttentionMemory(Memory& memory, int64_t keys, int64_t width)
      : score_stride(row_stride(keys)), query_stride(row_stride(width)),
        k(memory.take<Value>(encoder_round_up(keys, kPanelColumns) * encoder_round_up(width, 32))),
        v(memory.take<Value>(encoder_round_up(keys, 32) * encoder_round_up(width, kPanelColumns))),
        q(memory.take<Value>(kRows * query_stride)),
        scores(memory.take<float>(kRows * score_stride)),
        weights(memory.take<Value>(kRows * score_stride)) {}
  int64_t score_stride, query_stride;
  Value *k, *v, *q;
  float* scores;
  Value* weights;
};

// Scores to exp(score - largest), filled with zeros up to a multiple of 32 keys; gives 1 / sum.
// Keys from `seen` on count for nothing.
template <class Value>
float softmax_row(float* scores, float scale, int64_t seen, int64_t filled, Value* weights) {
  Floats most = broadcast(-3.4028235e38f);
  for (int64_t i = 0; i < seen; i += 16) {
    const int count = lanes(seen, i);
    const Floats x = load(scores + i) * broadcast(scale);
    store(scores + i, x);
    most = larger(choose_first(count, x, most), most);
  }
  const Floats top = broadcast(largest(most));
  Floats total = zero();
  for (int64_t i = 0; i < seen; i += 16) {
    const int count = lanes(seen, i);
    const Floats e = choose_first(count, exp(load(scores + i) - top), zero());
    total = total + e;
    put_rounded(weights + i, e, 16);
  }
  for (int64_t i = encoder_round_up(seen, 16); i < filled; i += 16) put_rounded(weights + i, zero(), 16);
  return 1.0f / sum(total);
}

template <class Number, class In>
void attend(const EncoderAttention& shape, const In* q, int64_t queries, const In* k, const In* v, int64_t keys, In* out, Memory memory, const Tiles& tiles) {
  const int64_t width = shape.head_width, filled = encoder_round_up(keys, 32);
  const AttentionMemory<Number> at(memory, keys, width);
  pack_keys(k, shape.k_stride, keys, width, at.k);
  pack_values(v, shape.v_stride, keys, width, at.v);
  const int64_t key_panel = encoder_panel_bytes(Number::number, width), value_panel = encoder_panel_bytes(Number::number, keys);
  alignas(64) float sums[kRows * kPanelColumns];
  float scales[kRows];
  for (int64_t m = 0; m < queries; m += kRows) {
    const int rows = static_cast<int>(queries - m < kRows ? queries - m : kRows);
    for (int r = 0; r < rows; ++r)
      for (int64_t i = 0; i < encoder_round_up(width, 32); i += 16)
        put_rounded(at.q + r * at.query_stride + i, i < width ? get(q + (m + r) * shape.q_stride + i, lanes(width, i)) : zero(), 16);
    for (int64_t n = 0; n < keys; n += kPanelColumns)
      Number::block(at.q, at.query_stride, reinterpret_cast<const uint8_t*>(at.k) + n / kPanelColumns * key_panel, width, rows, at.scores + n, at.score_stride, tiles);
    for (int r = 0; r < rows; ++r) {
      const int64_t last = keys - queries + m + r + 1;
      const int64_t seen = shape.causal && last < keys ? last : keys;
      scales[r] = softmax_row(at.scores + r * at.score_stride, shape.scale, seen, filled, at.weights + r * at.score_stride);
    }
    for (int64_t n = 0; n < width; n += kPanelColumns) {
      Number::block(at.weights, at.score_stride, reinterpret_cast<const uint8_t*>(at.v) + n / kPanelColumns * value_panel, keys, rows, sums, kPanelColumns, tiles);
      for (int r = 0; r < rows; ++r)
        for (int64_t c = 0; c < kPanelColumns && n + c < width; c += 16)
          put_rounded(out + (m + r) * shape.out_stride + n + c, load(sums + r * kPanelColumns + c) * broadcast(scales[r]), lanes(width, n + c));
    }
  }
}

}  // namespace encoder
IRONCLIW_END
