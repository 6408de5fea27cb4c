#include "decoder.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "decoder_adapters_run.h"
#include "decoder_scratch.h"
#include "kernels/cached_attention.h"
#include "kernels/norms.h"
#include "work_queue.h"

namespace ironcliw {
namespace {

constexpr int64_t kRowBlock = 256;           // rows of one chunk of a product, at most: their bytes stay in the L2 cache
constexpr int64_t kRowUnit = 16;             // and a multiple of this, which kernels take at once
constexpr int64_t kRowsOfChunk = 8;          // of what is done row by row
// So that a participant that falls behind leaves work to the others. No more for few rows: weights are
// fetched ahead within a chunk only.
constexpr int64_t kChunksOfFewRows = 2, kChunksOfManyRows = 4;

// Tokens of one slot that attention takes together.
struct TokenTile {
  int64_t first, count;
};

int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Of activations as int8; `count` 0: none.
struct Int8Planes {
  int count, steps;
};

// What a product is made of: some rows of floats, their norm first.
struct Input {
  const float* floats;
  int64_t stride, columns;
  Int8Planes planes;                  // that its matrices want
  const NormWeights* norm = nullptr;  // null: the rows as they are
};

// The same rows as kernels take them.
struct Operand {
  const float* floats;
  int64_t stride;
  QuantizedRows quantized;
};

struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

class DecoderRun {
 public:
  DecoderRun(const DecoderPlan& plan, uint16_t* cache, const DecoderStep& step, float* logits, int participants, Level level)
      : plan_(plan), cache_(cache), step_(step), logits_(logits), participants_(participants), linear_(packed_linear(level)), norms_(norms(level)), rows_(decoder_rows(level)), attention_(cached_attention(level)), scratch_(plan, step.count, participants), queue_(kPhasesOfLayer * static_cast<int64_t>(plan.layers.size()) + kOtherPhases) {
    all_wanted_ = step.logit_count == step.count;
    make_tiles();
    if (step.adapters) adapters_ = std::make_unique<AdapterRun>(plan, step, level);
  }

  // The whole step, or what the other participants leave of it.
  void participate();

 private:
  static constexpr int64_t kPhasesOfLayer = 14, kOtherPhases = 4;
  struct Me {
    WorkQueue::Participant queue;
    const OperandRoom& own;
  };

  bool is_last(int64_t index) const { return index + 1 == static_cast<int64_t>(plan_.layers.size()); }
  bool has_wanted(TokenTile tile) const;
  void make_tiles();
  template <class Body> void each_rows(Me& me, int64_t rows, Body&& body);
  template <class Body> void each_row(Me& me, int64_t rows, Body&& body);
  template <class Body> void product(Me& me, int64_t rows, const Input& input, int64_t groups, Body&& body, const Adapted& adapted = {});
  void embed(int64_t row);
  void keep_wanted(Me& me);
  void run_layer(Me& me, int64_t index);
  void prepare(const Input& input, const OperandRoom& room, const QuantizedRows& quantized, int64_t row) const;
  void multiply(const DecoderMatrix& matrix, const Operand& x, Range rows, Range groups, float* out, int64_t stride) const;
  void multiply_head(const Operand& x, Range rows, Range groups) const;
  void multiply_qkv(const DecoderLayer& layer, const Operand& x, Range rows, Range groups, const Adapted& adapted);
  void multiply_inner(const DecoderLayer& layer, const Operand& x, Range rows, Range groups, const Adapted& adapted);
  void add_product(const DecoderMatrix& matrix, const float* bias, const Operand& x, Range rows, Range groups, const Adapted& adapted);
  void adapt(const Adapted& adapted, int target, Range rows, Range groups, float* out, int64_t stride) const;
  CachedHead cached_head(int64_t layer, int64_t slot, int64_t head) const;
  void turn(float* x, const float* bias, const float* norm, float scale, int64_t row) const;
  void take_in(int64_t index, int64_t row, int64_t head);
  void attend(int64_t index, TokenTile tile, int64_t head);
  void attention(Me& me, int64_t index);

