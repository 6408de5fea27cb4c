// Quantised products of two rows or more with SMMLA: two rows at once, while one row alone stays with
// dot products.
//
// The sums are exact, and what follows are the operations of `add_block` in its order: a row has the
// same bits here and there.
#pragma once

#include "kernels/packed_linear.h"
#include "kernels/packed_linear_formats.h"

IRONCLIW_BEGIN

// Of the first row and of the second.
struct OfTwo { Floats first, second; };
struct RowPair { const int8_t *first, *second; };

// Over lines [from, from + count), joined by two, the sum of (u - zero) * x; `totals` are the sums of
// those x.
template <class F, int from, int count>
IRONCLIW_INLINE OfTwo dot_lines_of_two(const Block& w, RowPair x, const int32_t* totals) {
  IntsOfTwo dots = broadcast_ints(-F::kZero * totals[0], -F::kZero * totals[1]);
#pragma GCC unroll 4
  for (int l = from; l < from + count; l += 2) dots = dot_two(dots, w.u[l], w.u[l + 1], x.first + 4 * l, x.second + 4 * l);
  return {to_floats(first_row(dots)), to_floats(second_row(dots))};
}

// That of one plane, or of two: first + second / steps.
template <class F, int planes, int from, int count>
IRONCLIW_INLINE OfTwo dot_planes_of_two(const Block& w, RowPair x, const int32_t* totals, const int32_t* totals2, Floats step) {
  const OfTwo one = dot_lines_of_two<F, from, count>(w, x, totals);
  if constexpr (planes == 1) {
    return one;
  } else {
    const OfTwo two = dot_lines_of_two<F, from, count>(w, {x.first + kBlock, x.second + kBlock}, totals2);
    return {fma(two.first, step, one.first), fma(two.second, step, one.second)};
  }
}

// A row's products with a block, times their scales, added to its 16 sums; `high`: those of the second
// half of the block, where it has a scale of its own.
template <class F> IRONCLIW_INLINE Floats add_products(Floats total, const Block& w, const QuantizedRows& x, int64_t at, Floats low, Floats high) {
  const Floats scale = broadcast(x.scales[at]);
  if constexpr (F::kTwoScales) {
    return fma(fma(low, w.scale, high * w.scale2), scale, total);
  } else {
    total = fma(F::kScale ? low * w.scale : low, scale, total);
    return F::kOffset ? fma(w.offset, broadcast(x.offsets[at]), total) : total;
  }
}

// `at`: of the first row's numbers of this block; the second's are next to them.
template <class F, int planes>
IRONCLIW_INLINE void add_block_to_two(Floats* total, const Block& w, const QuantizedRows& x, RowPair bytes, int64_t at, Floats step) {
  OfTwo low, high{zero(), zero()};
  if constexpr (F::kTwoScales) {
    const int32_t rest[] = {x.sums[at] - x.halves[at], x.sums[at + 1] - x.halves[at + 1]};
    const int32_t rest2[] = {x.sums2[at] - x.halves2[at], x.sums2[at + 1] - x.halves2[at + 1]};
    low = dot_planes_of_two<F, planes, 0, 4>(w, bytes, x.halves + at, x.halves2 + at, step);
    high = dot_planes_of_two<F, planes, 4, 4>(w, bytes, rest, rest2, step);
  } else {
    low = dot_planes_of_two<F, planes, 0, 8>(w, bytes, x.sums + at, x.sums2 + at, step);
  }
  total[0] = add_products<F>(total[0], w, x, at, low.first, high.first);
  total[1] = add_products<F>(total[1], w, x, at + 1, low.second, high.second);
}

// A block's products with `tile` rows, an even number of them, whose `bytes` move on to the next block.
template <class F, int planes, int tile>
IRONCLIW_INLINE void add_block_by_twos(Floats* total, Block w, const QuantizedRows& x, const int8_t** bytes, int64_t at, Floats step) {
  static_assert(tile % 2 == 0);
  for (int l = 0; l < 8; l += 2) join_lines(w.u[l], w.u[l + 1]);
#pragma GCC unroll 4
  for (int m = 0; m < tile; m += 2) {
    add_block_to_two<F, planes>(total + m, w, x, {bytes[m], bytes[m + 1]}, at + m, step);
    bytes[m] += x.block_bytes();
    bytes[m + 1] += x.block_bytes();
  }
}

IRONCLIW_END
