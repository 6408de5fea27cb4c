#include "kernels/grouped_lora.h"

#include "simd/simd.h"

IRONCLIW_BEGIN

namespace {

// Two types of weights behind one name; `count` below 16 only at a row's end.
struct Bf16 {
  using Value = uint16_t;
  static Floats get(const uint16_t* p, int count) {
    if (count == 16) return load_bf16(p);
    uint16_t lanes[16] = {};
    std::memcpy(lanes, p, 2 * static_cast<size_t>(count));
    return load_bf16(lanes);
  }
};
struct Float {
  using Value = float;
  static Floats get(const float* p, int count) { return count == 16 ? load(p) : load_first(p, count); }
};

int lanes(int64_t end, int64_t at) { return end - at < 16 ? static_cast<int>(end - at) : 16; }

#if defined(IRONCLIW_USE_AVX512)
constexpr int kRanks = 4, kRows = 4;
#else
constexpr int kRanks = 2, kRows = 2;  // 16 lanes are several registers here
#endif

// `ranks` ranks of `rows` rows: sums over the inputs in one order, whatever the tile.
template <class Weight, int ranks, int rows>
void down_tile(const LoraBatch& batch, const LoraGroup& group, int64_t rank, int64_t row) {
  const int64_t width = batch.inputs;
  const auto* weights = static_cast<const typename Weight::Value*>(batch.a_weights) + (group.adapter * batch.most_ranks + rank) * width;
  const float* x[rows];
  Floats sums[rows][ranks];
  for (int m = 0; m < rows; ++m) {
    x[m] = batch.x + group.rows[row + m] * width;
    for (int r = 0; r < ranks; ++r) sums[m][r] = zero();
  }
  for (int64_t i = 0; i < width; i += 16) {
    const int count = lanes(width, i);
    Floats a[ranks];
    for (int r = 0; r < ranks; ++r) a[r] = Weight::get(weights + r * width + i, count);
    for (int m = 0; m < rows; ++m) {
      const Floats value = Float::get(x[m] + i, count);
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
  for (; rank + kRanks <= end; rank += kRanks) down_ranks<Weight, kRanks>(batch, group, rank);
  for (; rank < end; ++rank) down_ranks<Weight, 1>(batch, group, rank);
}

// 16 outputs of up to 16 ranks as rows of ranks, read across the strides where outputs are apart.
template <class Weight>
void load_up(const LoraBatch& batch, const LoraGroup& group, int64_t output, int count, int64_t rank, int ranks, Floats* out) {
  const auto* weights = static_cast<const typename Weight::Value*>(batch.b_weights) + group.adapter * batch.b_adapter + output * batch.b_output + rank * batch.b_rank;
  if (batch.b_output == 1) {
    for (int r = 0; r < ranks; ++r) out[r] = Weight::get(weights + r * batch.b_rank, count);
    return;
  }
  typename Weight::Value turned[16][16] = {};
  for (int n = 0; n < count; ++n) {
    for (int r = 0; r < ranks; ++r) turned[r][n] = weights[n * batch.b_output + r * batch.b_rank];
  }
  for (int r = 0; r < ranks; ++r) out[r] = Weight::get(turned[r], 16);
}

template <class Weight> void up(const LoraBatch& batch, const LoraGroup& group, int64_t begin, int64_t end) {
  for (int64_t output = begin; output < end; output += 16) {
    const int count = lanes(end, output);
    for (int64_t rank = 0; rank < group.ranks; rank += 16) {
      const int ranks = lanes(group.ranks, rank);
      Floats weights[16];
      load_up<Weight>(batch, group, output, count, rank, ranks, weights);
      for (int64_t row = 0; row < group.count; ++row) {
        const float* hidden = batch.hidden + group.rows[row] * batch.most_ranks + rank;
        float* y = batch.y + group.rows[row] * batch.outputs + output;
        Floats total = zero();
        for (int r = 0; r < ranks; ++r) total = fma(broadcast(hidden[r]), weights[r], total);
        const Floats sum = Float::get(y, count) + total;
        if (count == 16) store(y, sum);
        else store_first(y, sum, count);
      }
    }
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const LoraKernels IRONCLIW_TABLE(lora_groups);
const LoraKernels IRONCLIW_TABLE(lora_groups) = {IRONCLIW_LEVEL::down<IRONCLIW_LEVEL::Float>, IRONCLIW_LEVEL::down<IRONCLIW_LEVEL::Bf16>,
                                                 IRONCLIW_LEVEL::up<IRONCLIW_LEVEL::Float>, IRONCLIW_LEVEL::up<IRONCLIW_LEVEL::Bf16>};
}  // namespace ironcliw
