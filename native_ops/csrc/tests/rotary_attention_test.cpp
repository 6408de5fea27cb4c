#include "kernels/rotary_attention.h"

#include <algorithm>
#include <cstring>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

struct Example {
  Example(std::vector<int64_t> ends, int64_t heads, int64_t keys, int64_t width)
      : ends(std::move(ends)), heads(heads), keys(keys), width(width), tokens(this->ends.back()), q(normals(size(heads), 1)), k(normals(size(keys), 2)), v(normals(size(keys), 3)), cos(normals(size(1), 4)), sin(normals(size(1), 5)) {}
  size_t size(int64_t count) const { return static_cast<size_t>(tokens * count * width); }
  float scale() const { return 1.0f / std::sqrt(float(width)); }
  RotaryAttentionInputs<float> in() const { return {q.data(), k.data(), v.data(), cos.data(), sin.data(), tokens, heads, keys, width, scale()}; }

  // One element of a head after its rotation.
  double turned(const std::vector<float>& x, int64_t count, int64_t token, int64_t head, int64_t i) const {
    const float* at = &x[(token * count + head) * width];
    const int64_t half = width / 2;
    const double other = i < half ? -double(at[i + half]) : double(at[i - half]);
    return double(at[i]) * cos[token * width + i] + other * sin[token * width + i];
  }

  // The output in double; the sum of it times `g` is what the gradients are of.
  std::vector<double> expected() const {
    std::vector<double> out(size(heads));
    int64_t first = 0;
    for (const int64_t end : ends) {
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t t = first; t < end; ++t) {
          const int64_t shared = head / (heads / keys);
          std::vector<double> weights;
          double total = 0;
          for (int64_t s = first; s <= t; ++s) {
            double dot = 0;
            for (int64_t i = 0; i < width; ++i) dot += turned(q, heads, t, head, i) * turned(k, keys, s, shared, i);
            weights.push_back(std::exp(dot * scale()));
            total += weights.back();
          }
          for (int64_t s = first; s <= t; ++s)
            for (int64_t i = 0; i < width; ++i) out[(t * heads + head) * width + i] += weights[s - first] / total * v[(s * keys + shared) * width + i];
        }
      first = end;
    }
    return out;
  }

  std::vector<int64_t> ends;
  int64_t heads, keys, width, tokens;
  std::vector<float> q, k, v, cos, sin;
};

// f(first, end, key head, working memory)
template <class F> void each(const Example& of, F&& f) {
  const int64_t floats = rotary_attention_memory(of.tokens, of.width);
  std::vector<float> memory(static_cast<size_t>(floats) + 16, NAN);  // whoever reads what nobody wrote finds NaN
  float* aligned = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / sizeof(float);
  int64_t first = 0;
  for (const int64_t end : of.ends) {
    for (int64_t head = 0; head < of.keys; ++head) f(first, end, head, aligned);
    first = end;
  }
}

double loss(const Example& of, const std::vector<float>& g) {
  const auto out = of.expected();
  double total = 0;
  for (size_t i = 0; i < out.size(); ++i) total += out[i] * g[i];
  return total;
}

}  // namespace

TEST(rotary_attention_against_double) {
  for (const auto& of : {Example({1}, 1, 1, 2), Example({5, 6, 46}, 4, 2, 8), Example({33, 66, 81}, 3, 1, 24), Example({70}, 2, 2, 64)}) {
    const auto expected = of.expected();
    std::vector<float> out(expected.size()), sums(static_cast<size_t>(of.heads * of.tokens));
    each(of, [&](int64_t first, int64_t end, int64_t head, float* memory) { rotary_attention(level).f32.forward(of.in(), first, end, head, out.data(), sums.data(), memory); });
    for (size_t i = 0; i < out.size(); ++i) CHECK(close(out[i], expected[i], 1e-5), "width %d: %g for %g", int(of.width), out[i], expected[i]);
  }
}

TEST(rotary_attention_gradients_against_differences) {
  Example of({3, 37, 38}, 4, 2, 8);
  const auto g = normals(of.size(of.heads), 6);
  std::vector<float> out(g.size()), sums(static_cast<size_t>(of.heads * of.tokens)), for_q(of.q.size()), for_k(of.k.size()), for_v(of.v.size());
  each(of, [&](int64_t first, int64_t end, int64_t head, float* memory) {
    rotary_attention(level).f32.forward(of.in(), first, end, head, out.data(), sums.data(), memory);
    rotary_attention(level).f32.backward(of.in(), first, end, head, g.data(), sums.data(), for_q.data(), for_k.data(), for_v.data(), memory);
  });
  for (const auto& [values, found] : {std::pair<std::vector<float>*, std::vector<float>*>{&of.q, &for_q}, {&of.k, &for_k}, {&of.v, &for_v}})
    for (size_t at = 0; at < values->size(); at += 41) {
      float& value = (*values)[at];
      const float before = value, step = 1.0f / 256;
      value = before + step;
      const double high = loss(of, g);
      value = before - step;
      const double low = loss(of, g);
      value = before;
      CHECK(close((*found)[at], (high - low) / (2 * step), 2e-3), "at %d: %g for %g", int(at), (*found)[at], (high - low) / (2 * step));
    }
}

TEST(rotary_attention_bf16_against_double) {
  Example of({40, 77}, 4, 2, 24);
  const auto round = [](std::vector<float>& x) {
    std::vector<uint16_t> bits(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      uint32_t all;
      std::memcpy(&all, &x[i], 4);
      bits[i] = static_cast<uint16_t>(all >> 16);
      all = uint32_t{bits[i]} << 16;
      std::memcpy(&x[i], &all, 4);
    }
    return bits;
  };
  const auto q = round(of.q), k = round(of.k), v = round(of.v), cos = round(of.cos), sin = round(of.sin);
  const auto expected = of.expected();
  std::vector<uint16_t> out(expected.size());
  std::vector<float> sums(static_cast<size_t>(of.heads * of.tokens));
  const RotaryAttentionInputs<uint16_t> in{q.data(), k.data(), v.data(), cos.data(), sin.data(), of.tokens, of.heads, of.keys, of.width, of.scale()};
  each(of, [&](int64_t first, int64_t end, int64_t head, float* memory) { rotary_attention(level).bf16.forward(in, first, end, head, out.data(), sums.data(), memory); });
  for (size_t i = 0; i < out.size(); ++i) {
    const uint32_t bits = uint32_t{out[i]} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    CHECK(close(value, expected[i], 3e-2), "%g for %g", value, expected[i]);
  }
}
