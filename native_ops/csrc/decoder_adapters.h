// Low-rank changes of a decoder's matrices (LoRA), as native_ops/decoder_adapters.py packs them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "decoder_plan.h"

namespace ironcliw {

constexpr int64_t kAdapterVersion = 1, kMostRanks = 1024;

// Which matrix of a layer is changed: the order of DecoderLayer, and of the plan's records.
enum Target : int { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown, kTargets };

// y += scale * (x A^T) B^T. A [ranks, inputs]; B [outputs / 16][ranks][16], filled up with zeros.
struct AdapterPart {
  const void *a = nullptr, *b = nullptr;
  int64_t ranks = 0;  // 0: the matrix is not changed
  float scale = 0;
};

struct DecoderAdapter {
  bool brief = false;              // bfloat16, else float32
  std::vector<AdapterPart> parts;  // [layers][kTargets]
};

// The matrix of a layer that a target stands for.
const DecoderMatrix& target_matrix(const DecoderLayer& layer, int target);

// Fills `adapter`, or says which rule the numbers break.
std::string read_adapter(const int64_t* numbers, int64_t count, const uint8_t* bytes, int64_t held, const DecoderPlan& plan, DecoderAdapter& adapter);

}  // namespace ironcliw
