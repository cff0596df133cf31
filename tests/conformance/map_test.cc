// Mapping a region: the order of checks of zx_vmar_map_iob (2.3), what a mapping may become later,
// and plain memory (4.1). Over iob::Endpoint, which has the call, and over the attach socket, where
// the kernel answers for the descriptors that were handed out.

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

constexpr Prot kNothing = Prot{};
constexpr Prot kRw = Prot::kRead | Prot::kWrite;

Outcome MapOf(const Endpoint& endpoint, uint32_t index, uint64_t offset, uint64_t length,
              Prot prot) {
  return OutcomeOf(endpoint.Map(index, offset, length, prot).status());
}

uint8_t ByteAt(const MappedRegion& mapped, uint64_t offset) {
  return static_cast<uint8_t>(mapped.bytes()[offset]);
}

class Map_2_3 : public Contract {
 protected:
  // An endpoint to regions of four pages, with the rights of the handle.
  Endpoint Attach(const std::vector<uint32_t>& access, uint32_t rights = Rights::kSameRights) {
    std::vector<v1::RegionSpec> regions;
    for (const uint32_t bits : access) regions.push_back(PlainRegion(4 * kPage, bits));
    made_ = Make(regions);
    return AttachLibrary(Dup(made_.ep0, rights));
  }
  static uint32_t Without(uint32_t right) { return Rights::kEndpointDefault & ~right; }

  NewBuffer made_;
};

TEST_F(Map_2_3, R2_AClosedEndpointIsDetached) {
  Endpoint endpoint = Attach({kBothMap});
  endpoint.Close();
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kRw), kDetached);
  EXPECT_EQ(MapOf(endpoint, 9, 0, 0, kNothing), kDetached) << "before anything else";
}

TEST_F(Map_2_3, R3_ARegionThatDoesNotExistIsOutOfRange) {
  const Endpoint endpoint = Attach({kBothMap, kEp1Map});
  EXPECT_EQ(MapOf(endpoint, 2, 0, kPage, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, UINT32_MAX, 0, kPage, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 2, 1, 0, Prot::kExecute), zx::kOutOfRange) << "before the rest";
}

TEST_F(Map_2_3, R5_NoRightToMapIsDenied) {
  const Endpoint no_bit = Attach({kEp1Map});
  EXPECT_EQ(MapOf(no_bit, 0, 0, kPage, Prot::kRead), zx::kAccessDenied);
  EXPECT_EQ(MapOf(no_bit, 0, 0, kPage, Prot::kWrite), zx::kAccessDenied) << "before rule 6";
  const Endpoint no_right = Attach({kBothMap}, Without(Rights::kMap));
  EXPECT_EQ(MapOf(no_right, 0, 0, kPage, Prot::kRead), zx::kAccessDenied);
  EXPECT_EQ(MapOf(no_right, 0, 0, kPage, Prot::kWrite), zx::kAccessDenied) << "before rule 6";
}

TEST_F(Map_2_3, R6_WriteOrExecuteWithoutReadIsInvalid) {
  const Endpoint endpoint = Attach({kBothMap, kEp0MapRead | kEp1Map});
  for (const uint32_t index : {0u, 1u}) {
    EXPECT_EQ(MapOf(endpoint, index, 0, kPage, Prot::kWrite), zx::kInvalidArgs);
    EXPECT_EQ(MapOf(endpoint, index, 0, kPage, Prot::kExecute), zx::kInvalidArgs);
    EXPECT_EQ(MapOf(endpoint, index, 0, kPage, Prot::kWrite | Prot::kExecute), zx::kInvalidArgs);
  }
}

// Zircon has mappings without any access.
TEST_F(Map_2_3, R6_NoAccessAtAllIsInvalid) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kNothing), zx::kInvalidArgs);
}

TEST_F(Map_2_3, R9_WhatIsNotGrantedIsDenied) {
  const Endpoint reads = Attach({kEp0MapRead | kEp1Map});
  EXPECT_EQ(MapOf(reads, 0, 0, kPage, Prot::kRead), zx::kOk);
  EXPECT_EQ(MapOf(reads, 0, 0, kPage, kRw), zx::kAccessDenied);
  const Endpoint no_read = Attach({kBothMap}, Without(Rights::kRead));
  EXPECT_EQ(MapOf(no_read, 0, 0, kPage, Prot::kRead), zx::kAccessDenied);
  EXPECT_EQ(MapOf(no_read, 0, 0, kPage, kRw), zx::kAccessDenied);
  const Endpoint no_write = Attach({kBothMap}, Without(Rights::kWrite));
  EXPECT_EQ(MapOf(no_write, 0, 0, kPage, Prot::kRead), zx::kOk);
  EXPECT_EQ(MapOf(no_write, 0, 0, kPage, kRw), zx::kAccessDenied);
}

