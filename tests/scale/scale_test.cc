// Many buffers: 10,000 alive at once, and one after the other without anything growing.
//
//   IOB_SCALE_CYCLES    create/attach/close cycles (20,000)
//   IOB_SCALE_LATENCY   set: the latency of the last thousand is compared with the first, too; for
//                       a machine that does nothing else (./dev soak)

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "tests/support/daemon_fixture.h"
#include "tests/support/leak_check.h"
#include "tests/support/raw_client.h"

namespace iob::test {
namespace {

using Service = v1::BrokerService::StubInterface;

constexpr int kManyBuffers = 10'000;
// DATA. (A ring has a HEAD too; whoever attaches adds a signal page, a socket and a pidfd.)
constexpr uint64_t kDescriptorsPerBuffer = 1;
constexpr int kSample = 1000;

uint64_t ResidentKib(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  std::string word;
  while (file >> word) {
    uint64_t kib = 0;
    if (word == "VmRSS:" && file >> kib) return kib;
  }
  return 0;
}

v1::CreateBufferRequest PlainRequest() {
  v1::CreateBufferRequest request;
  v1::RegionSpec& region = *request.add_regions();
  region.set_type(v1::REGION_TYPE_PRIVATE);
  region.set_discipline(v1::DISCIPLINE_NONE);
  region.set_size_bytes(4096);
  region.set_access_bits(0x33);
  return request;
}

class Scale : public ::testing::Test {
 protected:
  void Start(const DaemonSettings& settings) {
    daemon_ = TestDaemon::Start(DaemonKind::kChild, settings);
    ASSERT_NE(daemon_, nullptr);
    ASSERT_TRUE(daemon_->Healthy());
  }
  void TearDown() override {
    if (!daemon_) return;
    EXPECT_TRUE(daemon_->Healthy());
    EXPECT_EQ(daemon_->Stop(), "");
  }

  grpc::Status Create(v1::CreateBufferResponse* response, bool attach = false) {
    return Create(RingRequest(8192), response, attach);
  }
  grpc::Status Create(v1::CreateBufferRequest request, v1::CreateBufferResponse* response,
                      bool attach) {
    if (attach) request.add_attach(v1::ENDPOINT_ID_EP0);
    return Call(daemon_->stub(), &Service::CreateBuffer, request, response);
  }
  grpc::Status Delete(uint64_t koid) {
    v1::DeleteBufferRequest request;
    request.set_koid(koid);
    request.set_force(true);
    v1::DeleteBufferResponse response;
    return Call(daemon_->stub(), &Service::DeleteBuffer, request, &response);
  }
  v1::GetLimitsResponse Limits() {
    v1::GetLimitsResponse response;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::GetLimits, v1::GetLimitsRequest(), &response).ok());
    return response;
  }
  // All pages.
  std::vector<uint64_t> List() {
    std::vector<uint64_t> koids;
    v1::ListBuffersRequest request;
    request.set_page_size(1000);
    do {
      v1::ListBuffersResponse page;
      EXPECT_TRUE(Call(daemon_->stub(), &Service::ListBuffers, request, &page).ok());
      for (const v1::BufferInfo& buffer : page.buffers()) koids.push_back(buffer.koid());
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return koids;
  }

  std::unique_ptr<TestDaemon> daemon_;
};

TEST_F(Scale, TenThousandBuffersAreAliveAtOnce) {
  Start({.flags = {"--buffers-max", "20000"}, .open_files_max = std::nullopt});
  const v1::GetLimitsResponse before = Limits();
  if (before.descriptors_max() < 20'000) {
    GTEST_SKIP() << "RLIMIT_NOFILE lets the daemon have " << before.descriptors_max()
                 << " descriptors; root could raise it";
  }
  const LeakCheck leaks(daemon_->pid());
  std::vector<uint64_t> koids;
  for (int i = 0; i < kManyBuffers; ++i) {
    v1::CreateBufferResponse response;
    const grpc::Status status = Create(PlainRequest(), &response, /*attach=*/false);
    ASSERT_TRUE(status.ok()) << "buffer " << i << ": " << status.error_message();
    koids.push_back(response.buffer().koid());
  }
  EXPECT_EQ(List(), koids);
  EXPECT_EQ(Limits().descriptors_open() - before.descriptors_open(),
            kManyBuffers * kDescriptorsPerBuffer);
  std::printf("10,000 buffers of a page: %llu descriptors, %.1f MiB resident\n",
              static_cast<unsigned long long>(Limits().descriptors_open()),
              static_cast<double>(ResidentKib(daemon_->pid())) / 1024);

  // The last one works like the first.
  v1::CreateBufferResponse one_more;
  ASSERT_TRUE(Create(&one_more, /*attach=*/true).ok());
  RawClient reader(daemon_->attach_path());
  ASSERT_EQ(reader.Attach(one_more.tickets(0).ticket()), "");
  v1::WriteRequest write;
  write.set_handle(one_more.ep1_handle());
  write.add_parts("record");
  v1::WriteResponse written;
  EXPECT_TRUE(Call(daemon_->stub(), &Service::Write, write, &written).ok());
  EXPECT_GT(reader.Head(0), 0u);
  reader.SendDetach();
  reader.Unmap();
  reader.CloseFds();
  reader.CloseSocket();

  koids.push_back(one_more.buffer().koid());
  for (const uint64_t koid : koids) ASSERT_TRUE(Delete(koid).ok());
  EXPECT_TRUE(Eventually([&] { return List().empty(); }));
  EXPECT_EQ(leaks.Compare(), "");
}

TEST_F(Scale, MoreThanTheDescriptorsAllowIsRefusedInWords) {
  Start({.flags = {}, .open_files_max = 1024});
  std::vector<uint64_t> koids;
  grpc::Status refused;
  for (int i = 0; i < kManyBuffers && refused.ok(); ++i) {
    v1::CreateBufferResponse response;
    refused = Create(&response);
    if (refused.ok()) koids.push_back(response.buffer().koid());
  }
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << refused.error_message();
  EXPECT_EQ(ReasonOf(refused), "QUOTA");
  EXPECT_THAT(refused.error_message(), ::testing::HasSubstr("RLIMIT_NOFILE"));
  EXPECT_EQ(List(), koids) << "nothing was lost, nothing half made";
  // What is given back can be had again.
  ASSERT_TRUE(Delete(koids.front()).ok());
  v1::CreateBufferResponse response;
  EXPECT_TRUE(Eventually([&] { return Create(&response).ok(); }));
}

class Cycles : public Scale {
 protected:
  static int Count() {
    const char* const asked = std::getenv("IOB_SCALE_CYCLES");
    return asked == nullptr ? 20'000 : std::max(2 * kSample, std::atoi(asked));
  }

