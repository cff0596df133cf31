// Shared regions: the order of checks of zx_iob_create_shared_region (2.2), what they are made of,
// and how long they and their memory live (1.11).

#include <sys/stat.h>

#include <algorithm>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

using ::testing::ElementsAre;

// --- 2.2 -----------------------------------------------------------------------------------------

class SharedRegion_2_2 : public ByWay {
 protected:
  Outcome Create(uint64_t size_bytes) { return control().CreateSharedRegion(size_bytes, &made_); }

  NewRegion made_;
};
IOB_OVER_CONTROL_WAYS(SharedRegion_2_2);

TEST_P(SharedRegion_2_2, NoBytesAndPartsOfPagesAreInvalid) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, kPage - 1, kPage + 1, UINT64_MAX}) {
    EXPECT_EQ(Create(size), zx::kInvalidArgs) << size;
  }
}

TEST_P(SharedRegion_2_2, MoreThanAnyMemoryIsOutOfRange) {
  for (const uint64_t size : {UINT64_MAX - kPage + 1, uint64_t{1} << 63, uint64_t{1} << 40}) {
    EXPECT_EQ(Create(size), zx::kOutOfRange) << size;
  }
  EXPECT_EQ(Metric("iob_shared_regions"), 0);
}

TEST_P(SharedRegion_2_2, OnePageIsLegal) {
  ASSERT_EQ(Create(kPage), zx::kOk);
  EXPECT_EQ(made_.info.size_bytes(), kPage);
  Close(made_.handle);
}

TEST_P(SharedRegion_2_2, MemoryIsThereAndZeroedFromTheStart) {
  constexpr uint64_t kPages = 64;
  ASSERT_EQ(Create(kPages * kPage), zx::kOk);
  EXPECT_GE(Metric("iob_memory_bytes"), static_cast<double>(kPages * kPage));
  const NewBuffer buffer = Make({SharedRegionOf(made_.handle)});
  const auto consumer = AttachRaw(Dup(buffer.ep0));
  for (const auto kind : {v1::SECTION_KIND_HEAD, v1::SECTION_KIND_DATA}) {
    const uint8_t* const bytes = consumer->SectionBytes(0, kind);
    const uint64_t size = kind == v1::SECTION_KIND_HEAD ? kPage : (kPages - 1) * kPage;
    EXPECT_TRUE(std::all_of(bytes, bytes + size, [](uint8_t byte) { return byte == 0; }));
    struct stat status = {};
    ASSERT_EQ(::fstat(consumer->SectionFd(0, kind), &status), 0);
    EXPECT_EQ(static_cast<uint64_t>(status.st_blocks) * 512, static_cast<uint64_t>(status.st_size))
        << "committed: writing to it can never fail for want of memory";
  }
  Close(made_.handle);
}

TEST_P(SharedRegion_2_2, ItIsChargedOnceHoweverManyUseIt) {
  ASSERT_EQ(Create(16 * kPage), zx::kOk);
  const double region = Metric("iob_memory_bytes");
  const NewBuffer one = Make({SharedRegionOf(made_.handle)});
  const double per_buffer = Metric("iob_memory_bytes") - region;
  EXPECT_LE(per_buffer, static_cast<double>(kPage)) << "a signal page at most";
  Close(made_.handle);
}

TEST_P(SharedRegion_2_2, NoRoomIsQuota) {
  // Within the limit of one region, beyond that of the daemon.
  const auto daemon = TestDaemon::Start(DaemonKind::kThread, {.flags = {"--memory-max", "64KiB"}});
  ASSERT_NE(daemon, nullptr);
  const auto other = GetParam() == Way::kGrpc ? GrpcControl(daemon->stub())
                                              : LibraryControl(daemon->runtime_dir());
  EXPECT_EQ(other->CreateSharedRegion(1 << 20, &made_), zx::kQuota);
  EXPECT_TRUE(made_.handle.empty());
  EXPECT_EQ(daemon->Stop(), "");
}

// --- 1.11 ----------------------------------------------------------------------------------------