TEST_F(Map_2_3, R9_ExecuteIsNeverGranted) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, Prot::kRead | Prot::kExecute), zx::kAccessDenied);
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kRw | Prot::kExecute), zx::kAccessDenied);
}

TEST_F(Map_2_3, R9_ComesBeforeTheLength) {
  const Endpoint reads = Attach({kEp0MapRead | kEp1Map});
  EXPECT_EQ(MapOf(reads, 0, 0, 0, kRw), zx::kAccessDenied);
  EXPECT_EQ(MapOf(reads, 0, 1, UINT64_MAX, kRw), zx::kAccessDenied);
}

TEST_F(Map_2_3, R11_UnknownBitsAreInvalid) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kRw | static_cast<Prot>(8)), zx::kInvalidArgs);
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kRw | static_cast<Prot>(1u << 31)), zx::kInvalidArgs);
}

TEST_F(Map_2_3, R13_AnUnalignedOffsetIsInvalid) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 1, kPage, kRw), zx::kInvalidArgs);
  EXPECT_EQ(MapOf(endpoint, 0, kPage - 1, kPage, kRw), zx::kInvalidArgs);
  EXPECT_EQ(MapOf(endpoint, 0, 1, UINT64_MAX, kRw), zx::kInvalidArgs) << "before rule 14";
}

TEST_F(Map_2_3, R14_WhatOverflowsIsOutOfRange) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 0, UINT64_MAX, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 0, 0, UINT64_MAX - kPage + 2, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 0, UINT64_MAX - kPage + 1, 2 * kPage, kRw), zx::kOutOfRange);
}

TEST_F(Map_2_3, R16_NoBytesAreInvalid) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 0, 0, kRw), zx::kInvalidArgs);
  EXPECT_EQ(MapOf(endpoint, 0, 100 * kPage, 0, kRw), zx::kInvalidArgs);
}

// Zircon maps it, and faults when it is touched.
TEST_F(Map_2_3, BeyondTheRegionIsOutOfRange) {
  const Endpoint endpoint = Attach({kBothMap});
  EXPECT_EQ(MapOf(endpoint, 0, 0, 4 * kPage + 1, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 0, 4 * kPage, 1, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 0, 3 * kPage, kPage + 1, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 0, 3 * kPage, kPage, kRw), zx::kOk);
}

TEST_F(Map_2_3, TheLengthIsRoundedUpToPages) {
  const Endpoint endpoint = Attach({kBothMap});
  for (const uint64_t length : {uint64_t{1}, kPage - 1, kPage, kPage + 1, 4 * kPage}) {
    ASSERT_OK_AND_ASSIGN(MappedRegion mapped, endpoint.Map(0, 0, length, kRw));
    EXPECT_EQ(mapped.bytes().size(), (length + kPage - 1) / kPage * kPage) << length;
    mapped.writable_bytes().back() = std::byte{1};
  }
}

TEST_F(Map_2_3, PartialAndMultipleMappingsShowTheSameBytes) {
  const Endpoint endpoint = Attach({kBothMap});
  ASSERT_OK_AND_ASSIGN(MappedRegion whole, endpoint.Map(0, 0, 4 * kPage, kRw));
  ASSERT_OK_AND_ASSIGN(MappedRegion again, endpoint.Map(0, 0, 4 * kPage, Prot::kRead));
  ASSERT_OK_AND_ASSIGN(MappedRegion middle, endpoint.Map(0, kPage, 2 * kPage, kRw));
  ASSERT_OK_AND_ASSIGN(MappedRegion last, endpoint.Map(0, 3 * kPage, kPage, Prot::kRead));
  EXPECT_EQ(middle.offset_bytes(), kPage);
  EXPECT_FALSE(again.writable());
  whole.writable_bytes()[kPage] = std::byte{0x11};
  middle.writable_bytes()[1] = std::byte{0x22};
  whole.writable_bytes()[3 * kPage + 7] = std::byte{0x33};
  EXPECT_EQ(ByteAt(middle, 0), 0x11);
  EXPECT_EQ(ByteAt(again, kPage), 0x11);
  EXPECT_EQ(ByteAt(whole, kPage + 1), 0x22);
  EXPECT_EQ(ByteAt(last, 7), 0x33);
  { const MappedRegion gone = std::move(whole); }
  EXPECT_EQ(ByteAt(again, kPage + 1), 0x22) << "one mapping less changes nothing for the others";
}

