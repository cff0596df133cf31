// The shared id allocator at once: many threads, and many processes that are killed in the middle.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "tests/support/shm_id_region.h"
#include "tests/support/shm_process.h"
#include "tests/support/status_matchers.h"

#include "tests/support/status_matchers.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define IOB_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define IOB_TEST_SANITIZED 1
#endif
#endif

namespace iob::shm {
namespace {

using test::BytesOf;
using test::IsOk;
using test::PatternText;

// ---- At once ----------------------------------------------------------------------------------

// A blob that says who made it, and whose every byte can be checked.
std::string SelfDescribing(uint32_t owner, uint32_t sequence) {
  std::string blob(8, '\0');
  std::memcpy(blob.data(), &owner, 4);
  std::memcpy(blob.data() + 4, &sequence, 4);
  return blob + PatternText(owner * 1000003 + sequence, sequence * 37 % 90);
}
bool DescribesItself(const std::string& blob, uint32_t* ret_owner, uint32_t* ret_sequence) {
  if (blob.size() < 8) return false;
  std::memcpy(ret_owner, blob.data(), 4);
  std::memcpy(ret_sequence, blob.data() + 4, 4);
  return blob == SelfDescribing(*ret_owner, *ret_sequence);
}

// All ids are complete blobs or tombstones, and together they account for every byte.
void ExpectRecovered(const SharedRegion& region, uint32_t* ret_tombstones) {
  const ReadOnlyMapping raw = region.MapForReading();
  const IdHeader header = *region.broker().LoadHeader();
  uint64_t blob_bytes = 0;
  std::set<std::pair<uint32_t, uint32_t>> seen;
  for (uint32_t id = 0; id < header.next_id; ++id) {
    std::string blob;
    const BlobOutcome outcome = region.Get(id, &blob);
    if (outcome == BlobOutcome::kTombstone) {
      ++*ret_tombstones;
      blob_bytes += static_cast<uint32_t>(WordAt(raw, IdSlotOffset(id)));
      continue;
    }
    ASSERT_EQ(outcome, BlobOutcome::kBlob) << "id " << id;
    std::pair<uint32_t, uint32_t> author;
    ASSERT_TRUE(DescribesItself(blob, &author.first, &author.second)) << "torn, id " << id;
    ASSERT_TRUE(seen.insert(author).second) << "one blob, two ids";
    std::string seen_by_zircon;
    ASSERT_EQ(ZirconGet(raw, id, &seen_by_zircon), ZirconError::kNone);
    ASSERT_EQ(seen_by_zircon, blob);
    blob_bytes += blob.size();
  }
  EXPECT_EQ(region.broker().layout().region_bytes() - blob_bytes, header.blob_head);
}

TEST(IdAllocatorShared, ServesManyThreadsAtOnce) {
  constexpr uint32_t kThreads = 4;
  SharedRegion region(Pages(64));
  std::vector<std::vector<uint32_t>> ids(kThreads);
  std::atomic<uint32_t> running = kThreads;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      // Two of one process, two of others.
      const IdAllocatorSharedWriter writer = region.WriterOf(t < 2 ? 2 : t + 1);
      for (uint32_t sequence = 0;; ++sequence) {
        uint32_t id = 0;
        const AllocateOutcome outcome = writer.Allocate(BytesOf(SelfDescribing(t, sequence)), &id);
        if (outcome == AllocateOutcome::kBusy) --sequence;
        if (outcome == AllocateOutcome::kBusy) continue;
        if (outcome == AllocateOutcome::kOutOfMemory) break;
        ASSERT_EQ(outcome, AllocateOutcome::kAllocated);
        ids[t].push_back(id);
      }
      --running;
    });
  }
  uint64_t read = 0;
  std::mt19937_64 random(5);
  while (running != 0 || read == 0) {
    const IdHeader header = *region.broker().LoadHeader();
    if (header.next_id == 0) continue;
    std::string blob;
    const BlobOutcome outcome = region.Get(static_cast<uint32_t>(random() % header.next_id), &blob);
    if (outcome == BlobOutcome::kUncommitted) continue;
    ASSERT_EQ(outcome, BlobOutcome::kBlob);
    uint32_t owner = 0;
    uint32_t sequence = 0;
    ASSERT_TRUE(DescribesItself(blob, &owner, &sequence)) << "seen before it was complete";
    ++read;
  }
  for (std::thread& thread : threads) thread.join();
  std::set<uint32_t> all;
  for (uint32_t t = 0; t < kThreads; ++t) {
    for (uint32_t sequence = 0; sequence < ids[t].size(); ++sequence) {
      EXPECT_TRUE(all.insert(ids[t][sequence]).second);
      ASSERT_EQ(region.MustGet(ids[t][sequence]), SelfDescribing(t, sequence));
    }
  }
  EXPECT_EQ(all.size(), region.broker().LoadHeader()->next_id) << "dense, and nothing lost";
  uint32_t tombstones = 0;
  ExpectRecovered(region, &tombstones);
  EXPECT_EQ(tombstones, 0u);
}

