#include "kernels/encoder.h"

#include <cstring>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

// Working memory that starts at a multiple of 64.
struct Work {
  explicit Work(int64_t bytes) : all(static_cast<size_t>(bytes + 64)) {}
  uint8_t* get() { return all.data() + (64 - reinterpret_cast<uintptr_t>(all.data()) % 64) % 64; }
  std::vector<uint8_t> all;
};

float rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}
std::vector<float> rounded(std::vector<float> values) {
  for (auto& value : values) value = rounded(value);
  return values;
}

struct Matrix {
  Matrix(EncoderNumber number, int64_t outputs, int64_t inputs, unsigned seed)
      : weight(rounded(normals(static_cast<size_t>(outputs * inputs), seed))), bias(normals(static_cast<size_t>(outputs), seed + 1)),
        packed(static_cast<size_t>(encoder_packed_bytes(number, outputs, inputs))), linear{nullptr, bias.data(), outputs, inputs} {
    for (auto& w : weight) w = rounded(w / std::sqrt(static_cast<float>(inputs)));
    encoder_pack(number, weight.data(), outputs, inputs, packed.data());
    linear.packed = packed.data();
  }
  std::vector<float> weight, bias;
  std::vector<uint8_t> packed;
  EncoderLinear linear;
};

void check_linear(Level level, EncoderNumber number, int64_t rows, int64_t outputs, int64_t inputs) {
  Matrix w(number, outputs, inputs, 5);
  const auto x = rounded(normals(static_cast<size_t>(rows * inputs), 7));
  std::vector<float> out(static_cast<size_t>(rows * outputs));
  const auto& kernels = encoder(level);
  Work work(kernels.linear_bytes(number, rows, inputs));
  kernels.linear(number, w.linear, EncoderActivation::relu, false, x.data(), rows, out.data(), work.get());
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < outputs; ++n) {
      double expected = w.bias[n];
      for (int64_t i = 0; i < inputs; ++i) expected += double(x[m * inputs + i]) * w.weight[n * inputs + i];
      expected = expected > 0 ? expected : 0;
      CHECK(close(out[m * outputs + n], expected, 1e-5), "[%d, %d] of K=%d: %g for %g", int(m), int(n), int(inputs), out[m * outputs + n], expected);
    }
  }
}

}  // namespace

TEST(encoder_linear_against_double) {
  for (const bool tiles : {true, false}) {
    encoder_use_tiles(tiles);
    for (const auto number : {EncoderNumber::f32, EncoderNumber::bf16}) {
      for (const int64_t rows : {1, 7, 16, 17, 33}) check_linear(level, number, rows, 48, 64);
      check_linear(level, number, 5, 1, 1);
      check_linear(level, number, 3, 33, 31);
      check_linear(level, number, 40, 70, 129);
    }
  }
  encoder_use_tiles(true);
}

// Against what int8 with a scale a row promises: half a step of the largest, on both sides.
TEST(encoder_linear_of_int8) {
  for (const bool tiles : {true, false}) {
    encoder_use_tiles(tiles);
    for (const int64_t rows : {1, 5, 16, 17, 40}) {
      const int64_t outputs = 37, inputs = 100;
      Matrix w(EncoderNumber::int8, outputs, inputs, 21);
      auto x = normals(static_cast<size_t>(rows * inputs), 22);
      for (int64_t i = 0; i < inputs; ++i) x[(rows - 1) * inputs + i] = 0;
      std::vector<float> out(static_cast<size_t>(rows * outputs));
      const auto& kernels = encoder(level);
      Work work(kernels.linear_bytes(EncoderNumber::int8, rows, inputs));
      kernels.linear(EncoderNumber::int8, w.linear, EncoderActivation::none, false, x.data(), rows, out.data(), work.get());
      for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < outputs; ++n) {
          double expected = w.bias[n], squares = 0;
          for (int64_t i = 0; i < inputs; ++i) {
            expected += double(x[m * inputs + i]) * w.weight[n * inputs + i];
            squares += double(x[m * inputs + i]) * x[m * inputs + i] + inputs * double(w.weight[n * inputs + i]) * w.weight[n * inputs + i];
          }
          const double error = std::fabs(out[m * outputs + n] - expected);
          CHECK(m == rows - 1 ? error < 1e-6 : error < 0.008 * std::sqrt(squares), "[%d, %d]: %g for %g", int(m), int(n), out[m * outputs + n], expected);
        }
      }
    }
  }
  encoder_use_tiles(true);
}

