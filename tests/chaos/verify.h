// Verify: whether what a round's processes saw can be.
//
//   V1  Only what was begun is ever seen; nothing that was rejected or discarded is.
//   V2  One reader sees the records of one writer in the order of their numbers, none twice.
//   V3  A record that a reader released is not read again; one that it read and did not begin to
//       release is, by its successor. In the end each was consumed exactly once.
//   V4  Lossless rings: what was stored is consumed, and nothing else is missing.
//   V5  The ring's figures agree: stored is what was consumed or told as lost, and is between what
//       writers know was stored and what they cannot know was not.
//   V6  Whoever is told what it lost is told all: what it got and what it lost are all records from
//       its first to the last. A slot's readers end with the value that was written last.
//
// Plain values in, complaints out: nothing here looks at a ring.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/chaos/journal.h"
#include "tests/chaos/round_kind.h"

namespace iob::test {

struct WriterAccount {
  uint32_t begun = 0;
  std::vector<Fate> fates;  // One per begun number.
};

struct ReaderAccount {
  std::vector<uint64_t> log;
  uint32_t releasing = 0;
  uint32_t released = 0;
  uint64_t lost = 0;
  uint64_t first_record = 0;
  uint64_t next_record = 0;
  bool finished = false;  // It saw the end; false when it was killed.
};

// What the broker says of the ring when all is quiet.
struct RingFigures {
  uint64_t attempted = 0;
  uint64_t stored = 0;
  uint64_t rejected = 0;
  uint64_t consumed = 0;
  uint64_t overwritten = 0;
  uint64_t resident = 0;
};

struct RoundAccount {
  RingKind kind = RingKind::kDropNew;
  std::vector<WriterAccount> writers;
  std::vector<ReaderAccount> consumers;  // One after the other.
  std::vector<ReaderAccount> followers;
  RingFigures figures;
};

// Of the journal; `consumer_slots` and `follower_slots` in the order of their births.
RoundAccount AccountOf(const Journal& journal, RingKind kind, uint32_t writers,
                       const std::vector<uint32_t>& consumer_slots,
                       const std::vector<uint32_t>& follower_slots);

// Empty when all is well; at most a few of each kind.
std::vector<std::string> Verify(const RoundAccount& round);

}  // namespace iob::test
