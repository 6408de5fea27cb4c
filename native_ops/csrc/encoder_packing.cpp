// The packed form of an encoder's weights and adapters, the same on every level, and whether there are
// tiles.
#include "kernels/encoder.h"

#include <cmath>
#include <cstring>

namespace ironcliw {
namespace {

uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (std::isnan(x)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Where in a panel the weight of an output and an input stands, in elements.
int64_t place(int64_t filled, int64_t output, int64_t input, int64_t together) {
  return output / 16 * (filled * 16) + input / together * (16 * together) + output % 16 * together + input % together;
}

void pack_int8(const float* row, int64_t inputs, int64_t output, uint8_t* panel) {
  const int64_t filled = encoder_round_up(inputs, 64);
  float largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < inputs; ++i) {
    finite = finite && std::isfinite(row[i]);
    largest = std::fmax(largest, std::fabs(row[i]));
  }
  // a row of zeros has no scale of its own; int8 holds no NaN and no infinity, so the scale does
  const float scale = !finite ? std::nanf("") : largest > 0 ? largest / 127 : 1;
  const float divisor = scale > 0 ? scale : 1;  // that of a row below 1e-43 is 0
  for (int64_t i = 0; finite && i < inputs; ++i) {
    const float value = std::fmin(std::fmax(std::nearbyint(row[i] / divisor), -127.0f), 127.0f);
    panel[place(filled, output, i, 4)] = static_cast<uint8_t>(static_cast<int8_t>(value));
  }
  std::memcpy(panel + filled * kPanelColumns + 4 * output, &scale, 4);
}

bool tiles_wanted = true;

}  // namespace

int64_t encoder_panel_bytes(EncoderNumber number, int64_t inputs) {
  switch (number) {
    case EncoderNumber::f32: return inputs * kPanelColumns * 4;
    case EncoderNumber::bf16: return encoder_round_up(inputs, 32) * kPanelColumns * 2;
    default: return encoder_round_up(inputs, 64) * kPanelColumns + 4 * kPanelColumns;
  }
}

void encoder_pack(EncoderNumber number, const float* weight, int64_t outputs, int64_t inputs, uint8_t* packed) {
  const int64_t panel_bytes = encoder_panel_bytes(number, inputs);
  std::memset(packed, 0, static_cast<size_t>(encoder_packed_bytes(number, outputs, inputs)));
  for (int64_t n = 0; n < outputs; ++n) {
    const float* row = weight + n * inputs;
    uint8_t* panel = packed + n / kPanelColumns * panel_bytes;
    const int64_t output = n % kPanelColumns;
    if (number == EncoderNumber::int8) {
      pack_int8(row, inputs, output, panel);
      continue;
    }
    for (int64_t i = 0; i < inputs; ++i) {
      if (number == EncoderNumber::f32) {
        std::memcpy(panel + 4 * (i * kPanelColumns + output), row + i, 4);
      } else {
        const uint16_t value = to_bf16(row[i]);
        std::memcpy(panel + 2 * place(encoder_round_up(inputs, 32), output, i, 2), &value, 2);
      }
    }
  }
}

int64_t encoder_columns(const EncoderLowRank* changes, int64_t layers) {
  int64_t most = 0;
  for (int64_t i = 0; i < layers * kEncoderParts; i += kEncoderParts) {
    int64_t joined = 0;
    for (int64_t part = 0; part < kEncoderParts; ++part) {
      const int64_t columns = encoder_round_up(changes[i + part].ranks, kPanelColumns);
      joined = part < 3 ? joined + columns : columns;
      most = most < joined ? joined : most;
    }
  }
  return most;
}

bool encoder_tiles() { return tiles_wanted && level() == Level::amx; }

bool encoder_use_tiles(bool wanted) {
  const bool before = tiles_wanted;
  tiles_wanted = wanted;
  return before;
}

}  // namespace ironcliw
