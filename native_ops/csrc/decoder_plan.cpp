#include "decoder_plan.h"

#include <cstring>
#include <sstream>
#include <stdexcept>

#include "kernels/cached_attention.h"

namespace ironcliw {
namespace {

struct BadPlan : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts> [[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw BadPlan(text.str());
}

// Takes number after number; each part is inside the weights when it has been taken.
class Reader {
 public:
  Reader(const int64_t* numbers, int64_t count, const uint8_t* weights, int64_t bytes) : numbers_(numbers), count_(count), weights_(weights), bytes_(bytes) {}

  int64_t next() {
    if (at_ >= count_) refuse("plan must have more than its ", count_, " numbers");
    return numbers_[at_++];
  }
  int64_t next(const char* name, int64_t least, int64_t most) {
    const int64_t value = next();
    if (value < least || value > most) refuse("plan must have ", name, " from ", least, " to ", most, "; it is ", value);
    return value;
  }
  float next_float(const char* name) {
    const auto bits = static_cast<uint32_t>(next(name, 0, 0xffffffffLL));
    float value;
    std::memcpy(&value, &bits, 4);
    if (!(value >= 0.0f && value < 1e30f)) refuse("plan must have a finite ", name, " that is not negative; it is ", value);
    return value;
  }
  DecoderMatrix matrix(const char* name, int64_t rows, int64_t columns) {
    const int64_t offset = next(), format = next(), planes = next();
    DecoderMatrix matrix{};
    if (offset == -1) return matrix;
    if (!is_format(format)) refuse("plan must have a known format for ", name, "; it is ", format);
    matrix.format = static_cast<Format>(format);
    if (planes != 1 && planes != 2) refuse("plan must have 1 or 2 planes for ", name, "; it is ", planes);
    if (columns % columns_multiple(matrix.format)) refuse(name, " has ", columns, " columns; its format in the plan must have a multiple of ", columns_multiple(matrix.format));
    check_place(name, offset, packed_bytes(matrix.format, rows, columns));
    matrix.data = weights_ + offset;
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.planes = static_cast<int>(planes);
    return matrix;
  }
  const float* vector(const char* name, int64_t size) {
    const int64_t offset = next();
    if (offset == -1) return nullptr;
    check_place(name, offset, 4 * size);
    return reinterpret_cast<const float*>(weights_ + offset);
  }
  void finish() const {
    if (at_ != count_) refuse("plan must have ", at_, " numbers; it has ", count_);
  }

 private:
  void check_place(const char* name, int64_t offset, int64_t size) const {
    if (offset < 0 || offset % 64) refuse("plan must have the offset of ", name, " a multiple of 64 from 0; it is ", offset);
    if (offset > bytes_ || size > bytes_ - offset) refuse("plan must have ", name, " inside the weights of ", bytes_, " bytes; it has ", size, " bytes at ", offset);
  }

  const int64_t* numbers_;
  int64_t count_, at_ = 0;
  const uint8_t* weights_;
  int64_t bytes_;
};

void need(const char* name, const void* part) {
  if (!part) refuse("plan must have ", name, "; its offset is -1");
}

// Bounds far above every model keep products of two of them inside 64 bits.
int64_t read_header(Reader& in, DecoderPlan& plan) {
  const int64_t version = in.next();
  if (version != kPlanVersion) refuse("plan must have version ", kPlanVersion, "; it is ", version);
  plan.layer_norm = in.next("the normalization", 0, 1) == 1;
  plan.activation = static_cast<Activation>(in.next("the activation", 0, 3));
  plan.gated = in.next("gated", 0, 1) == 1;
  plan.width = in.next("the width", 1, 1 << 20);
  plan.heads = in.next("the heads", 1, 1 << 12);
  plan.kv_heads = in.next("the key and value heads", 1, plan.heads);
  plan.head_width = in.next("the width of a head", 1, kMaxHeadWidth);
  plan.inner = in.next("the inner width", 1, 1 << 22);
  const int64_t layers = in.next("the layers", 1, 1 << 12);
  plan.vocabulary = in.next("the vocabulary", 1, 1 << 24);
  plan.context = in.next("the context", 1, 1 << 24);
  plan.slots = in.next("the slots", 1, 1 << 20);
  plan.epsilon = in.next_float("epsilon");
  plan.score_scale = in.next_float("factor of scores");
  plan.slot_elements = in.next();
  if (plan.heads % plan.kv_heads) refuse("plan must have heads that are a multiple of the key and value heads; they are ", plan.heads, " and ", plan.kv_heads);
  return layers;
}

void check_cache(const DecoderPlan& plan, int64_t layers, int64_t cache_elements) {
  const int64_t one = cached_head_elements(plan.context, plan.head_width);  // below 2^34
  int64_t least = 0, total = 0;
  const bool fits = !__builtin_mul_overflow(one, plan.kv_heads * layers, &least) && !__builtin_mul_overflow(plan.slots, plan.slot_elements, &total);
  if (!fits || plan.slot_elements < least) refuse("plan must have slots of ", least, " elements or more; it has ", plan.slot_elements);
  if (total > cache_elements) refuse("cache must have ", total, " elements or more for ", plan.slots, " slots; it has ", cache_elements);
}

NormWeights read_norm(Reader& in, const DecoderPlan& plan, const char* name) {
  const NormWeights norm{in.vector(name, plan.width), in.vector(name, plan.width)};
  need(name, norm.weight);
  if (plan.layer_norm) need(name, norm.bias);
  return norm;
}

void read_model(Reader& in, DecoderPlan& plan) {
  plan.embedding = in.matrix("embedding", plan.vocabulary, plan.width);
  plan.head = in.matrix("head", plan.vocabulary, plan.width);
  plan.positions = in.matrix("positions", plan.context, plan.width);
  plan.norm = read_norm(in, plan, "norm");
  const int64_t angles = plan.context * (plan.head_width / 2);
  plan.cosine = in.vector("rotary.cosine", angles);
  plan.sine = in.vector("rotary.sine", angles);
  need("embedding", plan.embedding.data);
  need("head", plan.head.data);
  if (!plan.cosine != !plan.sine) refuse("plan must have both rotary.cosine and rotary.sine, or neither");
  if (plan.cosine && plan.head_width % 2) refuse("plan must have an even width of a head with rotary tables; it is ", plan.head_width);
}

DecoderLayer read_layer(Reader& in, const DecoderPlan& plan) {
  DecoderLayer layer;
  layer.query = in.matrix("query", plan.query_width(), plan.width);
  layer.key = in.matrix("key", plan.key_width(), plan.width);
  layer.value = in.matrix("value", plan.key_width(), plan.width);
  layer.output = in.matrix("output", plan.width, plan.query_width());
  layer.gate = in.matrix("gate", plan.inner, plan.width);
  layer.up = in.matrix("up", plan.inner, plan.width);
  layer.down = in.matrix("down", plan.width, plan.inner);
  layer.attention_norm = read_norm(in, plan, "attention_norm");
  layer.query_bias = in.vector("query.bias", plan.query_width());
  layer.key_bias = in.vector("key.bias", plan.key_width());
  layer.value_bias = in.vector("value.bias", plan.key_width());
  layer.query_norm = in.vector("query_norm.weight", plan.head_width);
  layer.key_norm = in.vector("key_norm.weight", plan.head_width);
  layer.output_bias = in.vector("output.bias", plan.width);
  layer.mlp_norm = read_norm(in, plan, "mlp_norm");
  layer.gate_bias = in.vector("gate.bias", plan.inner);
  layer.up_bias = in.vector("up.bias", plan.inner);
  layer.down_bias = in.vector("down.bias", plan.width);
  for (const auto* matrix : {&layer.query, &layer.key, &layer.value, &layer.output, &layer.up, &layer.down}) need("query, key, value, output, up and down in every layer", matrix->data);
  if (plan.gated) need("gate in every layer of a gated model", layer.gate.data);
  return layer;
}

}  // namespace

std::string read_plan(const int64_t* numbers, int64_t count, const uint8_t* weights, int64_t weight_bytes, int64_t cache_elements, DecoderPlan& plan) {
  try {
    if (reinterpret_cast<uintptr_t>(weights) % alignof(float)) refuse("weights must start at a multiple of 4 bytes");
    Reader in(numbers, count, weights, weight_bytes);
    const int64_t layers = read_header(in, plan);
    check_cache(plan, layers, cache_elements);
    read_model(in, plan);
    plan.layers.clear();
    plan.layers.reserve(static_cast<size_t>(layers));
    for (int64_t i = 0; i < layers; ++i) plan.layers.push_back(read_layer(in, plan));
    in.finish();
  } catch (const BadPlan& bad) {
    return bad.what();
  }
  return "";
}

}  // namespace ironcliw
