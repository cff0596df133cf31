// Ids for blobs: the order of checks of zx_iob_allocate_id (2.5), over all four ways, and the
// container that they end in (4.2), read and spoilt as bytes by an endpoint that maps it.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

constexpr uint64_t kBlobMax = 65519;

// Region 0: ep0 maps it for writing, ep1 asks the broker. Region 1: no discipline. Region 2: only
// the broker writes; ep0 reads. Region 3: both ask the broker.
class IdContract : public ByWay {
 protected:
  static constexpr uint32_t kRegionBytes = 2 * kPage;

  void SetUp() override {
    ByWay::SetUp();
    made_ = Make({IdRegion(kRegionBytes, kEp0Map | kEp1MediatedWrite), PlainRegion(), IdRegion(),
                  IdRegion(kPage, kEp0MapRead | kEp0MediatedWrite | kEp1MediatedWrite)});
    mapper_ = AttachRaw(Dup(made_.ep0));
  }
  void TearDown() override {
    mapper_.reset();
    hand_.reset();
    ByWay::TearDown();
  }

  bool attached() const { return GetParam() == Way::kSocket || GetParam() == Way::kEndpoint; }

  // By ep1, over a hand that lasts.
  Outcome Allocate(const std::string& blob, uint32_t region_index = 0) {
    if (!hand_) hand_ = Take(Dup(made_.ep1));
    return hand_->AllocateId(region_index, blob, &id_);
  }
  Outcome AllocateOnce(const std::string& handle, uint32_t region_index,
                       const std::string& blob = "blob") {
    return Take(handle)->AllocateId(region_index, blob, &id_);
  }
  std::string WithoutWrite() { return Dup(made_.ep1, Rights::kEndpointDefault & ~Rights::kWrite); }

  uint64_t Word(uint64_t offset, uint32_t region_index = 0) const {
    uint64_t word = 0;
    std::memcpy(&word, Bytes(region_index) + offset, sizeof(word));
    return word;
  }
  void SetWord(uint64_t offset, uint64_t word) {
    std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(Bytes(0) + offset)).store(word);
  }
  static uint64_t Pair(uint32_t low, uint32_t high) { return low | uint64_t{high} << 32; }
  std::string BlobAt(uint64_t slot, uint32_t region_index = 0) const {
    const auto size = static_cast<uint32_t>(slot);
    const auto offset = static_cast<uint32_t>(slot >> 32);
    return std::string(reinterpret_cast<const char*>(Bytes(region_index) + offset), size);
  }
  uint8_t* Bytes(uint32_t region_index) const {
    return mapper_->SectionBytes(region_index, v1::SECTION_KIND_DATA);
  }

  NewBuffer made_;
  std::unique_ptr<RawClient> mapper_;
  std::unique_ptr<Hand> hand_;
  uint32_t id_ = UINT32_MAX;
};

// --- 2.5: the order of checks --------------------------------------------------------------------

class AllocateId_2_5 : public IdContract {};
IOB_OVER_ALL_WAYS(AllocateId_2_5);

TEST_P(AllocateId_2_5, AHandleThatIsNoneIsBad) {
  if (attached()) GTEST_SKIP() << "an attachment is a live connection, not a number";
  Control& control = ByWay::control();
  EXPECT_EQ(control.AllocateId(std::string(16, '\0'), 9, "", &id_), zx::kBadHandle);
  const std::string closed = Dup(made_.ep1);
  Close(closed);
  EXPECT_EQ(control.AllocateId(closed, 0, "blob", &id_), zx::kBadHandle);
}

TEST_P(AllocateId_2_5, AHandleToASharedRegionIsOfTheWrongType) {
  if (attached()) GTEST_SKIP() << "only endpoints can be attached";
  const NewRegion shared = MakeShared();
  EXPECT_EQ(ByWay::control().AllocateId(shared.handle, 9, "blob", &id_), zx::kWrongObject);
  Close(shared.handle);
}

TEST_P(AllocateId_2_5, WithoutTheRightToWriteItIsDenied) {
  EXPECT_EQ(AllocateOnce(WithoutWrite(), 0), zx::kAccessDenied);
  EXPECT_EQ(AllocateOnce(Dup(made_.ep1, Rights::kWrite), 0), zx::kOk) << "no other is needed";
}

