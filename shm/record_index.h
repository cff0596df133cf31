// RecordIndex: how many records a tail has passed, without a counter per record.
//
// The consumer of a mediated ring publishes a byte position, and the ledger wants records. One
// entry per 4 KiB of ring remembers the first record that starts in it and how many were stored
// before; the rest is a walk over at most one chunk, done only when the tail is looked at.
// Appending costs one compare per record and one store per chunk.
//
//   X1  entry[c] is the first record start at or after the beginning of chunk c, in the lap that
//       wrote it. An entry from an earlier lap has a position before that beginning.
//   X2  next_start_ is a record start (or head), tail <= next_start_, and records_before_ come
//       before it. Everything from the tail on is intact in the ring, so walking from
//       next_start_ is safe whatever the consumer claims.
//
// Private to the ring's writer; nothing here is in shared memory.
#pragma once

#include <cstdint>
#include <vector>

namespace iob::shm {

class RecordIndex {
 public:
  static constexpr uint64_t kChunkBytes = 4096;

  // `capacity_bytes` is a multiple of kChunkBytes.
  explicit RecordIndex(uint64_t capacity_bytes) : entries_(capacity_bytes / kChunkBytes) {}

  // A record starts at `position`; `records_before` came before it.
  void NoteRecord(uint64_t position, uint64_t records_before) {
    const uint64_t chunk = position / kChunkBytes;
    if (chunk == last_chunk_) return;
    // At most once around: no record is longer than the ring.
    do {
      ++last_chunk_;  // From UINT64_MAX to 0 for the very first record.
      entries_[last_chunk_ % entries_.size()] = {.position = position,
                                                 .records_before = records_before};
    } while (last_chunk_ != chunk);
  }

  // The tail moves to `tail`, which may lie in the middle of a record. `head` and `stored_records`
  // are the writer's own; `record_bytes_at(position)` gives the ring bytes of the record that
  // starts there.
  template <typename RecordBytesAt>
  void MoveTail(uint64_t tail, uint64_t head, uint64_t stored_records,
                RecordBytesAt record_bytes_at) {
    if (tail > next_start_) {
      if (tail / kChunkBytes != next_start_ / kChunkBytes)
        JumpToChunk(tail / kChunkBytes, head, stored_records);
      while (next_start_ < tail) {
        next_start_ += record_bytes_at(next_start_);
        ++records_before_;
      }
    }
    consumed_records_ = next_start_ == tail ? records_before_ : records_before_ - 1;
  }

  // Records that end at or before the tail.
  uint64_t consumed_records() const { return consumed_records_; }

 private:
  struct Entry {
    uint64_t position = 0;
    uint64_t records_before = 0;
  };

  void JumpToChunk(uint64_t chunk, uint64_t head, uint64_t stored_records) {
    // Not yet reused by the next lap: head <= tail + capacity, and the old tail was in an earlier
    // chunk.
    const Entry& entry = entries_[chunk % entries_.size()];
    if (entry.position >= chunk * kChunkBytes) {
      next_start_ = entry.position;
      records_before_ = entry.records_before;
    } else {
      // X1: nothing starts from here on, so the tail is inside the newest record or at its end.
      next_start_ = head;
      records_before_ = stored_records;
    }
  }

  std::vector<Entry> entries_;
  uint64_t last_chunk_ = UINT64_MAX;  // position / kChunkBytes, laps included.
  uint64_t next_start_ = 0;
  uint64_t records_before_ = 0;
  uint64_t consumed_records_ = 0;
};

}  // namespace iob::shm
