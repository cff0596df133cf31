// What /metrics says: names by Prometheus' rules, each family once, and ledgers that add up.

#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/raw_client.h"

namespace iob::server {
namespace {

using test::Call;
using Service = v1::BrokerService::StubInterface;

struct Exposition {
  std::map<std::string, std::string> types;
  std::vector<std::string> declared;      // Family names in order, repeats included.
  std::map<std::string, double> samples;  // By name and labels.
  std::map<std::string, std::set<std::string>> labels_of;

  static Exposition Parse(const std::string& text) {
    Exposition parsed;
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
      if (absl::StartsWith(line, "# TYPE ")) {
        std::istringstream words(line.substr(7));
        std::string name;
        std::string type;
        words >> name >> type;
        parsed.types[name] = type;
        parsed.declared.push_back(name);
      } else if (!line.empty() && line[0] != '#') {
        const size_t space = line.rfind(' ');
        const std::string series = line.substr(0, space);
        parsed.samples[series] = std::stod(line.substr(space));
        const std::string name = series.substr(0, series.find('{'));
        EXPECT_TRUE(parsed.labels_of[name].insert(series).second) << "twice: " << series;
      }
    }
    return parsed;
  }
  double Sum(const std::string& name, const std::string& containing = "") const {
    double sum = 0;
    for (const auto& [series, value] : samples) {
      if (series.substr(0, series.find('{')) == name && absl::StrContains(series, containing))
        sum += value;
    }
    return sum;
  }
};

class MetricsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    daemon_ = test::TestDaemon::Start(test::DaemonKind::kThread);
    ASSERT_NE(daemon_, nullptr);
  }
  void TearDown() override { EXPECT_EQ(daemon_->Stop(), ""); }

  Exposition Scrape() {
    const test::HttpAnswer answer = test::HttpGet(daemon_->admin_address(), "/metrics");
    EXPECT_EQ(answer.status, 200);
    return Exposition::Parse(answer.body);
  }
  v1::CreateBufferResponse Make(const std::string& name) {
    v1::CreateBufferRequest request = test::RingRequest(8192);
    request.set_name(name);
    v1::CreateBufferResponse response;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::CreateBuffer, request, &response).ok());
    return response;
  }
  void Write(const std::string& handle, size_t bytes, int times) {
    v1::WriteRequest request;
    request.set_handle(handle);
    request.add_parts(std::string(bytes, 'x'));
    v1::WriteResponse response;
    for (int i = 0; i < times; ++i) Call(daemon_->stub(), &Service::Write, request, &response);
  }
  void Delete(uint64_t koid) {
    v1::DeleteBufferRequest request;
    request.set_koid(koid);
    v1::DeleteBufferResponse response;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::DeleteBuffer, request, &response).ok());
  }

  std::unique_ptr<test::TestDaemon> daemon_;
};

TEST_F(MetricsTest, NamesFollowTheRules) {
  const auto made = Make("named");
  Write(made.ep1_handle(), 1000, 6);
  const Exposition scraped = Scrape();
  EXPECT_EQ(scraped.declared.size(), scraped.types.size()) << "a family is declared twice";
  EXPECT_GT(scraped.types.size(), 20u);
  for (const auto& [name, type] : scraped.types) {
    EXPECT_TRUE(absl::StartsWith(name, "iob_") || absl::StartsWith(name, "process_")) << name;
    EXPECT_EQ(absl::EndsWith(name, "_total"), type == "counter") << name << " is a " << type;
    EXPECT_TRUE(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_") == std::string::npos) << name;
    for (const char* unit : {"_ms", "_kib", "_milliseconds", "_kb"}) {
      EXPECT_FALSE(absl::StrContains(name, unit)) << name;
    }
    EXPECT_TRUE(scraped.labels_of.contains(name)) << name << " has no sample";
  }
  for (const auto& [name, series] : scraped.labels_of) {
    EXPECT_TRUE(scraped.types.contains(name)) << name << " has no type";
  }
}

TEST_F(MetricsTest, LedgersAddUpAndMatchGetStats) {
  const auto made = Make("ledger");
  Write(made.ep1_handle(), 1000, 6);
  const Exposition scraped = Scrape();
  const std::string label = "buffer=\"ledger\"";
  EXPECT_EQ(scraped.Sum("iob_ring_attempted_records_total", label), 6);
  EXPECT_EQ(scraped.Sum("iob_ring_stored_records_total", label), 4);
  EXPECT_EQ(scraped.Sum("iob_ring_rejected_records_total", label), 2);
  EXPECT_EQ(scraped.Sum("iob_ring_rejected_records_total", "cause=\"full\""), 2);
  for (const char* unit : {"records", "bytes"}) {
    EXPECT_EQ(scraped.Sum(absl::StrCat("iob_ring_attempted_", unit, "_total")),
              scraped.Sum(absl::StrCat("iob_ring_stored_", unit, "_total")) +
                  scraped.Sum(absl::StrCat("iob_ring_rejected_", unit, "_total")));
  }
  EXPECT_EQ(scraped.Sum("iob_ring_stored_records_total", label),
            scraped.Sum("iob_ring_consumed_records_total", label) +
                scraped.Sum("iob_ring_resident_records", label));
  v1::GetStatsRequest request;
  request.set_name("ledger");
  v1::GetStatsResponse stats;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::GetStats, request, &stats).ok());
  EXPECT_EQ(static_cast<double>(stats.rings(0).stored_bytes()),
            scraped.Sum("iob_ring_stored_bytes_total", label));
}

