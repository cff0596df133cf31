// Calls on the attach socket: what is sent, whose answer is whose among writes and other calls, and
// what becomes of a broker that answers wrongly, late or never.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/endpoint.h"
#include "client/error.h"
#include "tests/support/status_matchers.h"
#include "tests/unit/client/fake_broker.h"
#include "tests/unit/client/test_buffer.h"

namespace iob::test {
namespace {

using absl::StatusCode;
using namespace std::chrono_literals;

v1::BrokerPacket CallAnswer(int code = 0, v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED,
                            const std::string& message = "") {
  v1::BrokerPacket packet;
  v1::CallResult& result = *packet.mutable_call_result();
  result.set_code(code);
  result.set_reason(reason);
  result.set_message(message);
  return packet;
}

v1::BrokerPacket IdAnswer(uint32_t id) {
  v1::BrokerPacket packet;
  packet.mutable_allocate_id_result()->set_id(id);
  return packet;
}

v1::BrokerPacket WriteAnswer(uint32_t stored) {
  v1::BrokerPacket packet;
  packet.mutable_write_result()->set_stored(stored);
  return packet;
}

class CallTest : public ::testing::Test {
 protected:
  CallTest() { endpoint_.emplace(AttachTo(&broker_, buffer_.Give()).value()); }

  // Answers each packet with one of `answers`, in a thread; what was received.
  std::vector<v1::ClientPacket> Serving(const std::vector<v1::BrokerPacket>& answers,
                                        const std::function<void()>& body) {
    std::vector<v1::ClientPacket> received;
    std::thread broker([&] {
      for (const v1::BrokerPacket& answer : answers) {
        received.push_back(ReceivePacket(broker_.peer()).value_or(v1::ClientPacket()));
        SendPacket(broker_.peer(), answer);
      }
    });
    body();
    broker.join();
    return received;
  }

