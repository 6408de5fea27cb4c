// Quantised products of 16 rows or more with AMX: a tile product gives the integer sums of 16 rows with
// 16 outputs over one block (over half a block where a format has two scales), for each plane.
//
// The sums are exact, and what follows are the operations of `add_block` in its order: a row has the
// same bits here and there.
//
// `joined`: a weight of 4 bits stands twice in the tile of weights, times kNibbleSteps and plain, below
// the first plane of x and below the second: the one sum is that of both planes, times kNibbleSteps.
#pragma once

#include "kernels/packed_linear.h"
#include "kernels/packed_linear_formats.h"

IRONCLIW_BEGIN

constexpr int64_t kTileRows = 16;
constexpr int64_t kPiece = 24;  // blocks of a group that are unpacked at a time: whole super-blocks, in the first level cache
constexpr int64_t kTiles = 4;   // tiles of rows that they serve, in the second level cache

// How many integer products a block takes, and of what.
enum class Planes { one, two, joined };
constexpr int64_t bytes_of_row(Planes planes) { return planes == Planes::one ? kBlock : 2 * kBlock; }
constexpr int lines_of_block(Planes planes) { return planes == Planes::joined ? 16 : 8; }
constexpr int sums_of_block(Planes planes) { return planes == Planes::two ? 2 : 1; }

// Lines as bytes, what F::kZero stands for taken off; signed where that is needed.
template <Planes planes> struct UnpackedBlock {
  Bytes lines[lines_of_block(planes)];
  Floats scale, second;  // scale2 or offset
};

template <class F, Planes planes> IRONCLIW_INLINE UnpackedBlock<planes> unpacked_block(const Block& block) {
  UnpackedBlock<planes> out;
  for (int l = 0; l < 8; ++l) {
    const __m512i line = _mm512_sub_epi8(block.u[l].v, _mm512_set1_epi8(F::kZero));
    out.lines[planes == Planes::joined ? 8 + l : l] = {line};
    // bits that cross into the neighbour are cut off, and what is left is the product modulo 256
    if constexpr (planes == Planes::joined)
      out.lines[l] = {_mm512_and_si512(_mm512_slli_epi16(line, 4), _mm512_set1_epi8(static_cast<char>(0xf0)))};
  }
  out.scale = F::kScale ? block.scale : zero();
  out.second = F::kTwoScales ? block.scale2 : F::kOffset ? block.offset : zero();
  return out;
}

template <class F, Planes planes> void unpack_blocks(const uint8_t* w, int64_t count, UnpackedBlock<planes>* out) {
  for (int64_t block = 0; block < count;) {
    const Head head = F::head(w);
    w += F::kHead;
    for (int b = 0; b < F::kBlocks; ++b, ++block, w += F::kBytes) out[block] = unpacked_block<F, planes>(F::block(w, head));
  }
  asm volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory (nor in gather_rows)
}

// Tiles 0 to 3: sums; 4 and 5: rows of x; 6 and 7: lines. Configured while this lives: the thread is
// somebody else's.
class Tiles {
 public:
  explicit Tiles(int lines) {
    struct alignas(64) { uint8_t palette = 1, start = 0, reserved[14] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } shape;
    for (int tile = 0; tile < 8; ++tile) {
      const bool holds_rows = tile == 4 || tile == 5, holds_lines = tile >= 6;
      shape.bytes[tile] = static_cast<uint16_t>(holds_rows ? 4 * lines : 64);
      shape.rows[tile] = static_cast<uint8_t>(holds_lines ? lines : 16);
    }
    _tile_loadconfig(&shape);
  }
  Tiles(const Tiles&) = delete;
  ~Tiles() { _tile_release(); }
};

// A block of 16 rows side by side, a row's second plane behind its first: one stream to read, however
// far apart the rows are.
template <Planes planes> struct alignas(64) RowsBlock {
  int8_t bytes[kTileRows][bytes_of_row(planes)];
  float scales[kTileRows], offsets[kTileRows];
};

