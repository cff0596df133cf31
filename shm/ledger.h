// The ledger: what writers asked of a ring, and what became of each record.
//
//   L1  attempted = stored + sum(rejected by cause), in records and in payload bytes.
//   L2  A record is counted once, when its fate is final.
//
// Counters of one writer or of one ring; whoever counts owns the object.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace iob::shm {

// Why a record was not stored; the values of iob.v1.LossCause.
enum class LossCause : uint8_t {
  kFull = 1,
  kBudget = 2,
  kPolicy = 3,
  kIntegrity = 4,
  kClosed = 5,
  kDeadline = 6,
  kTooLarge = 7,
};
inline constexpr size_t kLossCauses = 8;  // Indexed by the value; 0 is unused.

// Records and payload bytes: what came in, what was stored, what was not and why.
struct Ledger {
  uint64_t attempted_records = 0;
  uint64_t attempted_bytes = 0;
  uint64_t stored_records = 0;
  uint64_t stored_bytes = 0;
  std::array<uint64_t, kLossCauses> rejected_records = {};
  std::array<uint64_t, kLossCauses> rejected_bytes = {};

  void Add(const Ledger& other) {
    attempted_records += other.attempted_records;
    attempted_bytes += other.attempted_bytes;
    stored_records += other.stored_records;
    stored_bytes += other.stored_bytes;
    for (size_t cause = 0; cause < kLossCauses; ++cause) {
      rejected_records[cause] += other.rejected_records[cause];
      rejected_bytes[cause] += other.rejected_bytes[cause];
    }
  }
  void CountStored(uint64_t bytes) {
    attempted_records += 1;
    attempted_bytes += bytes;
    stored_records += 1;
    stored_bytes += bytes;
  }
  void CountRejected(LossCause cause, uint64_t bytes) {
    attempted_records += 1;
    attempted_bytes += bytes;
    rejected_records[static_cast<size_t>(cause)] += 1;
    rejected_bytes[static_cast<size_t>(cause)] += bytes;
  }
};

}  // namespace iob::shm
