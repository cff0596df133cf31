#include "tests/chaos/peer.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shm/futex.h"
#include "tests/chaos/journal.h"
#include "tests/chaos/record.h"
#include "tests/chaos/record_sink.h"
#include "tests/chaos/record_source.h"

namespace iob::test {
namespace {

using namespace std::chrono_literals;

class Peer {
 public:
  Peer(const PeerTask& task, Common& common) : task_(task), common_(common), random_(task.seed) {}

 protected:
  absl::StatusOr<Endpoint> Attach() const {
    const EndpointId id = task_.role == Role::kWriter ? EndpointId::kEp1 : EndpointId::kEp0;
    absl::StatusOr<Ticket> ticket = Ticket::FromHex(task_.ticket, id, task_.attach_path);
    if (!ticket.ok()) return ticket.status();
    return Endpoint::Attach(*ticket, {.timeout = 20s});
  }
  int Fail(const absl::Status& status) { return Fail(status.ToString()); }
  int Fail(const std::string& problem) {
    std::snprintf(common_.problem.data(), common_.problem.size(), "%s", problem.c_str());
    Become(State::kFailed);
    return 1;
  }
  // No place is free, because a predecessor's end is not settled yet.
  static bool IsRefusal(const absl::Status& status) {
    return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
           absl::IsFailedPrecondition(status);
  }
  void Become(State state) { common_.state.store(static_cast<uint32_t>(state)); }
  bool Is(State state) const { return common_.state.load() == static_cast<uint32_t>(state); }
  Order Told() const { return static_cast<Order>(common_.order.load()); }
  uint32_t Draw(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }
  // Until an order comes, at most.
  void Pause(std::chrono::nanoseconds time) {
    const std::array words = {shm::FutexWord{.address = &common_.order, .expected = 0}};
    if (Told() == Order::kWork) shm::FutexWaitAny(words, shm::MonotonicNs() + time.count());
  }
  [[noreturn]] static void WaitForTheEnd() {
    while (true) ::pause();
  }

  const PeerTask& task_;
  Common& common_;
  std::mt19937_64 random_;
};

class WriterPeer : Peer {
 public:
  WriterPeer(const PeerTask& task, WriterSlot& slot) : Peer(task, slot.common), slot_(slot) {}

  int Run() {
    absl::StatusOr<Endpoint> endpoint = Attach();
    if (!endpoint.ok())
      return IsRefusal(endpoint.status()) ? kExitRefused : Fail(endpoint.status());
    auto sink = OpenSink(*endpoint, task_, slot_, [this] {
      // Held open for a while now and then: what is to be killed or stopped in the middle.
      if (Draw(64) == 0) Pause(std::chrono::microseconds(Draw(2000)));
    });
    if (!sink.ok()) return IsRefusal(sink.status()) ? kExitRefused : Fail(sink.status());
    Become(State::kWorking);
    while (Told() == Order::kWork || Told() == Order::kHangUp) {
      if (Told() == Order::kHangUp && !Is(State::kLingering)) {
        ::shutdown(endpoint->fd(), SHUT_RDWR);
        Become(State::kLingering);
      }
      const absl::Status status = Burst(**sink);
      if (status.ok()) continue;
      if (!Is(State::kLingering)) return Fail(status);
      // Its memory stays mapped, and its record may stay half written.
      WaitForTheEnd();
    }
    return End(*endpoint, **sink);
  }

 private:
  absl::Status Burst(RecordSink& sink) {
    const uint32_t burst = 1 + Draw(Draw(8) == 0 ? 400 : 40);
    for (uint32_t i = 0; i < burst && number_ < kRecordsMax; ++i) {
      const RecordHeader header = {.round = task_.round,
                                   .writer = task_.slot,
                                   .number = number_,
                                   .bytes = RecordBytes(task_.round, task_.slot, number_)};
      slot_.begun.store(++number_, std::memory_order_release);
      const absl::Status status =
          sink.Put(header.number, header.bytes, [&](auto target) { FillRecord(header, target); });
      if (!status.ok()) return status;
    }
    absl::Status status = sink.Collect();
    if (number_ == kRecordsMax) {
      Pause(10ms);
    } else {
      Pause(std::chrono::microseconds(Draw(1500)));
    }
    return status;
  }

  int End(Endpoint& endpoint, RecordSink& sink) {
    if (const absl::Status status = sink.Settle(); !status.ok()) return Fail(status);
    common_.settled.store(1);
    if (Told() == Order::kPark) WaitForTheEnd();
    if (Told() == Order::kExit) ::_exit(kExitTold);
    endpoint.Close();
    Become(State::kDone);
    return 0;
  }

