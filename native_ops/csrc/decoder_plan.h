// The plan of native_ops/decoder_plan.py as pointers, after every number in it was checked.
#pragma once

#include <string>
#include <vector>

#include "kernels/decoder_rows.h"
#include "kernels/packed_linear.h"

namespace ironcliw {

constexpr int64_t kPlanVersion = 1;

struct DecoderMatrix : PackedMatrix {
  int planes = 1;  // of the activations that are multiplied with it
  bool present() const { return data != nullptr; }
};

struct NormWeights {
  const float* weight = nullptr;
  const float* bias = nullptr;
};

// Null where the model has no such vector.
struct DecoderLayer {
  DecoderMatrix query, key, value, output, gate, up, down;
  NormWeights attention_norm, mlp_norm;
  const float *query_bias, *key_bias, *value_bias, *query_norm, *key_norm, *output_bias, *gate_bias, *up_bias, *down_bias;
};

struct DecoderPlan {
  bool layer_norm = false, gated = false;
  Activation activation = Activation::silu;
  int64_t width = 0, heads = 0, kv_heads = 0, head_width = 0, inner = 0, vocabulary = 0, context = 0, slots = 0;
  float epsilon = 0, score_scale = 0;
  DecoderMatrix embedding, head, positions;
  NormWeights norm;
  const float *cosine = nullptr, *sine = nullptr;  // [context, head_width / 2]
  std::vector<DecoderLayer> layers;

  int64_t slot_elements = 0;  // of the cache, see cached_attention.h
  int64_t group() const { return heads / kv_heads; }
  int64_t query_width() const { return heads * head_width; }
  int64_t key_width() const { return kv_heads * head_width; }
};

// Fills `plan`, or says which rule the numbers break.
std::string read_plan(const int64_t* numbers, int64_t count, const uint8_t* weights, int64_t weight_bytes, int64_t cache_elements, DecoderPlan& plan);

}  // namespace ironcliw
