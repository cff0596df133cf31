// Requests over gRPC that are wrong: each is refused with the right code, a reason in ErrorInfo,
// and a message that names the argument and the limit; nothing changes.

#include <functional>

#include "tests/hostile/attach/attach_test.h"

namespace iob::test {
namespace {

using ::testing::HasSubstr;

class GrpcInput : public AttachBothWays {
 protected:
  void SetUp() override { StartDaemon(GetParam()); }

  static void ExpectError(const grpc::Status& status, grpc::StatusCode code,
                          const std::string& reason, const std::string& what) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(ReasonOf(status), reason) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(what));
    EXPECT_LT(status.error_message().size(), 400u);
  }

  grpc::Status Create(const std::function<void(v1::CreateBufferRequest&)>& spoil,
                      v1::CreateBufferResponse* response = nullptr) {
    v1::CreateBufferRequest request = RingRequest(kSmallRing);
    spoil(request);
    v1::CreateBufferResponse unused;
    return Call(daemon_->stub(), &Service::CreateBuffer, request,
                response == nullptr ? &unused : response);
  }
  void ExpectNothingMade() {
    v1::ListBuffersResponse all;
    ASSERT_TRUE(Call(daemon_->stub(), &Service::ListBuffers, v1::ListBuffersRequest(), &all).ok());
    EXPECT_EQ(all.buffers_size(), 0) << all.ShortDebugString();
    EXPECT_EQ(Metric("iob_memory_bytes"), 0);
  }

  static constexpr grpc::StatusCode kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  static constexpr grpc::StatusCode kOutOfRange = grpc::StatusCode::OUT_OF_RANGE;
};