  WriterSlot& slot_;
  uint32_t number_ = 0;
};

class ReaderPeer : Peer {
 public:
  ReaderPeer(const PeerTask& task, ReaderSlot& slot) : Peer(task, slot.common), slot_(slot) {}

  int Run() {
    absl::StatusOr<Endpoint> endpoint = Attach();
    if (!endpoint.ok())
      return IsRefusal(endpoint.status()) ? kExitRefused : Fail(endpoint.status());
    auto source = OpenSource(*endpoint, task_, slot_);
    if (!source.ok()) return IsRefusal(source.status()) ? kExitRefused : Fail(source.status());
    Become(State::kWorking);
    while (Told() == Order::kWork) {
      const auto outcome = (*source)->Wait(After(20ms));
      if (!outcome.ok()) return Fail(outcome.status());
      if (*outcome == WaitOutcome::kPeerClosed) return End(*endpoint);
      if (*outcome == WaitOutcome::kDeadline) continue;
      if (const absl::Status status = Batch(**source); !status.ok()) return Fail(status);
      if (Draw(32) == 0) Pause(std::chrono::microseconds(Draw(3000)));
    }
    ::shutdown(endpoint->fd(), SHUT_RDWR);
    Become(State::kLingering);
    WaitForTheEnd();
  }

 private:
  absl::Status Batch(RecordSource& source) {
    const uint32_t batch = 1 + Draw(100);
    for (uint32_t i = 0; i < batch; ++i) {
      const absl::StatusOr<bool> any = source.Read(bytes_);
      if (!any.ok()) return any.status();
      if (!*any) break;
      RecordHeader header;
      const std::string damage = CheckRecord(task_.round, bytes_, &header);
      if (!damage.empty()) return absl::DataLossError(damage);
      const uint32_t index = slot_.logged.load();
      // Only with records that came twice.
      if (index == kLogMax) return absl::DataLossError("more records than were written");
      slot_.log[index] = RecordId(header.writer, header.number);
      slot_.logged.store(index + 1, std::memory_order_release);
    }
    // Now and then in no hurry: what is to be killed between reading and releasing.
    if (Draw(32) == 0) Pause(std::chrono::microseconds(Draw(3000)));
    slot_.releasing.store(slot_.logged.load());
    source.Release();
    slot_.released.store(slot_.logged.load());
    return absl::OkStatus();
  }

  int End(const Endpoint& endpoint) {
    common_.close_kind.store(static_cast<uint32_t>(endpoint.close_reason().kind));
    common_.close_code.store(endpoint.close_reason().code);
    Become(State::kDone);
    return 0;
  }

  ReaderSlot& slot_;
  std::vector<std::byte> bytes_;
};

}  // namespace

std::vector<std::string> WordsOf(const PeerTask& task) {
  return {kPeerWord,
          absl::StrCat(static_cast<int>(task.role)),
          absl::StrCat(static_cast<int>(task.kind)),
          absl::StrCat(task.region),
          absl::StrCat(task.slot),
          absl::StrCat(task.round),
          absl::StrCat(task.seed),
          task.ticket,
          task.attach_path};
}

std::optional<PeerTask> TaskOf(int argc, char** argv) {
  if (argc != 10 || std::string(argv[1]) != kPeerWord) return std::nullopt;
  PeerTask task;
  int role = 0;
  int kind = 0;
  if (!absl::SimpleAtoi(argv[2], &role) || !absl::SimpleAtoi(argv[3], &kind) ||
      !absl::SimpleAtoi(argv[4], &task.region) || !absl::SimpleAtoi(argv[5], &task.slot) ||
      !absl::SimpleAtoi(argv[6], &task.round) || !absl::SimpleAtoi(argv[7], &task.seed)) {
    return std::nullopt;
  }
  task.role = static_cast<Role>(role);
  task.kind = static_cast<RingKind>(kind);
  task.ticket = argv[8];
  task.attach_path = argv[9];
  return task;
}

int RunPeer(const PeerTask& task) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const JournalMapping journal{shm::UniqueFd(kJournalFd)};
  if (task.role == Role::kWriter) return WriterPeer(task, journal->writers[task.slot]).Run();
  return ReaderPeer(task, journal->readers[task.slot]).Run();
}

}  // namespace iob::test