TEST_P(AllocateId_2_5, TheRightToWriteComesBeforeTheIndexAndTheDiscipline) {
  if (GetParam() == Way::kEndpoint)
    GTEST_SKIP() << "OpenIdAllocator finds the region first: it is for readers too";
  EXPECT_EQ(AllocateOnce(WithoutWrite(), 9), zx::kAccessDenied);
  EXPECT_EQ(AllocateOnce(WithoutWrite(), 1), zx::kAccessDenied);
}

TEST_P(AllocateId_2_5, ARegionThatDoesNotExistIsOutOfRange) {
  EXPECT_EQ(AllocateOnce(Dup(made_.ep1), 4), zx::kOutOfRange);
  EXPECT_EQ(AllocateOnce(Dup(made_.ep1), UINT32_MAX), zx::kOutOfRange);
}

TEST_P(AllocateId_2_5, ARegionOfAnotherDisciplineIsOfTheWrongType) {
  EXPECT_EQ(AllocateOnce(Dup(made_.ep1), 1), zx::kWrongDiscipline);
  EXPECT_EQ(AllocateOnce(Dup(made_.ep0), 1), zx::kWrongDiscipline);
}

TEST_P(AllocateId_2_5, WithoutMediatedWriteItIsDenied) {
  EXPECT_EQ(AllocateOnce(Dup(made_.ep0), 2), zx::kAccessDenied);
  EXPECT_EQ(AllocateOnce(Dup(made_.ep0), 2, std::string(kBlobMax + 1, 'x')), zx::kAccessDenied)
      << "before the blob is looked at";
}

TEST_P(AllocateId_2_5, AHeaderThatCannotBeIsIntegrity) {
  ASSERT_EQ(Allocate("first"), zx::kOk);
  const uint64_t good = Word(0);
  const uint64_t bad[] = {Pair(0, 0),                       // No room for the header itself.
                          Pair(0, kRegionBytes + 1),        // Blobs from beyond the region.
                          Pair(0, UINT32_MAX),              //
                          Pair(2, 16),                      // Slots that run into blobs.
                          Pair(UINT32_MAX, kRegionBytes),   //
                          Pair(0x20000000, kRegionBytes),   // 8 + 8 * next_id is 8 in 32 bits.
                          Pair(0x1fffffff, kRegionBytes)};  // And 0 here.
  for (const uint64_t header : bad) {
    SetWord(0, header);
    EXPECT_EQ(Allocate("blob"), zx::kIntegrity) << std::hex << header;
    EXPECT_EQ(Allocate(std::string(kRegionBytes, 'x')), zx::kIntegrity) << "before room is";
    EXPECT_EQ(Word(0), header) << "nothing was written";
  }
  SetWord(0, good);
  EXPECT_EQ(Allocate("second"), zx::kOk);
  EXPECT_EQ(id_, 1u);
}

TEST_P(AllocateId_2_5, NoRoomIsNoMemoryAndChangesNothing) {
  const uint64_t header = Word(0);
  EXPECT_EQ(Allocate(std::string(kRegionBytes - 16 + 1, 'x')), zx::kRegionFull);
  EXPECT_EQ(Word(0), header);
  EXPECT_EQ(Allocate(std::string(kRegionBytes - 16, 'x')), zx::kOk) << "exactly what there is";
  EXPECT_EQ(id_, 0u);
  EXPECT_EQ(Allocate(""), zx::kRegionFull) << "a slot needs room too";
}

TEST_P(AllocateId_2_5, ManySmallOnesEndInNoMemoryToo) {
  uint32_t count = 0;
  Outcome outcome;
  while ((outcome = Allocate("12345678", 3)).ok()) ++count;
  EXPECT_EQ(outcome, zx::kRegionFull);
  EXPECT_EQ(count, (kPage - 8) / 16);
}

TEST_P(AllocateId_2_5, ASlotThatIsNotEmptyIsIntegrity) {
  ASSERT_EQ(Allocate("first"), zx::kOk);
  SetWord(16, Pair(4, kPage));
  EXPECT_EQ(Allocate("second"), zx::kIntegrity);
  SetWord(16, 0);
  EXPECT_EQ(Allocate("second"), zx::kOk);
}

