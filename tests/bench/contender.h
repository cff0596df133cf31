// A contender: one way to get records from one process to another, behind one interface.
//
//     parent            Setup()
//       | fork ----------> sender, core 0:    Open(kSender)   -> End::Run(round) ...
//       | fork ----------> receiver, core 1:  Open(kReceiver) -> End::Run(round) ...
//       | commands go out and results come back through pipes (harness.h)
//
// Rounds are short and many; the processes of all contenders live through the whole run and sleep
// between their rounds. Times never travel in the records: each side notes its own in the round
// page, so that a record of 8 bytes is a record of 8 bytes.
//
// Adding one is a small file: a transport with a Sender and a Receiver (transport.h), and a line in
// the list of its program.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/bench/clock.h"

namespace iob::bench {

enum class Measure : uint32_t {
  kRate,       // As many records as go through; the sender never waits but for room.
  kSteady,     // One record at a time, the next as soon as the one before has arrived.
  kAfterIdle,  // One record at a time, each after a pause.
};

enum class Waiting : uint32_t { kSpin, kSleep };

enum class Role { kSender, kReceiver };

// One round, as it goes to both processes.
struct Round {
  Measure measure = Measure::kRate;
  Waiting waiting = Waiting::kSpin;
  uint64_t payload_bytes = 0;  // A multiple of 8.
  uint64_t records = 0;        // That count; at most kSamplesMax unless it is a rate.
  uint64_t warm_up_records = 0;
  int64_t pause_ns = 0;
  int64_t deadline_ns = 0;  // CLOCK_MONOTONIC; who is not done by then gives up.

  uint64_t all_records() const { return warm_up_records + records; }
};

inline constexpr uint64_t kSamplesMax = 1 << 14;

// Where the two processes of a contender meet; shared, zero-filled.
struct RoundPage {
  alignas(128) std::atomic<uint64_t> sender_rounds;    // Rounds the sender was ready for.
  alignas(128) std::atomic<uint64_t> receiver_rounds;  // As above.
  alignas(128) std::atomic<uint64_t> received;         // Latency only: records that arrived.
  alignas(128) std::atomic<uint32_t> given_up;         // Somebody failed or ran out of time.
  alignas(128) uint64_t sent_ticks[kSamplesMax];       // By the sender, just before it sends.
  alignas(128) uint64_t received_ticks[kSamplesMax];   // By the receiver, after it read in full.
};

// One side of a contender, in its own process.
class End {
 public:
  virtual ~End() = default;
  // Plays its part of one round. A receiver of a rate returns ns per record, everybody else 0.
  virtual absl::StatusOr<double> Run(const Round& round, RoundPage& page) = 0;
};

enum class Family : uint32_t { kBare, kOurs, kPeer };

struct Traits {
  std::string name;
  std::string meaning;  // What is compared, in words for people.
  Family family = Family::kBare;
  bool read_only_consumer = false;  // The consumer maps the records for reading only.
  bool there_and_back = false;      // A second process passes records on; the first gets them back.
  bool can_spin = true;
  bool can_sleep = false;
  uint64_t payload_bytes_max = 0;
};

class Contender {
 public:
  explicit Contender(Traits traits) : traits_(std::move(traits)) {}
  virtual ~Contender() = default;

  const Traits& traits() const { return traits_; }
  void Rename(std::string name) { traits_.name = std::move(name); }

  // Before the processes part: memory, sockets, services.
  virtual absl::Status Setup() = 0;
  // In the process of that side.
  virtual absl::StatusOr<std::unique_ptr<End>> Open(Role role, const TickClock& clock) = 0;
  // Processes that serve it (Redis, RouDi): their time counts as its own.
  virtual std::vector<pid_t> Services() const { return {}; }
  // Its library cleans up in exit handlers; the sides of all others end without them.
  virtual bool CleansUpAtExit() const { return false; }

 private:
  Traits traits_;
};

using Contenders = std::vector<std::unique_ptr<Contender>>;

}  // namespace iob::bench
