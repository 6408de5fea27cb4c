// kernel_tests [NAME]: every test, or those whose name contains NAME, on every level of this machine.
#include "tests/check.h"

#include <cstring>

int main(int count, char** arguments) {
  using namespace ironcliw;
  int all = 0;
  for (const Level level : levels_here()) {
    int ran = 0;
    for (const auto& test : test::cases()) {
      if (count > 1 && !std::strstr(test.name.c_str(), arguments[1])) continue;
      test.run(level);
      ++ran;
    }
    std::printf("%s: %d tests\n", name_of(level), ran);
    all += ran;
  }
  std::printf("%d failures\n", test::failures());
  return test::failures() || all == 0 ? 1 : 0;
}
