// The bare ring: the fastest way we know to get records from one process to another through
// memory, with nothing of what makes a ring safe to share. Both sides believe each other, nothing
// is counted, nobody may die.
//
//   0        128      256   4096                      4096 + ring
//   +--------+--------+-----+--------+--------+-----------------+
//   | head   | tail   |     | record | record |      free       |   records mapped twice in a row
//   +--------+--------+-----+--------+--------+-----------------+
//   record := u64 tag | u64 length | payload | pad to 8         (the records of the mediated ring)
//
// It exists to be compared with, and to find out who should own a cache line when the producer
// comes back to it. A line that the consumer only read is shared by both: the producer's next write
// must first take it away from the consumer. A line that the consumer wrote, or asked for as if to
// write (prefetchw), is the consumer's alone and moves in one step. BareShape says which way the
// consumer goes; each shape is a class of its own, so that no branch is left.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "shm/futex.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/polite_pause.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob::bench {

inline constexpr uint64_t kLineBytes = 64;

enum class Consumption {
  kReads,    // Only reads.
  kTakes,    // Asks for each line as if to write it, then reads; its mapping is read-only.
  kTouches,  // Writes one word of each line that it has read.
  kZeroes,   // Zeroes all that it has read.
};

struct BareShape {
  uint64_t ring_bytes = 256 << 10;  // A power of two.
  Consumption consumption = Consumption::kReads;
  uint64_t publish_records = 16;  // The producer publishes that many at once.
  // The consumer gives memory back in portions of ring / this; 0: after each look at the head.
  uint64_t release_divisor = 8;
  uint64_t producer_prefetch_bytes = 0;  // The producer asks for lines that far ahead; 0: never.
  bool producer_demotes = false;         // It pushes what it wrote to the cache that both share.
  bool in_band = false;  // The length word says that a record is there; needs kZeroes.
  bool may_sleep = false;
  bool polite = false;  // The consumer pauses between looks as ours do (shm/polite_pause.h).
};

// Asks for a line as if to write it.
inline void PrefetchForWrite(const void* line) {
#if defined(__x86_64__)
  // Not __builtin_prefetch: without -mprfchw that is a prefetch for reading.
  asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(line)));
#else
  __builtin_prefetch(line, 1);
#endif
}

// Hints that the line is wanted elsewhere; does nothing on processors that do not know it.
inline void Demote(const void* line) {
#if defined(__x86_64__)
  asm volatile(".byte 0x0f, 0x1c, 0x00" : : "a"(line) : "memory");  // cldemote (%rax)
#else
  static_cast<void>(line);
#endif
}

// The shared memory of a bare ring.
class BareMemory {
 public:
  absl::Status Create(uint64_t ring_bytes) {
    IOB_ASSIGN_OR_RETURN(shm::Memfd fresh, shm::Memfd::Create("iob-bare"));
    IOB_ASSIGN_OR_RETURN(shm::SealedMemfd memfd,
                         std::move(fresh).SealSize(ring_bytes + shm::PageBytes()));
    IOB_ASSIGN_OR_RETURN(shm::Mapping words, shm::Mapping::MapWindow(memfd, 0, shm::PageBytes(), 1,
                                                                     shm::OnFork::kShare));
    IOB_ASSIGN_OR_RETURN(
        shm::Mapping records,
        shm::Mapping::MapWindow(memfd, shm::PageBytes(), ring_bytes, 2, shm::OnFork::kShare));
    words_.emplace(std::move(words));
    records_.emplace(std::move(records));
    return absl::OkStatus();
  }
  std::atomic<uint64_t>& head() const { return At<uint64_t>(0); }
  std::atomic<uint64_t>& tail() const { return At<uint64_t>(128); }
  std::atomic<uint32_t>& waiting() const { return At<uint32_t>(256); }
  std::byte* records() const { return records_->base(); }
  // For the process that calls it.
  void MakeRecordsReadOnly() const {
    (void)::mprotect(records_->base(), records_->size_bytes(), PROT_READ);
  }

 private:
  template <typename T>
  std::atomic<T>& At(uint64_t offset_bytes) const {
    return *reinterpret_cast<std::atomic<T>*>(words_->base() + offset_bytes);
  }
  std::optional<shm::Mapping> words_;
  std::optional<shm::Mapping> records_;
};

template <BareShape kShape>
class BareProducer {
 public:
  explicit BareProducer(const BareMemory& memory)
      : records_(memory.records()),
        shared_head_(&memory.head()),
        shared_tail_(&memory.tail()),
        waiting_(&memory.waiting()) {}

