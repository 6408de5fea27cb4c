#include "decoder_adapters.h"

#include <cmath>
#include <cstring>
#include <sstream>

namespace ironcliw {
namespace {

constexpr int64_t kHeaderNumbers = 3, kPartNumbers = 4, kFloat = 0, kBrief = 30;  // ggml's numbers of types
const char* const kNames[kTargets] = {"query", "key", "value", "output", "gate", "up", "down"};

template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Where a piece stands; null where it is not inside, or not at a multiple of 64.
const void* place(const uint8_t* bytes, int64_t held, int64_t offset, int64_t size) {
  const bool inside = offset >= 0 && offset % 64 == 0 && offset <= held && size <= held - offset;
  return inside ? bytes + offset : nullptr;
}

std::string read_part(const int64_t* numbers, const uint8_t* bytes, int64_t held, const DecoderMatrix& matrix, const char* name, int64_t size, AdapterPart& part) {
  part.ranks = numbers[0];
  if (part.ranks == 0) return "";
  if (part.ranks < 0 || part.ranks > kMostRanks) return text("adapter_plans must have ranks of ", name, " from 0 to ", kMostRanks, "; they are ", part.ranks);
  if (!matrix.present()) return text("adapter_plans must have no ranks of ", name, ", which the model lacks; they are ", part.ranks);
  const auto bits = static_cast<uint32_t>(numbers[1]);
  std::memcpy(&part.scale, &bits, 4);
  if (numbers[1] < 0 || numbers[1] > 0xffffffffLL || !std::isfinite(part.scale)) return text("adapter_plans must have a finite scale of ", name, "; its bits are ", numbers[1]);
  part.a = place(bytes, held, numbers[2], size * part.ranks * matrix.columns);
  part.b = place(bytes, held, numbers[3], size * part.ranks * matrix.groups() * kGroup);
  if (!part.a || !part.b) return text("adapter_plans must have ", name, " inside the adapter's ", held, " bytes, at multiples of 64; it is at ", numbers[2], " and ", numbers[3]);
  return "";
}

}  // namespace

const DecoderMatrix& target_matrix(const DecoderLayer& layer, int target) {
  const DecoderMatrix* matrices[kTargets] = {&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down};
  return *matrices[target];
}

std::string read_adapter(const int64_t* numbers, int64_t count, const uint8_t* bytes, int64_t held, const DecoderPlan& plan, DecoderAdapter& adapter) {
  const auto layers = static_cast<int64_t>(plan.layers.size()), wanted = kHeaderNumbers + layers * kTargets * kPartNumbers;
  if (count < kHeaderNumbers || numbers[0] != kAdapterVersion) return text("adapter_plans must have version ", kAdapterVersion, "; it is ", count ? numbers[0] : 0);
  if (numbers[1] != kFloat && numbers[1] != kBrief) return text("adapter_plans must have the format of float32 or bfloat16; it is ", numbers[1]);
  if (numbers[2] != layers || count != wanted) return text("adapter_plans must have the model's ", layers, " layers in ", wanted, " numbers; they have ", numbers[2], " in ", count);
  adapter.brief = numbers[1] == kBrief;
  adapter.parts.resize(static_cast<size_t>(layers * kTargets));
  const int64_t* at = numbers + kHeaderNumbers;
  for (size_t i = 0; i < adapter.parts.size(); ++i, at += kPartNumbers) {
    const auto& layer = plan.layers[i / kTargets];
    const int target = static_cast<int>(i % kTargets);
    const std::string wrong = read_part(at, bytes, held, target_matrix(layer, target), kNames[target], adapter.brief ? 2 : 4, adapter.parts[i]);
    if (!wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace ironcliw
