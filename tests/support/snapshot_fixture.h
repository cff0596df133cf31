// A daemon, a connection to it, and its gauges, for tests of snapshots and autopsies.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/broker.h"
#include "client/endpoint.h"
#include "shm/check.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/status_matchers.h"

namespace iob::test {

class SnapshotFixture : public ::testing::Test {
 protected:
  void StartDaemon(std::vector<std::string> flags = {}, DaemonKind kind = DaemonKind::kThread) {
    daemon_ = TestDaemon::Start(kind, {.flags = std::move(flags), .open_files_max = {}});
    IOB_CHECK(daemon_ != nullptr);
    broker_.emplace(Broker::Connect({.runtime_dir = daemon_->runtime_dir()}).value());
  }
  void TearDown() override {
    broker_.reset();
    if (daemon_) {
      EXPECT_EQ(daemon_->Stop(), "");
    }
  }

  CreatedBuffer Create(const CreateOptions& options) {
    return broker_->CreateBuffer(options).value();
  }
  static MappedRegion MapAll(Endpoint* endpoint, uint32_t region_index) {
    return endpoint->Map(region_index).value();
  }

  // The value of an unlabelled metric.
  double Metric(const std::string& name) {
    const std::string body = HttpGet(daemon_->admin_address(), "/metrics").body;
    const size_t at = body.find("\n" + name + " ");
    EXPECT_NE(at, std::string::npos) << name;
    return at == std::string::npos ? -1 : std::stod(body.substr(at + name.size() + 2));
  }
  // What the kernel tells the daemon takes it a moment to hear.
  void ExpectMetricBecomes(const std::string& name, double value) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (Metric(name) != value && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(Metric(name), value) << name;
  }

  std::unique_ptr<TestDaemon> daemon_;
  std::optional<Broker> broker_;
};

}  // namespace iob::test