TEST_P(AllocateId_2_5, AnEmptyBlobHasAnId) {
  ASSERT_EQ(Allocate(""), zx::kOk);
  EXPECT_EQ(id_, 0u);
  EXPECT_EQ(Word(8), Pair(0, kRegionBytes));
  ASSERT_EQ(Allocate(""), zx::kOk);
  EXPECT_EQ(id_, 1u);
}

// In Zircon the region is the only limit; here a blob is a packet.
TEST_P(AllocateId_2_5, ABlobOfMoreThanAPacketIsInvalid) {
  const NewBuffer large = Make({IdRegion(64 * kPage)});
  EXPECT_EQ(AllocateOnce(Dup(large.ep1), 0, std::string(kBlobMax + 1, 'x')), zx::kInvalidArgs);
  EXPECT_EQ(AllocateOnce(Dup(large.ep1), 0, std::string(kBlobMax, 'x')), zx::kOk);
}

TEST_P(AllocateId_2_5, AClosedPeerDoesNotMatter) {
  Close(made_.ep0);
  mapper_.reset();
  ASSERT_TRUE(Eventually([&] { return LookAt(made_.koid(), EndpointId::kEp0).has_closed(); }));
  EXPECT_EQ(Allocate("blob"), zx::kOk);
}

// --- 4.2: the container --------------------------------------------------------------------------

class IdAllocator_4_2 : public IdContract {};
IOB_OVER_ALL_WAYS(IdAllocator_4_2);

TEST_P(IdAllocator_4_2, ItStartsWithAnEmptyHeaderAndZeros) {
  EXPECT_EQ(Word(0), Pair(0, kRegionBytes));
  const uint8_t* const bytes = Bytes(0);
  EXPECT_TRUE(std::all_of(bytes + 8, bytes + kRegionBytes, [](uint8_t byte) { return byte == 0; }));
}

TEST_P(IdAllocator_4_2, SlotsGrowUpAndBlobsGrowDownBackToBack) {
  ASSERT_EQ(Allocate("abc"), zx::kOk);
  ASSERT_EQ(Allocate("defgh"), zx::kOk);
  EXPECT_EQ(Word(0), Pair(2, kRegionBytes - 8));
  EXPECT_EQ(Word(8), Pair(3, kRegionBytes - 3));
  EXPECT_EQ(Word(16), Pair(5, kRegionBytes - 8));
  EXPECT_EQ(Word(24), 0u);
  EXPECT_EQ(std::memcmp(Bytes(0) + kRegionBytes - 8, "defghabc", 8), 0);
}

TEST_P(IdAllocator_4_2, IdsAreDenseAndCountedPerRegion) {
  for (uint32_t i = 0; i < 20; ++i) {
    ASSERT_EQ(Allocate("blob"), zx::kOk);
    EXPECT_EQ(id_, i);
  }
  ASSERT_EQ(Allocate("blob", 2), zx::kOk);
  EXPECT_EQ(id_, 0u);
  v1::GetBufferResponse view;
  ASSERT_EQ(Contract::control().GetBuffer(made_.koid(), &view), zx::kOk);
  EXPECT_EQ(view.buffer().regions(0).id_allocator().next_id(), 20u);
  EXPECT_EQ(view.buffer().regions(0).id_allocator().free_bytes(), kRegionBytes - 8 - 20 * 12);
}

TEST_P(IdAllocator_4_2, EqualBlobsHaveIdsOfTheirOwn) {
  ASSERT_EQ(Allocate("same", 2), zx::kOk);
  ASSERT_EQ(Allocate("same", 2), zx::kOk);
  EXPECT_EQ(id_, 1u);
}

TEST_P(IdAllocator_4_2, BothEndpointsCountTogether) {
  const auto ep0 = Take(Dup(made_.ep0));
  for (uint32_t i = 0; i < 10; i += 2) {
    ASSERT_EQ(ep0->AllocateId(3, "from ep0", &id_), zx::kOk);
    EXPECT_EQ(id_, i);
    ASSERT_EQ(Allocate("from ep1", 3), zx::kOk);
    EXPECT_EQ(id_, i + 1);
  }
  EXPECT_EQ(BlobAt(Word(8, 3), 3), "from ep0");
  EXPECT_EQ(BlobAt(Word(16, 3), 3), "from ep1");
}