// Rows by two, by SMMLA, and one over: the integer sums are exact, so nothing may differ from dot products.
TEST(encoder_linear_of_i8mm_has_the_bits_of_dot_products) {
  if (level != Level::neon_i8mm) return;
  for (const int64_t inputs : {1, 7, 64, 65, 200})
    for (const int64_t outputs : {1, 17, 33})
      for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 33, 35}) {
        Matrix w(EncoderNumber::int8, outputs, inputs, 31);
        const auto x = normals(static_cast<size_t>(rows * inputs), 32);
        std::vector<float> found(static_cast<size_t>(rows * outputs)), expected(found.size());
        for (const auto one : {level, Level::neon}) {
          const auto& kernels = encoder(one);
          Work work(kernels.linear_bytes(EncoderNumber::int8, rows, inputs));
          kernels.linear(EncoderNumber::int8, w.linear, EncoderActivation::none, false, x.data(), rows,
              one == level ? found.data() : expected.data(), work.get());
        }
        CHECK(!std::memcmp(found.data(), expected.data(), found.size() * 4), "%d rows, %d outputs, %d inputs", int(rows), int(outputs), int(inputs));
      }
}

// NaN in means NaN out, and so does infinity where numbers are int8, which holds neither.
TEST(encoder_linear_of_weights_that_are_not_finite) {
  const int64_t rows = 5, outputs = 37, inputs = 100;
  for (const auto number : {EncoderNumber::f32, EncoderNumber::bf16, EncoderNumber::int8}) {
    Matrix w(number, outputs, inputs, 31);
    const auto x = normals(static_cast<size_t>(rows * inputs), 32);
    const auto& kernels = encoder(level);
    const auto run = [&] {
      encoder_pack(number, w.weight.data(), outputs, inputs, w.packed.data());
      std::vector<float> out(static_cast<size_t>(rows * outputs));
      Work work(kernels.linear_bytes(number, rows, inputs));
      kernels.linear(number, w.linear, EncoderActivation::none, false, x.data(), rows, out.data(), work.get());
      return out;
    };
    const auto clean = run();
    w.weight[3 * inputs + 5] = NAN;
    w.weight[20 * inputs + 7] = INFINITY;
    w.weight[36 * inputs + 99] = -INFINITY;
    const auto found = run();
    for (int64_t i = 0; i < rows * outputs; ++i) {
      const int64_t output = i % outputs, row = i / outputs;
      const bool infinite = output == 20 || output == 36;
      const double expected = output == 3 || (infinite && number == EncoderNumber::int8) ? NAN : output == 20 ? x[row * inputs + 7] * INFINITY : output == 36 ? x[row * inputs + 99] * -INFINITY : clean[i];
      CHECK(std::isnan(expected) ? std::isnan(found[i]) : found[i] == expected, "number %d, [%d, %d]: %g for %g", int(number), int(row), int(output), found[i], expected);
    }
  }
}

TEST(encoder_linear_of_int8_rows_that_are_not_finite) {
  const int64_t rows = 35, outputs = 40, inputs = 70;
  Matrix w(EncoderNumber::int8, outputs, inputs, 41);
  const auto& kernels = encoder(level);
  Work work(kernels.linear_bytes(EncoderNumber::int8, rows, inputs));
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    auto x = normals(static_cast<size_t>(rows * inputs), 42);
    for (const int64_t row : {2, 34}) x[row * inputs + 69] = bad;
    std::vector<float> out(static_cast<size_t>(rows * outputs));
    kernels.linear(EncoderNumber::int8, w.linear, EncoderActivation::none, false, x.data(), rows, out.data(), work.get());
    for (int64_t i = 0; i < rows * outputs; ++i) CHECK(std::isnan(out[i]) == (i / outputs == 2 || i / outputs == 34), "%g in a row, [%d, %d]: %g", bad, int(i / outputs), int(i % outputs), out[i]);
  }
}

