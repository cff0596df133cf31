// A line that this processor is about to write, asked for ahead of time.
//
// A store that misses waits in the store buffer and holds up nobody; a locked instruction behind it
// waits for it, and with it the program. Where records are written between locked instructions, the
// lines must have come before.
#pragma once

namespace iob::shm {

// A hint: does nothing where the line may not be written, or on processors that do not know it.
inline void PrefetchForWrite(const void* line) {
#if defined(__x86_64__)
  // Not __builtin_prefetch: without -mprfchw that is a prefetch for reading.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
  __builtin_prefetch(line, 1);
#endif
}

}  // namespace iob::shm
