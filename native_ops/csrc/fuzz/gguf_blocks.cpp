// Whatever stands in a file's blocks, packing and multiplying them must stay within their memory.
// The first four bytes choose format, rows, columns, and both planes and rows of activations; what
// follows is the source. Every level of this machine is fed, AMX among them where it is there.
#include <cstring>
#include <vector>

#include "kernels/packed_linear.h"

using namespace ironcliw;

namespace {

constexpr Format kFormats[] = {Format::f32, Format::f16, Format::bf16, Format::q4_0, Format::q4_1, Format::q8_0, Format::q4_k, Format::q6_k, Format::int8};
// Rows of activations: each size of a tile of vectors, then those that take AMX's tiles of 16: one,
// two that overlap, several, and more than are held at a time.
constexpr int64_t kRows[] = {1, 2, 3, 7, 8, 15, 16, 17, 33, 69, 83};

void multiply(const PackedLinearKernels& kernels, const PackedMatrix& w, int planes, int64_t rows) {
  const int64_t stride = w.groups() * kGroup;
  const std::vector<float> x(static_cast<size_t>(rows * w.columns), 0.75f);
  std::vector<float> out(static_cast<size_t>(rows * stride)), row(static_cast<size_t>(w.columns));
  if (is_quantized(w.format)) {
    std::vector<int32_t> memory(static_cast<size_t>(quantized_bytes(rows, w.columns, planes) + 3) / 4);
    const QuantizedRows inputs = place_quantized(memory.data(), rows, w.columns, planes, steps_for(w.format));
    kernels.quantize(x.data(), w.columns, rows, w.columns, inputs);
    kernels.multiply_quantized(w, inputs, rows, 0, w.groups(), out.data(), stride);
  } else {
    kernels.multiply_float(w, x.data(), w.columns, rows, 0, w.groups(), out.data(), stride);
  }
  if (w.rows) kernels.read_row(w, w.rows - 1, row.data());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  if (count < 4) return 0;
  const Format format = kFormats[bytes[0] % (sizeof kFormats / sizeof *kFormats)];
  const int64_t rows = bytes[1] % 35, columns = bytes[2] % 5 * columns_multiple(format);
  // exactly as long as it must be, so that a read behind it is seen; short input is repeated
  std::vector<uint8_t> source(static_cast<size_t>(rows * source_row_bytes(format, columns)));
  for (size_t i = 0; i < source.size() && count > 4; ++i) source[i] = bytes[4 + i % (count - 4)];
  std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(format, rows, columns)));
  pack(format, source.data(), rows, columns, packed.data());
  const int planes = 1 + bytes[3] % 2;
  const int64_t inputs = kRows[bytes[3] / 2 % (sizeof kRows / sizeof *kRows)];
  for (const Level level : levels_here()) multiply(packed_linear(level), {packed.data(), rows, columns, format}, planes, inputs);
  return 0;
}