// The algorithm of lib/iob's BlobIdAllocator, as a mapper that was written for Zircon has it.
TEST_P(IdAllocator_4_2, MappersWithZirconsAlgorithmCountTogetherWithTheBroker) {
  const auto allocate_like_zircon = [this](const std::string& blob) {
    const uint64_t header = Word(0);
    const auto next_id = static_cast<uint32_t>(header);
    const auto head = static_cast<uint32_t>(header >> 32) - static_cast<uint32_t>(blob.size());
    SetWord(0, Pair(next_id + 1, head));
    std::memcpy(Bytes(0) + head, blob.data(), blob.size());
    SetWord(8 + uint64_t{8} * next_id, Pair(static_cast<uint32_t>(blob.size()), head));
    return next_id;
  };
  EXPECT_EQ(allocate_like_zircon("mapper"), 0u);
  ASSERT_EQ(Allocate("broker"), zx::kOk);
  EXPECT_EQ(id_, 1u);
  EXPECT_EQ(allocate_like_zircon("again"), 2u);
  ASSERT_EQ(Allocate("last"), zx::kOk);
  EXPECT_EQ(id_, 3u);
  const char* const blobs[] = {"mapper", "broker", "again", "last"};
  for (uint64_t id = 0; id < 4; ++id) EXPECT_EQ(BlobAt(Word(8 + 8 * id)), blobs[id]);
}

TEST_P(IdAllocator_4_2, ConcurrentAllocationsAreDenseAndWhole) {
  constexpr int kThreads = 4;
  constexpr int kEach = 50;
  const NewBuffer made = Make({IdRegion(32 * kPage, kEp0Map | kEp1MediatedWrite)});
  std::vector<std::unique_ptr<Hand>> hands;
  // By the broker and, where the way is an endpoint that maps it, directly as well.
  for (int i = 0; i < kThreads; ++i) hands.push_back(Take(Dup(made.ep1)));
  if (GetParam() == Way::kEndpoint) hands[0] = Take(Dup(made.ep0));
  std::vector<std::vector<uint32_t>> ids(kThreads);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        uint32_t id = 0;
        // The one outcome that asks for another try, of a mapper that is outrun all the time.
        Outcome outcome;
        do {
          outcome = hands[t]->AllocateId(0, std::to_string(t) + ":" + std::to_string(i), &id);
        } while (outcome.reason == "BUSY");
        EXPECT_EQ(outcome, zx::kOk);
        ids[t].push_back(id);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Endpoint endpoint = AttachLibrary(Dup(made.ep0));
  ASSERT_OK_AND_ASSIGN(const IdAllocator allocator, endpoint.OpenIdAllocator(0));
  std::vector<bool> seen(kThreads * kEach);
  for (size_t t = 0; t < kThreads; ++t) {
    for (size_t i = 0; i < ids[t].size(); ++i) {
      ASSERT_LT(ids[t][i], seen.size());
      EXPECT_FALSE(seen[ids[t][i]]) << "an id given twice";
      seen[ids[t][i]] = true;
      ASSERT_OK_AND_ASSIGN(const std::vector<std::byte> blob, allocator.GetBlob(ids[t][i]));
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(blob.data()), blob.size()),
                std::to_string(t) + ":" + std::to_string(i));
    }
  }
}

// Zircon pins the memory: decommit answers BAD_STATE. On Linux whoever may write a memory file may
// punch a hole into it; what is then read as zeros is no header.
TEST_P(IdAllocator_4_2, APunchedHoleIsIntegrityAndNothingWorse) {
  ASSERT_EQ(Allocate("blob"), zx::kOk);
  ASSERT_EQ(::madvise(Bytes(0), kPage, MADV_REMOVE), 0);
  EXPECT_EQ(Allocate("blob"), zx::kIntegrity);
  EXPECT_TRUE(daemon().Healthy());
}

