// Products with packed weights against doubles made from the file's own bytes, which this file decodes
// a second time, one number at a time, as ggml's quants.c describes them.
#include "kernels/packed_linear.h"

#include <algorithm>
#include <cstring>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

constexpr Format kQuantized[] = {Format::q4_0, Format::q4_1, Format::q8_0, Format::int8, Format::q4_k, Format::q6_k};
constexpr Format kFloats[] = {Format::f32, Format::f16, Format::bf16};
constexpr uint16_t kOne = 0x3c00;  // as IEEE half

struct Precision { int planes, steps; };
constexpr Precision kPrecisions[] = {{1, kByteSteps}, {2, kByteSteps}, {2, kNibbleSteps}};

using Bytes = std::vector<uint8_t>;

Bytes random_bytes(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  Bytes bytes(count);
  for (auto& byte : bytes) byte = static_cast<uint8_t>(generator() >> 8);
  return bytes;
}

void put_half(uint8_t* p, uint16_t half) { std::memcpy(p, &half, 2); }
double half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  const double size = h & 0x7c00 ? std::ldexp(1024 + (h & 0x3ff), (h >> 10 & 31) - 25) : std::ldexp(h & 0x3ff, -24);
  return h & 0x8000 ? -size : size;
}

// Rows of blocks with random integers; scales and offsets of 1, or of about 0.01.
Bytes source_of(Format format, int64_t rows, int64_t columns, bool ones, unsigned seed) {
  Bytes source = random_bytes(static_cast<size_t>(rows * source_row_bytes(format, columns)), seed);
  std::mt19937 generator(seed + 1);
  const auto scale = [&] { return ones ? kOne : static_cast<uint16_t>(0x1c00 + generator() % 0x800 + (generator() % 2 << 15)); };
  const int64_t unit = columns_multiple(format);
  for (int64_t row = 0; row < rows; ++row) {
    uint8_t* p = source.data() + row * source_row_bytes(format, columns);
    if (format == Format::int8) {
      const float value = ones ? 1.0f : 0.01f * static_cast<float>(1 + generator() % 9);
      std::memcpy(p, &value, 4);
      continue;
    }
    for (int64_t k = 0; k < columns; k += unit, p += source_row_bytes(format, unit)) {
      put_half(format == Format::q6_k ? p + 208 : p, scale());
      if (format == Format::q4_1 || format == Format::q4_k) put_half(p + 2, scale());
    }
  }
  return source;
}

int nibble(const uint8_t* p, int i) { return i < 16 ? p[i] & 15 : p[i - 16] >> 4; }

void decode_q4_k(const uint8_t* p, double* out) {
  for (int b = 0; b < 8; ++b) {
    const uint8_t* s = p + 4;
    const int scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | (s[b - 4] >> 6) << 4;
    const int least = b < 4 ? s[b + 4] & 63 : s[b + 4] >> 4 | (s[b] >> 6) << 4;
    for (int i = 0; i < 32; ++i) {
      const int u = b % 2 ? p[16 + 32 * (b / 2) + i] >> 4 : p[16 + 32 * (b / 2) + i] & 15;
      out[32 * b + i] = half_at(p) * scale * u - half_at(p + 2) * least;
    }
  }
}

void decode_q6_k(const uint8_t* p, double* out) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t *low = p + 64 * half, *high = p + 128 + 32 * half;
    for (int i = 0; i < 32; ++i) {
      const int u[4] = {(low[i] & 15) | (high[i] & 3) << 4, (low[i + 32] & 15) | (high[i] >> 2 & 3) << 4,
          low[i] >> 4 | (high[i] >> 4 & 3) << 4, low[i + 32] >> 4 | (high[i] >> 6) << 4};
      for (int part = 0; part < 4; ++part) {
        const int at = 128 * half + 32 * part + i;
        out[at] = half_at(p + 208) * static_cast<int8_t>(p[192 + at / 16]) * (u[part] - 32);
      }
    }
  }
}

