#include "decoder_adapters_run.h"

#include <algorithm>

namespace ironcliw {
namespace {

constexpr size_t kTargetsOfProduct = 3;

}  // namespace

AdapterRun::AdapterRun(const DecoderPlan& plan, const DecoderStep& step, Level level) : plan_(plan), step_(step), kernels_(lora_groups(level)) {
  all_ = group(step.count, [](int64_t i) { return i; });
  wanted_ = group(step.logit_count, [&](int64_t i) { return static_cast<int64_t>(step.logit_rows[i]); });
  changed_.resize(plan.layers.size() * kTargets);
  for (const Group& each : all_.groups) {
    const auto& parts = (*step.adapters)[static_cast<size_t>(each.adapter)].parts;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (parts[i].ranks) changed_[i] = true;
      most_ranks_ = std::max(most_ranks_, parts[i].ranks);
    }
  }
  hidden_.resize(kTargetsOfProduct * static_cast<size_t>(step.count * most_ranks_));
}

// The i-th row of a product has the adapter of the step's row_at(i).
template <class RowAt> AdapterRun::Grouping AdapterRun::group(int64_t count, RowAt&& row_at) const {
  std::vector<std::vector<int64_t>> rows(step_.adapters->size());
  for (int64_t i = 0; i < count; ++i) {
    const int32_t adapter = step_.row_adapters[row_at(i)];
    if (adapter >= 0) rows[static_cast<size_t>(adapter)].push_back(i);
  }
  Grouping grouping;
  for (size_t adapter = 0; adapter < rows.size(); ++adapter) {
    const auto size = static_cast<int64_t>(rows[adapter].size());
    for (int64_t first = 0; first < size; first += kRows) grouping.blocks.push_back({grouping.groups.size(), first, std::min(kRows, size - first)});
    if (size) grouping.groups.push_back({static_cast<int64_t>(adapter), std::move(rows[adapter])});
  }
  return grouping;
}

const AdapterPart& AdapterRun::part(int64_t adapter, int64_t layer, int target) const {
  return (*step_.adapters)[static_cast<size_t>(adapter)].parts[static_cast<size_t>(layer * kTargets + target)];
}

bool AdapterRun::changes(const Adapted& adapted) const {
  for (int target = adapted.first; target <= adapted.last; ++target)
    if (changed_[static_cast<size_t>(adapted.layer * kTargets + target)]) return true;
  return false;
}

int64_t AdapterRun::down_chunks(const Adapted& adapted) const {
  return (adapted.last - adapted.first + 1) * static_cast<int64_t>(grouping(adapted.wanted).blocks.size()) * rank_pieces();
}

LoraBatch AdapterRun::batch(const Adapted& adapted, int target, const AdapterPart& part) const {
  const DecoderMatrix& matrix = target_matrix(plan_.layers[static_cast<size_t>(adapted.layer)], target);
  LoraBatch batch{nullptr, nullptr, hidden_.data() + (target - adapted.first) * step_.count * most_ranks_, part.a, part.b, 0, part.ranks, kGroup, matrix.columns, matrix.rows, most_ranks_};
  batch.b_together = true;
  return batch;
}

void AdapterRun::down(const Adapted& adapted, int64_t chunk, const float* x, int64_t x_stride) {
  const Grouping& rows = grouping(adapted.wanted);
  const auto blocks = static_cast<int64_t>(rows.blocks.size());
  const int target = adapted.first + static_cast<int>(chunk / (blocks * rank_pieces()));
  const Block& block = rows.blocks[static_cast<size_t>(chunk / rank_pieces() % blocks)];
  const Group& group = rows.groups[block.group];
  const int64_t begin = chunk % rank_pieces() * kRanks;
  down(adapted, target, group, group.rows.data() + block.first, block.count, begin, begin + kRanks, x, x_stride);
}

void AdapterRun::down_rows(const Adapted& adapted, int64_t first, int64_t last, const float* x, int64_t x_stride) {
  for (const Group& group : grouping(adapted.wanted).groups) {
    const auto from = std::lower_bound(group.rows.begin(), group.rows.end(), first), to = std::lower_bound(from, group.rows.end(), last);
    for (int target = adapted.first; from != to && target <= adapted.last; ++target) down(adapted, target, group, &*from, to - from, 0, most_ranks_, x, x_stride);
  }
}

// Ranks [begin, end), as far as the adapter has them.
void AdapterRun::down(const Adapted& adapted, int target, const Group& group, const int64_t* rows, int64_t count, int64_t begin, int64_t end, const float* x, int64_t x_stride) {
  const AdapterPart& own = part(group.adapter, adapted.layer, target);
  end = std::min(end, own.ranks);
  if (begin >= end) return;
  LoraBatch lora = batch(adapted, target, own);
  lora.x = x;
  lora.x_stride = x_stride;
  const bool brief = (*step_.adapters)[static_cast<size_t>(group.adapter)].brief;
  (brief ? kernels_.down_bf16 : kernels_.down)(lora, {0, own.ranks, own.scale, rows, count}, begin, end);
}

void AdapterRun::up(const Adapted& adapted, int target, int64_t first, int64_t last, int64_t begin, int64_t end, float* out, int64_t stride) const {
  if (!changed_[static_cast<size_t>(adapted.layer * kTargets + target)]) return;
  for (const Group& group : grouping(adapted.wanted).groups) {
    const AdapterPart& own = part(group.adapter, adapted.layer, target);
    if (!own.ranks) continue;
    const auto from = std::lower_bound(group.rows.begin(), group.rows.end(), first), to = std::lower_bound(from, group.rows.end(), last);
    if (from == to) continue;
    LoraBatch lora = batch(adapted, target, own);
    lora.y = out - first * stride;
    lora.y_stride = stride;
    const bool brief = (*step_.adapters)[static_cast<size_t>(group.adapter)].brief;
    (brief ? kernels_.up_bf16 : kernels_.up)(lora, {0, own.ranks, own.scale, &*from, to - from}, begin, std::min(end, lora.outputs));
  }
}

}  // namespace ironcliw
