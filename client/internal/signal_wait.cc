#include "client/internal/signal_wait.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "client/error.h"
#include "shm/check.h"
#include "shm/futex.h"

namespace iob {
namespace {

constexpr std::chrono::milliseconds kSleepSlice{500};

// Why no signal of this connection will be seen any more; OK while one may be.
absl::Status WhyBlind(const Connection& connection) {
  if (!connection.status().ok()) return connection.status();
  if (connection.ChangeWord()) return absl::OkStatus();
  return WithReason(
      absl::PermissionDeniedError("the handle that was attached has not the right WAIT"),
      "ACCESS_DENIED");
}

}  // namespace

absl::StatusOr<size_t> AwaitSignals(std::span<SignalWait> waits, Deadline deadline,
                                    size_t* ret_failed) {
  IOB_CHECK(!waits.empty() && waits.size() <= kSignalWaitsMax);
  std::array<shm::FutexWord, kSignalWaitsMax> words;
  while (true) {
    for (const SignalWait& wait : waits) wait.connection->Pump();
    size_t satisfied = 0;
    std::optional<size_t> blind;
    for (size_t i = 0; i < waits.size(); ++i) {
      // The change word first: a signal raised after this load makes the sleep return at once.
      const std::optional<shm::FutexWord> change = waits[i].connection->ChangeWord();
      waits[i].observed = waits[i].connection->signals();
      const bool raised = change && (waits[i].observed & waits[i].signals) != 0;
      satisfied += raised ? 1 : 0;
      if (change) words[i] = *change;
      if (!blind && !raised && !WhyBlind(*waits[i].connection).ok()) blind = i;
    }
    if (satisfied != 0) return satisfied;
    if (blind) {
      *ret_failed = *blind;
      return WhyBlind(*waits[*blind].connection);
    }
    if (std::chrono::steady_clock::now() >= deadline) return size_t{0};
    const Deadline slice = std::min(deadline, After(kSleepSlice));
    const auto slice_ns =
        std::chrono::duration_cast<std::chrono::nanoseconds>(slice.time_since_epoch()).count();
    shm::FutexWaitAny(std::span(words).first(waits.size()), slice_ns);
  }
}

}  // namespace iob