void decode_row(Format format, const uint8_t* p, int64_t columns, double* out) {
  float scale = 0;
  if (format == Format::int8) std::memcpy(&scale, p, 4);
  const int64_t unit = columns_multiple(format), step = source_row_bytes(format, unit);
  for (int64_t k = 0; k < columns; k += unit) {
    const uint8_t* block = p + k / unit * step;
    if (format == Format::q4_k) decode_q4_k(block, out + k);
    else if (format == Format::q6_k) decode_q6_k(block, out + k);
    else
      for (int i = 0; i < 32; ++i) {
        if (format == Format::q4_0) out[k + i] = half_at(block) * (nibble(block + 2, i) - 8);
        else if (format == Format::q4_1) out[k + i] = half_at(block) * nibble(block + 4, i) + half_at(block + 2);
        else if (format == Format::q8_0) out[k + i] = half_at(block) * static_cast<int8_t>(block[2 + i]);
        else out[k + i] = double(scale) * static_cast<int8_t>(p[4 + k + i]);
      }
  }
}

struct Product {
  Format format;
  int64_t outputs, columns;
  Bytes packed;
  std::vector<double> weights;  // [outputs, columns]
  PackedMatrix matrix() const { return {packed.data(), outputs, columns, format}; }
};

Product product_of(Format format, int64_t outputs, int64_t columns, bool ones, unsigned seed) {
  const Bytes source = source_of(format, outputs, columns, ones, seed);
  Product c{format, outputs, columns, Bytes(static_cast<size_t>(packed_bytes(format, outputs, columns))),
      std::vector<double>(static_cast<size_t>(outputs * columns))};
  pack(format, source.data(), outputs, columns, c.packed.data());
  for (int64_t row = 0; row < outputs; ++row) decode_row(format, source.data() + row * source_row_bytes(format, columns), columns,
      c.weights.data() + row * columns);
  return c;
}

struct Rows {
  std::vector<int32_t> memory;
  QuantizedRows x;
  Rows(Level level, const std::vector<float>& values, int64_t rows, int64_t columns, int planes,
      int steps) : memory(static_cast<size_t>((quantized_bytes(rows, columns, planes) + 3) / 4)) {
    x = place_quantized(memory.data(), rows, columns, planes, steps);
    packed_linear(level).quantize(values.data(), columns, rows, columns, x);
  }
};

std::vector<float> product(Level level, const Product& c, const std::vector<float>& values, int64_t rows, int planes, int steps) {
  std::vector<float> out(static_cast<size_t>(rows * c.matrix().groups() * kGroup));
  const Rows quantized(level, values, rows, c.columns, planes, steps);
  packed_linear(level).multiply_quantized(c.matrix(), quantized.x, rows, 0, c.matrix().groups(), out.data(), c.matrix().groups() * kGroup);
  return out;
}

}  // namespace

// Whole numbers and scales of 1 leave nothing to round: the result must be equal, to the last bit.
TEST(packed_products_of_whole_numbers_are_exact) {
  for (const Format format : kQuantized)
    for (const auto [planes, steps] : kPrecisions) {
      const int64_t outputs = 21, columns = 256, rows = 5;
      const Product c = product_of(format, outputs, columns, true, 7);
      const Bytes bytes = random_bytes(static_cast<size_t>(rows * columns), 8);
      std::vector<float> x(bytes.size());
      for (size_t i = 0; i < x.size(); ++i) x[i] = i % 32 == 5 ? 127.0f : static_cast<float>(bytes[i] % 15 - 7);
      const auto out = product(level, c, x, rows, planes, steps);
      for (int64_t m = 0; m < rows; ++m)
        for (int64_t n = 0; n < outputs; ++n) {
          double expected = 0;
          for (int64_t k = 0; k < columns; ++k) expected += x[m * columns + k] * c.weights[n * columns + k];
          const double found = out[m * 32 + n];
          CHECK(found == expected, "format %d, %d planes, row %d, output %d: %.9g for %.9g", int(format), planes, int(m), int(n), found,
              expected);
        }
    }
}