TEST_F(Map_2_3, APeerThatIsClosedDoesNotMatter) {
  const Endpoint endpoint = Attach({kBothMap});
  Close(made_.ep1);
  ASSERT_TRUE(Eventually([&] { return endpoint.peer_closed(); }));
  ASSERT_OK_AND_ASSIGN(MappedRegion mapped, endpoint.Map(0, 0, kPage, kRw));
  mapped.writable_bytes()[0] = std::byte{7};
  const auto late = AttachRaw(Dup(made_.ep0));
  EXPECT_EQ(late->SectionBytes(0, v1::SECTION_KIND_DATA)[0], 7) << "attached after the peer's end";
}

TEST_F(Map_2_3, ARingReadsAsZirconsOneRange) {
  const NewBuffer made = Make({RingRegion(3 * kPage)});
  ASSERT_EQ(control().Write(made.ep1, 0, {"payload"}), zx::kOk);
  const Endpoint endpoint = AttachLibrary(Dup(made.ep0));
  ASSERT_OK_AND_ASSIGN(const MappedRegion mapped, endpoint.Map(0, 0, 3 * kPage, Prot::kRead));
  uint64_t head = 0;
  std::memcpy(&head, mapped.bytes().data(), sizeof(head));
  EXPECT_EQ(head, 24u);
  EXPECT_EQ(std::memcmp(mapped.bytes().data() + kPage + 16, "payload", 7), 0);
  ASSERT_OK_AND_ASSIGN(const MappedRegion records, endpoint.Map(0, kPage, kPage, Prot::kRead));
  EXPECT_EQ(std::memcmp(records.bytes().data() + 16, "payload", 7), 0);
}

// In Zircon a reader with map-write can spoil what was written.
TEST_F(Map_2_3, TheRecordsOfARingAreNeverWritable) {
  const NewBuffer made = Make({RingRegion(3 * kPage)});
  const Endpoint endpoint = AttachLibrary(Dup(made.ep0));
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kRw), zx::kOk) << "the head page";
  EXPECT_EQ(MapOf(endpoint, 0, 0, 2 * kPage, kRw), zx::kAccessDenied);
  EXPECT_EQ(MapOf(endpoint, 0, kPage, kPage, kRw), zx::kAccessDenied);
  EXPECT_EQ(MapOf(endpoint, 0, 0, 4 * kPage, kRw), zx::kOutOfRange) << "after all other checks";
}

// --- What the kernel says of the descriptors -----------------------------------------------------

class MapSocket_2_3 : public Contract {
 protected:
  // mmap of the first page of a section: 0 or errno.
  static int Try(int fd, int protection, int flags = MAP_SHARED) {
    void* const address = ::mmap(nullptr, kPage, protection, flags, fd, 0);
    if (address == MAP_FAILED) return errno;
    ::munmap(address, kPage);
    return 0;
  }
  // mmap with one protection, then mprotect to another: 0 or errno of the latter.
  static int Raise(int fd, int from, int to) {
    void* const address = ::mmap(nullptr, kPage, from, MAP_SHARED, fd, 0);
    EXPECT_NE(address, MAP_FAILED);
    const int error = ::mprotect(address, kPage, to) == 0 ? 0 : errno;
    ::munmap(address, kPage);
    return error;
  }
};

TEST_F(MapSocket_2_3, R5_WithoutARightToMapThereIsNoDescriptor) {
  const NewBuffer made = Make({PlainRegion(kPage, kEp1Map), PlainRegion()});
  const auto no_bit = AttachRaw(Dup(made.ep0));
  EXPECT_EQ(no_bit->grants().regions(0).sections_size(), 0);
  EXPECT_EQ(no_bit->grants().regions(1).sections_size(), 1);
  const auto no_right = AttachRaw(Dup(made.ep0, Rights::kEndpointDefault & ~Rights::kMap));
  EXPECT_EQ(no_right->grants().regions(0).sections_size(), 0);
  EXPECT_EQ(no_right->grants().regions(1).sections_size(), 0);
}