TEST_P(IdAllocator_4_2, WhatOnlyTheBrokerWritesCannotBeSpoilt) {
  ASSERT_EQ(Allocate("blob", 2), zx::kOk);
  const int fd = mapper_->SectionFd(2, v1::SECTION_KIND_DATA);
  EXPECT_NE(::madvise(Bytes(2), kPage, MADV_REMOVE), 0);
  EXPECT_EQ(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_NE(::mprotect(Bytes(2), kPage, PROT_READ | PROT_WRITE), 0);
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const shm::UniqueFd reopened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_NE(::pwrite(reopened.get(), "x", 1, 0), 1);
  EXPECT_EQ(BlobAt(Word(8, 2), 2), "blob");
}

// TOCTOU: the header changes at any moment, and the broker must live with it.
TEST_P(IdAllocator_4_2, AHeaderThatFlipsMeanwhileIsAnAnswerAndNothingWorse) {
  const uint64_t good = Word(0);
  std::atomic<bool> stop = false;
  std::thread hostile([&] {
    const uint64_t words[] = {Pair(0x20000000, kRegionBytes), good, Pair(UINT32_MAX, UINT32_MAX),
                              Pair(0, kRegionBytes), Pair(1000, 8)};
    for (size_t i = 0; !stop; ++i) SetWord(0, words[i % std::size(words)]);
  });
  bool stored = false;
  bool refused = false;
  const bool both = Eventually([&] {
    for (int i = 0; i < 20; ++i) {
      const Outcome outcome = Allocate("blob");
      stored = stored || outcome.ok();
      refused = refused || outcome == zx::kIntegrity;
      EXPECT_TRUE(outcome.ok() || outcome == zx::kIntegrity || outcome == zx::kRegionFull ||
                  outcome.reason == "BUSY")
          << outcome;
    }
    return stored && refused;
  });
  stop = true;
  hostile.join();
  EXPECT_TRUE(both) << "stored " << stored << ", refused " << refused;
  EXPECT_TRUE(daemon().Healthy());
}

class IdReader_4_2 : public Contract {
 protected:
  void SetUp() override {
    Contract::SetUp();
    made_ = Make({IdRegion(kPage, kBothMap)});
    mapper_ = AttachRaw(Dup(made_.ep0));
  }
  void TearDown() override {
    mapper_.reset();
    Contract::TearDown();
  }
  void SetWord(uint64_t offset, uint32_t low, uint32_t high) {
    const uint64_t word = low | uint64_t{high} << 32;
    std::memcpy(mapper_->SectionBytes(0, v1::SECTION_KIND_DATA) + offset, &word, sizeof(word));
  }

  NewBuffer made_;
  std::unique_ptr<RawClient> mapper_;
};

TEST_F(IdReader_4_2, EveryStateOfASlotHasItsAnswer) {
  Endpoint endpoint = AttachLibrary(Dup(made_.ep1));
  ASSERT_OK_AND_ASSIGN(const IdAllocator reader, endpoint.OpenIdAllocator(0));
  const auto get = [&reader](uint32_t id) { return OutcomeOf(reader.GetBlob(id).status()); };
  EXPECT_EQ(get(0), kNotFound) << "kUnallocatedId";
  SetWord(0, 3, kPage - 16);
  EXPECT_EQ(get(0).reason, "BUSY") << "kUncommittedIndex";
  SetWord(8, 16, kPage - 16);
  EXPECT_EQ(get(0), zx::kOk);
  SetWord(16, 16, kPage - 24);
  EXPECT_EQ(get(1), zx::kIntegrity) << "kInvalidIndex: below the blobs";
  SetWord(16, 17, kPage - 16);
  EXPECT_EQ(get(1), zx::kIntegrity) << "kInvalidIndex: beyond the region";
  EXPECT_EQ(get(3), kNotFound);
  SetWord(0, 3, kPage + 8);
  EXPECT_EQ(get(0), zx::kIntegrity) << "kInvalidHeader";
}

TEST_F(IdReader_4_2, ARegionOfFourGibibytesIsOutOfRange) {
  NewBuffer made;
  for (const uint64_t size : {uint64_t{UINT32_MAX} - kPage + 2, uint64_t{1} << 32}) {
    EXPECT_EQ(control().CreateBuffer(BufferOf({IdRegion(size)}), &made), zx::kOutOfRange) << size;
  }
}

}  // namespace
}  // namespace iob::test
