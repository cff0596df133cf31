#include "tests/conformance/contract.h"

#include <cstring>
#include <utility>

#include "shm/check.h"

namespace iob::test {
namespace {

using Service = v1::BrokerService::StubInterface;

// One per program: started before the first test, and stopped and weighed after the last.
class SharedDaemon final : public ::testing::Environment {
 public:
  static SharedDaemon* current;

  void SetUp() override {
    current = this;
    daemon_ = TestDaemon::Start(DaemonKind::kChild);
    ASSERT_NE(daemon_, nullptr);
    by_grpc_ = GrpcControl(daemon_->stub());
    by_library_ = LibraryControl(daemon_->runtime_dir());
    auto broker = Broker::Connect(
        {.runtime_dir = daemon_->runtime_dir(), .timeout = std::chrono::milliseconds(20'000)});
    ASSERT_TRUE(broker.ok()) << broker.status();
    broker_ = std::make_unique<Broker>(*std::move(broker));
  }
  void TearDown() override {
    if (daemon_ == nullptr) return;
    EXPECT_TRUE(daemon_->Healthy());
    EXPECT_EQ(RegionBytesHeld(daemon_->pid()), 0u);
    by_grpc_.reset();
    by_library_.reset();
    broker_.reset();
    EXPECT_EQ(daemon_->Stop(), "");
    daemon_.reset();
  }

  TestDaemon* daemon() { return daemon_.get(); }
  Control& control(Way way) { return way == Way::kGrpc ? *by_grpc_ : *by_library_; }
  Broker& broker() { return *broker_; }

 private:
  std::unique_ptr<TestDaemon> daemon_;
  std::unique_ptr<Control> by_grpc_;
  std::unique_ptr<Control> by_library_;
  std::unique_ptr<Broker> broker_;
};

SharedDaemon* SharedDaemon::current = nullptr;

[[maybe_unused]] const auto* const kRegistered =
    ::testing::AddGlobalTestEnvironment(new SharedDaemon);

template <typename T>
T LoadAt(const uint8_t* bytes, uint64_t offset) {
  T value = 0;
  std::memcpy(&value, bytes + offset, sizeof(value));
  return value;
}

v1::RegionSpec RegionOf(v1::Discipline discipline, uint64_t size_bytes, uint32_t access) {
  v1::RegionSpec spec;
  spec.set_type(v1::REGION_TYPE_PRIVATE);
  spec.set_discipline(discipline);
  spec.set_size_bytes(size_bytes);
  spec.set_access_bits(access);
  return spec;
}

}  // namespace

v1::RegionSpec PlainRegion(uint64_t size_bytes, uint32_t access) {
  return RegionOf(v1::DISCIPLINE_NONE, size_bytes, access);
}

v1::RegionSpec RingRegion(uint64_t size_bytes, uint32_t access) {
  return RegionOf(v1::DISCIPLINE_MEDIATED_RING, size_bytes, access);
}

v1::RegionSpec IdRegion(uint64_t size_bytes, uint32_t access) {
  return RegionOf(v1::DISCIPLINE_ID_ALLOCATOR, size_bytes, access);
}

v1::RegionSpec SharedRegionOf(const std::string& handle, uint64_t tag, uint32_t access) {
  v1::RegionSpec spec = RegionOf(v1::DISCIPLINE_MEDIATED_RING, 0, access);
  spec.set_type(v1::REGION_TYPE_SHARED);
  spec.set_tag(tag);
  spec.set_shared_region(handle);
  return spec;
}

v1::CreateBufferRequest BufferOf(const std::vector<v1::RegionSpec>& regions) {
  v1::CreateBufferRequest request;
  for (const v1::RegionSpec& region : regions) *request.add_regions() = region;
  return request;
}

void Contract::SetUp() {
  ASSERT_NE(SharedDaemon::current->daemon(), nullptr) << "iobd did not start";
}

void Contract::TearDown() {
  v1::ListBuffersResponse page;
  Call(stub(), &Service::ListBuffers, v1::ListBuffersRequest(), &page);
  for (const v1::BufferInfo& buffer : page.buffers()) {
    EXPECT_EQ(control().DeleteBuffer(buffer.koid(), /*force=*/true), zx::kOk);
  }
  EXPECT_TRUE(Eventually([] {
    return Metric("iob_buffers") == 0 && Metric("iob_endpoints_waiting") == 0 &&
           Metric("iob_attachments") == 0 && Metric("iob_attach_connections") == 0;
  }));
  EXPECT_EQ(Metric("iob_handles"), 0) << "of shared regions: buffers have none any more";
  EXPECT_EQ(Metric("iob_shared_regions"), 0);
  EXPECT_EQ(Metric("iob_memory_bytes"), 0);
}

TestDaemon& Contract::daemon() { return *SharedDaemon::current->daemon(); }

Control& Contract::control(Way way) { return SharedDaemon::current->control(way); }

Broker& Contract::broker() { return SharedDaemon::current->broker(); }

NewBuffer Contract::Make(const std::vector<v1::RegionSpec>& regions) {
  NewBuffer made;
  EXPECT_EQ(control().CreateBuffer(BufferOf(regions), &made), zx::kOk);
  return made;
}

NewRegion Contract::MakeShared(uint64_t size_bytes) {
  NewRegion made;
  EXPECT_EQ(control().CreateSharedRegion(size_bytes, &made), zx::kOk);
  return made;
}

std::string Contract::Dup(const std::string& handle, uint32_t rights) {
  std::string made;
  EXPECT_EQ(control().Duplicate(handle, rights, &made), zx::kOk);
  return made;
}

void Contract::Close(const std::string& handle) { EXPECT_EQ(control().Close(handle), zx::kOk); }

std::unique_ptr<Hand> Contract::Take(Way way, const std::string& handle) {
  switch (way) {
    case Way::kGrpc:
    case Way::kLibrary:
      return HandByControl(control(way), handle);
    case Way::kSocket:
      return HandBySocket(AttachRaw(handle));
    case Way::kEndpoint:
      break;
  }
  return HandByEndpoint(AttachLibrary(handle));
}

std::unique_ptr<RawClient> Contract::AttachRaw(const std::string& handle) {
  NewTicket ticket;
  EXPECT_EQ(control().Attach(handle, &ticket), zx::kOk);
  auto client = std::make_unique<RawClient>(daemon().attach_path());
  EXPECT_EQ(client->Attach(ticket.bytes), "");
  return client;
}

Endpoint Contract::AttachLibrary(const std::string& handle) {
  NewTicket ticket;
  EXPECT_EQ(control().Attach(handle, &ticket), zx::kOk);
  auto endpoint = Endpoint::Attach(Ticket(SecretOf(ticket.bytes), ticket.endpoint,
                                          daemon().attach_path(), std::chrono::milliseconds(0)),
                                   {.timeout = std::chrono::milliseconds(20'000)});
  EXPECT_TRUE(endpoint.ok()) << endpoint.status();
  // Nothing can go on without it.
  IOB_CHECK(endpoint.ok());
  return *std::move(endpoint);
}

v1::BufferInfo Contract::Look(uint64_t koid) {
  v1::GetBufferResponse view;
  EXPECT_EQ(control().GetBuffer(koid, &view), zx::kOk);
  return view.buffer();
}

v1::EndpointInfo Contract::LookAt(uint64_t koid, EndpointId endpoint) {
  const v1::BufferInfo info = Look(koid);
  return info.endpoints_size() == 2 ? info.endpoints(static_cast<int>(endpoint))
                                    : v1::EndpointInfo();
}

v1::RingStats Contract::Stats(uint64_t koid, int ring) {
  v1::GetStatsRequest request;
  request.set_koid(koid);
  v1::GetStatsResponse response;
  const grpc::Status status = Call(stub(), &Service::GetStats, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.rings_size() > ring ? response.rings(ring) : v1::RingStats();
}

double Contract::Metric(const std::string& name) {
  const std::string body = HttpGet(daemon().admin_address(), "/metrics").body;
  double sum = 0;
  size_t begin = 0;
  while (begin < body.size()) {
    const size_t end = std::min(body.find('\n', begin), body.size());
    const std::string line = body.substr(begin, end - begin);
    begin = end + 1;
    if (line.rfind(name, 0) != 0 || line.size() <= name.size()) continue;
    if (line[name.size()] == ' ' || line[name.size()] == '{')
      sum += std::stod(line.substr(line.rfind(' ')));
  }
  return sum;
}

std::vector<RingRecord> Contract::ReadRing(RawClient& consumer, uint32_t region_index) {
  std::vector<RingRecord> records;
  const uint8_t* const data = consumer.SectionBytes(region_index, v1::SECTION_KIND_DATA);
  const uint64_t capacity =
      consumer.grants().regions(static_cast<int>(region_index)).size_bytes() - kPage;
  const uint64_t head = consumer.Head(region_index);
  uint64_t tail = consumer.Tail(region_index);
  while (tail < head) {
    RingRecord record{.tag = LoadAt<uint64_t>(data, tail % capacity), .payload = {}};
    const auto length = LoadAt<uint64_t>(data, (tail + 8) % capacity);
    if (length > head - tail) {
      ADD_FAILURE() << "a record of " << length << " bytes at " << tail << ", head " << head;
      break;
    }
    for (uint64_t i = 0; i < length; ++i) {
      record.payload.push_back(static_cast<char>(data[(tail + 16 + i) % capacity]));
    }
    tail += (16 + length + 7) & ~uint64_t{7};
    records.push_back(std::move(record));
  }
  consumer.SetTail(region_index, tail);
  return records;
}

}  // namespace iob::test
