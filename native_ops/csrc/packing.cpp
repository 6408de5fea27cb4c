// The packed form of matrices and of quantised rows: sizes and layout, the same on every level.
//
// A group of 16 rows is a run of blocks of 32 columns. In a block of nibbles, line l (64 bytes) holds
// columns 4l to 4l + 3 of each row in the low nibbles and 16 more in the high ones; a block of bytes
// has 8 lines. What follows the lines, for 16 rows each:
//   q4_0   lines 4, scale half
//   q4_1   lines 4, scale half, offset half
//   q8_0   lines 8, scale half
//   int8   lines 8; in front of the group its scales, float
//   q4_k   in front of 8 blocks: scale half, offset half; per block: lines 4, scale and offset uint8
//   q6_k   in front of 8 blocks: scale half; per block: lines 4 of low nibbles, 2 of upper bit pairs
//          (line l's pairs are bits 2 (l % 4) of line l / 4), scales int8 of 16 columns each, twice
// Matrices of floats: column by column, 16 rows' values side by side.
#include <cstring>

#include "kernels/packed_linear.h"

namespace ironcliw {
namespace {

constexpr int64_t kSuper = 256;  // columns of a super-block of the K formats
constexpr int64_t kLine = 64;

int64_t ceiling(int64_t count, int64_t unit) { return (count + unit - 1) / unit; }

int64_t group_bytes(Format format, int64_t columns) {
  const int64_t blocks = columns / kBlock, supers = columns / kSuper;
  switch (format) {
    case Format::f32: return columns * kGroup * 4;
    case Format::f16:
    case Format::bf16: return columns * kGroup * 2;
    case Format::q4_0: return blocks * (4 * kLine + 32);
    case Format::q4_1: return blocks * (4 * kLine + 64);
    case Format::q8_0: return blocks * (8 * kLine + 32);
    case Format::int8: return blocks * 8 * kLine + 64;
    case Format::q4_k: return supers * 64 + blocks * (4 * kLine + 32);
    case Format::q6_k: return supers * 32 + blocks * (6 * kLine + 32);
  }
  return 0;
}

void pack_floats(const uint8_t* source, int64_t row_bytes, int rows, int64_t columns, int64_t size, uint8_t* group) {
  for (int row = 0; row < rows; ++row)
    for (int64_t k = 0; k < columns; ++k) std::memcpy(group + (k * kGroup + row) * size, source + row * row_bytes + k * size, size);
}

// 16 bytes of nibbles or 32 bytes, 4 to a line.
void put_lines(const uint8_t* bytes, int lines, int row, uint8_t* block) {
  for (int l = 0; l < lines; ++l) std::memcpy(block + l * kLine + 4 * row, bytes + 4 * l, 4);
}

// Blocks of 32 with up to two halves in front: q4_0, q4_1, q8_0.
void pack_blocks(const uint8_t* source, int64_t row_bytes, int rows, int64_t columns, int halves, int lines, uint8_t* group) {
  const int64_t from = 2 * halves + 4 * lines, to = lines * kLine + 32 * halves;
  for (int row = 0; row < rows; ++row)
    for (int64_t b = 0; b < columns / kBlock; ++b) {
      const uint8_t* in = source + row * row_bytes + b * from;
      uint8_t* block = group + b * to;
      put_lines(in + 2 * halves, lines, row, block);
      for (int h = 0; h < halves; ++h) std::memcpy(block + lines * kLine + 32 * h + 2 * row, in + 2 * h, 2);
    }
}

void pack_int8(const uint8_t* source, int64_t row_bytes, int rows, int64_t columns, uint8_t* group) {
  for (int row = 0; row < rows; ++row) {
    const uint8_t* in = source + row * row_bytes;
    std::memcpy(group + 4 * row, in, 4);
    for (int64_t b = 0; b < columns / kBlock; ++b) put_lines(in + 4 + b * kBlock, 8, row, group + 64 + b * 8 * kLine);
  }
}

// The 32 values below 16 of a block as 16 bytes of nibbles.
void put_nibbles(const uint8_t* values, int row, uint8_t* block) {
  uint8_t nibbles[16];
  for (int i = 0; i < 16; ++i) nibbles[i] = static_cast<uint8_t>((values[i] & 15) | (values[i + 16] & 15) << 4);
  put_lines(nibbles, 4, row, block);
}

// ggml's block_q4_K: d, dmin, 8 scales and 8 minima of 6 bits in 12 bytes, 128 bytes of nibbles.
void pack_q4_k(const uint8_t* in, int row, uint8_t* out) {
  std::memcpy(out + 2 * row, in, 2);
  std::memcpy(out + 32 + 2 * row, in + 2, 2);
  const uint8_t *scales = in + 4, *nibbles = in + 16;
  for (int b = 0; b < 8; ++b) {
    uint8_t* block = out + 64 + b * (4 * kLine + 32);
    uint8_t values[32];
    for (int i = 0; i < 32; ++i) values[i] = static_cast<uint8_t>(nibbles[32 * (b / 2) + i] >> (b % 2 ? 4 : 0));
    put_nibbles(values, row, block);
    const int j = b % 4;
    const bool upper = b >= 4;
    block[4 * kLine + row] = static_cast<uint8_t>(upper ? (scales[8 + j] & 15) | (scales[j] >> 2 & 0x30) : scales[j] & 63);
    block[4 * kLine + 16 + row] = static_cast<uint8_t>(upper ? scales[8 + j] >> 4 | (scales[4 + j] >> 2 & 0x30) : scales[4 + j] & 63);
  }
}

// ggml's block_q6_K: 128 bytes of low nibbles, 64 of upper bit pairs, 16 scales of int8, d.
void pack_q6_k(const uint8_t* in, int row, uint8_t* out) {
  const uint8_t *low = in, *high = in + 128, *scales = in + 192;
  std::memcpy(out + 2 * row, in + 208, 2);
  for (int b = 0; b < 8; ++b) {
    uint8_t* block = out + 32 + b * (6 * kLine + 32);
    const int half = b / 4, part = b % 4;
    uint8_t values[32];
    for (int i = 0; i < 32; ++i) values[i] = static_cast<uint8_t>(low[64 * half + 32 * (part % 2) + i] >> (part >= 2 ? 4 : 0));
    put_nibbles(values, row, block);
    for (int i = 0; i < 32; ++i) {
      const int pair = high[32 * half + i] >> (2 * part) & 3, line = i / 4;
      block[(4 + line / 4) * kLine + 4 * row + i % 4] |= static_cast<uint8_t>(pair << (2 * (line % 4)));
    }
    block[6 * kLine + row] = scales[2 * b];
    block[6 * kLine + 16 + row] = scales[2 * b + 1];
  }
}

template <class Pack>
void pack_supers(Pack pack_one, const uint8_t* source, int64_t row_bytes, int rows, int64_t columns, int64_t from, int64_t to,
    uint8_t* group) {
  for (int row = 0; row < rows; ++row)
    for (int64_t s = 0; s < columns / kSuper; ++s) pack_one(source + row * row_bytes + s * from, row, group + s * to);
}

void pack_group(Format format, const uint8_t* source, int64_t row_bytes, int rows, int64_t columns, uint8_t* group) {
  switch (format) {
    case Format::f32: return pack_floats(source, row_bytes, rows, columns, 4, group);
    case Format::f16:
    case Format::bf16: return pack_floats(source, row_bytes, rows, columns, 2, group);
    case Format::q4_0: return pack_blocks(source, row_bytes, rows, columns, 1, 4, group);
    case Format::q4_1: return pack_blocks(source, row_bytes, rows, columns, 2, 4, group);
    case Format::q8_0: return pack_blocks(source, row_bytes, rows, columns, 1, 8, group);
    case Format::int8: return pack_int8(source, row_bytes, rows, columns, group);
    case Format::q4_k: return pack_supers(pack_q4_k, source, row_bytes, rows, columns, 144, 64 + 8 * (4 * kLine + 32), group);
    case Format::q6_k: return pack_supers(pack_q6_k, source, row_bytes, rows, columns, 210, 32 + 8 * (6 * kLine + 32), group);
  }
}

}  // namespace

bool is_format(int64_t number) {
  for (const Format format : {Format::f32, Format::f16, Format::q4_0, Format::q4_1, Format::q8_0, Format::q4_k, Format::q6_k,
      Format::bf16, Format::int8})
    if (number == static_cast<int64_t>(format)) return true;
  return false;
}

int64_t columns_multiple(Format format) {
  if (!is_quantized(format)) return 1;
  return format == Format::q4_k || format == Format::q6_k ? kSuper : kBlock;
}

int64_t source_row_bytes(Format format, int64_t columns) {
  switch (format) {
    case Format::f32: return columns * 4;
    case Format::f16:
    case Format::bf16: return columns * 2;
    case Format::q4_0: return columns / kBlock * 18;
    case Format::q4_1: return columns / kBlock * 20;
    case Format::q8_0: return columns / kBlock * 34;
    case Format::q4_k: return columns / kSuper * 144;
    case Format::q6_k: return columns / kSuper * 210;
    case Format::int8: return columns + 4;
  }
  return 0;
}

int64_t packed_bytes(Format format, int64_t rows, int64_t columns) { return ceiling(rows, kGroup) * group_bytes(format, columns); }

void pack(Format format, const uint8_t* source, int64_t rows, int64_t columns, uint8_t* packed) {
  const int64_t row_bytes = source_row_bytes(format, columns), bytes = group_bytes(format, columns);
  if (bytes == 0) return;
  for (int64_t row = 0; row < rows; row += kGroup, packed += bytes) {
    std::memset(packed, 0, static_cast<size_t>(bytes));
    pack_group(format, source + row * row_bytes, row_bytes, static_cast<int>(rows - row < kGroup ? rows - row : kGroup), columns, packed);
  }
}

int64_t quantized_bytes(int64_t rows, int64_t columns, int planes) {
  const int64_t blocks = rows * (columns / kBlock);
  return planes * (rows * columns + 8 * blocks) + 8 * blocks;
}

QuantizedRows place_quantized(void* memory, int64_t rows, int64_t columns, int planes, int steps) {
  const int64_t blocks = rows * (columns / kBlock);
  auto* bytes = static_cast<int8_t*>(memory);  // in front: they should begin a line of the cache
  auto* words = reinterpret_cast<int32_t*>(bytes + planes * rows * columns);
  auto* scales = reinterpret_cast<float*>(words);
  auto* sums = words + 2 * blocks;
  auto* sums2 = planes == 2 ? sums + 2 * blocks : sums;
  return {bytes, scales, scales + blocks, sums, sums + blocks, sums2, sums2 + blocks, rows, columns, planes, planes, steps};
}

QuantizedRows quantized_from(const QuantizedRows& x, int64_t row) {
  QuantizedRows part = x;
  part.bytes = x.block(row, 0);
  for (float** numbers : {&part.scales, &part.offsets}) *numbers += row;
  for (int32_t** numbers : {&part.sums, &part.halves, &part.sums2, &part.halves2}) *numbers += row;
  return part;
}

}  // namespace ironcliw
