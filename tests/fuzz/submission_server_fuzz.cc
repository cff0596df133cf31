// The server of a submission queue against a client that writes whatever it likes into SUBMIT.
// COMPLETE is sealed, as in real life.
//
// Always: what a Serve decides stays within its limits and the queue, totals add up, a violation is
// for good. While honest, with entries coming between any two loads: every entry is handed to the
// sink in order, byte by byte, and the client's account agrees in the end.
#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "shm/submission_client.h"
#include "shm/submission_server.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::AppendOutcome;
using shm::ServeState;

class SubmissionServerSchedule {
 public:
  explicit SubmissionServerSchedule(Input& input)
      : input_(input),
        peer_(input),
        layout_(
            shm::SubmissionLayout::ForQueue({.capacity_bytes = shm::PageBytes(), .completions = 4})
                .value()),
        server_(shm::SubmissionServer::Create(layout_).value()),
        client_(
            shm::SubmissionClient::Map(layout_, server_.submit_memfd(), server_.complete_memfd())
                .value()),
        submit_(shm::Mapping::Map(server_.submit_memfd()).value()) {
    const uint64_t entries = layout_.page_bytes();
    const uint64_t capacity = layout_.capacity_bytes();
    peer_.Owns(submit_, {shm::kSubmitTailOffset, shm::kSubmitCompletionHeadOffset, entries,
                         shm::kSubmitWaitingOffset, entries + 8, entries + 16});
    peer_.Knows({capacity - 8, capacity, capacity + 8,
                 shm::EncodeEntryHeader({.length_bytes = static_cast<uint32_t>(capacity - 16),
                                         .wait_ms = 1,
                                         .op = shm::kEntryOpWrite,
                                         .flags = shm::kEntryWantCompletion})});
    peer_.Acts([this] { Add(30); });
  }

  void Run() {
    while (!input_.empty() && !finished_) {
      Step();
      Check();
    }
    peer_.CallOff();
    if (peer_.honest()) Settle();
  }

 private:
  void Step() {
    switch (input_.Below(11)) {
      case 0:
      case 1:
        for (int left = input_.Byte() % 4; left >= 0; --left) {
          Add(input_.UpTo(layout_.capacity_bytes()));
        }
        break;
      case 2:
      case 3:
        Serve();
        break;
      case 4:
        Take();
        break;
      case 5:
        server_.GiveUp(shm::LossCause::kClosed);
        blocked_ = false;
        break;
      case 6:
        if (blocked_) break;
        (void)peer_.Watch([this] { return server_.BecomeIdle(); });
        peer_.Watch([this] { server_.Activate(); });
        break;
      case 7:
        Finish();
        break;
      case 8:
        peer_.Scribble();
        break;
      default:
        peer_.Ambush();
        break;
    }
  }

  void Add(uint64_t payload_bytes) {
    const uint64_t number = sizes_.size();
    std::vector<std::byte> payload(payload_bytes);
    FillPattern(number, payload);
    const shm::AddOptions options{.cookie = number,
                                  .wait_ms = static_cast<uint16_t>(number % 3),
                                  .want_completion = number % 4 == 0};
    if (client_.TryAdd(payload, options) == shm::AddOutcome::kAdded) {
      sizes_.push_back(payload_bytes);
    }
    (void)client_.Publish();
  }

  AppendOutcome Sink(std::span<const std::byte> payload, AppendOutcome outcome) {
    sunk_ += 1;
    IOB_CHECK(payload.size() <= layout_.capacity_bytes());
    LookAt(payload);
    if (peer_.honest()) {
      const uint64_t number = server_.totals().attempted_records;
      IOB_CHECK(number < sizes_.size() && sizes_[number] == payload.size());
      IOB_CHECK(HasPattern(number, payload));
    }
    return outcome;
  }