  bool TrySend(std::span<const std::byte> payload) {
    const uint64_t record_bytes = shm::RecordBytes(payload.size());
    if (record_bytes > kShape.ring_bytes - (head_ - tail_)) [[unlikely]] {
      tail_ = shared_tail_->load(std::memory_order_acquire);
      if (record_bytes > kShape.ring_bytes - (head_ - tail_)) return false;
    }
    std::byte* const record = records_ + (head_ & (kShape.ring_bytes - 1));
    if constexpr (kShape.producer_prefetch_bytes != 0) {
      for (uint64_t offset = 0; offset < record_bytes; offset += kLineBytes) {
        PrefetchForWrite(records_ + ((head_ + kShape.producer_prefetch_bytes + offset) &
                                     (kShape.ring_bytes - 1)));
      }
    }
    std::memcpy(record + shm::kRecordHeaderBytes, payload.data(), payload.size());
    const uint64_t tag = 1;
    std::memcpy(record, &tag, sizeof(tag));
    if constexpr (kShape.in_band) {
      std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(record + sizeof(tag)))
          .store(payload.size(), std::memory_order_release);
    } else {
      const uint64_t length = payload.size();
      std::memcpy(record + sizeof(tag), &length, sizeof(length));
    }
    head_ += record_bytes;
    return true;
  }

  void Flush() {
    if constexpr (!kShape.in_band) shared_head_->store(head_, std::memory_order_release);
    if constexpr (kShape.producer_demotes) {
      for (; flushed_ < head_; flushed_ += kLineBytes)
        Demote(records_ + (flushed_ & (kShape.ring_bytes - 1)));
    }
    if constexpr (kShape.may_sleep) {
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (waiting_->load(std::memory_order_relaxed) != 0) shm::FutexWakeAll(shared_head_);
    }
  }

 private:
  std::byte* records_;
  std::atomic<uint64_t>* shared_head_;
  std::atomic<uint64_t>* shared_tail_;
  std::atomic<uint32_t>* waiting_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;  // As last seen.
  uint64_t flushed_ = 0;
};

template <BareShape kShape>
class BareConsumer {
 public:
  static_assert(!kShape.in_band || kShape.consumption == Consumption::kZeroes);

  explicit BareConsumer(const BareMemory& memory)
      : records_(memory.records()),
        shared_head_(&memory.head()),
        shared_tail_(&memory.tail()),
        waiting_(&memory.waiting()) {}

  // Calls take(payload) for each record that is there; at most an eighth of the ring.
  template <typename Take>
  size_t Poll(Take take) {
    if constexpr (kShape.polite) {
      if (empty_) pause_.Take(taken_records_);
    }
    if constexpr (!kShape.in_band) {
      if (next_ == head_) head_ = shared_head_->load(std::memory_order_acquire);
    }
    size_t taken = 0;
    const uint64_t start = next_;
    while (next_ - start < kShape.ring_bytes / 8) {
      std::byte* const record = records_ + (next_ & (kShape.ring_bytes - 1));
      uint64_t length = 0;
      if constexpr (kShape.in_band) {
        length = std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(record + sizeof(uint64_t)))
                     .load(std::memory_order_acquire);
        if (length == 0) break;
      } else {
        if (next_ == head_) break;
        if constexpr (kShape.consumption == Consumption::kTakes) TakeLines();
        std::memcpy(&length, record + sizeof(uint64_t), sizeof(length));
      }
      take(std::span<const std::byte>(record + shm::kRecordHeaderBytes, length));
      next_ += shm::RecordBytes(length);
      taken += 1;
      if constexpr (kShape.release_divisor != 0) {
        if (next_ - released_ >= kShape.ring_bytes / kShape.release_divisor) Release();
      }
    }
    if (kShape.release_divisor == 0 && taken != 0) Release();
    if constexpr (kShape.polite) {
      // It ended at the end of what is there, or at its share.
      empty_ = next_ - start < kShape.ring_bytes / 8;
      taken_records_ += taken;
    }
    return taken;
  }

  void Sleep() {
    if constexpr (kShape.may_sleep) {
      constexpr int64_t kSleepNs = 50'000'000;
      waiting_->store(1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      const uint64_t head = shared_head_->load(std::memory_order_acquire);
      if (head == next_) {
        const std::array<shm::FutexWord, 1> words = {
            shm::FutexWord{.address = shared_head_, .expected = static_cast<uint32_t>(head)}};
        shm::FutexWaitAny(words, shm::MonotonicNs() + kSleepNs);
      }
      waiting_->store(0, std::memory_order_relaxed);
    }
  }

 private:
  static constexpr uint64_t kTakeAheadBytes = 1024;

  // Asks for the lines of the next records, as far as they are written: a line that the producer
  // still works on would only go back and forth.
  void TakeLines() {
    const uint64_t end = std::min(head_, next_ + kTakeAheadBytes);
    taken_ = std::max(taken_, next_ & ~(kLineBytes - 1));
    for (; taken_ < end; taken_ += kLineBytes)
      PrefetchForWrite(records_ + (taken_ & (kShape.ring_bytes - 1)));
  }

  void Release() {
    if constexpr (kShape.consumption == Consumption::kZeroes) {
      std::memset(records_ + (released_ & (kShape.ring_bytes - 1)), 0, next_ - released_);
    } else if constexpr (kShape.consumption == Consumption::kTouches) {
      const uint64_t nothing = 0;
      for (uint64_t at = released_; at < next_; at += kLineBytes)
        std::memcpy(records_ + (at & (kShape.ring_bytes - 1)), &nothing, sizeof(nothing));
    }
    released_ = next_;
    shared_tail_->store(released_, std::memory_order_release);
  }

  std::byte* records_;
  std::atomic<uint64_t>* shared_head_;
  std::atomic<uint64_t>* shared_tail_;
  std::atomic<uint32_t>* waiting_;
  uint64_t next_ = 0;
  uint64_t head_ = 0;  // As last seen.
  uint64_t released_ = 0;
  uint64_t taken_ = 0;
  shm::PolitePause pause_;
  uint64_t taken_records_ = 0;
  bool empty_ = false;
};

}  // namespace iob::bench
