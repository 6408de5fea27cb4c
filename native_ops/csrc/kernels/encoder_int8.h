// Products of int8: weights with a scale an output, activations with a scale a row, made as they come.
#pragma once

#include <cfloat>

#include "kernels/encoder_blocks.h"

IRONCLIW_BEGIN
namespace encoder {

#if defined(IRONCLIW_USE_AVX512)
constexpr int kInt8Rows = 8;
#else
constexpr int kInt8Rows = 4;
#endif

struct Int8Rows {
  int8_t* values;
  int64_t stride;
  float* scales;
  int32_t* totals;  // sum of a row's values
};

// x = scale * int8, the largest at 127; NaN or infinity in a row makes its scale NaN, and so all its
// products.
template <class Value> void quantize_row(const Value* x, int64_t inputs, int64_t filled, int8_t* out, float* scale, int32_t* total) {
  Floats most = zero();
  for (int64_t i = 0; i < inputs; i += 16) most = larger(abs(get(x + i, lanes(inputs, i))), most);
  const float top = largest(most);
  const bool finite = top <= FLT_MAX;  // not so for NaN either
  *scale = finite ? top / 127.0f : __builtin_nanf("");
  // far below what matters in a row of activations, and its inverse would overflow
  const Floats inverse = broadcast(top >= 1e-30f ? 127.0f / top : 0.0f);
  Ints sums = broadcast_int(0);
  for (int64_t i = 0; i < filled; i += 16) {
    const Ints y = finite && i < inputs ? to_ints(get(x + i, lanes(inputs, i)) * inverse) : broadcast_int(0);
    store_int8(out + i, y);
    sums = sums + load_int8(out + i);
  }
  *total = sum(sums);
}

#ifdef IRONCLIW_USE_I8MM
// A last, odd row is paired with itself: as many instructions as its dot products would be.
template <int rows>
void int8_rows_by_twos(const int8_t* a, int64_t a_stride, const uint8_t* b, int64_t quads, int32_t* out) {
  constexpr int pairs = (rows + 1) / 2;
  IntsOfTwo sums[pairs];
  for (int p = 0; p < pairs; ++p) sums[p] = broadcast_ints(0, 0);
  for (int64_t i = 0; i < quads; i += 2, a += 8, b += 128) {  // quads: a multiple of 16
    Bytes left = load_bytes(b), right = load_bytes(b + 64);
    join_lines(left, right);
    for (int p = 0; p < pairs; ++p) {
      const int8_t* first = a + 2 * p * a_stride;
      sums[p] = dot_two(sums[p], left, right, first, 2 * p + 1 < rows ? first + a_stride : first);
    }
  }
  for (int r = 0; r < rows; ++r) store_ints(out + r * kPanelColumns, r % 2 ? second_row(sums[r / 2]) : first_row(sums[r / 2]));
}
#endif

template <int rows>
void int8_rows(const int8_t* a, int64_t a_stride, const int32_t* totals, const uint8_t* b, int64_t quads, int32_t* out) {
#ifdef IRONCLIW_USE_I8MM
  if constexpr (rows > 1) return int8_rows_by_twos<rows>(a, a_stride, b, quads, out);
#endif
  Ints sums[rows];
  for (int r = 0; r < rows; ++r) sums[r] = start_signed(totals[r]);
  for (int64_t i = 0; i < quads; ++i, b += 64) {
    const Bytes w = load_bytes(b);
    for (int r = 0; r < rows; ++r) {
      int32_t four;
      std::memcpy(&four, a + r * a_stride + 4 * i, 4);
      sums[r] = dot_signed(sums[r], w, four);
    }
  }
  for (int r = 0; r < rows; ++r) store_ints(out + r * kPanelColumns, sums[r]);
}

template <int most> void last_int8_rows(int rows, const int8_t* a, int64_t a_stride, const int32_t* totals, const uint8_t* b, int64_t quads, int32_t* out) {
  if constexpr (most > 0) {
    if (rows == most) return int8_rows<most>(a, a_stride, totals, b, quads, out);
    last_int8_rows<most - 1>(rows, a, a_stride, totals, b, quads, out);
  }
}

#if defined(IRONCLIW_USE_BF16)
using Int8Base = Bf16;
#else
using Int8Base = Float;
#endif

// Activations between products, and attention, are those of bf16 where the level has it, else float.
struct Int8 {
  using Value = Int8Base::Value;
  static constexpr EncoderNumber number = EncoderNumber::int8;

  static int64_t scratch_bytes(int64_t rows, int64_t inputs) { return row_count(rows) * (stride(inputs) + 8) + 128; }
  static int64_t stride(int64_t inputs) { return encoder_round_up(inputs, 64) + 64; }

  static Int8Rows prepare(const Value* x, int64_t x_stride, int64_t rows, int64_t inputs, uint8_t* scratch) {
    Memory memory(scratch);
    const int64_t all = row_count(rows), filled = encoder_round_up(inputs, 64);
    const Int8Rows to{memory.take<int8_t>(all * stride(inputs)), stride(inputs), memory.take<float>(all), memory.take<int32_t>(all)};
    for (int64_t m = 0; m < rows; ++m) quantize_row(x + m * x_stride, inputs, filled, to.values + m * to.stride, to.scales + m, to.totals + m);
    for (int64_t m = rows; m < all; ++m) std::memset(to.values + m * to.stride, 0, static_cast<size_t>(filled));
    return to;
  }

  static const void* panel(const EncoderLinear& w, int64_t index, uint8_t*) { return w.packed + index * encoder_panel_bytes(number, w.inputs); }

  static void block(const Int8Rows& x, int64_t m, const void* panel, int64_t inputs, int rows, float* out, const Tiles& tiles) {
    alignas(64) int32_t sums[kRows * kPanelColumns];
    const int64_t filled = encoder_round_up(inputs, 64), group_bytes = filled * 16;
    const auto* b = static_cast<const uint8_t*>(panel);
    multiply(x, m, b, filled, group_bytes, rows, sums, tiles);
    const auto* scales = reinterpret_cast<const float*>(b + 2 * group_bytes);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < kPanelColumns; c += 16)
        store(out + r * kPanelColumns + c, to_floats(load_ints(sums + r * kPanelColumns + c)) * (load(scales + c) * broadcast(x.scales[m + r])));
  }

 private:
  static void multiply(const Int8Rows& x, int64_t m, const uint8_t* b, int64_t filled, int64_t group_bytes, int rows, int32_t* sums, [[maybe_unused]] const Tiles& tiles) {
    const int8_t* a = x.values + m * x.stride;
#if defined(IRONCLIW_USE_BF16) && defined(__x86_64__)
    if (tiles.on) {
      const auto product = rows > 16 ? tiles_int8_32 : tiles_int8_16;
      return product(reinterpret_cast<const uint8_t*>(a), x.stride, b, group_bytes, filled / 64, reinterpret_cast<uint8_t*>(sums), 4 * kPanelColumns);
    }
#endif
    for (int g = 0; g < 2; ++g) {
      const uint8_t* group = b + g * group_bytes;
      int r = 0;
      for (; r + kInt8Rows <= rows; r += kInt8Rows) int8_rows<kInt8Rows>(a + r * x.stride, x.stride, x.totals + m + r, group, filled / 4, sums + r * kPanelColumns + 16 * g);
      last_int8_rows<kInt8Rows - 1>(rows - r, a + r * x.stride, x.stride, x.totals + m + r, group, filled / 4, sums + r * kPanelColumns + 16 * g);
    }
  }
};

}  // namespace encoder
IRONCLIW_END