  const DecoderPlan& plan_;
  uint16_t* cache_;
  const DecoderStep& step_;
  float* logits_;
  int participants_;
  const PackedLinearKernels& linear_;
  const NormKernels& norms_;
  const DecoderRowKernels& rows_;
  const CachedAttentionKernels& attention_;
  DecoderScratch scratch_;
  WorkQueue queue_;
  std::atomic<int> joined_{0};
  std::vector<TokenTile> tiles_;
  std::unique_ptr<AdapterRun> adapters_;  // null: no row has an adapter
  bool single_ = true;  // no slot has more than one token
  bool all_wanted_ = true;
};

bool takes_floats(const DecoderMatrix& matrix) { return !is_quantized(matrix.format); }

// Planes that any of the matrices wants, as fine as the one that wants the finest does.
Int8Planes planes_of(std::initializer_list<const DecoderMatrix*> matrices) {
  Int8Planes planes{0, kNibbleSteps};
  for (const auto* matrix : matrices)
    if (matrix->present() && !takes_floats(*matrix)) planes = {std::max(planes.count, matrix->planes), std::max(planes.steps, steps_for(matrix->format))};
  return planes;
}

// For logits: nothing behind them evens their rounding out.
Int8Planes finest_planes_of(std::initializer_list<const DecoderMatrix*> matrices) { return {planes_of(matrices).count, kByteSteps}; }

void DecoderRun::make_tiles() {
  const int64_t most = std::max<int64_t>(1, attention_.queries / plan_.group());
  for (int64_t begin = 0, end; begin < step_.count; begin = end) {
    for (end = begin + 1; end < step_.count && step_.slots[end] == step_.slots[begin];) ++end;
    if (end - begin > 1) single_ = false;
    for (int64_t first = begin; first < end; first += most) tiles_.push_back({first, std::min(most, end - first)});
  }
  // the last tokens of a prompt see the most: begin with them
  std::reverse(tiles_.begin(), tiles_.end());
}

// body(first, last) for all rows, a few at a time.
template <class Body> void DecoderRun::each_rows(Me& me, int64_t rows, Body&& body) {
  const int64_t size = rows > DecoderScratch::kOwnRows ? kRowsOfChunk : 1;
  me.queue.phase(pieces(rows, size), [&](int64_t chunk) { body(chunk * size, std::min(rows, (chunk + 1) * size)); });
}

// body(row) for every row.
template <class Body> void DecoderRun::each_row(Me& me, int64_t rows, Body&& body) {
  each_rows(me, rows, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) body(row);
  });
}

// body(operand, rows, groups) over blocks of rows and ranges of groups; before it, the narrow half of
// what adapters add.
template <class Body> void DecoderRun::product(Me& me, int64_t rows, const Input& input, int64_t groups, Body&& body, const Adapted& adapted) {
  const bool own = step_.count <= DecoderScratch::kOwnRows;
  const OperandRoom& room = own ? me.own : scratch_.shared_room;
  Operand x{input.norm ? room.floats : input.floats, input.norm ? input.columns : input.stride, {}};
  if (input.planes.count) x.quantized = place_quantized(room.quantized, rows, input.columns, input.planes.count, input.planes.steps);
  bool ready = !own;
  const bool changed = adapters_ && adapters_->changes(adapted), together = !own && (input.norm || input.planes.count);
  if (together) {
    // the narrow half of a few rows with their preparation: to meet once more costs as much as it takes
    each_rows(me, rows, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) prepare(input, room, x.quantized, row);
      if (changed) adapters_->down_rows(adapted, first, last, x.floats, x.stride);
    });
  }
  const auto prepare_own = [&] {
    // not before a chunk is claimed: until then the others may be phases ahead
    if (!ready) for (int64_t row = 0; row < rows; ++row) prepare(input, room, x.quantized, row);
    ready = true;
  };
  if (changed && !together) {
    me.queue.phase(adapters_->down_chunks(adapted), [&](int64_t chunk) {
      prepare_own();
      adapters_->down(adapted, chunk, x.floats, x.stride);
    });
  }

  const int64_t block_rows = pieces(pieces(rows, pieces(rows, kRowBlock)), kRowUnit) * kRowUnit, row_blocks = pieces(rows, block_rows);
  const int64_t wanted = participants_ == 1 ? 1 : participants_ * (own ? kChunksOfFewRows : kChunksOfManyRows);
  const int64_t size = pieces(groups, std::min(groups, pieces(wanted, row_blocks)));
  me.queue.phase(row_blocks * pieces(groups, size), [&](int64_t chunk) {
    prepare_own();
    const int64_t block = chunk % row_blocks, range = chunk / row_blocks;
    body(x, Range{block * block_rows, std::min(rows, (block + 1) * block_rows)}, Range{range * size, std::min(groups, (range + 1) * size)});
  });
}

