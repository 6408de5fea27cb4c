#include <algorithm>
#include <atomic>

#include "bind/encoder_adapters.h"

namespace ironcliw {
namespace {

constexpr auto op = "encoder_forward";
// Tokens that a thread takes through all layers at a time: what one core's cache holds of them.
constexpr int64_t kBlockTokens = 256;
constexpr size_t kWeightsOfLayer = 4, kVectorsOfLayer = 8;

const float* vector(const std::vector<Tensor>& vectors, size_t index, int64_t size) {
  const std::string name = "vectors[" + std::to_string(index) + "]";
  const Tensor& t = vectors[index];
  check_dtype(op, name.c_str(), t, ScalarType::Float);
  check_dim(op, name.c_str(), t, 1);
  check_size(op, name.c_str(), t, 0, size);
  IRONCLIW_CHECK(t.is_contiguous(), op, name, " must be contiguous; its shape is ", shape_text(t));
  return data<float>(t);
}

std::vector<EncoderLayer> layers_of(const std::vector<Tensor>& weights, const std::vector<Tensor>& vectors, EncoderNumber number, int64_t width, int64_t inner) {
  IRONCLIW_CHECK(weights.size() % kWeightsOfLayer == 0, op, "weights must be 4 for each layer; they are ", weights.size());
  const size_t count = weights.size() / kWeightsOfLayer;
  IRONCLIW_CHECK(vectors.size() == 2 + kVectorsOfLayer * count, op, "vectors must be 2 and 8 for each of ", count, " layers; they are ", vectors.size());
  const int64_t outputs[] = {3 * width, width, inner, width}, inputs[] = {width, width, width, inner};
  std::vector<EncoderLayer> layers(count);
  for (size_t i = 0; i < count; ++i) {
    EncoderLinear* const linears[] = {&layers[i].qkv, &layers[i].attention_out, &layers[i].up, &layers[i].down};
    const size_t at = 2 + kVectorsOfLayer * i;
    for (size_t j = 0; j < kWeightsOfLayer; ++j) {
      vector(vectors, at + j, outputs[j]);
      const std::string name = "weights[" + std::to_string(kWeightsOfLayer * i + j) + "]";
      // see kernels/encoder_forward.h
      const EncoderNumber kept = j == 0 && number == EncoderNumber::int8 ? EncoderNumber::bf16 : number;
      *linears[j] = encoder_linear_of(op, name.c_str(), kept, weights[kWeightsOfLayer * i + j], vectors[at + j], outputs[j], inputs[j]);
    }
    layers[i].attention_norm = {vector(vectors, at + 4, width), vector(vectors, at + 5, width)};
    layers[i].norm = {vector(vectors, at + 6, width), vector(vectors, at + 7, width)};
  }
  return layers;
}

// Texts [first, end) that are computed together.
struct Block {
  int64_t first, end, tokens;
};

std::vector<Block> blocks_of(const int32_t* starts, int64_t texts, int64_t most) {
  std::vector<Block> blocks;
  for (int64_t i = 0; i < texts; ++i) {
    const int64_t length = starts[i + 1] - starts[i];
    if (blocks.empty() || blocks.back().tokens + length > most) blocks.push_back({i, i, 0});
    blocks.back().end = i + 1;
    blocks.back().tokens += length;
  }
  // the largest first: what is left at the end is small
  std::stable_sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.tokens > b.tokens; });
  return blocks;
}

class Run {
 public:
  Run(const EncoderModel& model, const AdaptersOfTexts& adapters, const int32_t* tokens, const int32_t* starts, int64_t texts, float* out)
      : model_(model), adapters_(adapters), tokens_(tokens), starts_(starts), texts_(texts), out_(out) {}

  // Each thread takes block after block through all layers, and meets the others only at the end; a
  // text that is longer than a thread's share is cut within each stage instead.
  void all() {
    const int64_t total = starts_[texts_], threads = aten_threads().count();
    const int64_t even = (total + 2 * threads - 1) / (2 * threads);
    const int64_t most = threads == 1 ? kBlockTokens : std::min(kBlockTokens, std::max<int64_t>(64, encoder_round_up(even, 32)));
    const auto blocks = blocks_of(starts_, texts_, most);
    size_t next = 0;
    for (; next < blocks.size() && blocks[next].tokens > kBlockTokens && blocks[next].tokens * threads > total; ++next) one(blocks[next], threads);
    std::atomic<size_t> taken{next};
    const auto workers = std::min<int64_t>(threads, static_cast<int64_t>(blocks.size() - next));
    aten_threads().parallel(workers, 1, [&](int64_t, int64_t) {
      for (size_t i = taken++; i < blocks.size(); i = taken++) one(blocks[i], 1);
    });
  }

