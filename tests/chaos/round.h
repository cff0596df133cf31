// Round: one buffer, processes at both ends of one of its rings, and harm done to them at random.
// Other rings of the buffer lie idle: whoever dies leaves its places in these, too.
//
//   begin     writers, a consumer, followers; each in a process of its own
//   harm      a few times: at a random moment (so many records later), to a random process:
//             SIGKILL | SIGSTOP, then SIGCONT or SIGKILL | its socket hangs up, its memory stays
//             mapped, then SIGKILL; a new process takes the place of a dead one
//   end       all writers but one settle and go; the last one closes, exits or is killed
//   check     the readers drained the ring and were told why; what they saw can be (verify.h); the
//             ring's figures add up; nothing is left
//
// All choices are drawn from the seed. What processes do in between is the scheduler's.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "client/broker.h"
#include "tests/chaos/chaos_daemon.h"
#include "tests/chaos/journal.h"
#include "tests/chaos/peer.h"
#include "tests/chaos/verify.h"

namespace iob::test {

// What was done, over all rounds: a run that did nothing proves nothing.
struct HarmCount {
  uint64_t killed = 0;
  uint64_t stopped = 0;
  uint64_t hung_up = 0;
  uint64_t records = 0;  // Stored.
  uint64_t rejected = 0;
  uint64_t unknown = 0;     // Records whose writer died before it knew.
  uint64_t read_again = 0;  // By a successor.
};

class Round {
 public:
  Round(ChaosDaemon& daemon, Broker& broker, JournalMapping& journal, RingKind kind,
        uint32_t number, uint64_t seed, HarmCount& harm);
  Round(const Round&) = delete;
  Round& operator=(const Round&) = delete;
  // Kills and reaps what is left.
  ~Round();

  // Complains by expectations.
  void Run();

 private:
  struct Process {
    Role role = Role::kWriter;
    uint32_t slot = 0;
    pid_t pid = -1;  // -1: reaped.
  };
  enum class Harm { kKill, kStopAndContinue, kStopAndKill, kHangUp };

  void Begin();
  void DoHarm();
  void HangUp(Process& victim);
  void Stop(Process& victim, bool then_kill);
  void End();
  void ExpectReaders(const CloseReason& reason);
  RingFigures Figures();
  void CheckAccounts();
  void GiveBack();

  RegionSpec Spec(RingKind kind);
  std::vector<RegionSpec> Specs();
  Ticket TicketFor(Role role);
  void Start(Role role);
  pid_t Execute(const PeerTask& task);
  void Tell(const Process& process, Order order);
  // Expects that exit code, or the signal as 128 + signal.
  void Reap(Process& process, int expected);
  void Kill(Process& process);
  // So many records later, or a little time.
  void WaitForMoment();
  uint64_t Progress() const;
  Common& CommonOf(const Process& process) const;
  std::vector<Process*> Alive(std::optional<Role> role = std::nullopt);
  uint32_t EndpointAttachments(size_t endpoint);
  uint32_t Draw(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }

  ChaosDaemon& daemon_;
  Broker& broker_;
  JournalMapping& journal_;
  const RingKind kind_;
  const RingPromise promise_;
  const uint32_t number_;
  std::mt19937_64 random_;
  HarmCount& harm_;
  std::optional<CreatedBuffer> buffer_;
  uint32_t region_ = 0;  // Which one is used.
  std::vector<Process> processes_;
  uint32_t writer_slots_ = 0;
  uint32_t reader_slots_ = 0;
};

}  // namespace iob::test
