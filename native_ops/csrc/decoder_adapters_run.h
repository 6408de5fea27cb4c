// What the adapters of a step add to its products.
//
// Each product y = x W^T of a layer gains scale * (x A^T) B^T of the row's adapter: first, for all rows,
// the narrow product with A; then, beside each piece of the wide product, its outputs of that with B.
// Rows of one adapter go together, so that its weights are read once; a row's bits are the same in
// whatever company.
#pragma once

#include <vector>

#include "decoder.h"
#include "kernels/grouped_lora.h"

namespace ironcliw {

// The matrices of one product, which share their input, and whether its rows are those whose logits
// are wanted.
struct Adapted {
  int64_t layer = 0;
  int first = kTargets, last = -1;  // targets; none by default
  bool wanted = false;
};

class AdapterRun {
 public:
  AdapterRun(const DecoderPlan& plan, const DecoderStep& step, Level level);

  // Whether an adapter of the step changes one of the matrices.
  bool changes(const Adapted& adapted) const;
  int64_t down_chunks(const Adapted& adapted) const;
  void down(const Adapted& adapted, int64_t chunk, const float* x, int64_t x_stride);
  // The same for all ranks of rows [first, last), by one participant.
  void down_rows(const Adapted& adapted, int64_t first, int64_t last, const float* x, int64_t x_stride);
  // Adds to the outputs [begin, end) of rows [first, last); `out` is output 0 of the row `first`.
  void up(const Adapted& adapted, int target, int64_t first, int64_t last, int64_t begin, int64_t end, float* out, int64_t stride) const;

 private:
  static constexpr int64_t kRows = 32, kRanks = 8;  // of a chunk

  struct Group {
    int64_t adapter;
    std::vector<int64_t> rows;  // rising
  };
  struct Block {  // some rows of a group
    size_t group;
    int64_t first, count;
  };
  struct Grouping {
    std::vector<Group> groups;
    std::vector<Block> blocks;
  };

  template <class RowAt> Grouping group(int64_t count, RowAt&& row_at) const;
  const Grouping& grouping(bool wanted) const { return wanted ? wanted_ : all_; }
  const AdapterPart& part(int64_t adapter, int64_t layer, int target) const;
  void down(const Adapted& adapted, int target, const Group& group, const int64_t* rows, int64_t count, int64_t begin, int64_t end, const float* x, int64_t x_stride);
  LoraBatch batch(const Adapted& adapted, int target, const AdapterPart& part) const;
  int64_t rank_pieces() const { return (most_ranks_ + kRanks - 1) / kRanks; }

  const DecoderPlan& plan_;
  const DecoderStep& step_;
  const LoraKernels& kernels_;
  Grouping all_, wanted_;
  int64_t most_ranks_ = 0;
  std::vector<bool> changed_;        // [layers * kTargets], by an adapter that a row has
  mutable std::vector<float> hidden_;  // [3 targets of a product][rows][most ranks]
};

}  // namespace ironcliw