template <Planes planes>
void gather_rows(const QuantizedRows& x, int64_t row, int64_t blocks, int64_t first, int64_t count, RowsBlock<planes>* out) {
  const float unit = planes == Planes::joined ? 1.0f / kNibbleSteps : 1.0f;
  for (int64_t m = 0; m < kTileRows; ++m) {
    const int64_t at = (row + m) * blocks + first;
    for (int64_t b = 0; b < count; ++b) {
      std::memcpy(out[b].bytes[m], x.bytes + (at + b) * kBlock, kBlock);
      if constexpr (planes != Planes::one) std::memcpy(out[b].bytes[m] + kBlock, x.bytes2 + (at + b) * kBlock, kBlock);
      out[b].scales[m] = x.scales[at + b] * unit;
      out[b].offsets[m] = x.offsets[at + b];
    }
  }
  asm volatile("" ::: "memory");
}

template <class F, Planes planes> IRONCLIW_INLINE void start_sums(const RowsBlock<planes>& x, const UnpackedBlock<planes>& w) {
  constexpr int64_t stride = bytes_of_row(planes);
  _tile_zero(0);
  _tile_loadd(6, w.lines, 64);
  _tile_loadd(4, x.bytes[0], stride);
  if constexpr (planes == Planes::joined && F::kZero == 0) _tile_dpbsud(0, 4, 6);
  else _tile_dpbssd(0, 4, 6);
  if constexpr (planes == Planes::two) {
    _tile_zero(1);
    _tile_loadd(5, x.bytes[0] + kBlock, stride);
    _tile_dpbssd(1, 5, 6);
  }
  if constexpr (F::kTwoScales) {
    _tile_zero(2);
    _tile_loadd(7, w.lines + 4, 64);
    _tile_loadd(4, x.bytes[0] + kBlock / 2, stride);
    _tile_dpbssd(2, 4, 7);
  }
  if constexpr (F::kTwoScales && planes == Planes::two) {
    _tile_zero(3);
    _tile_loadd(5, x.bytes[0] + kBlock + kBlock / 2, stride);
    _tile_dpbssd(3, 5, 7);
  }
}

template <class F, Planes planes> struct alignas(64) Sums {
  static constexpr int kHigh = sums_of_block(planes);  // where those of the second half of a block begin
  int32_t of[(F::kTwoScales ? 2 : 1) * kHigh][kTileRows * kGroup];
};

template <class F, Planes planes> IRONCLIW_INLINE void store_sums(Sums<F, planes>& sums) {
  constexpr int high = Sums<F, planes>::kHigh;
  _tile_stored(0, sums.of[0], 64);
  if constexpr (planes == Planes::two) _tile_stored(1, sums.of[1], 64);
  if constexpr (F::kTwoScales) _tile_stored(2, sums.of[high], 64);
  if constexpr (F::kTwoScales && planes == Planes::two) _tile_stored(3, sums.of[high + 1], 64);
}

template <Planes planes> IRONCLIW_INLINE Floats all_planes(const int32_t* sums, Floats step) {
  const Floats first = to_floats(load_ints(sums));
  if constexpr (planes == Planes::two) return fma(to_floats(load_ints(sums + kTileRows * kGroup)), step, first);
  else return first;
}

#define IRONCLIW_EACH_ROW _Pragma("GCC unroll 16") for (int m = 0; m < kTileRows; ++m)

template <class F, Planes planes>
IRONCLIW_INLINE void add_sums(Floats* total, const Sums<F, planes>& sums, const RowsBlock<planes>& x, const UnpackedBlock<planes>& w,
    Floats step) {
  const Floats w_scale = w.scale, second = w.second;
  IRONCLIW_EACH_ROW {
    const int64_t at = m * kGroup;
    const Floats scale = broadcast(x.scales[m]), low = all_planes<planes>(sums.of[0] + at, step);
    if constexpr (F::kTwoScales) {
      const Floats high = all_planes<planes>(sums.of[sums.kHigh] + at, step);
      total[m] = fma(fma(low, w_scale, high * second), scale, total[m]);
    } else {
      total[m] = fma(F::kScale ? low * w_scale : low, scale, total[m]);
      if constexpr (F::kOffset) total[m] = fma(second, broadcast(x.offsets[m]), total[m]);
    }
  }
}

struct Place {  // of 16 rows of outputs
  float* out;
  int64_t stride;
  int skip;  // rows in front that are done
};

