#include "tests/chaos/verify.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace iob::test {
namespace {

constexpr size_t kComplaintsMax = 12;

std::string Called(uint64_t id) {
  return absl::StrCat("record ", static_cast<uint32_t>(id), " of writer ", id >> 32);
}

class Verifier {
 public:
  explicit Verifier(const RoundAccount& round) : round_(round), promise_(PromiseOf(round.kind)) {}

  std::vector<std::string> Run() {
    for (size_t i = 0; i < round_.consumers.size(); ++i) {
      CheckReader(round_.consumers[i], absl::StrCat("consumer ", i));
      if (!promise_.lossless) CheckSpan(round_.consumers[i], absl::StrCat("consumer ", i));
    }
    for (size_t i = 0; i < round_.followers.size(); ++i) {
      CheckReader(round_.followers[i], absl::StrCat("follower ", i));
      CheckSpan(round_.followers[i], absl::StrCat("follower ", i));
    }
    if (promise_.consumer) CheckConsumption();
    if (promise_.lossless) CheckNothingMissing();
    CheckFigures();
    return complaints_;
  }

 private:
  void Complain(const std::string& text) {
    if (complaints_.size() < kComplaintsMax) complaints_.push_back(text);
  }

  // V1, V2.
  void CheckReader(const ReaderAccount& reader, const std::string& who) {
    std::map<uint32_t, uint32_t> next;  // By writer: the lowest number that may come.
    for (const uint64_t id : reader.log) {
      const uint32_t writer = static_cast<uint32_t>(id >> 32);
      const uint32_t number = static_cast<uint32_t>(id);
      if (writer >= round_.writers.size() || number >= round_.writers[writer].begun) {
        Complain(absl::StrCat(who, " saw ", Called(id), ", which was never begun"));
        continue;
      }
      const Fate fate = round_.writers[writer].fates[number];
      if (fate != Fate::kStored && fate != Fate::kUnknown)
        Complain(absl::StrCat(who, " saw ", Called(id), ", whose fate was ", int(fate)));
      uint32_t& lowest = next[writer];
      if (number < lowest)
        Complain(absl::StrCat(who, " saw ", Called(id), " after number ", lowest - 1));
      lowest = number + 1;
    }
  }

  // V6.
  void CheckSpan(const ReaderAccount& reader, const std::string& who) {
    if (!reader.finished) return;
    if (round_.kind == RingKind::kSlot) return CheckLatest(reader, who);
    const uint64_t span = reader.next_record - reader.first_record;
    if (reader.log.size() + reader.lost != span) {
      Complain(absl::StrCat(who, " got ", reader.log.size(), " and was told of ", reader.lost,
                            " lost, of ", span));
    }
    if (reader.next_record != round_.figures.stored) {
      Complain(absl::StrCat(who, " ended at record ", reader.next_record, " of ",
                            round_.figures.stored));
    }
  }

  void CheckLatest(const ReaderAccount& reader, const std::string& who) {
    const WriterAccount& writer = round_.writers.back();
    uint32_t known = writer.begun;
    while (known > 0 && writer.fates[known - 1] != Fate::kStored) --known;
    if (known == 0) return;  // Killed before it knew of one: it may have written none.
    const uint64_t latest = RecordId(static_cast<uint32_t>(round_.writers.size() - 1), known - 1);
    if (reader.log.empty() || reader.log.back() < latest)
      Complain(absl::StrCat(who, " ended before ", Called(latest)));
  }

  // V3. Leaves in consumed_ the records that came out.
  void CheckConsumption() {
    struct Reading {
      size_t reader = 0;
      size_t index = 0;
    };
    std::map<uint64_t, Reading> last;
    for (size_t r = 0; r < round_.consumers.size(); ++r) {
      const ReaderAccount& reader = round_.consumers[r];
      for (size_t i = 0; i < reader.log.size(); ++i) {
        const uint64_t id = reader.log[i];
        const auto [found, first_time] = last.try_emplace(id, Reading{.reader = r, .index = i});
        if (first_time) continue;
        const Reading before = std::exchange(found->second, Reading{.reader = r, .index = i});
        if (before.index < round_.consumers[before.reader].released) {
          Complain(absl::StrCat(Called(id), " was consumed by reader ", before.reader,
                                " and came again to reader ", r));
        }
      }
    }
    for (const auto& [id, reading] : last) {
      const ReaderAccount& reader = round_.consumers[reading.reader];
      if (reading.index >= reader.releasing && promise_.lossless) {
        Complain(absl::StrCat(Called(id), " was read by reader ", reading.reader,
                              ", not released, and never came again"));
      }
      consumed_.insert(id);
    }
  }

