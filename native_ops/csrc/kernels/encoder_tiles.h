// Products on tile registers (AMX): 16 rows of 64 bytes each, 16 x 16 sums a tile.
// Tiles 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
#pragma once

#include <immintrin.h>

#include "simd/simd.h"

IRONCLIW_BEGIN
namespace encoder {

#define IRONCLIW_TILES __attribute__((target("amx-tile,amx-bf16,amx-int8"), noinline))

// While one lives, this thread's tiles have the shape that the functions below expect.
struct alignas(64) TileShape {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
IRONCLIW_TILES inline void begin_tiles() {
  const TileShape shape;
  asm volatile("" ::"m"(shape) : "memory");
  _tile_loadconfig(&shape);
}
IRONCLIW_TILES inline void end_tiles() { _tile_release(); }

struct Tiles {
  explicit Tiles(bool wanted) : on(wanted) { if (on) begin_tiles(); }
  ~Tiles() { if (on) end_tiles(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
  const bool on;
};

// out[32 or 16 rows][32] = a b, 64 bytes of K a step. `a`: rows a_bytes apart; `b`: two groups of
// 1 KB a step, group_bytes apart; `out`: rows out_bytes apart.
#define IRONCLIW_TILE_PRODUCTS(name, multiply)                                                                    \
  IRONCLIW_TILES inline void name##_32(const uint8_t* a, int64_t a_bytes, const uint8_t* b, int64_t group_bytes,  \
                                       int64_t steps, uint8_t* out, int64_t out_bytes) {                          \
    asm volatile("" ::: "memory"); /* what was stored before is what the tiles load */                            \
    const uint8_t* low = a + 16 * a_bytes;                                                                        \
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);                                                   \
    for (int64_t i = 0; i < steps; ++i, a += 64, low += 64, b += 1024) {                                          \
      _tile_loadd(6, b, 64);                                                                                      \
      _tile_loadd(4, a, a_bytes);                                                                                 \
      _tile_loadd(7, b + group_bytes, 64);                                                                        \
      _tile_loadd(5, low, a_bytes);                                                                               \
      multiply(0, 4, 6); multiply(1, 4, 7); multiply(2, 5, 6); multiply(3, 5, 7);                                 \
    }                                                                                                             \
    _tile_stored(0, out, out_bytes);                                                                              \
    _tile_stored(1, out + 64, out_bytes);                                                                         \
    _tile_stored(2, out + 16 * out_bytes, out_bytes);                                                             \
    _tile_stored(3, out + 16 * out_bytes + 64, out_bytes);                                                        \
    asm volatile("" ::: "memory");                                                                                \
  }                                                                                                               \
  IRONCLIW_TILES inline void name##_16(const uint8_t* a, int64_t a_bytes, const uint8_t* b, int64_t group_bytes,  \
                                       int64_t steps, uint8_t* out, int64_t out_bytes) {                          \
    asm volatile("" ::: "memory");                                                                                \
    _tile_zero(0); _tile_zero(1);                                                                                 \
    for (int64_t i = 0; i < steps; ++i, a += 64, b += 1024) {                                                     \
      _tile_loadd(4, a, a_bytes);                                                                                 \
      _tile_loadd(6, b, 64);                                                                                      \
      _tile_loadd(7, b + group_bytes, 64);                                                                        \
      multiply(0, 4, 6); multiply(1, 4, 7);                                                                       \
    }                                                                                                             \
    _tile_stored(0, out, out_bytes);                                                                              \
    _tile_stored(1, out + 64, out_bytes);                                                                         \
    asm volatile("" ::: "memory");                                                                                \
  }
IRONCLIW_TILE_PRODUCTS(tiles_bf16, _tile_dpbf16ps)
IRONCLIW_TILE_PRODUCTS(tiles_int8, _tile_dpbssd)
#undef IRONCLIW_TILE_PRODUCTS
#undef IRONCLIW_TILES

}  // namespace encoder
IRONCLIW_END