  void Serve() {
    const shm::ServeLimits limits{.entries_max = input_.UpTo(UINT64_MAX),
                                  .bytes_max = input_.UpTo(UINT64_MAX),
                                  .now_ns = 1 + static_cast<int64_t>(input_.Byte()) * 1'000'000};
    const auto answer = static_cast<AppendOutcome>(input_.Byte() % 5);
    sunk_ = 0;
    const shm::ServeResult result = peer_.Watch([&] {
      return server_.Serve(
          limits, [&](std::span<const std::byte> payload) { return Sink(payload, answer); });
    });
    IOB_CHECK(result.entries <= limits.entries_max);
    IOB_CHECK(sunk_ == result.entries + (result.state == ServeState::kBlocked ? 1 : 0));
    // Positions only grow, by whole entries, up to one tail, and never past it.
    IOB_CHECK(result.entries * shm::kEntryHeaderBytes <= result.bytes);
    IOB_CHECK((result.entries == 0) == (result.bytes == 0));
    IOB_CHECK(!violated_ || result.state == ServeState::kViolation);
    violated_ = result.state == ServeState::kViolation;
    IOB_CHECK(!violated_ || !peer_.honest());
    blocked_ = result.state == ServeState::kBlocked;
    if (blocked_) {
      IOB_CHECK(result.room_bytes <= shm::RecordBytes(layout_.capacity_bytes()));
      IOB_CHECK(result.deadline_ns > limits.now_ns);
    }
  }

  void Finish() {
    const bool stores = input_.Flag();
    peer_.Watch([&] {
      if (stores) {
        server_.FinishAll(shm::LossCause::kClosed, [&](std::span<const std::byte> payload) {
          return Sink(payload, AppendOutcome::kStored);
        });
      } else {
        server_.RejectAll(shm::LossCause::kClosed);
      }
    });
    finished_ = true;
  }

  void Take() {
    shm::Completion completion;
    while (client_.TakeCompletion(&completion) == shm::TakeOutcome::kTaken) {
      if (peer_.honest()) IOB_CHECK(completion.cookie == completion.entry_number);
    }
    (void)client_.Publish();
  }

  void Check() {
    const shm::Ledger& totals = server_.totals();
    IOB_CHECK(totals.attempted_records == std::accumulate(totals.rejected_records.begin(),
                                                          totals.rejected_records.end(),
                                                          totals.stored_records));
    IOB_CHECK(totals.attempted_bytes == std::accumulate(totals.rejected_bytes.begin(),
                                                        totals.rejected_bytes.end(),
                                                        totals.stored_bytes));
    const shm::SubmissionStats stats = client_.stats();
    IOB_CHECK(stats.attempted_records == stats.decided.attempted_records + stats.pending_records);
    IOB_CHECK(client_.status().ok() || !peer_.honest());
  }

  // Both accounts agree when everything is decided.
  void Settle() {
    for (int left = 300; left > 0 && !finished_; --left) {
      Take();
      const shm::ServeLimits no_limits{
          .entries_max = UINT64_MAX, .bytes_max = UINT64_MAX, .now_ns = 1};
      const auto result = server_.Serve(no_limits, [this](std::span<const std::byte> payload) {
        return Sink(payload, AppendOutcome::kStored);
      });
      if (result.state == ServeState::kIdle) break;
      IOB_CHECK(result.state == ServeState::kStalled);
    }
    Take();
    const shm::SubmissionStats stats = client_.stats();
    IOB_CHECK(stats.attempted_records == sizes_.size());
    if (stats.pending_records != 0) {
      // Only an end can leave entries of which the client could not be told.
      IOB_CHECK(finished_);
      return;
    }
    IOB_CHECK(stats.decided.stored_records == server_.totals().stored_records);
    IOB_CHECK(stats.decided.rejected_bytes == server_.totals().rejected_bytes);
  }

  Input& input_;
  Peer peer_;
  shm::SubmissionLayout layout_;
  shm::SubmissionServer server_;
  shm::SubmissionClient client_;
  shm::Mapping submit_;
  std::vector<uint64_t> sizes_;  // By cookie.
  uint64_t sunk_ = 0;
  bool blocked_ = false;
  bool violated_ = false;
  bool finished_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  iob::fuzz::Input input({data, size});
  iob::fuzz::SubmissionServerSchedule(input).Run();
  return 0;
}