TEST(packed_products_follow_their_quantised_inputs) {
  for (const Format format : kQuantized)
    for (const auto [planes, steps] : kPrecisions) {
      const int64_t outputs = 33, columns = 512, rows = 11;
      const Product c = product_of(format, outputs, columns, false, 11);
      const auto x = normals(static_cast<size_t>(rows * columns), 12);
      const Rows quantized(level, x, rows, columns, planes, steps);
      const auto out = product(level, c, x, rows, planes, steps);
      for (int64_t m = 0; m < rows; ++m)
        for (int64_t n = 0; n < outputs; ++n) {
          double expected = 0, size = 0;
          for (int64_t k = 0; k < columns; ++k) {
            const int64_t at = m * columns + k;
            const int8_t* bytes = quantized.x.block(m, k / 32) + k % 32;
            const double scale = quantized.x.scales[k / 32 * rows + m], value = scale * (bytes[0] + (planes == 2 ? bytes[32] / double(steps) : 0.0));
            CHECK(std::fabs(value - x[at]) <= scale * (planes == 2 ? 0.501 / steps + 1e-4 : 0.501), "%g for %g", value, x[at]);
            expected += value * c.weights[n * columns + k];
            size += std::fabs(value * c.weights[n * columns + k]);
          }
          CHECK(std::fabs(out[m * 48 + n] - expected) <= 2e-6 * size, "format %d, %d planes: %g for %g", int(format), planes,
              out[m * 48 + n], expected);
        }
    }
}

// Every weight and every activation as large as it can be, of one sign and of both: the sums of 16 and of
// 32 bits on the way must hold them.
TEST(packed_products_of_the_largest_numbers_do_not_overflow) {
  for (const Format format : kQuantized)
    for (const auto [planes, steps] : kPrecisions)
      for (const int weights : {0x00, 0x7f, 0x80, 0xff})
        for (const bool both_signs : {false, true}) {
          const int64_t outputs = 16, columns = 256, most = 9;
          Product c = product_of(format, outputs, columns, true, 13);
          Bytes source = source_of(format, outputs, columns, true, 13);
          const int64_t unit = columns_multiple(format), step = source_row_bytes(format, unit), head = format == Format::int8 ? 4 : 0;
          for (int64_t row = 0; row < outputs; ++row)
            for (int64_t k = 0; k < columns; k += unit) {
              uint8_t* block = source.data() + row * source_row_bytes(format, columns) + (head ? 4 + k : k / unit * step);
              const Bytes before(block, block + (head ? unit : step));
              std::fill_n(block, before.size(), static_cast<uint8_t>(weights));
              if (head) continue;
              // scales stay as they are
              const size_t at = format == Format::q6_k ? 208 : 0, count = format == Format::q4_1 || format == Format::q4_k ? 4 : 2;
              std::copy_n(&before[at], count, block + at);
            }
          pack(format, source.data(), outputs, columns, c.packed.data());
          for (int64_t row = 0; row < outputs; ++row) decode_row(format, source.data() + row * source_row_bytes(format, columns), columns,
              c.weights.data() + row * columns);
          std::vector<float> x(static_cast<size_t>(most * columns));
          for (size_t i = 0; i < x.size(); ++i) x[i] = (i % 32 ? 126.4999f : 127.0f) * (both_signs && i / 2 % 2 ? -1.0f : 1.0f);
          for (const int64_t rows : {int64_t{1}, int64_t{3}, most}) {
            const Rows quantized(level, x, rows, columns, planes, steps);
            const auto out = product(level, c, x, rows, planes, steps);
            for (int64_t m = 0; m < rows; ++m)
              for (int64_t n = 0; n < outputs; ++n) {
                double expected = 0, size = 0;
                for (int64_t k = 0; k < columns; ++k) {
                  const int8_t* bytes = quantized.x.block(m, k / 32) + k % 32;
                  const double term = (bytes[0] + (planes == 2 ? bytes[32] / double(steps) : 0.0)) * c.weights[n * columns + k];
                  expected += term;
                  size += std::fabs(term);
                }
                CHECK(std::fabs(out[m * 16 + n] - expected) <= 2e-6 * size, "format %d, %d planes, weights %x, %d rows: %g for %g",
                    int(format), planes, unsigned(weights), int(rows), out[m * 16 + n], expected);
              }
          }
        }
}

