#include "kernels/grouped_lora.h"

#include <cstring>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

struct Shape { int64_t rows, inputs, outputs, most, ranks; bool outputs_apart; };

// y of one adapter, the second of two, for the rows given.
std::vector<float> run(Level level, const Shape& s, const std::vector<float>& x, const std::vector<float>& a, const std::vector<float>& b, const std::vector<int64_t>& rows, int64_t split) {
  std::vector<float> y(size_t(s.rows * s.outputs), 0.5f), hidden(size_t(s.rows * s.most));
  LoraBatch batch = {x.data(), y.data(), hidden.data(), a.data(), b.data(), s.outputs * s.most, 1, s.outputs, s.inputs, s.outputs, s.most};
  if (s.outputs_apart) batch.b_output = s.most, batch.b_rank = 1, batch.b_together = false;
  const LoraGroup group = {1, s.ranks, 0.25f, rows.data(), int64_t(rows.size())};
  const auto& kernels = lora_groups(level);
  kernels.down(batch, group, 0, s.ranks / 2);
  kernels.down(batch, group, s.ranks / 2, s.ranks);
  kernels.up(batch, group, 0, split);
  kernels.up(batch, group, split, s.outputs);
  return y;
}

}  // namespace

TEST(grouped_lora_against_double) {
  for (const Shape& s : {Shape{1, 16, 16, 4, 4, false}, Shape{5, 33, 50, 8, 7, true}, Shape{9, 100, 17, 20, 20, false}, Shape{3, 5, 3, 18, 18, true}, Shape{4, 1, 1, 1, 1, true}}) {
    const auto x = normals(size_t(s.rows * s.inputs), 1), a = normals(size_t(2 * s.most * s.inputs), 2), b = normals(size_t(2 * s.outputs * s.most), 3);
    std::vector<int64_t> rows;
    for (int64_t m = 0; m < s.rows; ++m) if (m != 2) rows.push_back(m);
    const auto y = run(level, s, x, a, b, rows, s.outputs / 2);
    for (int64_t m = 0; m < s.rows; ++m) {
      for (int64_t n = 0; n < s.outputs; ++n) {
        double wanted = 0.5;
        for (int64_t r = 0; r < s.ranks && m != 2; ++r) {
          double hidden = 0;
          for (int64_t i = 0; i < s.inputs; ++i) hidden += double(x[size_t(m * s.inputs + i)]) * a[size_t((s.most + r) * s.inputs + i)];
          const int64_t at = s.outputs * s.most + (s.outputs_apart ? n * s.most + r : r * s.outputs + n);
          wanted += 0.25 * hidden * b[size_t(at)];
        }
        const float got = y[size_t(m * s.outputs + n)];
        CHECK(std::fabs(got - wanted) < 1e-4, "row %d output %d: %g for %g", int(m), int(n), got, wanted);
      }
      if (m == 2) continue;
      const auto alone = run(level, s, x, a, b, {m}, 0);
      CHECK(!std::memcmp(&alone[size_t(m * s.outputs)], &y[size_t(m * s.outputs)], sizeof(float) * size_t(s.outputs)), "row %d differs alone", int(m));
    }
  }
}

TEST(grouped_lora_reads_bfloat16) {
  const int64_t width = 35;
  auto a = normals(width, 4), b = normals(width, 5);
  const auto x = normals(width, 6);
  std::vector<uint16_t> brief_a(a.size()), brief_b(b.size());
  const auto shorten = [](std::vector<float>& values, std::vector<uint16_t>& brief) {
    for (size_t i = 0; i < values.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &values[i], 4);
      brief[i] = static_cast<uint16_t>(bits >> 16);
      bits &= 0xffff0000u;
      std::memcpy(&values[i], &bits, 4);
    }
  };
  shorten(a, brief_a);
  shorten(b, brief_b);
  const int64_t row = 0;
  std::vector<float> y(width, 0), expected(width, 0);
  float hidden = 0;
  LoraBatch batch = {x.data(), expected.data(), &hidden, a.data(), b.data(), width, 1, width, width, width, 1};
  const LoraGroup group = {0, 1, 1.0f, &row, 1};
  lora_groups(level).down(batch, group, 0, 1);
  lora_groups(level).up(batch, group, 0, width);
  batch.y = y.data();
  batch.a_weights = brief_a.data();
  batch.b_weights = brief_b.data();
  lora_groups(level).down_bf16(batch, group, 0, 1);
  lora_groups(level).up_bf16(batch, group, 0, width);
  CHECK(y == expected && y[3] != 0);
}
