#include "kernels/encoder.h"

#include "kernels/encoder_attention.h"
#include "kernels/encoder_forward.h"
#include "kernels/encoder_pooling.h"

IRONCLIW_BEGIN
namespace encoder {

bool tiles_here() {
#if defined(IRONCLIW_USE_BF16) && defined(__x86_64__)
  return encoder_tiles();
#else
  return false;
#endif
}

// What a number's weights are multiplied by at this level, given to f as an empty object.
template <class F> auto with_number(EncoderNumber number, F&& f) {
  if (number == EncoderNumber::f32) return f(Float());
  if (number == EncoderNumber::bf16) return f(Bf16());
  return f(Int8());
}

template <class Number> struct LinearMemory {
  LinearMemory(Memory& memory, int64_t rows, int64_t inputs)
      : stride(row_stride(inputs)), x(memory.take<typename Number::Value>(row_count(rows) * stride)), scratch(memory.take<uint8_t>(Number::scratch_bytes(rows, inputs))) {}
  int64_t stride;
  typename Number::Value* x;
  uint8_t* scratch;
};

int64_t linear_bytes(EncoderNumber number, int64_t rows, int64_t inputs) {
  return with_number(number, [&](auto kind) {
    Memory memory(nullptr);
    LinearMemory<decltype(kind)> unused(memory, rows, inputs);
    return memory.used;
  });
}

template <class Number, class In>
void linear_rows(const EncoderLinear& w, EncoderActivation activation, const In* x, int64_t rows, In* out, uint8_t* work) {
  Memory memory(work);
  const LinearMemory<Number> at(memory, rows, w.inputs);
  for (int64_t m = 0; m < row_count(rows); ++m)
    for (int64_t i = 0; i < at.stride; i += 16)
      put_rounded(at.x + m * at.stride + i, m < rows && i < w.inputs ? get(x + m * w.inputs + i, lanes(w.inputs, i)) : zero(), 16);
  const Tiles tiles(tiles_here());
  multiply<Number>(at.x, at.stride, rows, w, at.scratch, tiles, [&](int64_t m, int count, int64_t n, int64_t outputs, float* sums) {
    store_activated(activation, sums, count, w.bias + n, outputs, out + m * w.outputs + n, w.outputs);
  });
}

void linear(EncoderNumber number, const EncoderLinear& w, EncoderActivation activation, bool bf16, const void* x, int64_t rows, void* out, uint8_t* work) {
  with_number(number, [&](auto kind) {
    using Number = decltype(kind);
    const auto run = [&](auto* typed) {
      using In = std::remove_pointer_t<decltype(typed)>;
      linear_rows<Number, In>(w, activation, static_cast<const In*>(x), rows, typed, work);
    };
    bf16 ? run(static_cast<uint16_t*>(out)) : run(static_cast<float*>(out));
    return 0;
  });
}

// Scores are of bf16 products only where keys and the level have them.
#if defined(IRONCLIW_USE_BF16)
using Bf16Scores = Bf16;
#else
using Bf16Scores = Float;
#endif

int64_t attention_bytes(bool bf16, int64_t, int64_t keys, int64_t width) {
  Memory memory(nullptr);
  if (bf16) AttentionMemory<Bf16Scores> unused(memory, keys, width);
  else AttentionMemory<Float> unused(memory, keys, width);
  return memory.used;
}

void attention(const EncoderAttention& shape, bool bf16, const void* q, int64_t queries, const void* k, const void* v, int64_t keys, void* out, uint8_t* work) {
  const auto run = [&](auto kind, auto* typed) {
    using In = std::remove_pointer_t<decltype(typed)>;
    const Tiles tiles(bf16 && tiles_here());
    attend<decltype(kind), In>(shape, static_cast<const In*>(q), queries, static_cast<const In*>(k), static_cast<const In*>(v), keys, typed, Memory(work), tiles);
  };
  bf16 ? run(Bf16Scores(), static_cast<uint16_t*>(out)) : run(Float(), static_cast<float*>(out));
}

int64_t forward_bytes(const EncoderModel& model, EncoderTexts texts, const EncoderAdapters& adapters, int64_t parts) {
  return with_number(model.number, [&](auto kind) {
    Memory memory(nullptr);
    ForwardMemory<decltype(kind)> unused(memory, model, texts, adapters, parts);
    return memory.used;
  });
}

void forward(const EncoderModel& model, const int32_t* tokens, EncoderTexts texts, const EncoderAdapters& adapters, float* out, uint8_t* work, EncoderParts parts) {
  with_number(model.number, [&](auto kind) {
    Forward<decltype(kind)>(model, texts, adapters, work, parts, tiles_here()).run(tokens, out);
    return 0;
  });
}

void pool(EncoderPooling pooling, bool normalize, bool bf16, const void* x, int64_t rows, int64_t width, float* out) {
  if (bf16) pool_rows(pooling, normalize, static_cast<const uint16_t*>(x), rows, width, out);
  else pool_rows(pooling, normalize, static_cast<const float*>(x), rows, width, out);
}

}  // namespace encoder
IRONCLIW_END

namespace ironcliw {
extern const EncoderKernels IRONCLIW_TABLE(encoder);
const EncoderKernels IRONCLIW_TABLE(encoder) = {
    IRONCLIW_LEVEL::encoder::linear_bytes, IRONCLIW_LEVEL::encoder::attention_bytes, IRONCLIW_LEVEL::encoder::forward_bytes,
    IRONCLIW_LEVEL::encoder::linear, IRONCLIW_LEVEL::encoder::attention, IRONCLIW_LEVEL::encoder::forward, IRONCLIW_LEVEL::encoder::pool};
}  // namespace ironcliw
