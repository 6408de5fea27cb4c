// A program of phases that any number of threads work through together.
//
// Every participant runs the same code; a phase is cut into chunks that they claim one by one, and all
// go on when its last chunk is done. Nothing waits for a given number of threads: one participant
// alone does everything, a late one joins at the phase that the others are in, and one that the
// system has stopped between chunks holds nobody up.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <memory>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace ironcliw {

// Rounds subnormal numbers to zero in this thread for its lifetime: they cost a hundred cycles each.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // FTZ and DAZ
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));  // FZ
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_ = 0;
#endif
};

class WorkQueue {
  struct alignas(64) Counters {
    std::atomic<int64_t> claimed{0};
    std::atomic<int64_t> done{0};
  };

 public:
  explicit WorkQueue(int64_t phases) : counters_(new Counters[static_cast<size_t>(phases)]), phases_(phases) {}

  // One participant's way through the phases: all of them must go the same way.
  class Participant {
   public:
    explicit Participant(WorkQueue& queue) : counters_(queue.counters_.get()), end_(counters_ + queue.phases_) {}

    // body(chunk) for those of [0, chunks) that nobody else claims; returns when all are done.
    template <class Body> void phase(int64_t chunks, Body&& body) {
      if (counters_ == end_) __builtin_trap();  // more phases than the queue was made for
      Counters& counters = *counters_++;
      if (counters.done.load(std::memory_order_acquire) >= chunks) return;
      for (int64_t chunk; (chunk = counters.claimed.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
        body(chunk);
        counters.done.fetch_add(1, std::memory_order_acq_rel);
      }
      wait(counters.done, chunks);
    }

   private:
    static void wait(const std::atomic<int64_t>& done, int64_t chunks) {
      constexpr int kSpins = 2000;  // some tens of microseconds, then the others get the processor
      for (int spins = 0; done.load(std::memory_order_acquire) < chunks; ++spins) {
        if (spins >= kSpins) sched_yield();
        else pause();
      }
    }
    static void pause() {
#if defined(__x86_64__)
      _mm_pause();
#elif defined(__aarch64__)
      asm volatile("isb");
#endif
    }

    Counters* counters_;
    Counters* end_;
  };

 private:
  std::unique_ptr<Counters[]> counters_;
  int64_t phases_;
};

}  // namespace ironcliw
