// InternTable: which id already has these bytes, for a writer that stores equal blobs once.
//
// A table of fixed size with a keyed hash. The key is the instance's own and random, so that nobody
// who chooses the blobs can choose where they land; and a look-up never probes more than
// kProbesMax places whatever they do. A blob that finds them all taken is not remembered, and will
// be stored again when it comes again: the table is a saving, never a promise.
//
// Private to its writer; nothing here is in shared memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace iob::shm {

using SipHashKey = std::array<uint64_t, 2>;

// SipHash-2-4: 64 bits that nobody can aim at without the key.
uint64_t SipHash(const SipHashKey& key, std::span<const std::byte> bytes);

class InternTable {
 public:
  static constexpr size_t kProbesMax = 16;
  // 24 MiB of table.
  static constexpr uint32_t kEntriesMax = uint32_t{1} << 20;

  struct Entry {
    uint64_t hash = 0;
    uint32_t id = 0;
    uint32_t offset = 0;
    uint32_t size_bytes = 0;
    bool used = false;
  };

  // Remembers at most `entries_max` blobs, a number that is rounded up to a power of two; 0 for
  // none. INVALID_ARGUMENT above kEntriesMax, UNAVAILABLE without random numbers.
  static absl::StatusOr<InternTable> Create(uint32_t entries_max);

  bool enabled() const { return !entries_.empty(); }
  uint64_t HashOf(std::span<const std::byte> blob) const { return SipHash(key_, blob); }

  // The entry with this hash and size that `same_bytes(entry)` confirms.
  template <typename SameBytes>
  const Entry* Find(uint64_t hash, size_t size_bytes, SameBytes same_bytes) const {
    for (size_t probe = 0; probe < ProbesMax(); ++probe) {
      const Entry& entry = entries_[(hash + probe) & (entries_.size() - 1)];
      if (!entry.used) return nullptr;  // Entries never leave, so nothing lies beyond a free one.
      if (entry.hash == hash && entry.size_bytes == size_bytes && same_bytes(entry)) return &entry;
    }
    return nullptr;
  }

  // False when there is no place for it.
  bool Remember(const Entry& entry);

 private:
  InternTable(const SipHashKey& key, size_t entries) : key_(key), entries_(entries) {}
  size_t ProbesMax() const { return entries_.size() < kProbesMax ? entries_.size() : kProbesMax; }

  SipHashKey key_;
  std::vector<Entry> entries_;  // A power of two, or none.
};

}  // namespace iob::shm