TEST(packed_rows_have_the_same_bits_alone_and_together) {
  for (const Format format : kQuantized)
    for (const auto [planes, steps] : kPrecisions) {
      const int64_t outputs = 40, columns = 256, most = 40;
      const Product c = product_of(format, outputs, columns, false, 21);
      const auto x = normals(static_cast<size_t>(most * columns), 22);
      const Rows all(level, x, most, columns, planes, steps);
      const auto together = product(level, c, x, most, planes, steps);
      for (int64_t rows = 1; rows <= most; ++rows) {
        const int64_t first = most - rows;
        std::vector<float> out(static_cast<size_t>(rows * 48));
        for (int64_t g = 2; g >= 0; --g)  // group by group, from the last
          packed_linear(level).multiply_quantized(c.matrix(), quantized_from(all.x, first), rows, g, g + 1, out.data(), 48);
        CHECK(!std::memcmp(out.data(), together.data() + first * 48, out.size() * 4), "format %d, %d planes, %d rows", int(format),
            planes, int(rows));
      }
    }
}

// More rows and columns than a kernel takes at once, and numbers of rows that leave some over.
TEST(packed_rows_have_the_same_bits_among_many) {
  for (const Format format : kQuantized)
    for (const auto [planes, steps] : kPrecisions) {
      const int64_t outputs = 16, columns = 1280, most = 145;
      const Product c = product_of(format, outputs, columns, false, 23);
      const auto x = normals(static_cast<size_t>(most * columns), 24);
      const Rows all(level, x, most, columns, planes, steps);
      std::vector<float> alone(static_cast<size_t>(most * 16)), out(alone.size() + 16, -1.0f);
      for (int64_t m = 0; m < most; ++m)
        packed_linear(level).multiply_quantized(c.matrix(), quantized_from(all.x, m), 1, 0, 1, alone.data() + 16 * m, 16);
      for (const int64_t rows : {64, 65, 79, 80, 145}) {
        std::fill(out.begin(), out.end(), -1.0f);
        packed_linear(level).multiply_quantized(c.matrix(), all.x, rows, 0, 1, out.data(), 16);
        CHECK(!std::memcmp(out.data(), alone.data(), static_cast<size_t>(rows) * 64), "format %d, %d planes, %d rows", int(format), planes,
            int(rows));
        for (int n = 0; n < 16; ++n) CHECK(out[rows * 16 + n] == -1.0f, "written behind the last of %d rows", int(rows));
      }
    }
}

// Rows by two, by SMMLA, and one over: the integer sums are exact, so nothing may differ from dot products.
TEST(packed_products_of_i8mm_have_the_bits_of_dot_products) {
  if (level != Level::neon_i8mm) return;
  for (const Format format : kQuantized)
    for (const auto [planes, steps] : kPrecisions)
      for (const int64_t units : {1, 3})
        for (const int64_t outputs : {1, 16, 37}) {
          const int64_t columns = units * columns_multiple(format), most = 11;
          const Product c = product_of(format, outputs, columns, false, static_cast<unsigned>(25 + outputs));
          auto x = normals(static_cast<size_t>(most * columns), 26);
          std::fill(x.begin() + columns, x.begin() + columns + 32, 0.0f);
          for (int64_t rows = 1; rows <= most; ++rows) {
            const auto found = product(level, c, x, rows, planes, steps), expected = product(Level::neon, c, x, rows, planes, steps);
            CHECK(!std::memcmp(found.data(), expected.data(), found.size() * 4), "format %d, %d planes, %d rows, %d outputs, %d columns",
                int(format), planes, int(rows), int(outputs), int(columns));
          }
        }
}

TEST(packed_products_give_nan_where_a_row_has_one) {
  for (const Format format : kQuantized)
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      const Product c = product_of(format, 16, 256, false, 31);
      auto x = normals(2 * 256, 32);
      x[100] = bad;
      const auto out = product(level, c, x, 2, 2, kByteSteps);
      for (int n = 0; n < 16; ++n) CHECK(std::isnan(out[n]) && std::isfinite(out[16 + n]), "format %d: %g, %g", int(format), out[n],
          out[16 + n]);
    }
}

