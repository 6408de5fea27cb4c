// Causal attention over rows that lie one behind the other, with rotary positions, forward and backward.
//
// T tokens, H heads of queries, G heads of keys and values that H / G heads share, D width of a head.
// Rows are short in training: the weights of a few queries over all keys before them stay in the cache,
// so that softmax is computed at once, and its gradient from the same numbers.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

template <class Value> struct RotaryAttentionInputs {
  const Value* q;                // [T, H D]
  const Value *k, *v;            // [T, G D]
  const Value *cos, *sin;        // [T, D], or null: no rotation
  int64_t tokens, heads, key_heads, width;
  float scale;                   // of the products, above 0
};

// Value: float, or uint16_t for bfloat16.
template <class Value> struct RotaryAttention {
  // The query heads of one key head, in the row of tokens [first, end). `out` [T, H D]; `sums` [H, T] are
  // the logarithms of the softmax's denominators.
  void (*forward)(const RotaryAttentionInputs<Value>& in, int64_t first, int64_t end, int64_t key_head, Value* out, float* sums, float* memory);
  // From the gradient of `out` those of q, k and v before their rotation, shaped as they are.
  void (*backward)(const RotaryAttentionInputs<Value>& in, int64_t first, int64_t end, int64_t key_head, const Value* gradient, const float* sums, Value* for_q, Value* for_k, Value* for_v, float* memory);
};

struct RotaryAttentionKernels {
  RotaryAttention<float> f32;
  RotaryAttention<uint16_t> bf16;  // products of bfloat16 where the level has them
};
IRONCLIW_TABLES(RotaryAttentionKernels, rotary_attention)

// Floats of working memory, aligned to 64 bytes, for rows of up to `length` tokens.
inline int64_t rotary_attention_memory(int64_t length, int64_t width) {
  constexpr int64_t queries = 32;
  const int64_t padded = (width + 15) / 16 * 16, wide = (length + 15) / 16 * 16 + 16;
  return 8 * padded * wide + 3 * queries * wide + 7 * queries * padded;
}

}  // namespace ironcliw
