#include "shm/window.h"

namespace iob::shm {

void WindowBytes::FillZeros(uint64_t offset_bytes, uint64_t length_bytes) const {
  IOB_CHECK(Contains(offset_bytes, length_bytes));
  if (length_bytes == 0) return;
  RunSharedStoreHook();
  std::byte* const first = base_ + offset_bytes;
#ifdef IOB_COPY_BYTEWISE
  // As in SharedBytes: the race with a peer is intended, and the sanitizer keeps its eyes for the
  // others.
  for (uint64_t i = 0; i < length_bytes; ++i) {
    __atomic_store_n(reinterpret_cast<unsigned char*>(first) + i, 0, __ATOMIC_RELAXED);
  }
#else
  std::memset(first, 0, length_bytes);
#endif
  asm volatile("" : : "r"(first) : "memory");
}

}  // namespace iob::shm
