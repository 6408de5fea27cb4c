// What adapters (LoRA) add to the products of a layer. For each run of rows under one of them, x A^T
// comes before the wide product; that times B^T is added to the wide product's sums, 32 by 32, before
// bias and activation, while they are in the cache.
#pragma once

#include "kernels/encoder_products.h"

IRONCLIW_BEGIN
namespace encoder {

// Parts of one layer that are one product: its input has `inputs` columns, the output of each part
// `outputs`.
struct Stage {
  int64_t layer, first_part, parts, outputs, inputs;
};

template <class Number> class AdaptedRows {
 public:
  using Value = typename Number::Value;

  AdaptedRows(Memory& memory, const EncoderModel& model, EncoderTexts texts, const EncoderAdapters& adapters, int64_t parts)
      : layers_(model.count) {
    if (!adapters.of_text) return;
    const int64_t rows = row_count(texts.tokens());
    stride_ = row_stride(adapters.columns);
    panel_bytes_ = encoder_round_up(Number::scratch_bytes(kRows, adapters.columns), 64);
    runs_ = memory.take<Run>(texts.count);
    first_ = memory.take<int32_t>(rows / kRows);
    inner_ = memory.take<Value>(rows * stride_);
    panels_ = memory.take<uint8_t>(panel_bytes_ * parts);
    if (memory.base) find(texts, adapters);
  }

  // x A^T of the rows [begin, end), whose first is that of a block; kept until the next stage.
  void narrow(const Stage& stage, const Value* x, int64_t x_stride, int64_t begin, int64_t end, uint8_t* scratch, const Tiles& tiles) const {
    each_run(begin, end, [&](const Run& run, int64_t from, int64_t to) {
      // tiles take whole blocks of rows
      const int64_t start = tiles.on ? from / kRows * kRows : from;
      each_change(stage, run, [&](const EncoderLowRank& change, int64_t, int64_t column) {
        const EncoderLinear a{change.a, nullptr, change.ranks, stage.inputs};
        multiply<Number>(x + start * x_stride, x_stride, to - start, a, scratch, tiles, [&](int64_t m, int count, int64_t n, int64_t outputs, const float* sums) {
          for (int64_t r = start + m < from ? from - start - m : 0; r < count; ++r)
            put_panel(sums + r * kPanelColumns, outputs, inner_ + (start + m + r) * stride_ + column + n);
        });
      });
    });
  }

  // Adds to the sums [32, 32] of a stage's product, of `count` rows from `row`, the first of a block, and
  // of outputs from n on.
  void add(const Stage& stage, int64_t row, int count, int64_t n, float* sums, int64_t part, const Tiles& tiles) const {
    each_run(row, row + count, [&](const Run& run, int64_t from, int64_t to) {
      each_change(stage, run, [&](const EncoderLowRank& change, int64_t own, int64_t column) {
        if (n + kPanelColumns <= own || n >= own + stage.outputs) return;
        const EncoderLinear b{change.b, nullptr, stage.outputs, change.ranks};
        const void* panel = Number::panel(b, n / kPanelColumns - own / kPanelColumns, panels_ + part * panel_bytes_);
        add_product(panel, change.ranks, column, row, from, to, sums, tiles);
      });
    });
  }

 private:
  // Rows [begin, end) of neighbouring texts under one adapter.
  struct Run {
    int64_t begin, end;
    const EncoderLowRank* changes;  // [layers, 6]
  };

  void find(EncoderTexts texts, const EncoderAdapters& adapters) {
    const int64_t rows = texts.tokens();
    for (int64_t i = 0; i < texts.count; ++i) {
      if (adapters.of_text[i] < 0) continue;
      const int64_t begin = texts.starts[i] - texts.starts[0], end = texts.starts[i + 1] - texts.starts[0];
      const EncoderLowRank* changes = adapters.changes + adapters.of_text[i] * layers_ * kEncoderParts;
      if (count_ > 0 && runs_[count_ - 1].end == begin && runs_[count_ - 1].changes == changes) runs_[count_ - 1].end = end;
      else runs_[count_++] = {begin, end, changes};
    }
    int32_t run = 0;
    for (int64_t row = 0; row < rows; row += kRows) {
      while (run < count_ && runs_[run].end <= row) ++run;
      first_[row / kRows] = run;
    }
  }

  // f(run, first row, end) for what runs have of the rows [begin, end).
  template <class F> void each_run(int64_t begin, int64_t end, F&& f) const {
    if (count_ == 0) return;
    for (int32_t i = first_[begin / kRows]; i < count_ && runs_[i].begin < end; ++i)
      f(runs_[i], runs_[i].begin < begin ? begin : runs_[i].begin, runs_[i].end < end ? runs_[i].end : end);
  }

  // f(change, first output of its part in the stage, its first column between A and B)
  template <class F> void each_change(const Stage& stage, const Run& run, F&& f) const {
    const EncoderLowRank* changes = run.changes + stage.layer * kEncoderParts + stage.first_part;
    int64_t column = 0;
    for (int64_t i = 0; i < stage.parts; ++i) {
      if (changes[i].ranks == 0) continue;
      f(changes[i], i * stage.outputs, column);
      column += encoder_round_up(changes[i].ranks, 32);
    }
  }

  // Zeros behind the sums that are there: products read a part's columns to a multiple of 32.
  static void put_panel(const float* sums, int64_t outputs, Value* to) {
    for (int64_t c = 0; c < kPanelColumns; c += 16)
      put_rounded(to + c, c < outputs ? choose_first(lanes(outputs, c), load(sums + c), zero()) : zero(), 16);
  }

  void add_product(const void* panel, int64_t ranks, int64_t column, int64_t row, int64_t from, int64_t to, float* sums, const Tiles& tiles) const {
    if (!tiles.on)
      return Number::add_block(inner_ + from * stride_ + column, stride_, panel, ranks, static_cast<int>(to - from), sums + (from - row) * kPanelColumns, kPanelColumns);
    alignas(64) float own[kRows * kPanelColumns];
    Number::block(inner_ + row * stride_ + column, stride_, panel, ranks, static_cast<int>(to - row), own, kPanelColumns, tiles);
    for (int64_t i = (from - row) * kPanelColumns; i < (to - row) * kPanelColumns; i += 16) store(sums + i, load(sums + i) + load(own + i));
  }

  int64_t layers_, stride_ = 0, panel_bytes_ = 0;
  Run* runs_ = nullptr;
  int64_t count_ = 0;
  int32_t* first_ = nullptr;  // of each block of rows the first run that ends behind its beginning
  Value* inner_ = nullptr;
  uint8_t* panels_ = nullptr;
};

}  // namespace encoder
IRONCLIW_END
