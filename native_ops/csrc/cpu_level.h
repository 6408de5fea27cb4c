// Which of the compiled levels this process uses.
#pragma once

#include <string>
#include <vector>

namespace ironcliw {

enum class Level : int { baseline, avx2, avx512, avx512_bf16, amx, neon, neon_i8mm };

const char* name_of(Level level);

// The levels that were compiled and that this processor has, lowest first.
std::vector<Level> levels_here();

// The level in use: the highest one here, or a lower one that was chosen.
Level level();

// Use a lower level from now on; by name, empty for the highest. Gives false, and changes nothing,
// where it is unknown or this processor lacks it. Not for use while kernels run.
bool choose_level(const std::string& name);

}  // namespace ironcliw

// In an area's header, after its table type: declares the tables of all levels, and `area()`, that of
// the level in use. Only areas that say IRONCLIW_TABLES_WITH_AMX are compiled for AMX (CMakeLists.txt);
// on that level the others are those of avx512_bf16.
#if defined(__x86_64__)
#define IRONCLIW_TABLES(Type, area) IRONCLIW_X86_TABLES(Type, area, avx512_bf16)
#define IRONCLIW_TABLES_WITH_AMX(Type, area) IRONCLIW_X86_TABLES(Type, area, amx)
#define IRONCLIW_X86_TABLES(Type, area, of_amx)                                                           \
  extern const Type area##_baseline, area##_avx2, area##_avx512, area##_avx512_bf16, area##_##of_amx;     \
  inline const Type& area(Level wanted) {                                                                 \
    switch (wanted) {                                                                                     \
      case Level::amx: return area##_##of_amx;                                                            \
      case Level::avx512_bf16: return area##_avx512_bf16;                                                 \
      case Level::avx512: return area##_avx512;                                                           \
      case Level::avx2: return area##_avx2;                                                               \
      default: return area##_baseline;                                                                    \
    }                                                                                                     \
  }                                                                                                       \
  inline const Type& area() { return area(level()); }
#elif defined(__aarch64__)
#define IRONCLIW_TABLES(Type, area)                                     \
  extern const Type area##_baseline, area##_neon, area##_neon_i8mm;     \
  inline const Type& area(Level wanted) {                              \
    switch (wanted) {                                                  \
      case Level::neon_i8mm: return area##_neon_i8mm;                  \
      case Level::neon: return area##_neon;                            \
      default: return area##_baseline;                                 \
    }                                                                  \
  }                                                                    \
  inline const Type& area() { return area(level()); }
#else
#define IRONCLIW_TABLES(Type, area)                              \
  extern const Type area##_baseline;                             \
  inline const Type& area(Level) { return area##_baseline; }     \
  inline const Type& area() { return area##_baseline; }
#endif
#ifndef IRONCLIW_TABLES_WITH_AMX
#define IRONCLIW_TABLES_WITH_AMX(Type, area) IRONCLIW_TABLES(Type, area)
#endif