  void OneCycle() {
    v1::CreateBufferResponse response;
    ASSERT_TRUE(Create(&response, /*attach=*/true).ok());
    RawClient client(daemon_->attach_path());
    ASSERT_EQ(client.Attach(response.tickets(0).ticket()), "");
    client.SendDetach();
    client.Unmap();
    client.CloseFds();
    client.CloseSocket();
    v1::CloseHandleRequest request;
    request.set_handle(response.ep1_handle());
    v1::CloseHandleResponse closed;
    ASSERT_TRUE(Call(daemon_->stub(), &Service::CloseHandle, request, &closed).ok());
  }

  // Microseconds of each.
  std::vector<double> Run(int count) {
    std::vector<double> times_us;
    for (int i = 0; i < count && !HasFatalFailure(); ++i) {
      const auto start = std::chrono::steady_clock::now();
      OneCycle();
      times_us.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
              .count());
    }
    std::sort(times_us.begin(), times_us.end());
    return times_us;
  }
};

TEST_F(Cycles, NothingGrows) {
  Start({});
  Run(kSample);  // Whatever is made on first use.
  const std::vector<double> first = Run(kSample);
  ASSERT_EQ(first.size(), static_cast<size_t>(kSample));
  const LeakCheck leaks(daemon_->pid());
  const uint64_t resident_kib = ResidentKib(daemon_->pid());
  const int count = Count();
  Run(count - 2 * kSample);
  const std::vector<double> last = Run(kSample);
  ASSERT_EQ(last.size(), static_cast<size_t>(kSample));
  EXPECT_TRUE(Eventually([&] { return List().empty(); }));
  EXPECT_EQ(leaks.Compare(), "");
  const uint64_t grown_kib = std::max(ResidentKib(daemon_->pid()), resident_kib) - resident_kib;
  // The replay cache and the event log fill up to their limits within the first thousands.
  EXPECT_LT(grown_kib, 16 * 1024u);
  const double p99_first = first[kSample * 99 / 100];
  const double p99_last = last[kSample * 99 / 100];
  std::printf(
      "%d cycles: create + attach + close, median %.0f us; p99 of the first thousand %.0f us, of "
      "the last %.0f us, ratio %.2f; resident %llu KiB, %llu more than after the first\n",
      count, last[kSample / 2], p99_first, p99_last, p99_last / p99_first,
      static_cast<unsigned long long>(ResidentKib(daemon_->pid())),
      static_cast<unsigned long long>(grown_kib));
  if (std::getenv("IOB_SCALE_LATENCY") != nullptr) {
    EXPECT_LE(p99_last, 1.5 * p99_first);
  }
}

}  // namespace
}  // namespace iob::test