TEST(packed_inputs_may_be_zero_tiny_or_huge) {
  const Product c = product_of(Format::q8_0, 16, 32, true, 41);
  for (const float value : {0.0f, 1e-38f, 1e-44f, 1e30f, 3e38f}) {
    const std::vector<float> x(32, value);
    const auto out = product(level, c, x, 1, 2, kByteSteps);
    double expected = 0;
    for (int k = 0; k < 32; ++k) expected += double(value) * c.weights[k];
    CHECK(std::fabs(out[0] - expected) <= 1e-5 * std::fabs(expected) + 1e-26 || std::fabs(expected) > 3e38, "%g: %g for %g", value,
        out[0], expected);
  }
}

TEST(packed_rows_are_read_as_they_are_in_the_file) {
  for (const Format format : kQuantized) {
    const Product c = product_of(format, 19, 512, false, 51);
    std::vector<float> row(512);
    for (const int64_t n : {0, 15, 18}) {
      packed_linear(level).read_row(c.matrix(), n, row.data());
      for (int64_t k = 0; k < 512; ++k) CHECK(close(row[k], c.weights[n * 512 + k], 1e-6), "format %d: %g for %g", int(format), row[k],
          c.weights[n * 512 + k]);
    }
  }
}

TEST(packed_floats_against_double) {
  for (const Format format : kFloats)
    for (const int64_t columns : {1, 7, 64}) {
      const int64_t outputs = 18, rows = 13, size = format == Format::f32 ? 4 : 2;
      Bytes source(static_cast<size_t>(outputs * columns * size));
      std::vector<double> weights(static_cast<size_t>(outputs * columns));
      const auto values = normals(weights.size(), 61), x = normals(static_cast<size_t>(rows * columns), 62);
      for (size_t i = 0; i < weights.size(); ++i) {
        uint32_t bits;
        std::memcpy(&bits, &values[i], 4);
        bits = format == Format::f32 ? bits : bits & 0xffff0000u;  // cut, not rounded
        float value;
        std::memcpy(&value, &bits, 4);
        uint16_t half = static_cast<uint16_t>(bits >> 16);
        if (format == Format::f16) half = static_cast<uint16_t>(0x3000 + bits % 2011);
        std::memcpy(source.data() + i * static_cast<size_t>(size), size == 4 ? static_cast<const void*>(&value) : &half,
            static_cast<size_t>(size));
        weights[i] = format == Format::f16 ? half_at(reinterpret_cast<uint8_t*>(&half)) : double(value);
      }
      Bytes packed(static_cast<size_t>(packed_bytes(format, outputs, columns)));
      pack(format, source.data(), outputs, columns, packed.data());
      const PackedMatrix w{packed.data(), outputs, columns, format};
      std::vector<float> out(static_cast<size_t>(rows * 32)), one(32), row(static_cast<size_t>(columns));
      packed_linear(level).multiply_float(w, x.data(), columns, rows, 0, 2, out.data(), 32);
      packed_linear(level).multiply_float(w, x.data() + 12 * columns, columns, 1, 0, 2, one.data(), 32);
      CHECK(!std::memcmp(one.data(), out.data() + 12 * 32, 128), "format %d: a row alone differs", int(format));
      packed_linear(level).read_row(w, 17, row.data());
      for (int64_t k = 0; k < columns; ++k) CHECK(double(row[k]) == weights[17 * columns + k], "format %d: %g", int(format), row[k]);
      for (int64_t m = 0; m < rows; ++m)
        for (int64_t n = 0; n < outputs; ++n) {
          double expected = 0;
          for (int64_t k = 0; k < columns; ++k) expected += x[m * columns + k] * weights[n * columns + k];
          CHECK(close(out[m * 32 + n], expected, 1e-5), "format %d, %d columns: %g for %g", int(format), int(columns), out[m * 32 + n],
              expected);
        }
    }
}
