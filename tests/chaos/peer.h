// A process of a round: it writes to or reads from one ring until it is told to end, or killed.
//
// The driver executes its own binary with these words; descriptor 3 is the journal. The process
// dies with its driver. Writers write bursts of random length and pause in between; readers read
// batches of random length, and now and then let the ring fill.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/chaos/round_kind.h"

namespace iob::test {

enum class Role : uint8_t { kWriter, kConsumer, kFollower };

struct PeerTask {
  Role role = Role::kWriter;
  RingKind kind = RingKind::kDropNew;
  uint32_t region = 0;  // Of the buffer.
  uint32_t slot = 0;    // Of the journal.
  uint32_t round = 0;   // In all its records.
  uint64_t seed = 0;
  std::string ticket = {};
  std::string attach_path = {};
};

inline constexpr int kJournalFd = 3;
inline constexpr int kExitTold = 3;     // Order::kExit.
inline constexpr int kExitRefused = 7;  // No place is free yet; try again.
inline constexpr char kPeerWord[] = "--chaos-peer";

// On the command line, behind the program's name.
std::vector<std::string> WordsOf(const PeerTask& task);
std::optional<PeerTask> TaskOf(int argc, char** argv);

// The exit code of the process.
int RunPeer(const PeerTask& task);

}  // namespace iob::test