INSTANTIATE_TEST_SUITE_P(Daemon, GrpcInput,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(GrpcInput, SizesThatCannotBe) {
  struct Case {
    v1::Discipline discipline;
    uint64_t size_bytes;
    grpc::StatusCode code;
    std::string reason;
    std::string what;
  };
  const Case cases[] = {
      {v1::DISCIPLINE_MEDIATED_RING, 0, kInvalid, "INVALID_ARGUMENT", "at least one page"},
      {v1::DISCIPLINE_MEDIATED_RING, 1, kInvalid, "INVALID_ARGUMENT", "at least one page"},
      {v1::DISCIPLINE_MEDIATED_RING, 4095, kInvalid, "INVALID_ARGUMENT", "at least one page"},
      {v1::DISCIPLINE_MEDIATED_RING, uint64_t{1} << 32, kOutOfRange, "OUT_OF_RANGE", "2147483648"},
      {v1::DISCIPLINE_MEDIATED_RING, uint64_t{1} << 63, kOutOfRange, "OUT_OF_RANGE",
       "regions[0].size_bytes: 9223372036854775808"},
      {v1::DISCIPLINE_NONE, uint64_t{1} << 63, kOutOfRange, "OUT_OF_RANGE",
       "regions[0].size_bytes: 9223372036854775808"},
      {v1::DISCIPLINE_NONE, UINT64_MAX, kOutOfRange, "OUT_OF_RANGE",
       "regions[0].size_bytes: 18446744073709551615"},
  };
  for (const Case& wrong : cases) {
    const grpc::Status status = Create([&](auto& request) {
      request.mutable_regions(0)->set_discipline(wrong.discipline);
      request.mutable_regions(0)->set_size_bytes(wrong.size_bytes);
      if (wrong.discipline == v1::DISCIPLINE_NONE)
        request.mutable_regions(0)->set_access_bits(0x33);
    });
    ExpectError(status, wrong.code, wrong.reason, wrong.what);
  }
  ExpectNothingMade();
}

TEST_P(GrpcInput, RegionCountsThatCannotBe) {
  ExpectError(Create([](auto& request) { request.clear_regions(); }), kInvalid, "INVALID_ARGUMENT",
              "regions: empty");
  ExpectError(Create([](auto& request) {
                while (request.regions_size() < 65) *request.add_regions() = request.regions(0);
              }),
              kOutOfRange, "OUT_OF_RANGE", "regions: 65, at most 64");
  ExpectNothingMade();
}

TEST_P(GrpcInput, ValuesThatThisDaemonDoesNotKnow) {
  const auto expect_invalid = [this](const std::string& what,
                                     const std::function<void(v1::CreateBufferRequest&)>& spoil) {
    ExpectError(Create(spoil), kInvalid, "INVALID_ARGUMENT", what);
  };
  for (const int value : {0, 99, -1, INT32_MAX, INT32_MIN}) {
    expect_invalid("discipline is missing or unknown", [&](auto& request) {
      request.mutable_regions(0)->set_discipline(static_cast<v1::Discipline>(value));
    });
    expect_invalid("type is missing or unknown", [&](auto& request) {
      request.mutable_regions(0)->set_type(static_cast<v1::RegionType>(value));
    });
    expect_invalid("endpoint",
                   [&](auto& request) { request.add_attach(static_cast<v1::EndpointId>(value)); });
    if (value == 0) continue;
    expect_invalid("required_enforcement is unknown", [&](auto& request) {
      request.mutable_regions(0)->set_required_enforcement(static_cast<v1::Enforcement>(value));
    });
  }
  expect_invalid("only the low eight bits",
                 [](auto& request) { request.mutable_regions(0)->set_access_bits(0x183); });
  expect_invalid("give no endpoint a way",
                 [](auto& request) { request.mutable_regions(0)->set_access_bits(0); });
  expect_invalid("named twice", [](auto& request) {
    request.add_attach(v1::ENDPOINT_ID_EP0);
    request.add_attach(v1::ENDPOINT_ID_EP0);
  });
  for (const v1::Discipline direct : {v1::DISCIPLINE_RESERVE_RING, v1::DISCIPLINE_SLOT}) {
    ExpectError(Create([&](auto& request) { request.mutable_regions(0)->set_discipline(direct); }),
                grpc::StatusCode::INVALID_ARGUMENT, "INVALID_ARGUMENT", "mediated bits");
  }
  ExpectNothingMade();
}

TEST_P(GrpcInput, NamesThatCannotBe) {
  const std::string huge(100'000, 'n');
  const auto create = [this](const std::string& name) {
    return Create([&](auto& request) { request.set_name(name); });
  };
  ExpectError(create(huge), kInvalid, "INVALID_ARGUMENT", "name: 100000 bytes, at most 31");
  ExpectError(create(std::string(32, 'n')), kInvalid, "INVALID_ARGUMENT", "name: 32 bytes");
  for (const char* name : {"a\nb", "\x01", "tab\t", "\x7f", "sm\xc3\xb8rrebr\xc3\xb8\x64"}) {
    ExpectError(create(name), kInvalid, "INVALID_ARGUMENT", "name: only printable ASCII");
  }
  ExpectError(create(std::string("nul\0", 4)), kInvalid, "INVALID_ARGUMENT", "printable ASCII");
  // Beyond what any request can need, gRPC itself refuses, and says how much is too much.
  const grpc::Status oversized = create(std::string(1 << 20, 'n'));
  EXPECT_EQ(oversized.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(oversized.error_message(), ::testing::HasSubstr("131072"));
  ExpectNothingMade();
  EXPECT_TRUE(create(std::string(31, 'n')).ok());
  ExpectError(create(std::string(31, 'n')), grpc::StatusCode::ALREADY_EXISTS, "NAME_TAKEN", "name");
  v1::OpenBufferRequest open;
  open.set_endpoint(v1::ENDPOINT_ID_EP0);
  v1::OpenBufferResponse opened;
  ExpectError(Call(daemon_->stub(), &Service::OpenBuffer, open, &opened), kInvalid,
              "INVALID_ARGUMENT", "name: missing");
  open.set_name(huge);
  ExpectError(Call(daemon_->stub(), &Service::OpenBuffer, open, &opened),
              grpc::StatusCode::NOT_FOUND, "NOT_FOUND", "no such buffer");
  v1::GetBufferRequest get;
  v1::GetBufferResponse got;
  ExpectError(Call(daemon_->stub(), &Service::GetBuffer, get, &got), kInvalid, "INVALID_ARGUMENT",
              "key: missing");
  get.set_name(huge);
  ExpectError(Call(daemon_->stub(), &Service::GetBuffer, get, &got), grpc::StatusCode::NOT_FOUND,
              "NOT_FOUND", "no such buffer");
}

TEST_P(GrpcInput, HandlesThatCannotBe) {
  for (const size_t size : {0, 15, 17, 100'000}) {
    v1::WriteRequest write;
    write.set_handle(std::string(size, 'h'));
    v1::WriteResponse written;
    const std::string what = "handle: " + std::to_string(size) + " bytes, a handle has 16";
    ExpectError(Call(daemon_->stub(), &Service::Write, write, &written), kInvalid,
                "INVALID_ARGUMENT", what);
    v1::CloseHandleRequest close;
    close.set_handle(write.handle());
    v1::CloseHandleResponse closed;
    ExpectError(Call(daemon_->stub(), &Service::CloseHandle, close, &closed), kInvalid,
                "INVALID_ARGUMENT", what);
    v1::AttachRequest attach;
    attach.set_handle(write.handle());
    v1::AttachResponse attached;
    ExpectError(Call(daemon_->stub(), &Service::Attach, attach, &attached), kInvalid,
                "INVALID_ARGUMENT", what);
  }
  v1::CloseHandleRequest close;
  close.set_handle(std::string(16, 'h'));
  v1::CloseHandleResponse closed;
  ExpectError(Call(daemon_->stub(), &Service::CloseHandle, close, &closed),
              grpc::StatusCode::UNAUTHENTICATED, "BAD_HANDLE", "no such handle");
}

TEST_P(GrpcInput, WritesThatCannotBe) {
  v1::CreateBufferResponse made;
  ASSERT_TRUE(
      Create([](auto& request) { request.mutable_regions(0)->set_size_bytes(1 << 20); }, &made)
          .ok());
  const auto write = [&](const std::string& handle, uint32_t region_index,
                         const std::vector<std::string>& parts) {
    v1::WriteRequest request;
    request.set_handle(handle);
    request.set_region_index(region_index);
    for (const std::string& part : parts) request.add_parts(part);
    v1::WriteResponse response;
    return Call(daemon_->stub(), &Service::Write, request, &response);
  };
  ExpectError(write(made.ep1_handle(), 1, {"x"}), kOutOfRange, "OUT_OF_RANGE", "region_index: 1");
  ExpectError(write(made.ep0_handle(), 0, {"x"}), grpc::StatusCode::PERMISSION_DENIED,
              "ACCESS_DENIED", "ep0 has no mediated-write");
  ExpectError(write(made.ep1_handle(), 0, std::vector<std::string>(9, "x")), kInvalid,
              "INVALID_ARGUMENT", "parts: 9, at most 8");
  ExpectError(write(made.ep1_handle(), 0, {std::string(65520, 'x')}), kInvalid, "INVALID_ARGUMENT",
              "65520 bytes, at most 65519");
  EXPECT_TRUE(write(made.ep1_handle(), 0, {std::string(65519, 'x')}).ok());
  EXPECT_TRUE(write(made.ep1_handle(), 0, {}).ok());
  const v1::RingStats stats = Stats(made.buffer().koid());
  ExpectBalanced(stats);
  EXPECT_EQ(stats.stored_records(), 2u);
}

TEST_P(GrpcInput, AFullRingAndASpoiltTailAreToldApart) {
  const MadeBuffer made = MakeRing();
  v1::CreateBufferResponse held;
  ASSERT_TRUE(Create([](auto& request) { request.add_attach(v1::ENDPOINT_ID_EP0); }, &held).ok());
  RawClient consumer(attach_path());
  ASSERT_EQ(consumer.Attach(held.tickets(0).ticket()), "");
  v1::WriteRequest request;
  request.set_handle(held.ep1_handle());
  request.add_parts(std::string(3000, 'x'));
  v1::WriteResponse response;
  ASSERT_TRUE(Call(daemon_->stub(), &Service::Write, request, &response).ok());
  ExpectError(Call(daemon_->stub(), &Service::Write, request, &response),
              grpc::StatusCode::RESOURCE_EXHAUSTED, "RING_FULL", "3000 bytes in a ring of 4096");
  consumer.SetTail(0, 1);
  ExpectError(Call(daemon_->stub(), &Service::Write, request, &response),
              grpc::StatusCode::DATA_LOSS, "INTEGRITY", "tail cannot be");
  request.set_parts(0, std::string(5000, 'x'));
  ExpectError(Call(daemon_->stub(), &Service::Write, request, &response),
              grpc::StatusCode::RESOURCE_EXHAUSTED, "RING_FULL", "never fits");
  ExpectBalanced(Stats(held.buffer().koid()));
}

TEST_P(GrpcInput, ARequestIdIsForOneRequest) {
  const auto with_id = [](const std::string& id, const std::string& name) {
    return [id, name](auto& request) {
      request.set_request_id(id);
      request.set_name(name);
    };
  };
  v1::CreateBufferResponse first;
  v1::CreateBufferResponse again;
  ASSERT_TRUE(Create(with_id("id", "one"), &first).ok());
  ASSERT_TRUE(Create(with_id("id", "one"), &again).ok());
  EXPECT_EQ(first.SerializeAsString(), again.SerializeAsString());
  EXPECT_EQ(Metric("iob_buffers"), 1);
  ExpectError(Create(with_id("id", "two")), kInvalid, "REQUEST_ID_REUSED", "request_id");
  // Another method is another request.
  v1::CloseHandleRequest close;
  close.set_request_id("id");
  close.set_handle(first.ep0_handle());
  v1::CloseHandleResponse closed;
  ExpectError(Call(daemon_->stub(), &Service::CloseHandle, close, &closed), kInvalid,
              "REQUEST_ID_REUSED", "request_id");
  ExpectError(Create(with_id(std::string(65, 'i'), "")), kInvalid, "INVALID_ARGUMENT",
              "request_id: 65 bytes, at most 64");
  ExpectError(Create(with_id(std::string(100'000, 'i'), "")), kInvalid, "INVALID_ARGUMENT",
              "request_id: 100000 bytes");
  // A retry over another connection of the same process.
  const std::unique_ptr<Stub> stub = daemon_->NewStub();
  v1::CreateBufferRequest request = RingRequest(kSmallRing);
  with_id("id", "one")(request);
  ASSERT_TRUE(Call(*stub, &Service::CreateBuffer, request, &again).ok());
  EXPECT_EQ(first.SerializeAsString(), again.SerializeAsString());
}

TEST_P(GrpcInput, PagesThatCannotBe) {
  v1::ListBuffersRequest request;
  v1::ListBuffersResponse response;
  request.set_page_size(1001);
  ExpectError(Call(daemon_->stub(), &Service::ListBuffers, request, &response), kInvalid,
              "INVALID_ARGUMENT", "page_size: 1001, at most 1000");
  request.set_page_size(0);
  for (const std::string& token :
       {std::string("x"), std::string("-1"), std::string(100'000, '1')}) {
    request.set_page_token(token);
    ExpectError(Call(daemon_->stub(), &Service::ListBuffers, request, &response), kInvalid,
                "INVALID_ARGUMENT", "page_token");
  }
}

}  // namespace
}  // namespace iob::test