void DecoderRun::prepare(const Input& input, const OperandRoom& room, const QuantizedRows& quantized, int64_t row) const {
  const float* x = input.floats + row * input.stride;
  if (input.norm) {
    float* normed = room.floats + row * input.columns;
    if (plan_.layer_norm) norms_.layer_norm(x, nullptr, input.norm->weight, input.norm->bias, plan_.epsilon, 1, input.columns, normed);
    else norms_.rms_norm(x, input.norm->weight, plan_.epsilon, 1, input.columns, normed);
    x = normed;
  }
  if (input.planes.count) linear_.quantize(x, input.columns, 1, input.columns, quantized_from(quantized, row));
}

void DecoderRun::embed(int64_t row) {
  float* x = scratch_.x + row * plan_.width;
  linear_.read_row(plan_.embedding, step_.tokens[row], x);
  if (!plan_.positions.present()) return;
  float* position = scratch_.product + row * scratch_.product_stride;
  linear_.read_row(plan_.positions, step_.positions[row], position);
  rows_.add(x, position, nullptr, plan_.width);
}

void DecoderRun::multiply(const DecoderMatrix& matrix, const Operand& x, Range rows, Range groups, float* out, int64_t stride) const {
  if (takes_floats(matrix)) {
    linear_.multiply_float(matrix, x.floats + rows.begin * x.stride, x.stride, rows.count(), groups.begin, groups.end, out, stride);
    return;
  }
  QuantizedRows part = quantized_from(x.quantized, rows.begin);
  part.planes = matrix.planes;
  linear_.multiply_quantized(matrix, part, rows.count(), groups.begin, groups.end, out, stride);
}

// What the rows' adapters add to the outputs of some groups; `out` is that of the first row.
void DecoderRun::adapt(const Adapted& adapted, int target, Range rows, Range groups, float* out, int64_t stride) const {
  if (adapters_) adapters_->up(adapted, target, rows.begin, rows.end, groups.begin * kGroup, groups.end * kGroup, out, stride);
}

// x += product + bias, for the outputs of some groups.
void DecoderRun::add_product(const DecoderMatrix& matrix, const float* bias, const Operand& x, Range rows, Range groups, const Adapted& adapted) {
  const int64_t stride = scratch_.product_stride, first = groups.begin * kGroup, count = std::min(plan_.width, groups.end * kGroup) - first;
  float* out = scratch_.product + rows.begin * stride;
  multiply(matrix, x, rows, groups, out, stride);
  adapt(adapted, adapted.first, rows, groups, out, stride);
  for (int64_t row = rows.begin; row < rows.end; ++row, out += stride)
    rows_.add(scratch_.x + row * plan_.width + first, out + first, bias ? bias + first : nullptr, count);
}

// Groups of query, key and value, counted one behind the other.
void DecoderRun::multiply_qkv(const DecoderLayer& layer, const Operand& x, Range rows, Range groups, const Adapted& adapted) {
  const DecoderMatrix* matrices[] = {&layer.query, &layer.key, &layer.value};
  const int64_t places[] = {scratch_.query_at, scratch_.key_at, scratch_.value_at};
  int64_t before = 0;
  for (int i = 0; i < 3; ++i) {
    const int64_t own = matrices[i]->groups();
    const Range part{std::max(groups.begin - before, int64_t{0}), std::min(groups.end - before, own)};
    float* out = scratch_.qkv + rows.begin * scratch_.qkv_stride + places[i];
    if (part.begin < part.end) {
      multiply(*matrices[i], x, rows, part, out, scratch_.qkv_stride);
      adapt(adapted, kQuery + i, rows, part, out, scratch_.qkv_stride);
    }
    before += own;
  }
}

