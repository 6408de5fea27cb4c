// The memory of one decoder step, laid out once.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "decoder.h"

namespace ironcliw {

// Room for the rows that a product takes: normed, and as int8.
struct OperandRoom {
  float* floats = nullptr;
  void* quantized = nullptr;
};

class DecoderScratch {
 public:
  // Each participant prepares the operands of so few rows by itself: it takes less than meeting once
  // more does.
  static constexpr int64_t kOwnRows = 8;

  DecoderScratch(const DecoderPlan& plan, int64_t rows, int participants) {
    const int64_t width = plan.width, query = rounded(plan.query_width()), key = rounded(plan.key_width());
    query_at = 0;
    key_at = query;
    value_at = query + key;
    qkv_stride = query + 2 * key;
    inner_stride = rounded(plan.inner);
    product_stride = rounded(width);
    const int64_t most = std::max({width, plan.inner, plan.query_width()});
    own_rooms_.resize(static_cast<size_t>(participants));
    for (int pass = 0; pass < 2; ++pass) {  // first the size, then the places
      at_ = 0;
      place(x, rows * width);
      place(qkv, rows * qkv_stride);
      place(product, rows * product_stride);
      place(inner, rows * inner_stride);
      place(up, plan.gated ? rows * inner_stride : 0);
      const int64_t shared = rows > kOwnRows ? rows : 0, own = rows > kOwnRows ? 0 : rows;
      place_room(shared_room, shared, width, most);
      for (auto& room : own_rooms_) place_room(room, own, width, most);
      if (pass == 0) allocate();
    }
  }
  ~DecoderScratch() { std::free(memory_); }
  DecoderScratch(const DecoderScratch&) = delete;
  DecoderScratch& operator=(const DecoderScratch&) = delete;

  const OperandRoom& own_room(int participant) const { return own_rooms_[static_cast<size_t>(participant)]; }

  float *x = nullptr;         // [rows, width]: the residual stream
  float *qkv = nullptr;       // [rows, qkv_stride]: queries (then what they attended to), keys, values
  float *product = nullptr;   // [rows, product_stride]: before it is added to x
  float *inner = nullptr, *up = nullptr;  // [rows, inner_stride]
  int64_t query_at, key_at, value_at, qkv_stride, product_stride, inner_stride;
  OperandRoom shared_room;

 private:
  static int64_t rounded(int64_t count) { return (count + kGroup - 1) / kGroup * kGroup; }

  void* take(int64_t bytes) {
    void* part = memory_ ? memory_ + at_ : nullptr;
    at_ += (bytes + 63) / 64 * 64;
    return part;
  }
  void place(float*& part, int64_t count) { part = static_cast<float*>(take(4 * count)); }
  void place_room(OperandRoom& room, int64_t rows, int64_t width, int64_t most) {
    place(room.floats, rows * width);
    room.quantized = take(quantized_bytes(rows, most, 2));
  }
  void allocate() {
    memory_ = static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(at_ + 64)));
    if (!memory_) throw std::bad_alloc();
  }

  uint8_t* memory_ = nullptr;
  std::vector<OperandRoom> own_rooms_;
  int64_t at_ = 0;
};

}  // namespace ironcliw
