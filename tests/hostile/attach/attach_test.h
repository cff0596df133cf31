// What the attach tests share: a daemon per test, buffers, ledgers, and the three checks after each
// test: the daemon is alive, nothing leaked, it stops cleanly.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/daemon_fixture.h"
#include "tests/support/leak_check.h"
#include "tests/support/raw_client.h"

namespace iob::test {

// A ring of one page of records behind its head page.
inline constexpr uint64_t kSmallRing = 8192;
inline constexpr uint64_t kSmallRingCapacity = 4096;
inline constexpr uint32_t kNobodyUid = 65534;

using Service = v1::BrokerService::StubInterface;

struct MadeBuffer {
  uint64_t koid = 0;
  std::string ep0_ticket;
  std::string ep1_ticket;
};

class AttachTest : public ::testing::Test {
 protected:
  void StartDaemon(DaemonKind kind, const DaemonSettings& settings = {}) {
    daemon_ = TestDaemon::Start(kind, settings);
    ASSERT_NE(daemon_, nullptr);
    leaks_ = std::make_unique<LeakCheck>(daemon_->pid());
  }

  void TearDown() override {
    if (!daemon_) return;
    DeleteEverything();
    EXPECT_TRUE(daemon_->Healthy());
    if (leaks_) {
      EXPECT_EQ(leaks_->Compare(), "");
    }
    EXPECT_EQ(daemon_->Stop(), "");
  }

  std::string attach_path() const { return daemon_->attach_path(); }

  // A buffer whose endpoints are tickets already.
  MadeBuffer Make(v1::CreateBufferRequest request) {
    request.add_attach(v1::ENDPOINT_ID_EP0);
    request.add_attach(v1::ENDPOINT_ID_EP1);
    v1::CreateBufferResponse response;
    const grpc::Status status = Call(daemon_->stub(), &Service::CreateBuffer, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    if (!status.ok()) return {};
    return {.koid = response.buffer().koid(),
            .ep0_ticket = response.tickets(0).ticket(),
            .ep1_ticket = response.tickets(1).ticket()};
  }
  MadeBuffer MakeRing(uint64_t size_bytes = kSmallRing) { return Make(RingRequest(size_bytes)); }

  // A ring, and plain memory that both endpoints map for writing.
  MadeBuffer MakeRingAndMemory() {
    v1::CreateBufferRequest request = RingRequest(kSmallRing);
    v1::RegionSpec& region = *request.add_regions();
    region.set_type(v1::REGION_TYPE_PRIVATE);
    region.set_discipline(v1::DISCIPLINE_NONE);
    region.set_size_bytes(1 << 20);
    region.set_access_bits(0x33);
    return Make(request);
  }

  v1::RingStats Stats(uint64_t koid, int ring = 0) {
    v1::GetStatsRequest request;
    request.set_koid(koid);
    v1::GetStatsResponse response;
    const grpc::Status status = Call(daemon_->stub(), &Service::GetStats, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.rings_size() > ring ? response.rings(ring) : v1::RingStats();
  }

  static uint64_t Rejected(const v1::RingStats& stats, v1::LossCause cause) {
    for (const v1::LossCount& loss : stats.rejected()) {
      if (loss.cause() == cause) return loss.records();
    }
    return 0;
  }

  // The identities of the ledger, for the ring and for each writer.
  static void ExpectBalanced(const v1::RingStats& stats) {
    const auto check = [](const auto& ledger) {
      uint64_t records = ledger.stored_records();
      uint64_t bytes = ledger.stored_bytes();
      for (const v1::LossCount& loss : ledger.rejected()) {
        records += loss.records();
        bytes += loss.bytes();
      }
      EXPECT_EQ(ledger.attempted_records(), records);
      EXPECT_EQ(ledger.attempted_bytes(), bytes);
    };
    check(stats);
    uint64_t by_writers = 0;
    for (const v1::WriterStats& writer : stats.writers()) {
      check(writer);
      by_writers += writer.attempted_records();
    }
    EXPECT_EQ(stats.attempted_records(), by_writers);
    EXPECT_EQ(stats.stored_records(),
              stats.consumed_records() + stats.overwritten_records() + stats.resident_records());
  }

  // The sum of a metric's samples, whatever their labels.
  double Metric(const std::string& name) {
    const std::string body = HttpGet(daemon_->admin_address(), "/metrics").body;
    double sum = 0;
    size_t begin = 0;
    while (begin < body.size()) {
      const size_t end = std::min(body.find('\n', begin), body.size());
      const std::string line = body.substr(begin, end - begin);
      begin = end + 1;
      if (line.rfind(name, 0) != 0) continue;
      const char after = line[name.size()];
      if (after == ' ' || after == '{') sum += std::stod(line.substr(line.rfind(' ')));
    }
    return sum;
  }

  void DeleteEverything() {
    v1::ListBuffersResponse page;
    const v1::ListBuffersRequest all;
    Call(daemon_->stub(), &Service::ListBuffers, all, &page);
    for (const v1::BufferInfo& buffer : page.buffers()) {
      v1::DeleteBufferRequest request;
      request.set_koid(buffer.koid());
      request.set_force(true);
      v1::DeleteBufferResponse response;
      Call(daemon_->stub(), &Service::DeleteBuffer, request, &response);
    }
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::unique_ptr<LeakCheck> leaks_;
};

// The same test with the daemon in a thread and in a process.
class AttachBothWays : public AttachTest, public ::testing::WithParamInterface<DaemonKind> {};

inline std::string KindName(const ::testing::TestParamInfo<DaemonKind>& info) {
  return info.param == DaemonKind::kThread ? "Thread" : "Child";
}

// An error packet with this code and reason whose message names `what`.
inline void ExpectRefused(const std::optional<v1::AttachError>& error, grpc::StatusCode code,
                          v1::ErrorReason reason, const std::string& what) {
  ASSERT_TRUE(error.has_value()) << "the connection ended without an error packet";
  EXPECT_EQ(error->code(), static_cast<int>(code)) << error->message();
  EXPECT_EQ(error->reason(), reason) << error->message();
  EXPECT_THAT(error->message(), ::testing::HasSubstr(what));
}

}  // namespace iob::test
