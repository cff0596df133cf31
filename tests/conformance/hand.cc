#include "tests/conformance/hand.h"

#include <optional>
#include <span>
#include <utility>

#include "shm/ring_layout.h"

namespace iob::test {
namespace {

// What a record that was not stored would have been told by a call: of too large ones, those that
// no ring takes and those that this one does not.
Outcome OutcomeOfLoss(LossCause cause, size_t record_bytes) {
  const auto same_as = [](const Expected& expected) {
    return Outcome{
        .code = expected.code, .reason = std::string(expected.reason), .message = "rejected"};
  };
  switch (cause) {
    case LossCause::kFull:
      return same_as(zx::kNoSpace);
    case LossCause::kIntegrity:
      return same_as(zx::kIntegrity);
    case LossCause::kTooLarge:
      return same_as(record_bytes > shm::kRecordPayloadBytesMax ? zx::kInvalidArgs : zx::kNoSpace);
    case LossCause::kClosed:
      return same_as(zx::kPeerClosed);
    case LossCause::kBudget:
    case LossCause::kPolicy:
    case LossCause::kDeadline:
      break;
  }
  return {.code = absl::StatusCode::kUnknown, .reason = {}, .message = "another loss"};
}

std::span<const std::byte> SpanOf(const std::string& bytes) {
  return std::as_bytes(std::span(bytes.data(), bytes.size()));
}

class ControlHand final : public Hand {
 public:
  ControlHand(Control& control, std::string handle)
      : control_(control), handle_(std::move(handle)) {}

  Outcome Write(uint32_t region_index, const std::vector<std::string>& parts) override {
    return control_.Write(handle_, region_index, parts);
  }
  Outcome AllocateId(uint32_t region_index, const std::string& blob, uint32_t* ret_id) override {
    return control_.AllocateId(handle_, region_index, blob, ret_id);
  }
  Outcome SetName(const std::string& name) override { return control_.SetName(handle_, name); }
  Outcome Signal(uint32_t clear, uint32_t set) override {
    return control_.Signal(handle_, clear, set);
  }
  Outcome SignalPeer(uint32_t clear, uint32_t set) override {
    return control_.SignalPeer(handle_, clear, set);
  }

 private:
  Control& control_;
  std::string handle_;
};

class SocketHand final : public Hand {
 public:
  explicit SocketHand(std::unique_ptr<RawClient> client) : client_(std::move(client)) {}

  Outcome Write(uint32_t region_index, const std::vector<std::string>& parts) override {
    std::string record;
    for (const std::string& part : parts) record += part;
    EXPECT_EQ(client_->SendWrite(region_index, {record}), 0);
    const auto answer = client_->ReceiveAnswer();
    if (!answer) return Ended();
    const v1::WriteResult& result = answer->write_result();
    EXPECT_EQ(result.stored() + (result.lost_size() == 0 ? 0 : result.lost(0).count()), 1u);
    if (result.stored() == 1) return {};
    return OutcomeOfLoss(static_cast<LossCause>(result.lost(0).cause()), record.size());
  }
  Outcome AllocateId(uint32_t region_index, const std::string& blob, uint32_t* ret_id) override {
    EXPECT_EQ(client_->SendAllocateId(region_index, blob), 0);
    const auto answer = client_->ReceiveAnswer();
    if (!answer) return Ended();
    const v1::AllocateIdResult& result = answer->allocate_id_result();
    if (result.has_failure()) return OutcomeOfAnswer(result.failure());
    *ret_id = result.id();
    return {};
  }
  Outcome SetName(const std::string& name) override {
    EXPECT_EQ(client_->SendChangeName(name), 0);
    return CallOutcome();
  }
  Outcome Signal(uint32_t clear, uint32_t set) override {
    EXPECT_EQ(client_->SendChangeSignals(/*peer=*/false, clear, set), 0);
    return CallOutcome();
  }
  Outcome SignalPeer(uint32_t clear, uint32_t set) override {
    EXPECT_EQ(client_->SendChangeSignals(/*peer=*/true, clear, set), 0);
    return CallOutcome();
  }

 private:
  Outcome CallOutcome() {
    const auto answer = client_->ReceiveAnswer();
    if (!answer) return Ended();
    EXPECT_TRUE(answer->has_call_result()) << answer->ShortDebugString();
    return OutcomeOfAnswer(answer->call_result());
  }
  Outcome Ended() const {
    if (client_->error()) return OutcomeOfAnswer(*client_->error());
    return {.code = absl::StatusCode::kUnavailable, .reason = {}, .message = "no answer"};
  }

  std::unique_ptr<RawClient> client_;
};

class EndpointHand final : public Hand {
 public:
  explicit EndpointHand(Endpoint endpoint) : endpoint_(std::move(endpoint)) {}

  Outcome Write(uint32_t region_index, const std::vector<std::string>& parts) override {
    auto writer = endpoint_.OpenWriter(region_index);
    if (!writer.ok()) return OutcomeOf(writer.status());
    std::vector<std::span<const std::byte>> spans;
    size_t record_bytes = 0;
    for (const std::string& part : parts) {
      spans.push_back(SpanOf(part));
      record_bytes += part.size();
    }
    if (const absl::Status taken = writer->WriteParts(spans); !taken.ok()) return OutcomeOf(taken);
    const absl::Status finished = writer->Finish(After(std::chrono::seconds(20)));
    if (!finished.ok()) return OutcomeOf(finished);
    const WriterStats& stats = writer->stats();
    EXPECT_EQ(stats.stored_records + stats.lost_records(), 1u);
    for (size_t cause = 1; cause < shm::kLossCauses; ++cause) {
      if (stats.rejected_records[cause] != 0)
        return OutcomeOfLoss(static_cast<LossCause>(cause), record_bytes);
    }
    return {};
  }
  Outcome AllocateId(uint32_t region_index, const std::string& blob, uint32_t* ret_id) override {
    auto allocator = endpoint_.OpenIdAllocator(region_index);
    if (!allocator.ok()) return OutcomeOf(allocator.status());
    const auto id = allocator->AllocateId(SpanOf(blob));
    if (id.ok()) *ret_id = *id;
    return OutcomeOf(id.status());
  }
  Outcome SetName(const std::string& name) override { return OutcomeOf(endpoint_.SetName(name)); }
  Outcome Signal(uint32_t clear, uint32_t set) override {
    return OutcomeOf(endpoint_.Signal(clear, set));
  }
  Outcome SignalPeer(uint32_t clear, uint32_t set) override {
    return OutcomeOf(endpoint_.SignalPeer(clear, set));
  }

 private:
  Endpoint endpoint_;
};

}  // namespace

std::string WayName(const ::testing::TestParamInfo<Way>& info) {
  switch (info.param) {
    case Way::kGrpc:
      return "Grpc";
    case Way::kLibrary:
      return "Library";
    case Way::kSocket:
      return "Socket";
    case Way::kEndpoint:
      break;
  }
  return "Endpoint";
}

std::unique_ptr<Hand> HandByControl(Control& control, std::string handle) {
  return std::make_unique<ControlHand>(control, std::move(handle));
}

std::unique_ptr<Hand> HandBySocket(std::unique_ptr<RawClient> client) {
  return std::make_unique<SocketHand>(std::move(client));
}

std::unique_ptr<Hand> HandByEndpoint(Endpoint endpoint) {
  return std::make_unique<EndpointHand>(std::move(endpoint));
}

}  // namespace iob::test
