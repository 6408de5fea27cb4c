#include "cpu_level.h"

#include <atomic>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace ironcliw {
namespace {

#if defined(__x86_64__)
// GCC's builtin asks the operating system too (XGETBV): registers that it does not save are not there.
bool has_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

// Tiles and their products of int8 and bfloat16. Linux gives a process their 8 KB of state only when it asks, with
// ARCH_REQ_XCOMP_PERM (arch/x86/include/uapi/asm/prctl.h); its threads have it from then on.
bool has_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!(__get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 27)))) return false;  // OSXSAVE: there is XGETBV
  constexpr unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, AMX-TILE, AMX-INT8
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & wanted) != wanted) return false;
  unsigned saved, high;
  asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned tiles = (1u << 17) | (1u << 18);
  return (saved & tiles) == tiles && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}

std::vector<Level> find_levels() {
  __builtin_cpu_init();
  std::vector<Level> found{Level::baseline};
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))) return found;
  unsigned a, b, c, d;
  if (!(__get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29)))) return found;  // F16C
  found.push_back(Level::avx2);
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  if (!wide) return found;
  found.push_back(Level::avx512);
  if (!has_bf16()) return found;
  found.push_back(Level::avx512_bf16);
  if (has_amx()) found.push_back(Level::amx);
  return found;
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value == 1;
}

std::vector<Level> find_levels() {
  std::vector<Level> found{Level::baseline};
  if (!(has("hw.optional.arm.FEAT_DotProd") && has("hw.optional.arm.FEAT_FP16"))) return found;
  found.push_back(Level::neon);
  if (has("hw.optional.arm.FEAT_I8MM") && has("hw.optional.arm.FEAT_BF16")) found.push_back(Level::neon_i8mm);
  return found;
}
#elif defined(__aarch64__)
// Bits of AT_HWCAP and AT_HWCAP2: Linux, arch/arm64/include/uapi/asm/hwcap.h.
std::vector<Level> find_levels() {
  std::vector<Level> found{Level::baseline};
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  const bool half = first & (1ul << 10), dot = first & (1ul << 20);
  if (!(half && dot)) return found;
  found.push_back(Level::neon);
  const bool i8mm = second & (1ul << 13), bf16 = second & (1ul << 14);
  if (i8mm && bf16) found.push_back(Level::neon_i8mm);
  return found;
}
#else
std::vector<Level> find_levels() { return {Level::baseline}; }
#endif

std::atomic<int> chosen{-1};

}  // namespace

const char* name_of(Level level) {
  switch (level) {
    case Level::avx2: return "avx2";
    case Level::avx512: return "avx512";
    case Level::avx512_bf16: return "avx512_bf16";
    case Level::amx: return "amx";
    case Level::neon: return "neon";
    case Level::neon_i8mm: return "neon_i8mm";
    default: return "baseline";
  }
}

std::vector<Level> levels_here() {
  static const std::vector<Level> found = find_levels();
  return found;
}

Level level() {
  const int now = chosen.load(std::memory_order_relaxed);
  if (now >= 0) return static_cast<Level>(now);
  const Level highest = levels_here().back();
  chosen.store(static_cast<int>(highest), std::memory_order_relaxed);
  return highest;
}

bool choose_level(const std::string& name) {
  for (const Level here : levels_here()) {
    if (name.empty() ? here == levels_here().back() : name == name_of(here)) {
      chosen.store(static_cast<int>(here), std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace ironcliw
