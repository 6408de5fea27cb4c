// How each quantised format's blocks of 32 columns x 16 rows are read (layout: packing.cpp) and what
// an activation block adds to 16 sums. One struct a format:
//   kGroupHead         bytes in front of a group
//   kBlocks, kHead     blocks of a super-block, and the bytes in front of it
//   kBytes             of one block
//   kLow, kHigh        the integers u that `Block` holds are in [kLow, kHigh]; signed where kLow < 0
//   weight             = scale * (u - kZero) + offset
#pragma once

#include "simd/simd.h"

IRONCLIW_BEGIN

constexpr int64_t kLine = 64;

// Line l has columns 4l to 4l + 3. `scale2` is that of columns 16 to 31 where a format has one.
struct Block {
  Bytes u[8];
  Floats scale, scale2, offset;
};
struct Head { Floats scale, offset; };

IRONCLIW_INLINE Floats load_half_at(const uint8_t* p) { return load_half(reinterpret_cast<const uint16_t*>(p)); }
IRONCLIW_INLINE Floats load_int8_at(const uint8_t* p) { return to_floats(load_int8(reinterpret_cast<const int8_t*>(p))); }

IRONCLIW_INLINE void load_nibbles(const uint8_t* p, Bytes* u) {
  for (int l = 0; l < 4; ++l) {
    const Bytes both = load_bytes(p + l * kLine);
    u[l] = low_nibbles(both);
    u[l + 4] = high_nibbles(both);
  }
}
IRONCLIW_INLINE void load_whole(const uint8_t* p, Bytes* u) {
  for (int l = 0; l < 8; ++l) u[l] = load_bytes(p + l * kLine);
}

struct Plain {  // what most formats share
  static constexpr int64_t kGroupHead = 0, kHead = 0;
  static constexpr int kBlocks = 1, kZero = 0;
  static constexpr bool kSigned = false, kOffset = false, kTwoScales = false, kScale = true, kNibbles = false;
  static IRONCLIW_INLINE Head head(const uint8_t*) { return {zero(), zero()}; }
};

struct Q4_0 : Plain {
  static constexpr int64_t kBytes = 4 * kLine + 32;
  static constexpr int kZero = 8;
  static constexpr bool kNibbles = true;
  static IRONCLIW_INLINE Block block(const uint8_t* p, const Head&) {
    Block b;
    load_nibbles(p, b.u);
    b.scale = load_half_at(p + 4 * kLine);
    return b;
  }
};

struct Q4_1 : Plain {
  static constexpr int64_t kBytes = 4 * kLine + 64;
  static constexpr bool kOffset = true;
  static constexpr bool kNibbles = true;
  static IRONCLIW_INLINE Block block(const uint8_t* p, const Head&) {
    Block b;
    load_nibbles(p, b.u);
    b.scale = load_half_at(p + 4 * kLine);
    b.offset = load_half_at(p + 4 * kLine + 32);
    return b;
  }
};

struct Q8_0 : Plain {
  static constexpr int64_t kBytes = 8 * kLine + 32;
  static constexpr bool kSigned = true;
  static IRONCLIW_INLINE Block block(const uint8_t* p, const Head&) {
    Block b;
    load_whole(p, b.u);
    b.scale = load_half_at(p + 8 * kLine);
    return b;
  }
};

// One scale a row, applied to the finished sum.
struct Int8 : Plain {
  static constexpr int64_t kGroupHead = 64, kBytes = 8 * kLine;
  static constexpr bool kSigned = true, kScale = false;
  static IRONCLIW_INLINE Block block(const uint8_t* p, const Head&) {
    Block b;
    load_whole(p, b.u);
    return b;
  }
};

// Scale and offset are a half times 6 bits: exact in a float.
struct Q4_K : Plain {
  static constexpr int64_t kHead = 64, kBytes = 4 * kLine + 32;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  static constexpr bool kNibbles = true;
  static IRONCLIW_INLINE Head head(const uint8_t* p) { return {load_half_at(p), zero() - load_half_at(p + 32)}; }
  static IRONCLIW_INLINE Block block(const uint8_t* p, const Head& head) {
    Block b;
    load_nibbles(p, b.u);
    b.scale = head.scale * load_int8_at(p + 4 * kLine);
    b.offset = head.offset * load_int8_at(p + 4 * kLine + 16);
    return b;
  }
};

struct Q6_K : Plain {
  static constexpr int64_t kHead = 32, kBytes = 6 * kLine + 32;
  static constexpr int kBlocks = 8, kZero = 32;
  static constexpr bool kTwoScales = true;
  static IRONCLIW_INLINE Head head(const uint8_t* p) { return {load_half_at(p), zero()}; }
  static IRONCLIW_INLINE Block block(const uint8_t* p, const Head& head) {
    Block b;
    load_nibbles(p, b.u);
    for (int half = 0; half < 2; ++half) {
      const Bytes pairs = load_bytes(p + (4 + half) * kLine);
      Bytes* u = b.u + 4 * half;
      u[0] = u[0] | bit_pairs<0>(pairs);
      u[1] = u[1] | bit_pairs<2>(pairs);
      u[2] = u[2] | bit_pairs<4>(pairs);
      u[3] = u[3] | bit_pairs<6>(pairs);
    }
    b.scale = head.scale * load_int8_at(p + 6 * kLine);
    b.scale2 = head.scale * load_int8_at(p + 6 * kLine + 16);
    return b;
  }
};

IRONCLIW_END
