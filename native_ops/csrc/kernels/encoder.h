// Encoders of the BERT family over texts that stand end to end, without padding: packed weights, one
// linear layer, attention, and the whole stack of layers over a block of texts.
//
// T tokens (rows), D width, H heads of d, N outputs and K inputs of a linear layer. bf16 is uint16_t.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

// What weights are kept as. bf16: products of bf16 where the level has them, else widened to float.
// int8: a scale for each output; a row of activations is made int8, with a scale, for each product,
// which has at most kInt8Inputs inputs.
enum class EncoderNumber : int32_t { f32 = 0, bf16 = 1, int8 = 2 };
enum class EncoderActivation : int32_t { none = 0, relu = 1, gelu = 2, gelu_tanh = 3 };

constexpr int64_t kPanelColumns = 32;
// Inputs of an int8 product: sums are int32, activations at most 127 and weights at most 128 (packed
// bytes may come from anywhere), so that K inputs add up to 128 * 127 * K at most. AVX-512 VNNI starts
// from -128 times the sum of a row's activations, which is bounded alike.
constexpr int64_t kInt8Inputs = INT32_MAX / (128 * 127);

inline int64_t encoder_round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// Bytes of a packed matrix [outputs, inputs]: panels of 32 outputs, one after the other.
//   f32:  K rows of 32 floats.
//   bf16: two groups of 16 outputs; in each, rows of 16 x 2 neighbouring inputs, K filled up to 32.
//         That is what one tile register holds, 16 rows of 64 bytes.
//   int8: two groups of 16 outputs; in each, rows of 16 x 4 neighbouring inputs, K filled up to 64;
//         then 32 float scales, NaN for an output with a weight that is not finite.
int64_t encoder_panel_bytes(EncoderNumber number, int64_t inputs);
inline int64_t encoder_packed_bytes(EncoderNumber number, int64_t outputs, int64_t inputs) {
  return encoder_round_up(outputs, kPanelColumns) / kPanelColumns * encoder_panel_bytes(number, inputs);
}
// `weight` is float [outputs, inputs].
void encoder_pack(EncoderNumber number, const float* weight, int64_t outputs, int64_t inputs, uint8_t* packed);

struct EncoderLinear {
  const uint8_t* packed;
  const float* bias;  // [outputs]
  int64_t outputs, inputs;
};

struct EncoderNorm { const float *weight, *bias; };

struct EncoderLayer {
  EncoderLinear qkv, attention_out, up, down;
  EncoderNorm attention_norm, norm;
};

struct EncoderModel {
  const EncoderLayer* layers;
  int64_t count, width, heads, inner;
  float epsilon;
  EncoderActivation activation;
  EncoderNumber number;
  EncoderNorm norm;     // of the embeddings
  const float* places;  // [P, D]: position vectors, the token type's added
  const void* words;    // [V, D]
  bool words_bf16;
};

// Several texts: text i has the tokens starts[i] to starts[i + 1].
struct EncoderTexts {
  const int32_t* starts;
  int64_t count;
  int64_t tokens() const { return starts[count] - starts[0]; }
  int64_t longest() const {
    int64_t most = 0;
    for (int64_t i = 0; i < count; ++i) most = most < starts[i + 1] - starts[i] ? starts[i + 1] - starts[i] : most;
    return most;
  }
};

// What an adapter (LoRA) adds to the product of a part of a layer: (x A^T) B^T. A [ranks, inputs] and B
// [outputs, ranks] are packed as query, key and value are: in bf16 where the other weights are int8.
// Where the width is no multiple of 32, key and value begin in the midst of a panel of the joined
// product; as many outputs of zeros stand before those of their B.
struct EncoderLowRank {
  const uint8_t *a, *b;
  int64_t ranks;  // 0: the part is as it is
};
constexpr int64_t kEncoderParts = 6;  // of a layer: query, key, value, attention's output, up, down
constexpr int64_t kEncoderRanks = 1024;  // of a part, at most

inline int64_t encoder_lead(int64_t part, int64_t width) { return part < 3 ? part * width % kPanelColumns : 0; }

// Adapters that texts are under, each one its own or none. Texts under one adapter are computed together
// where they are neighbours, so that its weights are read once.
struct EncoderAdapters {
  const EncoderLowRank* changes;  // [adapters, layers, 6]
  int64_t columns;                // of the rows between A and B: see `encoder_columns`
  const int32_t* of_text;         // which adapter each text is under, -1: none; null: all are under none
};
// Of a layer's query, key and value together, and of each other part: ranks filled up to 32, the most
// of these over all layers and adapters.
int64_t encoder_columns(const EncoderLowRank* changes, int64_t layers);

// One stage of a pass over a block cut into `parts`, at once or one after the other; what `run` is
// given as `body` must be called once for each part.
struct EncoderParts {
  int64_t count;
  void (*run)(void* caller, int64_t parts, void (*body)(void* context, int64_t part), void* context);
  void* caller;
};

struct EncoderAttention {
  int64_t heads, head_width;
  int64_t q_stride, k_stride, v_stride, out_stride;  // elements from token to token
  float scale;
  bool causal;  // query i of a text sees its keys up to i + (keys - queries)
};

// How a text's rows become one.
enum class EncoderPooling : int32_t { mean, cls, max, last, mean_sqrt, weighted_mean };

struct EncoderKernels {
  // Bytes of working memory for `linear`, `attention` and `forward`; alignment of 64 is asked for.
  int64_t (*linear_bytes)(EncoderNumber number, int64_t rows, int64_t inputs);
  int64_t (*attention_bytes)(bool bf16, int64_t queries, int64_t keys, int64_t head_width);
  int64_t (*forward_bytes)(const EncoderModel& model, EncoderTexts texts, const EncoderAdapters& adapters, int64_t parts);

  // out = activation(x w^T + bias); x and out of the same type, rows side by side. A row's bits depend
  // on nothing but that row.
  void (*linear)(EncoderNumber number, const EncoderLinear& w, EncoderActivation activation, bool bf16, const void* x, int64_t rows, void* out, uint8_t* work);
  // One head of one text. All of one type, bf16 or float.
  void (*attention)(const EncoderAttention& shape, bool bf16, const void* q, int64_t queries, const void* k, const void* v, int64_t keys, void* out, uint8_t* work);
  // Token ids of a block of texts to the last layer's rows, float [T, D]. A text's bits depend on
  // nothing but that text and its adapter.
  void (*forward)(const EncoderModel& model, const int32_t* tokens, EncoderTexts texts, const EncoderAdapters& adapters, float* out, uint8_t* work, EncoderParts parts);
  // The rows [rows, D] of one text to one [D], in float; divided by its length where that is wanted
  // and not below 1e-12.
  void (*pool)(EncoderPooling pooling, bool normalize, bool bf16, const void* x, int64_t rows, int64_t width, float* out);
};
IRONCLIW_TABLES(EncoderKernels, encoder)

// Whether this process uses tile registers (AMX): at the level of that name.
bool encoder_tiles();
// Keep from them, or no longer; gives what was so before. Not for use while kernels run.
bool encoder_use_tiles(bool wanted);

}  // namespace ironcliw