  FakeBroker broker_;
  TestBuffer buffer_;
  uint32_t ring_ = buffer_.AddRing(16 << 10, 0x38);
  uint32_t ids_ = buffer_.AddIds(1, 0x19);
  std::optional<Endpoint> endpoint_;
};

TEST_F(CallTest, SaysWhatIsAskedFor) {
  const auto received = Serving({CallAnswer(), CallAnswer(), CallAnswer()}, [&] {
    EXPECT_THAT(endpoint_->SetName("new name"), IsOk());
    EXPECT_THAT(endpoint_->Signal(UserSignal(0), UserSignal(1)), IsOk());
    EXPECT_THAT(endpoint_->SignalPeer(UserSignal(2), UserSignal(7)), IsOk());
  });
  EXPECT_EQ(received[0].change_name().name(), "new name");
  EXPECT_FALSE(received[1].change_signals().peer());
  EXPECT_EQ(received[1].change_signals().clear(), 0x01000000u);
  EXPECT_EQ(received[1].change_signals().set(), 0x02000000u);
  EXPECT_TRUE(received[2].change_signals().peer());
  EXPECT_EQ(received[2].change_signals().clear(), 0x04000000u);
  EXPECT_EQ(received[2].change_signals().set(), 0x80000000u);
}

TEST_F(CallTest, LeavesItToTheBrokerToSayNo) {
  const auto received =
      Serving({CallAnswer(9, v1::ERROR_REASON_PEER_CLOSED, "gone"),
               CallAnswer(3, v1::ERROR_REASON_INVALID_ARGUMENT, "bit 2")},
              [&] {
                const absl::Status gone = endpoint_->SignalPeer(0, UserSignal(0));
                EXPECT_THAT(gone, StatusIs(StatusCode::kFailedPrecondition, "gone"));
                EXPECT_EQ(ReasonOf(gone), "PEER_CLOSED");
                const absl::Status bad = endpoint_->Signal(kSignalPeerClosed, 0);
                EXPECT_THAT(bad, StatusIs(StatusCode::kInvalidArgument, "bit 2"));
              });
  EXPECT_EQ(received[1].change_signals().clear(), kSignalPeerClosed);
  // A failed call is not the end.
  Serving({CallAnswer()}, [&] { EXPECT_THAT(endpoint_->SetName(""), IsOk()); });
}

TEST_F(CallTest, SendsOfANameWhatZirconLooksAt) {
  const std::string cut(31, 'n');
  const auto received = Serving({CallAnswer()}, [&] {
    EXPECT_THAT(endpoint_->SetName(cut + std::string(100'000, 'x')), IsOk());
    // Protobuf cannot carry it, and a packet that cannot be parsed would be the end.
    const absl::Status refused = endpoint_->SetName("\xff");
    EXPECT_THAT(refused, StatusIs(StatusCode::kInvalidArgument));
    EXPECT_EQ(ReasonOf(refused), "INVALID_ARGUMENT");
  });
  EXPECT_EQ(received[0].change_name().name(), cut);
}

TEST_F(CallTest, KeepsTheOrderAmongWritesAndCalls) {
  RingWriter writer = endpoint_->OpenWriter(ring_).value();
  IdAllocator ids = endpoint_->OpenIdAllocator(ids_).value();
  const auto received =
      Serving({WriteAnswer(1), CallAnswer(), WriteAnswer(2), IdAnswer(5), CallAnswer()}, [&] {
        EXPECT_THAT(writer.Write(BytesOf("1")), IsOk());
        EXPECT_THAT(writer.Flush(), IsOk());
        EXPECT_THAT(endpoint_->Signal(0, UserSignal(0)), IsOk());
        // The call has read the write's answer as well.
        EXPECT_EQ(writer.stats().stored_records, 1u);
        EXPECT_THAT(writer.Write(BytesOf("2")), IsOk());
        EXPECT_THAT(writer.Write(BytesOf("3")), IsOk());
        EXPECT_THAT(writer.Flush(), IsOk());
        const auto id = ids.AllocateId(BytesOf("blob"));
        EXPECT_THAT(id, IsOk());
        EXPECT_EQ(id.value_or(0), 5u);
        EXPECT_EQ(writer.stats().stored_records, 3u);
        EXPECT_THAT(endpoint_->SetName("n"), IsOk());
      });
  EXPECT_TRUE(received[0].has_write());
  EXPECT_TRUE(received[1].has_change_signals());
  EXPECT_EQ(received[2].write().records_size(), 2);
  EXPECT_EQ(received[3].allocate_id().region_index(), ids_);
  EXPECT_EQ(received[3].allocate_id().blob(), "blob");
}

TEST_F(CallTest, DoesNotTakeALateAnswerForItsOwn) {
  EXPECT_EQ(ReasonOf(endpoint_->SetName("late", Deadline())), "DEADLINE");
  EXPECT_EQ(ReasonOf(endpoint_->Signal(0, UserSignal(0), Deadline())), "DEADLINE");
  EXPECT_EQ(ReceivePacket(broker_.peer())->change_name().name(), "late");
  EXPECT_TRUE(ReceivePacket(broker_.peer())->has_change_signals());
  SendPacket(broker_.peer(), CallAnswer(6, v1::ERROR_REASON_NAME_TAKEN));
  SendPacket(broker_.peer(), CallAnswer(7, v1::ERROR_REASON_ACCESS_DENIED));
  const auto received =
      Serving({CallAnswer()}, [&] { EXPECT_THAT(endpoint_->SetName("mine"), IsOk()); });
  EXPECT_EQ(received[0].change_name().name(), "mine");
}

TEST_F(CallTest, GivesUpWhenTooManyAnswersAreMissing) {
  constexpr int kWindow = 32;
  for (int i = 0; i < kWindow; ++i) {
    EXPECT_EQ(ReasonOf(endpoint_->SetName("n", Deadline())), "DEADLINE");
  }
  for (int i = 0; i < kWindow; ++i) EXPECT_TRUE(ReceivePacket(broker_.peer())->has_change_name());
  // Not even sent: a broker that answers nothing gets no more to answer.
  EXPECT_EQ(ReasonOf(endpoint_->SetName("unsent", Deadline())), "DEADLINE");
  SendPacket(broker_.peer(), CallAnswer());
  EXPECT_EQ(ReasonOf(endpoint_->SetName("sent", Deadline())), "DEADLINE");
  EXPECT_EQ(ReceivePacket(broker_.peer())->change_name().name(), "sent");
}

TEST_F(CallTest, QueuesEventsThatComeBeforeTheAnswer) {
  v1::BrokerPacket event;
  event.mutable_event()->mutable_signaled()->set_signals(UserSignal(3));
  SendPacket(broker_.peer(), event);
  Serving({CallAnswer()}, [&] { EXPECT_THAT(endpoint_->SetName("n"), IsOk()); });
  ASSERT_OK_AND_ASSIGN(const std::optional<Event> queued, endpoint_->PollEvents());
  ASSERT_TRUE(queued.has_value());
  EXPECT_EQ(queued->signals, UserSignal(3));
}

TEST_F(CallTest, TellsWhyTheConnectionEndedInsteadOfAnAnswer) {
  v1::BrokerPacket error;
  error.mutable_error()->set_code(13);
  error.mutable_error()->set_reason(v1::ERROR_REASON_INTERNAL);
  Serving({error}, [&] { EXPECT_EQ(ReasonOf(endpoint_->SetName("n")), "INTERNAL"); });
  EXPECT_EQ(ReasonOf(endpoint_->Signal(0, 0)), "INTERNAL");
}

TEST_F(CallTest, BelievesAnAnswerThatCameWithTheEnd) {
  std::thread broker([&] {
    ReceivePacket(broker_.peer());
    SendPacket(broker_.peer(), CallAnswer());
    broker_.peer()->Close();
  });
  EXPECT_THAT(endpoint_->SetName("n"), IsOk());
  broker.join();
  EXPECT_EQ(ReasonOf(endpoint_->SetName("n")), kReasonDisconnected);
}

TEST_F(CallTest, AnswersDetachedWhenClosed) {
  endpoint_->Close();
  EXPECT_EQ(ReasonOf(endpoint_->SetName("n")), kReasonDetached);
  EXPECT_EQ(ReasonOf(endpoint_->Signal(0, 0)), kReasonDetached);
  EXPECT_EQ(ReasonOf(endpoint_->SignalPeer(0, 0)), kReasonDetached);
}

TEST(CallRights, AWriterNeedsWriteInTheHandle) {
  FakeBroker broker;
  TestBuffer buffer;
  const uint32_t ring = buffer.AddRing(16 << 10, 0x38);
  ASSERT_OK_AND_ASSIGN(Endpoint endpoint,
                       AttachTo(&broker, buffer.Give(RightsWithout(HandleRights::kWrite))));
  const absl::Status denied = endpoint.OpenWriter(ring).status();
  EXPECT_THAT(denied, StatusIs(StatusCode::kPermissionDenied));
  EXPECT_EQ(ReasonOf(denied), "ACCESS_DENIED");
}

// What is asked and what is answered.
enum class Kind { kWrite, kAllocation, kCall };

v1::BrokerPacket AnswerOf(Kind kind) {
  switch (kind) {
    case Kind::kWrite:
      return WriteAnswer(1);
    case Kind::kAllocation:
      return IdAnswer(0);
    case Kind::kCall:
      break;
  }
  return CallAnswer();
}

class WrongAnswerTest : public CallTest,
                        public ::testing::WithParamInterface<std::pair<Kind, Kind>> {
 protected:
  absl::Status Ask(Kind kind) {
    switch (kind) {
      case Kind::kWrite: {
        RingWriter writer = endpoint_->OpenWriter(ring_).value();
        EXPECT_THAT(writer.Write(BytesOf("1")), IsOk());
        absl::Status finished = writer.Finish(After(5s));
        EXPECT_EQ(writer.stats().pending_records(), 1u);
        return finished;
      }
      case Kind::kAllocation:
        return endpoint_->OpenIdAllocator(ids_).value().AllocateId({}).status();
      case Kind::kCall:
        break;
    }
    return endpoint_->SetName("n");
  }
};

TEST_P(WrongAnswerTest, EndsTheConnection) {
  const auto [asked, answered] = GetParam();
  absl::Status status;
  Serving({AnswerOf(answered)}, [this, kind = asked, &status] { status = Ask(kind); });
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss, "another kind"));
  EXPECT_EQ(ReasonOf(status), "PROTOCOL");
  EXPECT_EQ(ReasonOf(endpoint_->SetName("n")), "PROTOCOL");
}

INSTANTIATE_TEST_SUITE_P(Kinds, WrongAnswerTest,
                         ::testing::Values(std::pair(Kind::kWrite, Kind::kAllocation),
                                           std::pair(Kind::kWrite, Kind::kCall),
                                           std::pair(Kind::kAllocation, Kind::kWrite),
                                           std::pair(Kind::kAllocation, Kind::kCall),
                                           std::pair(Kind::kCall, Kind::kWrite),
                                           std::pair(Kind::kCall, Kind::kAllocation)));

class AnswerToNothingTest : public CallTest, public ::testing::WithParamInterface<Kind> {};

TEST_P(AnswerToNothingTest, EndsTheConnection) {
  SendPacket(broker_.peer(), AnswerOf(GetParam()));
  const absl::Status status = endpoint_->WaitEvent(After(5s)).status();
  EXPECT_THAT(status, StatusIs(StatusCode::kDataLoss, "nobody"));
  EXPECT_EQ(ReasonOf(status), "PROTOCOL");
}

INSTANTIATE_TEST_SUITE_P(Kinds, AnswerToNothingTest,
                         ::testing::Values(Kind::kWrite, Kind::kAllocation, Kind::kCall));

TEST_F(CallTest, MakesSenseOfAnyCodeAndReason) {
  for (const int code : {-1, 17, INT32_MAX, INT32_MIN}) {
    Serving({CallAnswer(code, static_cast<v1::ErrorReason>(-77), "odd")}, [&] {
      const absl::Status odd = endpoint_->SetName("n");
      EXPECT_THAT(odd, StatusIs(StatusCode::kUnknown, "odd"));
      EXPECT_EQ(ReasonOf(odd), "UNKNOWN");
      EXPECT_EQ(ReasonText(odd), "-77");
    });
  }
}

}  // namespace
}  // namespace iob::test
