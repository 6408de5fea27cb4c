// All layers over a block of texts, which stays in the cache meanwhile: the residual stream in float,
// the products' inputs in their own type.
#pragma once

#include "kernels/encoder_adapters.h"
#include "kernels/encoder_attention.h"

IRONCLIW_BEGIN
namespace encoder {

// Scores of attention are products of what the layers' products are, but for widened weights.
template <class Number> struct ScoresOf { using Kind = Float; };
#if defined(IRONCLIW_USE_BF16)
template <> struct ScoresOf<Bf16> { using Kind = Bf16; };
template <> struct ScoresOf<Int8> { using Kind = Bf16; };
#endif

// The input of q, k and v has a few columns far larger than the others, which int8 loses much by (min
// cosine 0.984 for MiniLM, 0.993 without): with int8 these weights are bf16, and so are adapters.
template <class Number> struct QkvOf { using Kind = Number; };
template <> struct QkvOf<Int8> { using Kind = Bf16; };

template <class Number> struct ForwardMemory {
  using Value = typename Number::Value;
  using Scores = typename ScoresOf<Number>::Kind;
  using Qkv = typename QkvOf<Number>::Kind;
  ForwardMemory(Memory& memory, const EncoderModel& model, EncoderTexts texts, const EncoderAdapters& adapters, int64_t parts)
      : narrow_stride(row_stride(model.width)),
        wide_stride(row_stride(3 * model.width > model.inner ? 3 * model.width : model.inner)),
        hidden(memory.take<float>(texts.tokens() * narrow_stride)),
        narrow(memory.take<Value>(row_count(texts.tokens()) * narrow_stride)),
        wide(memory.take<Value>(row_count(texts.tokens()) * wide_stride)),
        adapted(memory, model, texts, adapters, parts) {
    const int64_t tokens = texts.tokens(), inputs = model.inner > model.width ? model.inner : model.width;
    Memory own(nullptr);
    AttentionMemory<Scores> unused(own, texts.longest(), model.width / model.heads);
    attention_bytes = own.used;
    const int64_t first = Qkv::scratch_bytes(tokens, adapters.of_text ? inputs : model.width), later = Number::scratch_bytes(tokens, inputs);
    scratch_bytes = encoder_round_up(first > later ? first : later, 64);
    attention = memory.take<uint8_t>(attention_bytes * parts);
    scratch = memory.take<uint8_t>(scratch_bytes * parts);
  }
  int64_t narrow_stride, wide_stride;
  float* hidden;
  Value *narrow, *wide;
  AdaptedRows<Qkv> adapted;
  int64_t attention_bytes, scratch_bytes;
  uint8_t* attention;
  uint8_t* scratch;
};

template <class Number> class Forward {
 public:
  using Value = typename Number::Value;

  Forward(const EncoderModel& model, EncoderTexts texts, const EncoderAdapters& adapters, uint8_t* work, EncoderParts parts, bool tiles)
      : model_(model), texts_(texts), rows_(texts.tokens()), memory_(work), at_(memory_, model, texts, adapters, parts.count), parts_(parts), tiles_(tiles) {}

  void run(const int32_t* tokens, float* out) {
    clear_unused();
    each([&](int64_t, int64_t begin, int64_t end) { embed(tokens, begin, end); });
    for (int64_t i = 0; i < model_.count; ++i) run_layer(model_.layers[i], i);
    for (int64_t row = 0; row < rows_; ++row) std::memcpy(out + row * model_.width, at_.hidden + row * at_.narrow_stride, static_cast<size_t>(model_.width) * 4);
  }

 private:
  // Rows and columns that products read although nothing was stored there.
  void clear_unused() {
    const auto clear = [&](Value* x, int64_t stride) {
      std::memset(x + rows_ * stride, 0, static_cast<size_t>((row_count(rows_) - rows_) * stride) * sizeof(Value));
    };
    clear(at_.narrow, at_.narrow_stride);
    clear(at_.wide, at_.wide_stride);
    for (int64_t row = 0; row < rows_; ++row) {
      clear_columns(at_.narrow + row * at_.narrow_stride, model_.width);
      if (model_.inner % 32) clear_columns(at_.wide + row * at_.wide_stride, model_.inner);
    }
  }
  static void clear_columns(Value* row, int64_t width) {
    for (int64_t i = width; i < encoder_round_up(width, 32); ++i) row[i] = 0;
  }

  // f(part, first row, end) for even shares of whole blocks of rows.
  template <class F> void each(F&& f) {
    const int64_t blocks = row_count(rows_) / kRows, share = (blocks + parts_.count - 1) / parts_.count * kRows;
    each_part([&](int64_t part) {
      const int64_t begin = part * share, end = begin + share < rows_ ? begin + share : rows_;
      if (begin < end) f(part, begin, end);
    });
  }
  template <class F> void each_part(F&& f) {
    if (parts_.count == 1) return f(0);
    parts_.run(parts_.caller, parts_.count, [](void* context, int64_t part) { (*static_cast<F*>(context))(part); }, &f);
  }

  void run_layer(const EncoderLayer& layer, int64_t index) {
    const int64_t width = model_.width, inner = model_.inner;
    const Stage qkv{index, 0, 3, width, width}, out{index, 3, 1, width, width}, up{index, 4, 1, inner, width}, down{index, 5, 1, width, inner};
    const auto as_is = [&](int64_t part, int64_t begin, int64_t end) { activated<typename ForwardMemory<Number>::Qkv>(layer.qkv, qkv, EncoderActivation::none, part, begin, end); };
    each(as_is);
    each_part([&](int64_t part) { attend_texts(part); });
    each([&](int64_t part, int64_t begin, int64_t end) {
      added(layer.attention_out, out, at_.narrow, at_.narrow_stride, part, begin, end);
      normalize(layer.attention_norm, begin, end);
      activated<Number>(layer.up, up, model_.activation, part, begin, end);
      if (inner % 32)
        for (int64_t row = begin; row < end; ++row) clear_columns(at_.wide + row * at_.wide_stride, inner);
      added(layer.down, down, at_.wide, at_.wide_stride, part, begin, end);
      normalize(layer.norm, begin, end);
    });
  }

  // f as the epilogue of rows times a layer's weights, to which adapters have added.
  template <class Kind, class F>
  void product(const EncoderLinear& w, const Stage& stage, const Value* x, int64_t stride, int64_t part, int64_t begin, int64_t end, F&& f) {
    const Tiles tiles(tiles_);
    at_.adapted.narrow(stage, x, stride, begin, end, scratch(part), tiles);
    multiply<Kind>(x + begin * stride, stride, end - begin, w, scratch(part), tiles, [&](int64_t m, int count, int64_t n, int64_t outputs, float* sums) {
      at_.adapted.add(stage, begin + m, count, n, sums, part, tiles);
      f(begin + m, count, n, outputs, sums);
    });
  }

  // narrow rows through a layer into wide ones
  template <class Kind> void activated(const EncoderLinear& w, const Stage& stage, EncoderActivation activation, int64_t part, int64_t begin, int64_t end) {
    product<Kind>(w, stage, at_.narrow, at_.narrow_stride, part, begin, end, [&](int64_t row, int count, int64_t n, int64_t outputs, const float* sums) {
      store_activated(activation, sums, count, w.bias + n, outputs, at_.wide + row * at_.wide_stride + n, at_.wide_stride);
    });
  }

  // hidden += x w^T + bias
  void added(const EncoderLinear& w, const Stage& stage, const Value* x, int64_t stride, int64_t part, int64_t begin, int64_t end) {
    product<Number>(w, stage, x, stride, part, begin, end, [&](int64_t row, int count, int64_t n, int64_t outputs, const float* sums) {
      for (int64_t c = 0; c < outputs; c += 16) {
        const int some = lanes(outputs, c);
        const Floats bias = get(w.bias + n + c, some);
        for (int r = 0; r < count; ++r) {
          float* to = at_.hidden + (row + r) * at_.narrow_stride + n + c;
          put(to, get(to, some) + (load(sums + r * kPanelColumns + c) + bias), some);
        }
      }
    });
  }

  uint8_t* scratch(int64_t part) { return at_.scratch + part * at_.scratch_bytes; }

  void attend_texts(int64_t part) {
    const int64_t items = texts_.count * model_.heads;
    const int64_t share = (items + parts_.count - 1) / parts_.count, width = model_.width / model_.heads;
    const int64_t end = (part + 1) * share < items ? (part + 1) * share : items;
    EncoderAttention shape{};
    shape.heads = model_.heads;
    shape.head_width = width;
    shape.q_stride = shape.k_stride = shape.v_stride = at_.wide_stride;
    shape.out_stride = at_.narrow_stride;
    shape.scale = 1.0f / std::sqrt(static_cast<float>(width));
    const Tiles tiles(tiles_);
    for (int64_t item = part * share; item < end; ++item) {
      const int64_t text = item / model_.heads, head = item % model_.heads;
      const int64_t first = texts_.starts[text] - texts_.starts[0], length = texts_.starts[text + 1] - texts_.starts[text];
      const Value* q = at_.wide + first * at_.wide_stride + head * width;
      Value* out = at_.narrow + first * at_.narrow_stride + head * width;
      attend<typename ForwardMemory<Number>::Scores, Value>(shape, q, length, q + model_.width, q + 2 * model_.width, length, out, Memory(at_.attention + part * at_.attention_bytes), tiles);
    }
  }

  void embed(const int32_t* tokens, int64_t begin, int64_t end) {
    int64_t text = 0;
    for (int64_t row = begin; row < end; ++row) {
      while (texts_.starts[text + 1] - texts_.starts[0] <= row) ++text;
      const float* place = model_.places + (row - (texts_.starts[text] - texts_.starts[0])) * model_.width;
      const int64_t word = tokens[row] * model_.width;
      float* to = at_.hidden + row * at_.narrow_stride;
      for (int64_t i = 0; i < model_.width; i += 16) {
        const int count = lanes(model_.width, i);
        const Floats x = model_.words_bf16 ? get(static_cast<const uint16_t*>(model_.words) + word + i, count) : get(static_cast<const float*>(model_.words) + word + i, count);
        put(to + i, x + get(place + i, count), count);
      }
    }
    normalize(model_.norm, begin, end);
  }

  void normalize(const EncoderNorm& norm, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) normalize_row(norm, at_.hidden + row * at_.narrow_stride, at_.narrow + row * at_.narrow_stride);
  }

  // In place, and as the next product's input.
  void normalize_row(const EncoderNorm& norm, float* x, Value* out) {
    const int64_t width = model_.width;
    Floats total = zero();
    for (int64_t i = 0; i < width; i += 16) total = total + get(x + i, lanes(width, i));
    const Floats mean = broadcast(sum(total) / static_cast<float>(width));
    Floats squares = zero();
    for (int64_t i = 0; i < width; i += 16) {
      const int count = lanes(width, i);
      const Floats d = choose_first(count, get(x + i, count) - mean, zero());
      squares = fma(d, d, squares);
    }
    const Floats scale = broadcast(1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + model_.epsilon));
    for (int64_t i = 0; i < width; i += 16) {
      const int count = lanes(width, i);
      const Floats y = fma((get(x + i, count) - mean) * scale, get(norm.weight + i, count), get(norm.bias + i, count));
      put(x + i, y, count);
      put_rounded(out + i, y, count);
    }
  }

  const EncoderModel& model_;
  EncoderTexts texts_;
  int64_t rows_;
  Memory memory_;
  ForwardMemory<Number> at_;
  EncoderParts parts_;
  bool tiles_;
};

}  // namespace encoder
IRONCLIW_END
