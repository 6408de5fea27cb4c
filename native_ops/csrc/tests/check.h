// A test framework of forty lines: the kernels' tests must build wherever a compiler is.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu_level.h"
#include "threads.h"

namespace ironcliw::test {

struct Case { std::string name; std::function<void(Level)> run; };
inline std::vector<Case>& cases() { static std::vector<Case> all; return all; }
inline int& failures() { static int count = 0; return count; }

struct Register { Register(const char* name, std::function<void(Level)> run) { cases().push_back({name, std::move(run)}); } };

// Runs once for each level of this machine: TEST(name) { ... norms(level) ... }
#define TEST(name)                                                             \
  static void test_##name(::ironcliw::Level level);                            \
  static const ::ironcliw::test::Register register_##name(#name, test_##name); \
  static void test_##name([[maybe_unused]] ::ironcliw::Level level)

#define CHECK(condition, ...)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      ++::ironcliw::test::failures();                                               \
      std::printf("%s:%d [%s] %s: ", __FILE__, __LINE__, ::ironcliw::name_of(level), #condition); \
      std::printf(" " __VA_ARGS__);                                                  \
      std::printf("\n");                                                            \
    }                                                                               \
  } while (0)

inline bool close(double a, double b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::fabs(a - b) <= tolerance * (1.0 + std::fabs(b));
}

inline std::vector<float> normals(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> draw;
  std::vector<float> values(count);
  for (auto& value : values) value = draw(generator);
  return values;
}

}  // namespace ironcliw::test
