// Reserve rings through libiob, against a daemon of its own; see direct_rings.h.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/event_watch.h"
#include "client/reserve_ring_reader.h"
#include "client/reserve_ring_writer.h"
#include "tests/unit/client/direct_rings.h"

namespace iob::test {

inline constexpr uint64_t kRingBytes = 16 << 10;

class ReserveRing : public DirectRings {
 protected:
  void MakeRing(const ReserveRingOptions& options, uint64_t size_bytes = kRingBytes) {
    ASSERT_NO_FATAL_FAILURE(Make(ReserveRingSpec(size_bytes, options)));
    ASSERT_OK_AND_ASSIGN(ReserveRingReader reader, consumer_->OpenReserveReader(0));
    reader_.emplace(std::move(reader));
  }
  void MakeShared(StallPolicy on_stall, std::chrono::milliseconds stall) {
    MakeRing({.mode = ReserveMode::kShared, .on_stall = on_stall, .stall = stall});
  }
  void TearDown() override {
    reader_.reset();
    DirectRings::TearDown();
  }

  // All that is there, as texts.
  std::vector<std::string> Drain(ReserveRingReader& reader) {
    std::vector<std::string> texts;
    const auto count = reader.Drain(SIZE_MAX, [&texts](const SharedRecord& record) {
      std::vector<std::byte> copy(record.payload.size());
      record.payload.CopyOut(0, copy);
      texts.push_back(AsText(copy));
    });
    EXPECT_THAT(count, IsOk());
    return texts;
  }
  std::vector<std::string> Drain() { return Drain(*reader_); }
  // Waits until there are `count` of them.
  std::vector<std::string> Await(size_t count) {
    std::vector<std::string> texts;
    const Deadline deadline = After(kPatience);
    while (texts.size() < count) {
      const auto outcome = reader_->Wait(deadline);
      EXPECT_THAT(outcome, IsOk());
      if (!outcome.ok() || *outcome != WaitOutcome::kRecords) break;
      for (std::string& text : Drain()) texts.push_back(std::move(text));
    }
    EXPECT_EQ(texts.size(), count);
    return texts;
  }
  void ExpectPeerClosed(const CloseReason& reason) {
    const auto outcome = reader_->Wait(After(kPatience));
    ASSERT_THAT(outcome, IsOk());
    EXPECT_EQ(*outcome, WaitOutcome::kPeerClosed);
    EXPECT_EQ(consumer_->close_reason(), reason) << ToString(consumer_->close_reason());
  }

  std::optional<ReserveRingReader> reader_;
};

// Reserves, copies in and submits, in the caller's process.
inline void Put(ReserveRingWriter& writer, const std::string& text, Wake wake = Wake::kDefault) {
  absl::StatusOr<Reservation> room = writer.Reserve(text.size());
  ASSERT_THAT(room, IsOk());
  ASSERT_EQ(room->bytes().size(), text.size());
  std::memcpy(room->bytes().data(), text.data(), text.size());
  EXPECT_THAT(writer.Submit(*room, wake), IsOk());
}

// A producer that submits `texts`, reserves one more, says so, and waits for its end.
inline void DieInTheMiddle(const Ticket& ticket, const std::vector<std::string>& texts,
                           Turn* reserved) {
  absl::StatusOr<Endpoint> endpoint = Endpoint::Attach(ticket);
  ASSERT_THAT(endpoint, IsOk());
  absl::StatusOr<ReserveRingWriter> writer = endpoint->OpenReserveWriter(0);
  ASSERT_THAT(writer, IsOk());
  for (const std::string& text : texts) Put(*writer, text);
  const auto open = writer->Reserve(100);
  ASSERT_THAT(open, IsOk());
  std::memset(open->bytes().data(), 'x', open->bytes().size());
  reserved->Give();
  while (true) ::pause();
}

// Follows the buffer's events until a producer is said to have stopped; meanwhile the consumer
// waits, as it would in its own thread.
class StalledRing : public ReserveRing {
 protected:
  std::optional<WatchedEvent> WaitUntilTold(EventWatch& watch) {
    const Deadline deadline = After(kPatience);
    while (std::chrono::steady_clock::now() < deadline) {
      EXPECT_EQ(reader_->Wait(After(20ms)).value(), WaitOutcome::kDeadline);
      EXPECT_TRUE(reader_->stalled().has_value());
      const auto event = watch.Next(Deadline());
      if (!event.ok()) return std::nullopt;
      if (*event && (*event)->kind == WatchedEvent::Kind::kProducerStalled) return **event;
    }
    return std::nullopt;
  }
};

}  // namespace iob::test