// Adds `count` blocks to what is in `out`, or to zero. The tile products of a block run while the sums
// of the one before it are added. `row_scales`: where this is the last piece and there are any.
template <class F, Planes planes>
void add_piece(const RowsBlock<planes>* x, const UnpackedBlock<planes>* w, int64_t count, bool is_first, Floats step,
    const float* row_scales, const Place& place) {
  Sums<F, planes> sums;
  Floats total[kTileRows];
  IRONCLIW_EACH_ROW total[m] = is_first ? zero() : load(place.out + m * place.stride);
  start_sums<F, planes>(x[0], w[0]);
  store_sums<F, planes>(sums);
  for (int64_t b = 1; b < count; ++b) {
    start_sums<F, planes>(x[b], w[b]);
    add_sums<F, planes>(total, sums, x[b - 1], w[b - 1], step);
    store_sums<F, planes>(sums);
  }
  add_sums<F, planes>(total, sums, x[count - 1], w[count - 1], step);
  IRONCLIW_EACH_ROW {
    if (row_scales) total[m] = total[m] * load(row_scales);
    if (m >= place.skip) store(place.out + m * place.stride, total[m]);
  }
}
#undef IRONCLIW_EACH_ROW

// Rows [row, row + rows), 16 to 64 of them; groups [begin, end) of `bytes` each. The last tile overlaps
// the one before it where rows is no multiple of 16.
template <class F, Planes planes>
void multiply_row_tiles(const PackedMatrix& w, int64_t bytes, const QuantizedRows& x, int64_t row, int64_t rows, int64_t begin,
    int64_t end, float* out, int64_t out_stride) {
  RowsBlock<planes> gathered[kTiles][kPiece];
  UnpackedBlock<planes> unpacked[kPiece];
  const Floats step = broadcast(1.0f / static_cast<float>(x.steps));
  const int64_t blocks = w.columns / kBlock;
  const auto row_of = [&](int64_t tile) { return rows - tile * kTileRows < kTileRows ? rows - kTileRows : tile * kTileRows; };
  for (int64_t first = 0; first < blocks; first += kPiece) {
    const int64_t count = blocks - first < kPiece ? blocks - first : kPiece;
    for (int64_t t = 0; t * kTileRows < rows; ++t) gather_rows<planes>(x, row + row_of(t), blocks, first, count, gathered[t]);
    for (int64_t g = begin; g < end; ++g) {
      const uint8_t* group = w.data + g * bytes;
      unpack_blocks<F, planes>(group + F::kGroupHead + first / F::kBlocks * (F::kHead + F::kBlocks * F::kBytes), count, unpacked);
      const bool scaled = F::kGroupHead && first + count == blocks;
      const float* row_scales = scaled ? reinterpret_cast<const float*>(group) : nullptr;
      for (int64_t t = 0; t * kTileRows < rows; ++t) {
        const Place place{out + (row + row_of(t)) * out_stride + g * kGroup, out_stride, static_cast<int>(t * kTileRows - row_of(t))};
        add_piece<F, planes>(gathered[t], unpacked, count, first == 0, step, row_scales, place);
      }
    }
  }
}

// Groups [begin, end) of `bytes` each; 16 rows at least, and one block.
template <class F>
void multiply_tiles(const PackedMatrix& w, int64_t bytes, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end, float* out,
    int64_t out_stride) {
  const bool joined = F::kNibbles && x.bytes2 && x.steps == kNibbleSteps;
  const Tiles tiles(joined ? 16 : F::kTwoScales ? 4 : 8);
  for (int64_t row = 0, count; row < rows; row += count) {
    const int64_t left = rows - row, most = kTiles * kTileRows;
    count = left <= most ? left : left < most + kTileRows ? most / 2 : most;  // so that 16 are left, or none
    if (!x.bytes2) multiply_row_tiles<F, Planes::one>(w, bytes, x, row, count, begin, end, out, out_stride);
    else if (!joined) multiply_row_tiles<F, Planes::two>(w, bytes, x, row, count, begin, end, out, out_stride);
    else if constexpr (F::kNibbles) multiply_row_tiles<F, Planes::joined>(w, bytes, x, row, count, begin, end, out, out_stride);
  }
}

IRONCLIW_END