class Lifetime_1_11 : public ByWay {
 protected:
  void SetUp() override {
    ByWay::SetUp();
    shared_ = MakeShared();
  }
  uint32_t Users() {
    v1::GetSharedRegionRequest request;
    request.set_koid(shared_.info.koid());
    v1::GetSharedRegionResponse response;
    const grpc::Status status =
        Call(stub(), &v1::BrokerService::StubInterface::GetSharedRegion, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.region().user_count();
  }

  NewRegion shared_;
};
IOB_OVER_ALL_WAYS(Lifetime_1_11);

TEST_P(Lifetime_1_11, BuffersOutliveTheHandleToTheirRegion) {
  const NewBuffer one = Make({SharedRegionOf(shared_.handle, 1)});
  const NewBuffer two = Make({SharedRegionOf(shared_.handle, 2)});
  Close(shared_.handle);
  ASSERT_EQ(Take(Dup(one.ep1))->Write(0, "one"), zx::kOk);
  ASSERT_EQ(Take(Dup(two.ep1))->Write(0, "two"), zx::kOk);
  const auto consumer = AttachRaw(Dup(two.ep0));
  EXPECT_THAT(ReadRing(*consumer), ElementsAre(RingRecord{.tag = 1, .payload = "one"},
                                               RingRecord{.tag = 2, .payload = "two"}));
  EXPECT_EQ(Users(), 2u);
  ASSERT_EQ(Contract::control().DeleteBuffer(one.koid(), true), zx::kOk);
  ASSERT_EQ(Take(Dup(two.ep1))->Write(0, "alone"), zx::kOk);
  EXPECT_TRUE(Eventually([&] { return Users() == 1; })) << "an attachment takes a moment to end";
}

TEST_P(Lifetime_1_11, TheRegionOutlivesItsBuffersWhileSomebodyHoldsIt) {
  const NewBuffer one = Make({SharedRegionOf(shared_.handle, 1)});
  ASSERT_EQ(Take(Dup(one.ep1))->Write(0, "kept"), zx::kOk);
  ASSERT_EQ(Contract::control().DeleteBuffer(one.koid(), true), zx::kOk);
  ASSERT_TRUE(Eventually([&] { return Users() == 0; }));
  const NewBuffer two = Make({SharedRegionOf(shared_.handle, 2)});
  const auto consumer = AttachRaw(Dup(two.ep0));
  EXPECT_THAT(ReadRing(*consumer), ElementsAre(RingRecord{.tag = 1, .payload = "kept"}));
  Close(shared_.handle);
}

TEST_P(Lifetime_1_11, WithTheLastOfThemItIsGone) {
  const NewBuffer one = Make({SharedRegionOf(shared_.handle)});
  const std::string second = Dup(shared_.handle);
  Close(shared_.handle);
  EXPECT_EQ(Metric("iob_shared_regions"), 1);
  Close(second);
  EXPECT_EQ(Metric("iob_shared_regions"), 1) << "the buffer holds it";
  // By this way of holding the buffer, to the end.
  {
    const auto hand = Take(one.ep1);
    ASSERT_EQ(hand->Write(0, "record"), zx::kOk);
    Close(one.ep0);
  }
  if (GetParam() == Way::kGrpc || GetParam() == Way::kLibrary) Close(one.ep1);
  EXPECT_TRUE(Eventually([] { return Metric("iob_shared_regions") == 0; }));
  EXPECT_EQ(Metric("iob_memory_bytes"), 0);
}

TEST_P(Lifetime_1_11, OneBufferMayUseARegionTwice) {
  const NewBuffer made =
      Make({SharedRegionOf(shared_.handle, 1), SharedRegionOf(shared_.handle, 2)});
  const auto hand = Take(Dup(made.ep1));
  ASSERT_EQ(hand->Write(0, "a"), zx::kOk);
  ASSERT_EQ(hand->Write(1, "b"), zx::kOk);
  const auto consumer = AttachRaw(Dup(made.ep0));
  EXPECT_THAT(ReadRing(*consumer), ElementsAre(RingRecord{.tag = 1, .payload = "a"},
                                               RingRecord{.tag = 2, .payload = "b"}));
  EXPECT_EQ(Users(), 2u);
  Close(shared_.handle);
}

}  // namespace
}  // namespace iob::test
