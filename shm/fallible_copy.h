// FallibleCopy: copies memory that may not be there, and says how far that went.
//
// A mapping can lose its pages: a foreign memfd is truncated, a hole is punched into huge pages and
// the pool is empty, a page is poisoned. A load then ends in SIGBUS. Here the kernel is asked to
// copy instead (process_vm_readv and _writev, of this process to itself), and where a load would
// have been a signal it stops and counts:
//
//     source | page 0 | page 1 | gone ...          -> copied_bytes = 2 pages, error_number = EFAULT
//
//   F1  No signal is raised, no handler is installed, nothing of the process is changed. So it goes
//       together with any handler of SIGBUS and SIGSEGV, installed before or after, on any thread,
//       with the signals blocked, and from within a handler, also one that interrupted such a copy.
//   F2  What is counted was moved, and nothing behind it was.
//   F3  A sandbox that forbids these calls (seccomp) gets a pipe instead: slower, the same answers.
//
// A handler that jumps out of the copy would cost 8 ns instead of a system call (a microsecond for
// a small copy; a large one takes three times as long as memcpy). But it is process-wide: it fails
// when the application installs its own later, or blocks the signal. Who needs speed uses
// SharedBytes: memory from the broker cannot shrink (memfd.h, M1).
//
// What it cannot help against: the kernel may kill a process of a memory cgroup that is full when a
// page has to be made, and a page that turns out to be bad in the kernel's own hands may stop the
// machine. Linux 3.2. Thread-safe, async-signal-safe, errno is kept.
#pragma once

#include <cstddef>

namespace iob::shm {

struct FallibleCopy {
  size_t copied_bytes = 0;
  int error_number = 0;  // Why not all of it; EFAULT: the memory is not there, or not accessible.
};

// `source` may be gone; `target` is the caller's own.
FallibleCopy CopyFrom(const std::byte* source, std::byte* target, size_t size_bytes);

// `target` may be gone or read-only; `source` is the caller's own.
FallibleCopy CopyTo(std::byte* target, const std::byte* source, size_t size_bytes);

}  // namespace iob::shm