// What a child has been told, in memory that outlives it.
struct Log {
  static constexpr uint32_t kEntries = 8192;
  std::atomic<uint32_t> may_start;
  std::atomic<uint32_t> count;
  std::atomic<uint32_t> ids[kEntries];
};

// Allocates until the region is full. Ends with 0 then.
void AllocateAll(const SharedRegion& region, IdOwner owner, Log* log) {
  const IdAllocatorSharedWriter writer = region.WriterOf(owner);
  while (log->may_start.load(std::memory_order_acquire) == 0) std::this_thread::yield();
  for (uint32_t sequence = 0; sequence < Log::kEntries;) {
    uint32_t id = 0;
    const AllocateOutcome outcome = writer.Allocate(BytesOf(SelfDescribing(owner, sequence)), &id);
    if (outcome == AllocateOutcome::kBusy) continue;
    if (outcome == AllocateOutcome::kOutOfMemory) return;
    ASSERT_EQ(outcome, AllocateOutcome::kAllocated);
    log->ids[sequence].store(id, std::memory_order_relaxed);
    log->count.store(++sequence, std::memory_order_release);
  }
}

TEST(IdAllocatorShared, SurvivesProcessesKilledAtAnyMoment) {
  constexpr IdOwner kChildren = 3;
#ifdef IOB_TEST_SANITIZED
  constexpr uint32_t kKills = 30;  // A sanitizer's fork is slow.
#else
  constexpr uint32_t kKills = 80;
#endif
  constexpr size_t kLogBytes = sizeof(Log) * (kChildren + 2);
  auto* const logs = static_cast<Log*>(
      ::mmap(nullptr, kLogBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(logs), MAP_FAILED);
  std::mt19937_64 random(7);
  uint32_t kills = 0;
  uint32_t tombstones = 0;
  const int64_t deadline_ns = MonotonicNs() + 40'000'000'000;
  // Some are done before they can be killed.
  while (kills < kKills && !HasFailure()) {
    std::memset(static_cast<void*>(logs), 0, kLogBytes);
    SharedRegion region(Pages(96));
    std::vector<std::unique_ptr<test::Child>> children;
    for (IdOwner owner = 2; owner < 2 + kChildren; ++owner) {
      children.push_back(
          std::make_unique<test::Child>([&] { AllocateAll(region, owner, &logs[owner]); }));
    }
    for (IdOwner owner = 2; owner < 2 + kChildren; ++owner)
      logs[owner].may_start.store(1, std::memory_order_release);
    // All but the last are killed; it must be able to go on to the end.
    uint32_t entombed = 0;
    for (IdOwner owner = 2; owner < 1 + kChildren; ++owner) {
      const auto after = static_cast<uint32_t>(random() % 400);
      const auto full = [&region] { return region.broker().LoadHeader()->free_bytes() < 200; };
      while (logs[owner].count.load(std::memory_order_acquire) < after && !full())
        ASSERT_LT(MonotonicNs(), deadline_ns) << "child " << owner << " makes no progress";
      ::kill(children[owner - 2]->pid(), SIGKILL);
      kills += children[owner - 2]->Join() == 128 + SIGKILL ? 1 : 0;
      // While the others go on.
      const absl::StatusOr<uint32_t> made = region.broker().TombstoneOwner(owner);
      ASSERT_THAT(made, IsOk());
      EXPECT_LE(*made, 1u) << "a process does one thing at a time";
      entombed += *made;
    }
    ASSERT_EQ(children.back()->Join(), 0);
    uint32_t id = 0;
    EXPECT_EQ(region.Allocate(std::string(100, 'x'), &id), AllocateOutcome::kOutOfMemory);
    uint32_t found = 0;
    ExpectRecovered(region, &found);
    EXPECT_EQ(found, entombed);
    tombstones += found;
    std::set<uint32_t> told;
    for (IdOwner owner = 2; owner < 2 + kChildren; ++owner) {
      const uint32_t count = logs[owner].count.load(std::memory_order_acquire);
      for (uint32_t sequence = 0; sequence < count; ++sequence) {
        const uint32_t logged = logs[owner].ids[sequence].load(std::memory_order_relaxed);
        ASSERT_TRUE(told.insert(logged).second) << "id " << logged << " given twice";
        ASSERT_EQ(region.MustGet(logged), SelfDescribing(owner, sequence));
      }
    }
  }
  ::munmap(logs, kLogBytes);
  std::printf("%u processes killed, %u tombstones\n", kills, tombstones);
}

// Optimized only: the steps are the square of the instructions.
#if defined(__x86_64__) && defined(__OPTIMIZE__) && !defined(IOB_TEST_SANITIZED)
// Steps a stopped child that many instructions. False when it ended before.
bool Step(pid_t pid, uint64_t instructions) {
  for (uint64_t i = 0; i < instructions; ++i) {
    int status = 0;
    if (::ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) != 0) return false;
    if (::waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status)) return false;
  }
  return true;
}

