// Products with weights kept as they are in the file: blocks of 4 to 8 bits, or 16 and 32 bit floats.
//
// Layout of a packed matrix [rows, columns]: groups of 16 rows, in each group blocks of 32 columns, in
// each block the bytes of 16 rows side by side, 4 columns of one row together (see simd.h, `Bytes`).
// Rows are filled up to 16 with zeros. So one vector holds 16 outputs, and no sum runs across lanes.
//
// M rows of activations, N rows of weights (outputs), K columns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

constexpr int64_t kGroup = 16;  // outputs of one group
constexpr int64_t kBlock = 32;  // columns of one block

// Numbers of ggml's types (ggml.h), and ours for int8 with one scale a row.
enum class Format : int32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, q4_k = 12, q6_k = 14, bf16 = 30, int8 = 1000 };

bool is_format(int64_t number);
inline bool is_quantized(Format format) { return format != Format::f32 && format != Format::f16 && format != Format::bf16; }
// Columns must be a multiple of this.
int64_t columns_multiple(Format format);
// Bytes of one row as it is in a GGUF file (int8: columns bytes and a float scale in front of them).
int64_t source_row_bytes(Format format, int64_t columns);
int64_t packed_bytes(Format format, int64_t rows, int64_t columns);

// Rows of the file's blocks to the packed form. `source` has rows * source_row_bytes, `packed`
// packed_bytes. Any bytes are allowed in `source`: a damaged block gives damaged numbers.
void pack(Format format, const uint8_t* source, int64_t rows, int64_t columns, uint8_t* packed);

struct PackedMatrix {
  const uint8_t* data;
  int64_t rows, columns;
  Format format;
  int64_t groups() const { return (rows + kGroup - 1) / kGroup; }
};

// What a step of the first plane of activations is divided into by the second. Whole numbers of 4 bits
// have room for kNibbleSteps beside them in a byte: one integer product then serves both planes.
constexpr int kByteSteps = 254, kNibbleSteps = 16;
inline bool has_nibbles(Format format) { return format == Format::q4_0 || format == Format::q4_1 || format == Format::q4_k; }
inline int steps_for(Format format) { return has_nibbles(format) ? kNibbleSteps : kByteSteps; }

// Activations of a quantised product: int8 with a scale every 32 columns, in one plane or two:
// x = scale * (first + second / steps), which is about 8 bits, and 12 or 16. A row with NaN or infinity
// has scales of NaN there, and so outputs of NaN.
//
// Bytes are [M, K / 32, planes, 32]: those of a block in both planes are one line of the cache. Numbers
// of blocks are [K / 32, M]: those of neighbouring rows are one vector.
struct QuantizedRows {
  int8_t* bytes;
  float *scales, *offsets;    // offset: scale * (sum + sum2 / steps)
  int32_t *sums, *halves;     // of a block's bytes, and of the first 16 of them
  int32_t *sums2, *halves2;   // of the second plane
  int64_t rows;               // from one block's number to the next one's of a row
  int64_t columns;
  int stored;                 // planes of `bytes`
  int planes;                 // how many of them count; the second is there where two are stored
  int steps;

  int64_t block_bytes() const { return stored * kBlock; }
  int8_t* block(int64_t row, int64_t at) const { return bytes + (row * (columns / kBlock) + at) * block_bytes(); }
};
// Room for [rows, columns], and the pointers into `memory` of that room. `memory` is aligned to 4; to 64
// it is faster.
int64_t quantized_bytes(int64_t rows, int64_t columns, int planes);
QuantizedRows place_quantized(void* memory, int64_t rows, int64_t columns, int planes, int steps);
// The same rows from `row` on.
QuantizedRows quantized_from(const QuantizedRows& x, int64_t row);

struct PackedLinearKernels {
  // x [M, K] to `out`, row by row, each by itself.
  void (*quantize)(const float* x, int64_t x_stride, int64_t rows, int64_t columns, QuantizedRows out);
  // out[m * out_stride + n] = sum over k of x[m, k] * w[n, k], for n in groups [begin, end) of 16.
  // A row's bits depend on nothing but that row. Writes whole groups: `out` needs room for 16 * end.
  void (*multiply_quantized)(const PackedMatrix& w, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end, float* out,
      int64_t out_stride);
  // The same for f32, f16 and bf16 weights and float activations.
  void (*multiply_float)(const PackedMatrix& w, const float* x, int64_t x_stride, int64_t rows, int64_t begin, int64_t end, float* out,
      int64_t out_stride);
  // One row of the matrix as floats [columns]: an embedding.
  void (*read_row)(const PackedMatrix& w, int64_t row, float* out);
};
IRONCLIW_TABLES_WITH_AMX(PackedLinearKernels, packed_linear)

}  // namespace ironcliw
