// How kernels get threads: from whoever calls them (ATen's pool under torch, plain ones in tests).
#pragma once

#include <cstdint>

namespace ironcliw {

// Runs body(begin, end) over pieces of [0, count) of at least `grain`, at once on several threads.
// The pieces, and so the bits of the result, may depend on the number of threads only where a body
// adds up over its piece.
struct Threads {
  using Body = void (*)(void* context, int64_t begin, int64_t end);
  void (*run)(int64_t count, int64_t grain, Body body, void* context);
  int (*count)();  // threads that `run` uses at most

  template <class F> void parallel(int64_t total, int64_t grain, F&& f) const {
    if (total <= 0) return;
    run(total, grain, [](void* context, int64_t begin, int64_t end) { (*static_cast<F*>(context))(begin, end); }, &f);
  }
};

}  // namespace ironcliw
