// Loops over the threads of XLA's own pool.
#ifndef RESNEXT_JAX_PARALLEL_H_
#define RESNEXT_JAX_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// Calls body(i) for every i in [0, count), on the calling thread and on the threads of the pool that are
// free. The caller never waits for a task that has not begun, so nested or concurrent loops cannot block each
// other.
template <typename Body>
void ParallelFor(ffi::ThreadPool& pool, int64_t count, const Body& body) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  auto progress = std::make_shared<Progress>();
  // A task that starts late finds nothing left to do. It must not touch the body, which may be gone by then.
  auto work = [progress, count, body = &body] {
    for (int64_t i; (i = progress->next.fetch_add(1)) < count;) {
      (*body)(i);
      progress->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t h = 0; h < helpers; ++h) {
    auto task = work;
    pool.Schedule(std::move(task));
  }
  work();
  while (progress->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
}

#endif  // RESNEXT_JAX_PARALLEL_H_
