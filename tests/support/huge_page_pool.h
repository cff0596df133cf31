// Huge pages for one test: the pool grown by so many pages, and shrunk back afterwards.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>

#include "shm/placement.h"

namespace iob::test {

class HugePagePoolGuard {
 public:
  // nullptr where the machine has not got them, or we may not: skip the test, saying so.
  static std::unique_ptr<HugePagePoolGuard> Grow(uint64_t page_bytes, uint64_t pages) {
    const auto pool = shm::PoolOf(page_bytes);
    if (!pool) return nullptr;
    std::unique_ptr<HugePagePoolGuard> guard(new HugePagePoolGuard(page_bytes, pool->total));
    guard->Set(pool->total + pages);
    const auto grown = shm::PoolOf(page_bytes);
    return grown && grown->free >= pages ? std::move(guard) : nullptr;
  }
  HugePagePoolGuard(const HugePagePoolGuard&) = delete;
  HugePagePoolGuard& operator=(const HugePagePoolGuard&) = delete;
  ~HugePagePoolGuard() { Set(before_); }

 private:
  HugePagePoolGuard(uint64_t page_bytes, uint64_t before)
      : path_("/sys/kernel/mm/hugepages/hugepages-" + std::to_string(page_bytes >> 10) +
              "kB/nr_hugepages"),
        before_(before) {}
  void Set(uint64_t pages) { std::ofstream(path_) << pages << std::flush; }
  std::string path_;
  uint64_t before_;
};

}  // namespace iob::test