// activation(gate) * up, or activation(up).
void DecoderRun::multiply_inner(const DecoderLayer& layer, const Operand& x, Range rows, Range groups, const Adapted& adapted) {
  const int64_t stride = scratch_.inner_stride, first = groups.begin * kGroup, count = std::min(plan_.inner, groups.end * kGroup) - first;
  const bool gated = plan_.gated;
  float* out = scratch_.inner + rows.begin * stride;
  float* up = gated ? scratch_.up + rows.begin * stride : nullptr;
  multiply(gated ? layer.gate : layer.up, x, rows, groups, out, stride);
  if (up) multiply(layer.up, x, rows, groups, up, stride);
  adapt(adapted, gated ? kGate : kUp, rows, groups, out, stride);
  if (up) adapt(adapted, kUp, rows, groups, up, stride);
  const float *bias = gated ? layer.gate_bias : layer.up_bias, *up_bias = gated ? layer.up_bias : nullptr;
  for (int64_t at = first; at < first + rows.count() * stride; at += stride)
    rows_.activate(plan_.activation, out + at, bias ? bias + first : nullptr, up ? up + at : nullptr, up_bias ? up_bias + first : nullptr, count);
}

// A row of logits may end inside the vocabulary's last group, and the kernel writes whole groups.
void DecoderRun::multiply_head(const Operand& x, Range rows, Range groups) const {
  const int64_t vocabulary = plan_.vocabulary, whole = vocabulary / kGroup, left = vocabulary % kGroup;
  float* out = logits_ + rows.begin * vocabulary;
  const Range full{groups.begin, std::min(groups.end, whole)};
  if (full.begin < full.end) multiply(plan_.head, x, rows, full, out, vocabulary);
  if (groups.end <= whole) return;
  DecoderMatrix last = plan_.head;
  last.data += packed_bytes(last.format, whole * kGroup, last.columns);
  last.rows = left;
  float values[kRowBlock * kGroup];
  multiply(last, x, rows, {0, 1}, values, kGroup);
  for (int64_t row = 0; row < rows.count(); ++row) std::copy_n(values + row * kGroup, left, out + row * vocabulary + whole * kGroup);
}

CachedHead DecoderRun::cached_head(int64_t layer, int64_t slot, int64_t head) const {
  const int64_t one = cached_head_elements(plan_.context, plan_.head_width);
  return CachedHead(cache_ + slot * plan_.slot_elements + (layer * plan_.kv_heads + head) * one, plan_.context, plan_.head_width);
}

void DecoderRun::turn(float* x, const float* bias, const float* norm, float scale, int64_t row) const {
  const int64_t angle = step_.positions[row] * (plan_.head_width / 2);
  rows_.turn_head(x, bias, norm, plan_.epsilon, plan_.cosine ? plan_.cosine + angle : nullptr, plan_.sine ? plan_.sine + angle : nullptr, scale, plan_.head_width);
}

// A token's queries of one key and value head get their positions, its key and value go to the cache.
void DecoderRun::take_in(int64_t index, int64_t row, int64_t head) {
  const DecoderLayer& layer = plan_.layers[static_cast<size_t>(index)];
  const int64_t width = plan_.head_width, at = head * width;
  float* qkv = scratch_.qkv + row * scratch_.qkv_stride;
  for (int64_t i = head * plan_.group(); i < (head + 1) * plan_.group(); ++i)
    turn(qkv + scratch_.query_at + i * width, layer.query_bias ? layer.query_bias + i * width : nullptr, layer.query_norm, plan_.score_scale, row);
  float *key = qkv + scratch_.key_at + at, *value = qkv + scratch_.value_at + at;
  turn(key, layer.key_bias ? layer.key_bias + at : nullptr, layer.key_norm, 1.0f, row);
  if (layer.value_bias) rows_.add(value, layer.value_bias + at, nullptr, width);
  attention_.append(cached_head(index, step_.slots[row], head), step_.positions[row], key, value);
}

void DecoderRun::attend(int64_t index, TokenTile tile, int64_t head) {
  const int64_t width = plan_.head_width * plan_.group();
  float* queries = scratch_.qkv + tile.first * scratch_.qkv_stride + scratch_.query_at + head * width;
  const QueryTile all{queries, queries, scratch_.qkv_stride, tile.count, plan_.group(), step_.positions[tile.first]};
  attention_.attend(cached_head(index, step_.slots[tile.first], head), all);
}

// Whether there is a token in it whose logits are wanted.
bool DecoderRun::has_wanted(TokenTile tile) const {
  const int32_t* end = step_.logit_rows + step_.logit_count;
  const int32_t* found = std::lower_bound(step_.logit_rows, end, static_cast<int32_t>(tile.first));
  return found != end && *found < tile.first + tile.count;
}

