#include <optional>
#include <utility>
#include <vector>

#include "client/error.h"
#include "shm/result.h"
#include "tests/chaos/record_sink.h"

namespace iob::test {
namespace {

using Fill = std::function<void(std::span<std::byte>)>;

class SinkBase : public RecordSink {
 protected:
  explicit SinkBase(WriterSlot& slot) : slot_(slot) {}
  void Note(uint64_t number, Fate fate) {
    slot_.fates[number].store(static_cast<uint8_t>(fate), std::memory_order_release);
  }
  std::span<std::byte> Filled(size_t bytes, const Fill& fill) {
    bytes_.resize(bytes);
    fill(bytes_);
    return bytes_;
  }

 private:
  WriterSlot& slot_;
  std::vector<std::byte> bytes_;
};

class MediatedSink final : public SinkBase {
 public:
  MediatedSink(WriterSlot& slot, RingWriter writer) : SinkBase(slot), writer_(std::move(writer)) {}

  absl::Status Put(uint32_t number, size_t bytes, const Fill& fill) override {
    absl::Status status =
        writer_.Write(Filled(bytes, fill), {.wait = std::nullopt, .cookie = number});
    if (!status.ok()) Note(number, Fate::kRefused);
    return status;
  }
  absl::Status Collect() override {
    IOB_RETURN_IF_ERROR(writer_.Flush());
    IOB_RETURN_IF_ERROR(writer_.Poll());
    TakeCompletions();
    return absl::OkStatus();
  }
  absl::Status Settle() override {
    IOB_RETURN_IF_ERROR(writer_.Finish(After(std::chrono::seconds(20))));
    TakeCompletions();
    return absl::OkStatus();
  }

 private:
  void TakeCompletions() {
    while (const std::optional<WriteCompletion> done = writer_.TryTakeCompletion())
      Note(done->cookie, done->lost ? Fate::kRejected : Fate::kStored);
  }
  RingWriter writer_;
};

class ReserveSink final : public SinkBase {
 public:
  ReserveSink(WriterSlot& slot, ReserveRingWriter writer, std::function<void()> pause)
      : SinkBase(slot), writer_(std::move(writer)), pause_(std::move(pause)) {}

  absl::Status Put(uint32_t number, size_t bytes, const Fill& fill) override {
    Reservation room;
    const ReserveOutcome outcome = writer_.TryReserve(bytes, &room);
    if (outcome == ReserveOutcome::kIntegrity) return absl::DataLossError("TryReserve");
    if (outcome != ReserveOutcome::kReserved) {
      Note(number, Fate::kRejected);
      const auto waited = writer_.WaitForRoom(bytes, After(std::chrono::milliseconds(2)));
      return waited.status();
    }
    fill(room.bytes().first(bytes));
    pause_();
    if (number % 16 == 7) {
      Note(number, Fate::kDiscarded);
      return writer_.Discard(room);
    }
    IOB_RETURN_IF_ERROR(number % 8 == 3 ? writer_.SubmitDeferred(room) : writer_.Submit(room));
    if (number % 8 == 3) IOB_RETURN_IF_ERROR(writer_.Publish());
    Note(number, Fate::kStored);
    return absl::OkStatus();
  }
  absl::Status Collect() override { return writer_.Publish(); }
  absl::Status Settle() override { return writer_.Publish(); }

 private:
  ReserveRingWriter writer_;
  std::function<void()> pause_;
};

// Broadcast and slot: what is written is stored.
template <typename Writer>
class PlainSink final : public SinkBase {
 public:
  PlainSink(WriterSlot& slot, Writer writer) : SinkBase(slot), writer_(std::move(writer)) {}

  absl::Status Put(uint32_t number, size_t bytes, const Fill& fill) override {
    IOB_RETURN_IF_ERROR(writer_.Write(Filled(bytes, fill)));
    Note(number, Fate::kStored);
    return absl::OkStatus();
  }
  absl::Status Collect() override { return absl::OkStatus(); }
  absl::Status Settle() override { return absl::OkStatus(); }

 private:
  Writer writer_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<RecordSink>> OpenSink(Endpoint& endpoint, const PeerTask& task,
                                                     WriterSlot& slot,
                                                     const std::function<void()>& pause) {
  if (PromiseOf(task.kind).mediated) {
    RingWriterOptions options;
    options.transport = task.slot % 3 == 2 ? TransportChoice::kSocket : TransportChoice::kQueue;
    options.completions = true;
    IOB_ASSIGN_OR_RETURN(RingWriter writer, endpoint.OpenWriter(task.region, options));
    return std::make_unique<MediatedSink>(slot, std::move(writer));
  }
  if (task.kind == RingKind::kBroadcast) {
    IOB_ASSIGN_OR_RETURN(BroadcastWriter writer, endpoint.OpenBroadcastWriter(task.region));
    return std::make_unique<PlainSink<BroadcastWriter>>(slot, std::move(writer));
  }
  if (task.kind == RingKind::kSlot) {
    IOB_ASSIGN_OR_RETURN(SlotWriter writer, endpoint.OpenSlotWriter(task.region));
    return std::make_unique<PlainSink<SlotWriter>>(slot, std::move(writer));
  }
  IOB_ASSIGN_OR_RETURN(ReserveRingWriter writer, endpoint.OpenReserveWriter(task.region));
  return std::make_unique<ReserveSink>(slot, std::move(writer), pause);
}

}  // namespace iob::test
