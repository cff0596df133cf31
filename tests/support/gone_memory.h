// GoneMemory: pages of which only the first ones exist, as a foreign memfd gives them: a load or
// store behind them ends in SIGBUS.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "shm/check.h"
#include "shm/mapping.h"
#include "shm/unique_fd.h"

namespace iob::test {

class GoneMemory {
 public:
  // `pages` that are filled with `fill`; then all behind the first `pages_left` go.
  GoneMemory(uint64_t pages, uint64_t pages_left, std::byte fill)
      : fd_(::memfd_create("iob-test-gone", MFD_CLOEXEC)), size_bytes_(pages * shm::PageBytes()) {
    IOB_CHECK(fd_.valid() && ::ftruncate(fd_.get(), static_cast<off_t>(size_bytes_)) == 0);
    void* const mapped =
        ::mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    IOB_CHECK(mapped != MAP_FAILED);
    base_ = static_cast<std::byte*>(mapped);
    for (std::byte& byte : std::span(base_, size_bytes_)) byte = fill;
    Resize(pages_left);
  }
  GoneMemory(const GoneMemory&) = delete;
  GoneMemory& operator=(const GoneMemory&) = delete;
  ~GoneMemory() { ::munmap(base_, size_bytes_); }

  // What comes back is zero.
  void Resize(uint64_t pages) {
    IOB_CHECK(::ftruncate(fd_.get(), static_cast<off_t>(pages * shm::PageBytes())) == 0);
  }

  std::byte* base() const { return base_; }
  uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }

 private:
  shm::UniqueFd fd_;
  uint64_t size_bytes_;
  std::byte* base_ = nullptr;
};

}  // namespace iob::test