// A process of owner 3 that is killed after `instructions` of an Allocate. False when that was
// beyond its end.
bool KillAfter(const SharedRegion& region, uint64_t instructions) {
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  IOB_CHECK(pid >= 0);
  if (pid == 0) {
    const IdAllocatorSharedWriter writer = region.WriterOf(3);
    const std::string blob = SelfDescribing(3, 0);
    uint32_t id = 0;
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    asm volatile("int3");  // Stops here, with nothing but the call ahead.
    (void)writer.Allocate(BytesOf(blob), &id);
    ::_exit(0);
  }
  int status = 0;
  IOB_CHECK(::waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status));
  const bool killed = Step(pid, instructions);
  ::kill(pid, SIGKILL);
  if (killed) IOB_CHECK(::waitpid(pid, &status, __WALL) == pid);
  return killed;
}

TEST(IdAllocatorShared, SurvivesAProcessKilledAtEveryInstruction) {
  int unclaimed = 0;
  int lagging = 0;
  int pending = 0;
  int committed = 0;
  for (uint64_t instructions = 0;; ++instructions) {
    ASSERT_LT(instructions, 100'000u);
    SharedRegion region(Pages(1));
    region.MustAllocate(SelfDescribing(1, 0));
    const bool killed = KillAfter(region, instructions);
    const bool swung = region.broker().LoadHeader()->next_id == 2;
    // Nobody has to wait for the recovery.
    const uint32_t id = region.MustAllocate(SelfDescribing(1, 1));
    std::string blob;
    const BlobOutcome outcome = region.Get(1, &blob);
    ASSERT_OK_AND_ASSIGN(const uint32_t entombed, region.broker().TombstoneOwner(3));
    uint32_t tombstones = 0;
    ExpectRecovered(region, &tombstones);
    ASSERT_EQ(tombstones, entombed);
    ASSERT_EQ(entombed, outcome == BlobOutcome::kUncommitted ? 1u : 0u);
    ASSERT_EQ(region.MustGet(id), SelfDescribing(1, 1));
    if (HasFailure()) FAIL() << "after " << instructions << " instructions";
    unclaimed += id == 1 ? 1 : 0;
    lagging += entombed == 1 && !swung ? 1 : 0;
    pending += entombed == 1 && swung ? 1 : 0;
    committed += id == 2 && entombed == 0 ? 1 : 0;
    // What comes after the commit is the way home.
    if (!killed || committed == 30) break;
  }
  std::printf("unclaimed %d, claimed %d, swung %d, committed %d\n", unclaimed, lagging, pending,
              committed);
  EXPECT_GT(unclaimed, 0);
  EXPECT_GT(lagging, 0);
  EXPECT_GT(pending, 0);
  EXPECT_EQ(committed, 30);
}
#endif

}  // namespace
}  // namespace iob::shm