// Lengths that float holds of rows whose squares it does not.
TEST(pooling_divides_by_any_length) {
  const int64_t width = 37;
  for (const float size : {1e-10f, 1.0f, 1e18f, 1e20f, 1e30f, 5e37f}) {
    auto x = normals(static_cast<size_t>(width), 51);
    for (auto& value : x) value *= size;
    double squares = 0;
    for (const float value : x) squares += double(value) * value;
    std::vector<float> out(static_cast<size_t>(width));
    encoder(level).pool(EncoderPooling::mean, true, false, x.data(), 1, width, out.data());
    for (int64_t i = 0; i < width; ++i) CHECK(close(out[i], x[i] / std::sqrt(squares), 1e-6), "size %g: %g for %g", size, out[i], x[i] / std::sqrt(squares));
    x[5] = INFINITY;
    encoder(level).pool(EncoderPooling::mean, true, false, x.data(), 1, width, out.data());
    for (int64_t i = 0; i < width; ++i) CHECK(i == 5 ? std::isnan(out[i]) : out[i] == 0.0f, "beside infinity: %g", out[i]);
  }
}

TEST(encoder_linear_rows_do_not_depend_on_each_other) {
  const int64_t rows = 35, outputs = 40, inputs = 96;
  for (const auto number : {EncoderNumber::f32, EncoderNumber::bf16, EncoderNumber::int8}) {
    Matrix w(number, outputs, inputs, 11);
    auto x = normals(static_cast<size_t>(rows * inputs), 12);
    const auto& kernels = encoder(level);
    Work work(kernels.linear_bytes(number, rows, inputs));
    std::vector<float> all(static_cast<size_t>(rows * outputs)), one(static_cast<size_t>(outputs));
    x[3] = NAN;
    kernels.linear(number, w.linear, EncoderActivation::gelu, false, x.data(), rows, all.data(), work.get());
    for (const int64_t row : {1, 17, 34}) {
      kernels.linear(number, w.linear, EncoderActivation::gelu, false, x.data() + row * inputs, 1, one.data(), work.get());
      CHECK(std::memcmp(one.data(), all.data() + row * outputs, one.size() * 4) == 0, "row %d", int(row));
    }
    CHECK(std::isnan(all[0]) && !std::isnan(all[outputs]));
  }
}

namespace {

void check_attention(Level level, int64_t queries, int64_t keys, int64_t width, bool causal) {
  const int64_t stride = width + 3;
  const auto q = normals(static_cast<size_t>(queries * stride), 1), k = normals(static_cast<size_t>(keys * stride), 2), v = normals(static_cast<size_t>(keys * stride), 3);
  std::vector<float> out(static_cast<size_t>(queries * width), -7.0f);
  EncoderAttention shape{};
  shape.heads = 1;
  shape.head_width = width;
  shape.q_stride = shape.k_stride = shape.v_stride = stride;
  shape.out_stride = width;
  shape.scale = 0.3f;
  shape.causal = causal;
  const auto& kernels = encoder(level);
  Work work(kernels.attention_bytes(false, queries, keys, width));
  kernels.attention(shape, false, q.data(), queries, k.data(), v.data(), keys, out.data(), work.get());
  for (int64_t m = 0; m < queries; ++m) {
    std::vector<double> weights(static_cast<size_t>(keys));
    double total = 0;
    for (int64_t n = 0; n < keys; ++n) {
      double score = 0;
      for (int64_t i = 0; i < width; ++i) score += double(q[m * stride + i]) * k[n * stride + i];
      weights[n] = causal && n > m + keys - queries ? 0 : std::exp(0.3f * score);
      total += weights[n];
    }
    for (int64_t i = 0; i < width; ++i) {
      double expected = 0;
      for (int64_t n = 0; n < keys; ++n) expected += weights[n] / total * v[n * stride + i];
      CHECK(close(out[m * width + i], expected, 1e-5), "query %d of %d, keys %d, d %d: %g for %g", int(m), int(queries), int(keys), int(width), out[m * width + i], expected);
    }
  }
}

}  // namespace

TEST(encoder_attention_against_double) {
  for (const int64_t keys : {1, 2, 15, 16, 31, 33, 70}) check_attention(level, keys, keys, 32, false);
  check_attention(level, 3, 3, 1, false);
  check_attention(level, 5, 9, 20, false);
  check_attention(level, 40, 40, 64, true);
  check_attention(level, 1, 40, 33, true);
}
