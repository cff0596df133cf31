// A daemon of its own, buffers with one direct ring, and producers in processes of their own.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "client/broker.h"
#include "client/endpoint.h"
#include "client/error.h"
#include "client/types.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/leak_check.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

namespace iob::test {

using namespace std::chrono_literals;

inline constexpr std::chrono::seconds kPatience{10};

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}
inline std::string AsText(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

// The daemon holds the pidfd of each peer.
inline int ConnectionsOf(pid_t pid) {
  int count = 0;
  std::error_code gone;
  for (const auto& fd :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone)) {
    count += std::filesystem::read_symlink(fd, gone) == "anon_inode:[pidfd]" ? 1 : 0;
  }
  return count;
}

// A child that does not outlive the test, wherever that ends.
class Producer : public Child {
 public:
  explicit Producer(const std::function<void()>& body) : Child(body) {}
  ~Producer() { Kill(); }
  void Kill() {
    if (pid() > 0) ::kill(pid(), SIGKILL);
  }
};

class DirectRings : public ::testing::Test {
 protected:
  void SetUp() override {
    // In a process of its own: what a forked producer inherits is none of the daemon's.
    daemon_ = TestDaemon::Start(DaemonKind::kChild, {.flags = flags_, .open_files_max = {}});
    ASSERT_NE(daemon_, nullptr);
    ASSERT_OK_AND_ASSIGN(Broker broker, Broker::Connect({.runtime_dir = daemon_->runtime_dir(),
                                                         .grpc_socket_path = {},
                                                         .timeout = kPatience}));
    broker_.emplace(std::move(broker));
    ASSERT_THAT(broker_->GetLimits(), IsOk());
    // Ours and the fixture's. One that was given up while it was made may still be there, and would
    // be missed at the end.
    ASSERT_TRUE(Eventually([this] { return ConnectionsOf(daemon_->pid()) <= 2; }));
    leaks_.emplace(daemon_->pid());
  }
  void TearDown() override {
    consumer_.reset();
    if (buffer_) DropProducers();
    buffer_.reset();
    if (leaks_) {
      EXPECT_EQ(leaks_->Compare(), "");
    }
    broker_.reset();
    if (daemon_ != nullptr) {
      EXPECT_EQ(daemon_->Stop(), "");
    }
  }

  // A buffer of that region, and the consuming end of it.
  void Make(const RegionSpec& spec) {
    ASSERT_OK_AND_ASSIGN(CreatedBuffer buffer,
                         broker_->CreateBuffer({.name = "direct", .regions = {spec}}));
    buffer_.emplace(std::move(buffer));
    ASSERT_OK_AND_ASSIGN(const Ticket ticket, broker_->Attach(*buffer_->ep0_handle));
    ASSERT_OK_AND_ASSIGN(Endpoint consumer, Endpoint::Attach(ticket));
    consumer_.emplace(std::move(consumer));
  }
  // For one more producer.
  Ticket ProducerTicket() {
    const Handle more =
        broker_->DuplicateHandle(*buffer_->ep1_handle, HandleRights(HandleRights::kSameRights))
            .value();
    return broker_->Attach(more).value();
  }
  absl::StatusOr<Endpoint> AttachProducer() { return Endpoint::Attach(ProducerTicket()); }
  // As soon as the broker has settled what the last one left. A refused ticket stays good.
  static Endpoint AttachInTime(const Ticket& ticket) {
    std::optional<Endpoint> attached;
    EXPECT_TRUE(Eventually([&] {
      absl::StatusOr<Endpoint> endpoint = Endpoint::Attach(ticket);
      if (endpoint.ok()) attached.emplace(std::move(*endpoint));
      return attached.has_value();
    }));
    return std::move(attached.value());
  }
  // Nobody can attach as a producer any more.
  void DropProducers() {
    if (!buffer_->ep1_handle) return;
    EXPECT_THAT(broker_->CloseHandle(*std::exchange(buffer_->ep1_handle, std::nullopt)), IsOk());
  }
  // The ring's ledger, which adds up.
  RingStats Stats() {
    const BufferStats stats = broker_->GetStats(buffer_->info.koid).value();
    EXPECT_EQ(stats.rings.size(), 1u);
    RingStats ring = stats.rings.at(0);
    uint64_t rejected = 0;
    for (const LossCount& loss : ring.rejected) rejected += loss.records;
    EXPECT_TRUE(ring.claimed);
    EXPECT_EQ(ring.attempted_records, ring.stored_records + rejected);
    EXPECT_EQ(ring.stored_records,
              ring.consumed_records + ring.overwritten_records + ring.resident_records);
    return ring;
  }
  static bool ReadableBy(int fd, std::chrono::milliseconds time) {
    pollfd poller = {.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&poller, 1, static_cast<int>(time.count())) == 1;
  }

  std::vector<std::string> flags_;  // Of the daemon; set before SetUp.
  std::unique_ptr<TestDaemon> daemon_;
  std::optional<Broker> broker_;
  std::optional<LeakCheck> leaks_;
  std::optional<CreatedBuffer> buffer_;
  std::optional<Endpoint> consumer_;
};

}  // namespace iob::test