void DecoderRun::attention(Me& me, int64_t index) {
  const int64_t heads = plan_.kv_heads;
  const bool last = is_last(index);
  if (!single_) {
    each_row(me, step_.count, [&](int64_t row) {
      for (int64_t head = 0; head < heads; ++head) take_in(index, row, head);
    });
  }
  me.queue.phase(static_cast<int64_t>(tiles_.size()) * heads, [&](int64_t chunk) {
    const TokenTile tile = tiles_[static_cast<size_t>(chunk / heads)];
    if (single_) take_in(index, tile.first, chunk % heads);
    if (!last || has_wanted(tile)) attend(index, tile, chunk % heads);
  });
}

// Moves the rows whose logits are wanted to the front, in their order: x, and what was attended to.
void DecoderRun::keep_wanted(Me& me) {
  float* attended = scratch_.qkv + scratch_.query_at;
  me.queue.phase(1, [&](int64_t) {
    for (int64_t i = 0; i < step_.logit_count; ++i) {
      const int64_t row = step_.logit_rows[i];
      if (row == i) continue;
      std::copy_n(scratch_.x + row * plan_.width, plan_.width, scratch_.x + i * plan_.width);
      std::copy_n(attended + row * scratch_.qkv_stride, plan_.query_width(), attended + i * scratch_.qkv_stride);
    }
  });
}

void DecoderRun::run_layer(Me& me, int64_t index) {
  const DecoderLayer& layer = plan_.layers[static_cast<size_t>(index)];
  const int64_t width = plan_.width, width_groups = pieces(width, kGroup);
  const Input before{scratch_.x, width, width, planes_of({&layer.query, &layer.key, &layer.value}), &layer.attention_norm};
  const int64_t qkv_groups = layer.query.groups() + layer.key.groups() + layer.value.groups();
  const Adapted qkv{index, kQuery, kValue, false};
  product(me, step_.count, before, qkv_groups, [&](const Operand& x, Range part, Range groups) { multiply_qkv(layer, x, part, groups, qkv); }, qkv);
  attention(me, index);
  // the other rows of the last layer are not needed but for their keys and values
  const bool fewer = is_last(index) && !all_wanted_;
  const int64_t rows = fewer ? step_.logit_count : step_.count;
  if (rows == 0) return;
  if (fewer) keep_wanted(me);
  const Input attended{scratch_.qkv + scratch_.query_at, scratch_.qkv_stride, plan_.query_width(), planes_of({&layer.output})};
  const Adapted output{index, kOutput, kOutput, fewer};
  product(me, rows, attended, width_groups, [&](const Operand& x, Range part, Range groups) { add_product(layer.output, layer.output_bias, x, part, groups, output); }, output);
  const Input between{scratch_.x, width, width, planes_of({&layer.gate, &layer.up}), &layer.mlp_norm};
  const Adapted wide{index, kGate, kUp, fewer};
  product(me, rows, between, layer.up.groups(), [&](const Operand& x, Range part, Range groups) { multiply_inner(layer, x, part, groups, wide); }, wide);
  const Input inner{scratch_.inner, scratch_.inner_stride, plan_.inner, planes_of({&layer.down})};
  const Adapted down{index, kDown, kDown, fewer};
  product(me, rows, inner, width_groups, [&](const Operand& x, Range part, Range groups) { add_product(layer.down, layer.down_bias, x, part, groups, down); }, down);
}

void DecoderRun::participate() {
  const int number = joined_.fetch_add(1, std::memory_order_relaxed);
  if (number >= participants_) return;
  const FlushSubnormals flush;
  Me me{WorkQueue::Participant(queue_), scratch_.own_room(number)};
  each_row(me, step_.count, [&](int64_t row) { embed(row); });
  for (int64_t i = 0; i < static_cast<int64_t>(plan_.layers.size()); ++i) run_layer(me, i);
  if (step_.logit_count == 0) return;
  const Input last{scratch_.x, plan_.width, plan_.width, finest_planes_of({&plan_.head}), &plan_.norm};
  product(me, step_.logit_count, last, plan_.head.groups(), [&](const Operand& x, Range part, Range groups) { multiply_head(x, part, groups); });
}

}  // namespace

void run_decoder(const DecoderPlan& plan, uint16_t* cache, const DecoderStep& step, float* logits, const Threads& threads, Level level) {
  const int participants = std::max(1, threads.count());
  DecoderRun run(plan, cache, step, logits, participants, level);
  threads.parallel(participants, 1, [&](int64_t, int64_t) { run.participate(); });
}

}  // namespace ironcliw
