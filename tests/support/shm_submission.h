// A submission queue with both of its sides in one process, and the ring that it feeds.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "shm/mapping.h"
#include "shm/submission_client.h"
#include "shm/submission_layout.h"
#include "shm/submission_server.h"
#include "tests/support/shm_ring.h"

namespace iob::test {

inline shm::SubmissionLayout QueueLayout(uint64_t capacity_bytes, uint64_t completions) {
  return shm::SubmissionLayout::ForQueue(
             {.capacity_bytes = capacity_bytes, .completions = completions})
      .value();
}

inline shm::SubmissionServer MakeServer(const shm::SubmissionLayout& layout) {
  return shm::SubmissionServer::Create(layout).value();
}

inline shm::SubmissionClient MakeClient(const shm::SubmissionServer& server) {
  return shm::SubmissionClient::Map(server.layout(), server.submit_memfd(), server.complete_memfd())
      .value();
}

inline constexpr shm::ServeLimits kNoLimits{
    .entries_max = UINT64_MAX, .bytes_max = UINT64_MAX, .now_ns = 0};

// The SUBMIT section as a client sees it that does what it likes.
class RogueClient {
 public:
  explicit RogueClient(const shm::SubmissionServer& server)
      : section_(shm::Mapping::Map(server.submit_memfd()).value()),
        entries_offset_(server.layout().page_bytes()) {}

  const shm::Mapping& section() const { return section_; }
  void SetTail(uint64_t value) { Set(shm::kSubmitTailOffset, value); }
  void SetCompletionHead(uint64_t value) { Set(shm::kSubmitCompletionHeadOffset, value); }
  void SetEntryWord(uint64_t offset, uint64_t value) { Set(entries_offset_ + offset, value); }
  uint64_t EntryWord(uint64_t offset) const {
    return section_.Word<uint64_t>(entries_offset_ + offset).LoadRelaxed().ForHintOnly();
  }

 private:
  void Set(uint64_t offset, uint64_t value) { section_.Word<uint64_t>(offset).StoreRelease(value); }
  shm::Mapping section_;
  uint64_t entries_offset_;
};

// Server, client, and the ring's writer with its account.
struct QueueAndRing {
  QueueAndRing(uint64_t queue_bytes, uint64_t completions, uint64_t ring_bytes)
      : server(MakeServer(QueueLayout(queue_bytes, completions))),
        client(MakeClient(server)),
        ring(ring_bytes) {}

  shm::ServeResult Serve(shm::ServeLimits limits = kNoLimits) {
    const shm::ServeResult result = server.Serve(
        limits,
        [this](std::span<const std::byte> payload) { return ring.ring().Append(kTag, payload); });
    ring.Publish();
    return result;
  }
  void Finish(shm::LossCause cause) {
    server.FinishAll(cause, [this](std::span<const std::byte> payload) {
      return ring.ring().Append(kTag, payload);
    });
    ring.Publish();
  }

  // Both accounts add up, and agree when nothing is pending.
  void ExpectAddsUp() {
    ExpectLedgerAddsUp(server.totals());
    const shm::SubmissionStats stats = client.stats();
    ExpectLedgerAddsUp(stats.decided);
    EXPECT_EQ(stats.attempted_records, stats.decided.attempted_records + stats.pending_records);
    EXPECT_EQ(stats.attempted_bytes, stats.decided.attempted_bytes + stats.pending_bytes);
    if (stats.pending_records != 0) return;
    EXPECT_EQ(stats.decided.stored_records, server.totals().stored_records);
    EXPECT_EQ(stats.decided.stored_bytes, server.totals().stored_bytes);
    EXPECT_EQ(stats.decided.rejected_records, server.totals().rejected_records);
    EXPECT_EQ(stats.decided.rejected_bytes, server.totals().rejected_bytes);
  }

  static constexpr uint64_t kTag = 0x7a67;
  shm::SubmissionServer server;
  shm::SubmissionClient client;
  CountingWriter ring;
};

}  // namespace iob::test