TEST_F(MetricsTest, TotalsDoNotGoDownWhenABufferGoes) {
  const auto made = Make("gone");
  Write(made.ep1_handle(), 1000, 6);
  const Exposition before = Scrape();
  Delete(made.buffer().koid());
  const Exposition after = Scrape();
  for (const auto& [name, type] : before.types) {
    if (type != "counter") continue;
    EXPECT_GE(after.Sum(name), before.Sum(name)) << name;
  }
  EXPECT_EQ(after.Sum("iob_ring_stored_records_total", "buffer=\"other\""), 4);
  EXPECT_EQ(after.Sum("iob_buffers"), 0);
  EXPECT_EQ(after.Sum("iob_buffers_created_total"), 1);
  EXPECT_EQ(after.Sum("iob_memory_bytes"), 0);
  EXPECT_EQ(after.Sum("iob_endpoints_closed_total", "reason=\"revoked\""), 2);
}

TEST_F(MetricsTest, ASharedRingIsCountedOnceHoweverManyUseIt) {
  v1::CreateSharedRegionRequest region_request;
  region_request.set_size_bytes(8192);
  v1::CreateSharedRegionResponse region;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::CreateSharedRegion, region_request, &region).ok());
  std::vector<v1::CreateBufferResponse> users(3);
  for (v1::CreateBufferResponse& user : users) {
    v1::CreateBufferRequest request = test::RingRequest(0);
    v1::RegionSpec& spec = *request.mutable_regions(0);
    spec.set_type(v1::REGION_TYPE_SHARED);
    spec.set_shared_region(region.handle());
    ASSERT_TRUE(Call(daemon_->stub(), &Service::CreateBuffer, request, &user).ok());
    Write(user.ep1_handle(), 1000, 2);
  }
  const Exposition before = Scrape();
  EXPECT_EQ(before.Sum("iob_shared_regions"), 1);
  EXPECT_EQ(before.Sum("iob_ring_stored_records_total"), 4);
  EXPECT_EQ(before.Sum("iob_ring_rejected_records_total"), 2);
  EXPECT_EQ(before.Sum("iob_ring_capacity_bytes"), 4096);
  const std::string row = absl::StrCat("buffer=\"shared#", region.region().koid(), "\"");
  EXPECT_EQ(before.Sum("iob_ring_stored_records_total", row), 4);
  // The buffers go, then the region: what was counted stays counted.
  for (const v1::CreateBufferResponse& user : users) Delete(user.buffer().koid());
  EXPECT_EQ(Scrape().Sum("iob_ring_stored_records_total", row), 4);
  v1::CloseHandleRequest close;
  close.set_handle(region.handle());
  v1::CloseHandleResponse closed;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::CloseHandle, close, &closed).ok());
  const Exposition after = Scrape();
  EXPECT_EQ(after.Sum("iob_shared_regions"), 0);
  EXPECT_EQ(after.Sum("iob_ring_stored_records_total"), 4);
  EXPECT_EQ(after.Sum("iob_ring_stored_records_total", "buffer=\"other\""), 4);
  EXPECT_EQ(after.Sum("iob_memory_bytes"), 0);
  EXPECT_EQ(after.Sum("iob_section_descriptors"), 0);
}

TEST_F(MetricsTest, SeriesAreBounded) {
  for (size_t i = 0; i < kBuffersShownMax + 20; ++i) Make(i % 2 == 0 ? "" : absl::StrCat("b", i));
  const Exposition scraped = Scrape();
  EXPECT_EQ(scraped.Sum("iob_buffers"), kBuffersShownMax + 20);
  EXPECT_EQ(scraped.labels_of.at("iob_ring_stored_records_total").size(), kBuffersShownMax + 1);
  EXPECT_EQ(scraped.Sum("iob_ring_capacity_bytes"), (kBuffersShownMax + 20) * 4096);
}

}  // namespace
}  // namespace iob::server
