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
constexpr int64_t kPiece = 24;   // blocks at a time: whole super-blocks, whose rows of x stay in the first level cache
constexpr int64_t kGroups = 8;   // groups that are unpacked at a time, into the second level cache

// How many integer products a block takes, and of what.
enum class Planes { one, two, joined };
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
  // the sum of joined planes is kNibbleSteps times too large
  out.scale = !F::kScale ? zero() : planes == Planes::joined ? block.scale * broadcast(1.0f / kNibbleSteps) : block.scale;
  out.second = F::kTwoScales ? block.scale2 : F::kOffset ? block.offset : zero();
  return out;
}

template <class F, Planes planes> void unpack_blocks(const uint8_t* w, int64_t count, UnpackedBlock<planes>* out) {
  for (int64_t block = 0; block < count;) {
    const Head head = F::head(w);
    w += F::kHead;
    for (int b = 0; b < F::kBlocks; ++b, ++block, w += F::kBytes) out[block] = unpacked_block<F, planes>(F::block(w, head));
  }
  asm volatile("" ::: "memory");  // GCC's tile loads do not say that they read memory
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

// A block of 16 rows of x.
struct RowsBlock {
  const int8_t* bytes;  // of the first row
  int64_t stride;       // to the next row's
  const float *scales, *offsets;
};

template <class F, Planes planes> IRONCLIW_INLINE void start_sums(const RowsBlock& x, const UnpackedBlock<planes>& w) {
  _tile_zero(0);
  _tile_loadd(6, w.lines, 64);
  _tile_loadd(4, x.bytes, x.stride);
  if constexpr (planes == Planes::joined && F::kZero == 0) _tile_dpbsud(0, 4, 6);
  else _tile_dpbssd(0, 4, 6);
  if constexpr (planes == Planes::two) {
    _tile_zero(1);
    _tile_loadd(5, x.bytes + kBlock, x.stride);
    _tile_dpbssd(1, 5, 6);
  }
  if constexpr (F::kTwoScales) {
    _tile_zero(2);
    _tile_loadd(7, w.lines + 4, 64);
    _tile_loadd(4, x.bytes + kBlock / 2, x.stride);
    _tile_dpbssd(2, 4, 7);
  }
  if constexpr (F::kTwoScales && planes == Planes::two) {
    _tile_zero(3);
    _tile_loadd(5, x.bytes + kBlock + kBlock / 2, x.stride);
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
IRONCLIW_INLINE void add_sums(Floats* total, const Sums<F, planes>& sums, const RowsBlock& x, const UnpackedBlock<planes>& w, Floats step) {
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

// Blocks from `first` on of 16 rows of x or more, in tiles of 16. The last tile overlaps the one before it
// where rows is no multiple of 16.
struct RowTiles {
  const QuantizedRows& x;
  int64_t rows, first;
  int64_t count() const { return (rows + kTileRows - 1) / kTileRows; }
  int64_t place(int64_t tile) const { return rows - tile * kTileRows < kTileRows ? rows - kTileRows : tile * kTileRows; }
  int64_t done(int64_t tile) const { return tile * kTileRows - place(tile); }  // rows in front that the tile before has
  IRONCLIW_INLINE RowsBlock block(int64_t tile, int64_t b) const {
    const int64_t at = (first + b) * x.rows + place(tile);
    return {x.block(place(tile), first + b), x.columns / kBlock * x.block_bytes(), x.scales + at, x.offsets + at};
  }
};

// Groups of outputs whose weights of one piece are unpacked, kPiece blocks apart.
template <Planes planes> struct UnpackedGroups {
  const UnpackedBlock<planes>* blocks;
  int64_t groups, count;  // and blocks of each
  const float* row_scales[kGroups];  // null: this is not the last piece, or there are none
};

// out += the product, or = where `is_first`. The tile products of a block run while the sums of the one
// before it are added, from the first block of all to the last.
template <class F, Planes planes>
void multiply_unpacked(const RowTiles& x, const UnpackedGroups<planes>& w, bool is_first, Floats step, float* out, int64_t out_stride) {
  Sums<F, planes> sums;
  const int64_t tiles = x.count();
  start_sums<F, planes>(x.block(0, 0), w.blocks[0]);
  store_sums<F, planes>(sums);
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t group = 0; group < w.groups; ++group) {
      float* place = out + x.place(tile) * out_stride + group * kGroup;
      const UnpackedBlock<planes>* weights = w.blocks + group * kPiece;
      // rows of `out` are far apart: a store that waits for its line holds up the sums behind it
      IRONCLIW_EACH_ROW __builtin_prefetch(place + m * out_stride, 1);
      Floats total[kTileRows];
      IRONCLIW_EACH_ROW total[m] = is_first ? zero() : load(place + m * out_stride);
      RowsBlock now = x.block(tile, 0);
      const int64_t line = x.x.block_bytes(), numbers = x.x.rows;
      for (int64_t b = 1; b < w.count; ++b) {
        const RowsBlock next{now.bytes + line, now.stride, now.scales + numbers, now.offsets + numbers};
        start_sums<F, planes>(next, weights[b]);
        add_sums<F, planes>(total, sums, now, weights[b - 1], step);
        store_sums<F, planes>(sums);
        now = next;
      }
      const bool last_group = group + 1 == w.groups, last = last_group && tile + 1 == tiles;
      if (!last) start_sums<F, planes>(x.block(last_group ? tile + 1 : tile, 0), last_group ? w.blocks[0] : weights[kPiece]);
      add_sums<F, planes>(total, sums, now, weights[w.count - 1], step);
      if (!last) store_sums<F, planes>(sums);
      const int done = static_cast<int>(x.done(tile));
      IRONCLIW_EACH_ROW {
        if (w.row_scales[group]) total[m] = total[m] * load(w.row_scales[group]);
        if (m >= done) store(place + m * out_stride, total[m]);
      }
    }
}
#undef IRONCLIW_EACH_ROW

// 16 rows or more; groups [begin, end) of `bytes` each.
template <class F, Planes planes>
void multiply_row_tiles(const PackedMatrix& w, int64_t bytes, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end,
    float* out, int64_t out_stride) {
  UnpackedBlock<planes> unpacked[kGroups * kPiece];
  const Floats step = broadcast(1.0f / static_cast<float>(x.steps));
  const int64_t blocks = w.columns / kBlock;
  for (int64_t group = begin; group < end; group += kGroups)
    for (int64_t first = 0; first < blocks; first += kPiece) {
      const int64_t groups = end - group < kGroups ? end - group : kGroups, count = blocks - first < kPiece ? blocks - first : kPiece;
      UnpackedGroups<planes> part{unpacked, groups, count, {}};
      for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* data = w.data + (group + g) * bytes;
        const uint8_t* piece = data + F::kGroupHead + first / F::kBlocks * (F::kHead + F::kBlocks * F::kBytes);
        unpack_blocks<F, planes>(piece, count, unpacked + g * kPiece);
        if (F::kGroupHead && first + count == blocks) part.row_scales[g] = reinterpret_cast<const float*>(data);
      }
      multiply_unpacked<F, planes>({x, rows, first}, part, first == 0, step, out + group * kGroup, out_stride);
    }
}

// Groups [begin, end) of `bytes` each; 16 rows at least, and one block.
template <class F>
void multiply_tiles(const PackedMatrix& w, int64_t bytes, const QuantizedRows& x, int64_t rows, int64_t begin, int64_t end, float* out,
    int64_t out_stride) {
  const bool joined = F::kNibbles && x.planes == 2 && x.steps == kNibbleSteps;
  const Tiles tiles(joined ? 16 : F::kTwoScales ? 4 : 8);
  if (x.planes == 1) multiply_row_tiles<F, Planes::one>(w, bytes, x, rows, begin, end, out, out_stride);
  else if (!joined) multiply_row_tiles<F, Planes::two>(w, bytes, x, rows, begin, end, out, out_stride);
  else if constexpr (F::kNibbles) multiply_row_tiles<F, Planes::joined>(w, bytes, x, rows, begin, end, out, out_stride);
}

IRONCLIW_END