 private:
  void one(const Block& block, int64_t parts) {
    const EncoderTexts texts{starts_ + block.first, block.end - block.first};
    const EncoderAdapters adapters = adapters_.from(block.first);
    const auto& kernels = encoder();
    uint8_t* work = working_memory(kernels.forward_bytes(model_, texts, adapters, parts));
    const auto run = [](void*, int64_t count, void (*body)(void*, int64_t), void* context) {
      aten_threads().parallel(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t part = begin; part < end; ++part) body(context, part);
      });
    };
    const int64_t row = starts_[block.first];
    kernels.forward(model_, tokens_ + row, texts, adapters, out_ + row * model_.width, work, {parts, run, nullptr});
  }

  const EncoderModel& model_;
  const AdaptersOfTexts& adapters_;
  const int32_t *tokens_, *starts_;
  int64_t texts_;
  float* out_;
};

void check_tokens(const int32_t* tokens, const int32_t* starts, int64_t texts, int64_t words, int64_t places) {
  for (int64_t i = 0; i < starts[texts]; ++i)
    IRONCLIW_CHECK(tokens[i] >= 0 && tokens[i] < words, op, "tokens must be 0 to ", words - 1, ", the rows of words; token ", i, " is ", tokens[i]);
  for (int64_t i = 0; i < texts; ++i)
    IRONCLIW_CHECK(starts[i + 1] - starts[i] <= places, op, "cu_seqlens must give a text no more tokens than places has rows, ", places, "; text ", i, " has ", starts[i + 1] - starts[i]);
}

Tensor encoder_forward(const Tensor& tokens, const Tensor& cu_seqlens, const Tensor& words, const Tensor& places, std::vector<Tensor> weights, std::vector<Tensor> vectors,
                       int64_t heads, int64_t inner, double epsilon, const std::string& activation, const std::string& number_name, std::vector<Tensor> adapters, std::vector<Tensor> adapter_ranks,
                       const Tensor& text_adapters) {
  const EncoderNumber number = encoder_number(op, number_name);
  check_dtype(op, "tokens", tokens, ScalarType::Int);
  check_dim(op, "tokens", tokens, 1);
  const Tensor ids = dense(tokens), starts = dense(cu_seqlens), word_rows = dense(words), place_rows = dense(places);
  check_seqlens(op, "cu_seqlens", starts, ids.size(0));
  check_float_or_bf16(op, "words", words);
  check_dim(op, "words", words, 2);
  const int64_t width = words.size(1), texts = starts.size(0) - 1;
  check_dtype(op, "places", places, ScalarType::Float);
  check_dim(op, "places", places, 2);
  check_size(op, "places", places, 1, width);
  IRONCLIW_CHECK(heads > 0 && width > 0 && width % heads == 0, op, "heads must divide the width; it is ", heads, " of ", width);
  IRONCLIW_CHECK(inner > 0, op, "inner must be positive; it is ", inner);
  check_inputs(op, "words", number, words);
  IRONCLIW_CHECK(number != EncoderNumber::int8 || inner <= kInt8Inputs, op, "inner must be at most ", kInt8Inputs, " for int8; it is ", inner);
  const auto layers = layers_of(weights, vectors, number, width, inner);
  check_tokens(data<int32_t>(ids), data<int32_t>(starts), texts, words.size(0), places.size(0));
  EncoderModel model{};
  model.layers = layers.data();
  model.count = static_cast<int64_t>(layers.size());
  model.width = width;
  model.heads = heads;
  model.inner = layers.empty() ? 1 : inner;  // without layers no tensor bounds it, and nothing uses it
  model.epsilon = static_cast<float>(epsilon);
  model.activation = encoder_activation(op, activation);
  model.number = number;
  model.norm = {vector(vectors, 0, width), vector(vectors, 1, width)};
  model.places = data<float>(place_rows);
  model.words = word_rows.const_data_ptr();
  model.words_bf16 = words.scalar_type() == ScalarType::BFloat16;
  const AdaptersOfTexts changes(op, model, adapters, adapter_ranks, text_adapters, texts);
  Tensor out = torch::stable::new_empty(word_rows, {ids.size(0), width}, ScalarType::Float);
  Run(model, changes, data<int32_t>(ids), data<int32_t>(starts), texts, mutable_data<float>(out)).all();
  return out;
}

const Binding binding([](Implementations& m) { m.impl("encoder_forward", TORCH_BOX(&encoder_forward)); });

}  // namespace
}  // namespace ironcliw
