// Snapshots and those who want more of them: tickets used twice, by others, too late; descriptors
// that are passed on; holders that are killed; memory that is scribbled over meanwhile.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "shm/kernel.h"
#include "tests/hostile/attach/attach_test.h"
#include "tests/hostile/attach/peer_process.h"
#include "tests/support/shm_process.h"

namespace iob::test {
namespace {

class SnapshotHostile : public AttachBothWays {
 protected:
  // A buffer of plain memory; its ep0 handle stays with the test's process.
  v1::CreateBufferResponse MakePlain(uint64_t size_bytes) {
    v1::CreateBufferRequest request;
    v1::RegionSpec& region = *request.add_regions();
    region.set_type(v1::REGION_TYPE_PRIVATE);
    region.set_discipline(v1::DISCIPLINE_NONE);
    region.set_size_bytes(size_bytes);
    region.set_access_bits(0x33);
    request.add_attach(v1::ENDPOINT_ID_EP1);
    v1::CreateBufferResponse response;
    EXPECT_TRUE(Call(daemon_->stub(), &Service::CreateBuffer, request, &response).ok());
    return response;
  }
  grpc::Status Take(const std::string& handle, v1::SnapshotResponse* response) {
    v1::SnapshotRequest request;
    request.set_handle(handle);
    return Call(daemon_->stub(), &Service::Snapshot, request, response);
  }
  v1::SnapshotResponse MustTake(const std::string& handle) {
    v1::SnapshotResponse response;
    const grpc::Status status = Take(handle, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  // The descriptor behind a ticket; invalid when it was refused.
  shm::UniqueFd Fetch(const std::string& ticket) {
    RawClient client(attach_path());
    EXPECT_EQ(client.SendRedeem(ticket), 0);
    const auto packet = client.Receive();
    if (!packet || !packet->has_snapshot() || client.fds().size() != 1) return {};
    return shm::UniqueFd(::fcntl(client.fds()[0].get(), F_DUPFD_CLOEXEC, 0));
  }
  void ExpectSnapshotsBecome(double count) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (Metric("iob_snapshots") != count && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(Metric("iob_snapshots"), count);
  }
};

INSTANTIATE_TEST_SUITE_P(Daemon, SnapshotHostile,
                         ::testing::Values(DaemonKind::kThread, DaemonKind::kChild), KindName);

TEST_P(SnapshotHostile, ATicketIsForOneUse) {
  StartDaemon(GetParam());
  const auto buffer = MakePlain(1 << 20);
  const v1::SnapshotResponse taken = MustTake(buffer.ep0_handle());
  shm::UniqueFd fd = Fetch(taken.ticket().ticket());
  ASSERT_TRUE(fd.valid());
  EXPECT_EQ(::fcntl(fd.get(), F_GET_SEALS) & 0xf,
            F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  EXPECT_EQ(::fcntl(fd.get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  RawClient again(attach_path());
  ASSERT_EQ(again.SendRedeem(taken.ticket().ticket()), 0);
  ExpectRefused(again.ReadToEnd(), grpc::StatusCode::UNAUTHENTICATED, v1::ERROR_REASON_BAD_HANDLE,
                "no such handle or ticket");
  EXPECT_EQ(Metric("iob_snapshots"), 1);
  fd.Close();
  ExpectSnapshotsBecome(0);
}

TEST_P(SnapshotHostile, OfTwoWhoRaceForItOneGetsIt) {
  StartDaemon(GetParam());
  const auto buffer = MakePlain(4096);
  for (int round = 0; round < 20; ++round) {
    const v1::SnapshotResponse taken = MustTake(buffer.ep0_handle());
    shm::UniqueFd fds[2];
    std::thread racer([&] { fds[1] = Fetch(taken.ticket().ticket()); });
    fds[0] = Fetch(taken.ticket().ticket());
    racer.join();
    EXPECT_NE(fds[0].valid(), fds[1].valid());
  }
  ExpectSnapshotsBecome(0);
}

TEST_P(SnapshotHostile, CountsAsLongAsAnybodyHasIt) {
  StartDaemon(GetParam());
  const auto buffer = MakePlain(1 << 20);
  shm::UniqueFd fd = Fetch(MustTake(buffer.ep0_handle()).ticket().ticket());
  ASSERT_TRUE(fd.valid());
  // A lock on it that its holder drops, descriptors made anew, mappings: nothing looks like an end.
  struct flock lock = {};
  lock.l_type = F_UNLCK;
  EXPECT_EQ(::fcntl(fd.get(), F_OFD_SETLK, &lock), 0);
  const std::string path = "/proc/self/fd/" + std::to_string(fd.get());
  shm::UniqueFd other(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  void* const mapped = ::mmap(nullptr, 1 << 20, PROT_READ, MAP_SHARED, other.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  Turn has_it;
  Child holder([&] {
    has_it.Give();
    ::pause();
  });
  ASSERT_TRUE(has_it.Take());
  fd.Close();
  other.Close();
  ASSERT_EQ(::munmap(mapped, 1 << 20), 0);
  // The forked child has descriptor and mapping.
  EXPECT_EQ(Metric("iob_snapshots"), 1);
  EXPECT_EQ(Metric("iob_snapshot_bytes"), 1 << 20);
  ::kill(holder.pid(), SIGKILL);
  EXPECT_EQ(holder.Join(), 128 + SIGKILL);
  ExpectSnapshotsBecome(0);
  EXPECT_EQ(Metric("iob_snapshot_bytes"), 0);
}

TEST_P(SnapshotHostile, AScribblerSpoilsNothingButItsOwnBytes) {
  StartDaemon(GetParam());
  const auto buffer = MakePlain(4 << 20);
  RawClient scribbler(attach_path());
  ASSERT_EQ(scribbler.Attach(buffer.tickets(0).ticket()), "");
  uint8_t* const bytes = scribbler.SectionBytes(0, v1::SECTION_KIND_DATA);
  const int fd = scribbler.SectionFd(0, v1::SECTION_KIND_DATA);
  std::atomic<bool> stop = false;
  std::thread hand([&] {
    for (uint8_t value = 0; !stop; ++value) {
      std::memset(bytes, value, 1 << 20);
      // Holes make pages go and come under whoever reads.
      ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20);
      std::memset(bytes + (2 << 20), value, 4096);
    }
  });
  for (int round = 0; round < 20; ++round) {
    const v1::SnapshotResponse taken = MustTake(buffer.ep0_handle());
    EXPECT_TRUE(taken.info().may_be_torn());
    const shm::UniqueFd copy = Fetch(taken.ticket().ticket());
    ASSERT_TRUE(copy.valid());
    void* const mapped = ::mmap(nullptr, 4 << 20, PROT_READ, MAP_SHARED, copy.get(), 0);
    ASSERT_NE(mapped, MAP_FAILED);
    const std::string first(static_cast<const char*>(mapped), 4 << 20);
    const std::string second(static_cast<const char*>(mapped), 4 << 20);
    EXPECT_EQ(first, second) << "it changed";
    ::munmap(mapped, 4 << 20);
  }
  stop = true;
  hand.join();
  ExpectSnapshotsBecome(0);
}

TEST_P(SnapshotHostile, OneUidCannotTakeAllThePlaces) {
  // Nobody fetches what was copied: it goes with its ticket.
  StartDaemon(GetParam(), {.flags = {"--ticket-lifetime-ms=300"}, .open_files_max = {}});
  const auto buffer = MakePlain(16 << 20);
  // More at once than one uid may have: some are told to come back, none is forgotten.
  std::atomic<int> done = 0;
  std::atomic<int> busy = 0;
  std::vector<std::thread> askers;
  for (int i = 0; i < 8; ++i) {
    askers.emplace_back([&] {
      v1::SnapshotResponse response;
      const grpc::Status status = Take(buffer.ep0_handle(), &response);
      if (status.ok()) ++done;
      if (ReasonOf(status) == "BUSY") ++busy;
    });
  }
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(done + busy, 8);
  EXPECT_GE(done, 4);
  EXPECT_EQ(Metric("iob_snapshots_copying"), 0);
}

TEST_P(SnapshotHostile, RequestsThatCannotBeAreRefused) {
  StartDaemon(GetParam());
  v1::SnapshotResponse response;
  for (const std::string& handle : {std::string(), std::string(15, 'h'), std::string(17, 'h')})
    EXPECT_EQ(ReasonOf(Take(handle, &response)), "INVALID_ARGUMENT");
  EXPECT_EQ(ReasonOf(Take(std::string(16, 'h'), &response)), "BAD_HANDLE");
}

class SnapshotUid : public SnapshotHostile {};

INSTANTIATE_TEST_SUITE_P(Daemon, SnapshotUid, ::testing::Values(DaemonKind::kChild), KindName);

TEST_P(SnapshotUid, AnotherUidIsRefusedAndTheTicketStays) {
  if (::geteuid() != 0) GTEST_SKIP() << "other uids need root";
  StartDaemon(GetParam());
  const auto buffer = MakePlain(4096);
  const v1::SnapshotResponse taken = MustTake(buffer.ep0_handle());
  PeerProcess thief(attach_path(), taken.ticket().ticket(), kNobodyUid);
  EXPECT_THAT(thief.problem(), ::testing::HasSubstr("no such handle or ticket"));
  EXPECT_TRUE(Fetch(taken.ticket().ticket()).valid());
}

}  // namespace
}  // namespace iob::test