TEST_F(MapSocket_2_3, R9_AMappingForWritingNeedsTheRight) {
  const NewBuffer made = Make({PlainRegion(kPage, kEp0MapRead | kEp1Map)});
  const auto reads = AttachRaw(Dup(made.ep0));
  EXPECT_EQ(Try(reads->fds()[0].get(), PROT_READ), 0);
  EXPECT_EQ(Try(reads->fds()[0].get(), PROT_READ | PROT_WRITE), EACCES);
  EXPECT_EQ(Try(reads->fds()[0].get(), PROT_WRITE), EACCES);
  const auto writes = AttachRaw(Dup(made.ep1));
  EXPECT_EQ(Try(writes->fds()[0].get(), PROT_READ | PROT_WRITE), 0);
  const auto no_write = AttachRaw(Dup(made.ep1, Rights::kEndpointDefault & ~Rights::kWrite));
  EXPECT_EQ(Try(no_write->fds()[0].get(), PROT_READ | PROT_WRITE), EACCES);
}

TEST_F(MapSocket_2_3, ProtectMayRaiseUpToTheRightsAndNoFurther) {
  const NewBuffer made = Make({PlainRegion(kPage, kEp0MapRead | kEp1Map)});
  const auto writes = AttachRaw(Dup(made.ep1));
  EXPECT_EQ(Raise(writes->fds()[0].get(), PROT_READ, PROT_READ | PROT_WRITE), 0)
      << "the rights, not what was asked for first, are the limit";
  const auto reads = AttachRaw(Dup(made.ep0));
  EXPECT_EQ(Raise(reads->fds()[0].get(), PROT_READ, PROT_READ | PROT_WRITE), EACCES);
  const auto no_write = AttachRaw(Dup(made.ep1, Rights::kEndpointDefault & ~Rights::kWrite));
  EXPECT_EQ(Raise(no_write->fds()[0].get(), PROT_READ, PROT_READ | PROT_WRITE), EACCES);
}

TEST_F(MapSocket_2_3, TheRecordsOfARingAreSealedAgainstEverybody) {
  const NewBuffer made = Make({RingRegion()});
  const auto consumer = AttachRaw(Dup(made.ep0));
  const int data = consumer->SectionFd(0, v1::SECTION_KIND_DATA);
  EXPECT_EQ(Try(data, PROT_READ), 0);
  EXPECT_NE(Try(data, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(Raise(data, PROT_READ, PROT_READ | PROT_WRITE), EACCES);
  EXPECT_EQ(Try(consumer->SectionFd(0, v1::SECTION_KIND_HEAD), PROT_READ | PROT_WRITE), 0);
}

// --- 4.1: no discipline --------------------------------------------------------------------------

class None_4_1 : public Contract {};

TEST_F(None_4_1, MemoryStartsZeroedAndBelongsToBothEndpoints) {
  const NewBuffer made = Make({PlainRegion(16 * kPage)});
  const Endpoint ep0 = AttachLibrary(Dup(made.ep0));
  const auto ep1 = AttachRaw(Dup(made.ep1));
  uint8_t* const bytes = ep1->SectionBytes(0, v1::SECTION_KIND_DATA);
  ASSERT_OK_AND_ASSIGN(MappedRegion mapped, ep0.Map(0));
  ASSERT_EQ(mapped.bytes().size(), 16 * kPage);
  for (uint64_t i = 0; i < 16 * kPage; ++i) ASSERT_EQ(ByteAt(mapped, i), 0) << i;
  bytes[12345] = 0xab;
  EXPECT_EQ(ByteAt(mapped, 12345), 0xab);
  mapped.writable_bytes()[54321] = std::byte{0xcd};
  EXPECT_EQ(bytes[54321], 0xcd);
}

TEST_F(None_4_1, TwoBuffersShareNothing) {
  const NewBuffer one = Make({PlainRegion()});
  const NewBuffer other = Make({PlainRegion()});
  const auto writer = AttachRaw(Dup(one.ep0));
  const auto stranger = AttachRaw(Dup(other.ep0));
  writer->SectionBytes(0, v1::SECTION_KIND_DATA)[0] = 1;
  EXPECT_EQ(stranger->SectionBytes(0, v1::SECTION_KIND_DATA)[0], 0);
}

TEST_F(None_4_1, ARegionOfNoBytesHasNothingToMap) {
  const NewBuffer made = Make({PlainRegion(0)});
  const Endpoint endpoint = AttachLibrary(Dup(made.ep0));
  EXPECT_EQ(MapOf(endpoint, 0, 0, kPage, kRw), zx::kOutOfRange);
  EXPECT_EQ(MapOf(endpoint, 0, 0, 0, kRw), zx::kInvalidArgs);
  const auto client = AttachRaw(Dup(made.ep1));
  EXPECT_EQ(client->grants().regions(0).sections_size(), 0);
}

}  // namespace
}  // namespace iob::test
