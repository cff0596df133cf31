#include "client/ring_reader.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "client/error.h"
#include "client/internal/connection.h"
#include "shm/futex.h"
#include "shm/result.h"

namespace iob {
namespace {

using std::chrono::duration_cast;
using std::chrono::nanoseconds;

// About what a futex sleep and wake cost together: spinning longer than that cannot win.
constexpr int64_t kSpinNsMax = 20'000;
constexpr int kSpinScoreMax = 8;
// With no hits for long, one wait in this many still tries, in case the writer got faster.
constexpr uint32_t kSpinProbeEvery = 32;
constexpr int kLooksPerClockRead = 32;
// A sleep on memory does not see the connection: a broker that died wakes nobody.
constexpr std::chrono::milliseconds kSleepSlice{500};

bool SpinningCanPay() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  // On one processor the writer cannot run while we spin. More than 1024: the call fails, and many.
  return ::sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) > 1;
}

void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int64_t ToMonotonicNs(Deadline deadline) {
  return duration_cast<nanoseconds>(deadline.time_since_epoch()).count();
}

}  // namespace

RingReader::~RingReader() {
  // A moved-from reader has no connection, and no ring to touch.
  if (armed_ && connection_ != nullptr) ring_.ClearWaiting();
}

void RingReader::Release() {
  if (armed_) {
    armed_ = false;
    ring_.ClearWaiting();
  }
  if (ring_.Release()) [[unlikely]]
    connection_->SendRoomMade(region_index_);
}

absl::StatusOr<bool> RingReader::TryRead(Record* ret_record) {
  RecordView view;
  switch (ring_.Next(&view)) {
    case ReadOutcome::kEmpty:
      return false;
    case ReadOutcome::kPoisoned:
      return status();
    case ReadOutcome::kRecord:
      break;
  }
  ret_record->tag = view.tag;
  ret_record->payload.assign(view.payload.begin(), view.payload.end());
  Release();
  return true;
}

absl::StatusOr<WaitOutcome> RingReader::Wait(Deadline deadline) {
  if (SpinForRecord(deadline)) return WaitOutcome::kRecords;
  while (true) {
    // Before the ring: the broker publishes all of a writer's records before it raises the bit, so
    // an empty ring after a raised bit is empty for good.
    const bool closed = connection_->peer_closed();
    if (ring_.HasRecords()) return WaitOutcome::kRecords;
    IOB_RETURN_IF_ERROR(status());
    if (closed) return WaitOutcome::kPeerClosed;
    IOB_RETURN_IF_ERROR(connection_->status());
    if (std::chrono::steady_clock::now() >= deadline) return WaitOutcome::kDeadline;
    Sleep(deadline);
  }
}

bool RingReader::SpinForRecord(Deadline deadline) {
  static const bool can_pay = SpinningCanPay();
  if (ring_.HasRecords()) return true;
  waits_ += 1;
  const bool probe = waits_ % kSpinProbeEvery == 1;
  if (!can_pay || (spin_score_ == 0 && !probe)) return false;
  const int64_t budget_ns = probe ? kSpinNsMax : kSpinNsMax * spin_score_ / kSpinScoreMax;
  const int64_t end_ns = std::min(shm::MonotonicNs() + budget_ns, ToMonotonicNs(deadline));
  do {
    for (int i = 0; i < kLooksPerClockRead; ++i) {
      if (ring_.HasRecords()) {
        spin_score_ = std::min(spin_score_ + 2, kSpinScoreMax);
        return true;
      }
      CpuRelax();
    }
  } while (shm::MonotonicNs() < end_ns);
  spin_score_ = std::max(spin_score_ - 1, 0);
  return false;
}

void RingReader::Sleep(Deadline deadline) {
  const Deadline slice = std::min(deadline, After(kSleepSlice));
  // The change word first: a bit raised after this load makes the sleep return at once.
  const shm::FutexWord change = connection_->ChangeWord();
  armed_ = false;
  if (ring_.PrepareToWait(shm::kWaitingOnFutex) && !connection_->peer_closed()) {
    const std::array<shm::FutexWord, 2> words = {ring_.HeadWord(), change};
    if (shm::FutexWaitAny(words, ToMonotonicNs(slice)) == shm::FutexOutcome::kDeadline) {
      // What the broker says about this connection it says on the socket.
      connection_->Pump();
    }
  }
  ring_.ClearWaiting();
}

bool RingReader::ArmFd() {
  connection_->Pump();
  connection_->DropReadable(region_index_);
  armed_ = true;
  const bool nothing_there = ring_.PrepareToWait(shm::kWaitingOnSocket);
  return nothing_there && connection_->status().ok() && !connection_->has_event();
}

int RingReader::fd() const { return connection_->fd(); }

absl::Status RingReader::status() const {
  absl::Status status = ring_.status();
  return status.ok() ? status : WithReason(std::move(status), "INTEGRITY");
}

}  // namespace iob