  // V4.
  void CheckNothingMissing() {
    for (size_t w = 0; w < round_.writers.size(); ++w) {
      const WriterAccount& writer = round_.writers[w];
      for (uint32_t n = 0; n < writer.begun; ++n) {
        const uint64_t id = RecordId(static_cast<uint32_t>(w), n);
        if (writer.fates[n] == Fate::kStored && !consumed_.contains(id))
          Complain(absl::StrCat(Called(id), " was stored, and nobody consumed it"));
      }
    }
    if (round_.figures.stored != consumed_.size()) {
      Complain(absl::StrCat("the ring counted ", round_.figures.stored, " stored, and ",
                            consumed_.size(), " came out"));
    }
  }

  // V5.
  void CheckFigures() {
    const RingFigures& ring = round_.figures;
    uint64_t stored = 0;
    uint64_t rejected = 0;
    uint64_t unknown = 0;
    for (const WriterAccount& writer : round_.writers) {
      for (const Fate fate : writer.fates) {
        if (fate == Fate::kStored) ++stored;
        if (fate == Fate::kRejected) ++rejected;
        if (fate == Fate::kUnknown) ++unknown;
      }
    }
    const std::string writers = absl::StrCat("; writers know of ", stored, " stored and ", rejected,
                                             " rejected, and do not know of ", unknown);
    if (ring.attempted != ring.stored + ring.rejected) {
      Complain(absl::StrCat("attempted ", ring.attempted, " != stored ", ring.stored,
                            " + rejected ", ring.rejected));
    }
    if (ring.stored != ring.consumed + ring.overwritten + ring.resident) {
      Complain(absl::StrCat("stored ", ring.stored, " != consumed ", ring.consumed,
                            " + overwritten ", ring.overwritten, " + resident ", ring.resident));
    }
    if (ring.stored < stored || ring.stored > stored + unknown)
      Complain(absl::StrCat("the ring counted ", ring.stored, " stored", writers));
    if (ring.rejected < rejected || ring.rejected > rejected + unknown)
      Complain(absl::StrCat("the ring counted ", ring.rejected, " rejected", writers));
    if (promise_.lossless && ring.overwritten != 0)
      Complain(absl::StrCat(ring.overwritten, " records of a lossless ring were overwritten"));
    if (promise_.consumer && ring.resident != 0)
      Complain(absl::StrCat(ring.resident, " records are left in a ring that was drained"));
  }

  const RoundAccount& round_;
  const RingPromise promise_;
  std::set<uint64_t> consumed_;
  std::vector<std::string> complaints_;
};

ReaderAccount AccountOf(const ReaderSlot& slot) {
  const uint32_t logged = slot.logged.load(std::memory_order_acquire);
  return {.log = std::vector<uint64_t>(slot.log.begin(), slot.log.begin() + logged),
          .releasing = slot.releasing.load(),
          .released = slot.released.load(),
          .lost = slot.lost.load(),
          .first_record = slot.first_record.load(),
          .next_record = slot.next_record.load(),
          .finished = slot.common.state.load() == static_cast<uint32_t>(State::kDone)};
}

}  // namespace

RoundAccount AccountOf(const Journal& journal, RingKind kind, uint32_t writers,
                       const std::vector<uint32_t>& consumer_slots,
                       const std::vector<uint32_t>& follower_slots) {
  RoundAccount round;
  round.kind = kind;
  for (uint32_t w = 0; w < writers; ++w) {
    const WriterSlot& slot = journal.writers[w];
    WriterAccount account;
    account.begun = slot.begun.load(std::memory_order_acquire);
    for (uint32_t n = 0; n < account.begun; ++n)
      account.fates.push_back(static_cast<Fate>(slot.fates[n].load()));
    round.writers.push_back(std::move(account));
  }
  for (const uint32_t slot : consumer_slots)
    round.consumers.push_back(AccountOf(journal.readers[slot]));
  for (const uint32_t slot : follower_slots)
    round.followers.push_back(AccountOf(journal.readers[slot]));
  return round;
}

std::vector<std::string> Verify(const RoundAccount& round) { return Verifier(round).Run(); }

}  // namespace iob::test
