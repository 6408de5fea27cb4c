#include "kernels/grouped_lora.h"

#include "simd/rows.h"

IRONCLIW_BEGIN

namespace {

// Of a tile: so many sums that one does not wait for another.
#if defined(IRONCLIW_USE_AVX512)
constexpr int kRanks = 4, kRows = 4, kRanksOfOneRow = 8, kBlocksOfOneRow = 4;
#else
constexpr int kRanks = 2, kRows = 2, kRanksOfOneRow = 4, kBlocksOfOneRow = 2;  // 16 lanes are several registers here
#endif

// `ranks` ranks of `rows` rows: sums over the inputs in one order, whatever the tile.
template <class Weight, int ranks, int rows>
void down_tile(const LoraBatch& batch, const LoraGroup& group, int64_t rank, int64_t row) {
  const int64_t width = batch.inputs;
  const auto* weights = static_cast<const Weight*>(batch.a_weights) + (group.adapter * batch.most_ranks + rank) * width;
  const float* x[rows];
  Floats sums[rows][ranks];
  for (int m = 0; m < rows; ++m) {
    x[m] = batch.x + group.rows[row + m] * batch.x_stride;
    for (int r = 0; r < ranks; ++r) sums[m][r] = zero();
  }
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    Floats a[ranks];
    for (int r = 0; r < ranks; ++r) a[r] = get(weights + r * width + i, count);
    for (int m = 0; m < rows; ++m) {
      const Floats value = get(x[m] + i, count);
      for (int r = 0; r < ranks; ++r) sums[m][r] = fma(value, a[r], sums[m][r]);
    }
  }
  for (int m = 0; m < rows; ++m) {
    float* out = batch.hidden + group.rows[row + m] * batch.most_ranks + rank;
    for (int r = 0; r < ranks; ++r) out[r] = sum(sums[m][r]) * group.scale;
  }
}

template <class Weight, int ranks> void down_ranks(const LoraBatch& batch, const LoraGroup& group, int64_t rank) {
  int64_t row = 0;
  for (; row + kRows <= group.count; row += kRows) down_tile<Weight, ranks, kRows>(batch, group, rank, row);
  for (; row < group.count; ++row) down_tile<Weight, ranks, 1>(batch, group, rank, row);
}

template <class Weight> void down(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end) {
  int64_t rank = begin;
  if (group.count == 1) for (; rank + kRanksOfOneRow <= end; rank += kRanksOfOneRow) down_tile<Weight, kRanksOfOneRow, 1>(batch, group, rank, 0);
  for (; rank + kRanks <= end; rank += kRanks) down_ranks<Weight, kRanks>(batch, group, rank);
  for (; rank < end; ++rank) down_ranks<Weight, 1>(batch, group, rank);
}

// 16 outputs of up to 16 ranks as rows of ranks, read across the strides.
template <class Weight>
void load_up(const LoraBatch& batch, const LoraGroup& group, int64_t output, int count, int64_t rank, int ranks, Floats* out) {
  const auto* weights = static_cast<const Weight*>(batch.b_weights) + group.adapter * batch.b_adapter + output * batch.b_output + rank * batch.b_rank;
  Weight turned[16][16] = {};
  for (int n = 0; n < count; ++n) {
    for (int r = 0; r < ranks; ++r) turned[r][n] = weights[n * batch.b_output + r * batch.b_rank];
  }
  for (int r = 0; r < ranks; ++r) out[r] = get(turned[r], 16);
}

// Where 16 neighbouring outputs are apart in the weights.
template <class Weight> void up_apart(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end) {
  for (int64_t output = begin; output < end; output += 16) {
    const int count = lanes(end, output);
    for (int64_t rank = 0; rank < group.ranks; rank += 16) {
      const int ranks = lanes(group.ranks, rank);
      Floats weights[16];
      load_up<Weight>(batch, group, output, count, rank, ranks, weights);
      for (int64_t row = 0; row < group.count; ++row) {
        const float* hidden = batch.hidden + group.rows[row] * batch.most_ranks + rank;
        float* y = batch.y + group.rows[row] * batch.y_stride + output;
        Floats total = zero();
        for (int r = 0; r < ranks; ++r) total = fma(broadcast(hidden[r]), weights[r], total);
        put(y, get(y, count) + total, count);
      }
    }
  }
}

// `rows` rows, `blocks` times 16 outputs (of the last, `count`): 16 ranks are summed, then added.
template <class Weight, int rows, int blocks>
void up_tile(const LoraBatch& batch, const LoraGroup& group, int64_t output, int count, int64_t row) {
  const auto* weights = static_cast<const Weight*>(batch.b_weights) + group.adapter * batch.b_adapter + output * batch.b_output;
  for (int64_t rank = 0; rank < group.ranks; rank += 16) {
    const float* hidden[rows];
    Floats totals[rows][blocks];
    for (int m = 0; m < rows; ++m) {
      hidden[m] = batch.hidden + group.rows[row + m] * batch.most_ranks + rank;
      for (int b = 0; b < blocks; ++b) totals[m][b] = zero();
    }
    const int ranks = lanes(group.ranks, rank);
    for (int r = 0; r < ranks; ++r) {
      Floats weight[blocks];
      for (int b = 0; b < blocks; ++b) weight[b] = get(weights + 16 * b * batch.b_output + (rank + r) * batch.b_rank, blocks == 1 ? count : 16);
      for (int m = 0; m < rows; ++m) {
        const Floats value = broadcast(hidden[m][r]);
        for (int b = 0; b < blocks; ++b) totals[m][b] = fma(value, weight[b], totals[m][b]);
      }
    }
    for (int m = 0; m < rows; ++m) {
      float* y = batch.y + group.rows[row + m] * batch.y_stride + output;
      for (int b = 0; b < blocks; ++b) put(y + 16 * b, get(y + 16 * b, blocks == 1 ? count : 16) + totals[m][b], blocks == 1 ? count : 16);
    }
  }
}

template <class Weight> void up(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end) {
  if (!batch.b_together) return up_apart<Weight>(batch, group, begin, end);
  int64_t output = begin;
  if (group.count == 1) for (; output + 16 * kBlocksOfOneRow <= end; output += 16 * kBlocksOfOneRow) up_tile<Weight, 1, kBlocksOfOneRow>(batch, group, output, 16, 0);
  for (; output < end; output += 16) {
    const int count = lanes(end, output);
    int64_t row = 0;
    for (; row + kRows <= group.count; row += kRows) up_tile<Weight, kRows, 1>(batch, group, output, count, row);
    for (; row < group.count; ++row) up_tile<Weight, 1, 1>(batch, group, output, count, row);
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const LoraKernels IRONCLIW_TABLE(lora_groups);
const LoraKernels IRONCLIW_TABLE(lora_groups) = {IRONCLIW_LEVEL::down<float>, IRONCLIW_LEVEL::down<uint16_t>,
                                                 IRONCLIW_LEVEL::up<float>, IRONCLIW_LEVEL::up<uint16_t>};
}  // namespace ironcliw
