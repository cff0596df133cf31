// FdChannel: packets and descriptors over real sockets, and that no descriptor leaks whatever the
// other side sends.
#include "shm/fd_channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "shm/futex.h"
#include "tests/support/shm_process.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::shm {
namespace {

using test::BytesOf;
using test::IsOk;
using test::StatusIs;

constexpr int64_t kPatienceNs = 10'000'000'000;

struct Pair {
  FdChannel ours;
  FdChannel theirs;
};

Pair MakePair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  return {.ours = FdChannel(UniqueFd(ends[0])), .theirs = FdChannel(UniqueFd(ends[1]))};
}

struct Packet {
  Received received;
  std::string text;
};

Packet ReceiveText(FdChannel& channel, size_t fds_max = 0, size_t bytes_max = 64) {
  std::vector<std::byte> buffer(bytes_max);
  Packet packet;
  absl::StatusOr<Received> received = channel.Receive(buffer, fds_max);
  EXPECT_THAT(received, IsOk());
  if (!received.ok()) return packet;
  packet.received = std::move(*received);
  buffer.resize(packet.received.size_bytes);
  packet.text = test::TextOf(buffer);
  return packet;
}

std::vector<UniqueFd> OpenMany(size_t count) {
  std::vector<UniqueFd> fds;
  for (size_t i = 0; i < count; ++i) fds.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  return fds;
}

std::vector<int> NumbersOf(const std::vector<UniqueFd>& fds) {
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  return numbers;
}

TEST(FdChannel, KeepsPacketsApart) {
  Pair pair = MakePair();
  ASSERT_THAT(pair.ours.Send(BytesOf("first")), IsOk());
  ASSERT_THAT(pair.ours.Send(BytesOf("second one")), IsOk());
  EXPECT_EQ(ReceiveText(pair.theirs).text, "first");
  EXPECT_EQ(ReceiveText(pair.theirs).text, "second one");
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kNothing);
}

TEST(FdChannel, PassesDescriptorsInOrderAndCloseOnExec) {
  Pair pair = MakePair();
  const SealedMemfd first = test::MakeMemfd(PageBytes());
  const SealedMemfd second = test::MakeMemfd(2 * PageBytes());
  const std::array<int, 2> fds = {first.fd(), second.fd()};
  ASSERT_THAT(pair.ours.Send(BytesOf("fds"), fds), IsOk());
  const Packet packet = ReceiveText(pair.theirs, 2);
  ASSERT_EQ(packet.received.outcome, ReceiveOutcome::kPacket);
  EXPECT_EQ(packet.text, "fds");
  ASSERT_EQ(packet.received.fds.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    struct stat status = {};
    ASSERT_EQ(::fstat(packet.received.fds[i].get(), &status), 0);
    EXPECT_EQ(static_cast<uint64_t>(status.st_size), (i + 1) * PageBytes());
    EXPECT_NE(::fcntl(packet.received.fds[i].get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

TEST(FdChannel, PassesAsManyDescriptorsAsTheKernelTakes) {
  Pair pair = MakePair();
  const std::vector<UniqueFd> fds = OpenMany(kPacketFdsMax);
  ASSERT_THAT(pair.ours.Send(BytesOf("x"), NumbersOf(fds)), IsOk());
  const Packet packet = ReceiveText(pair.theirs, kPacketFdsMax);
  EXPECT_EQ(packet.received.outcome, ReceiveOutcome::kPacket);
  EXPECT_EQ(packet.received.fds.size(), kPacketFdsMax);
  const std::vector<int> too_many(kPacketFdsMax + 1, fds.front().get());
  EXPECT_THAT(pair.ours.Send(BytesOf("x"), too_many),
              StatusIs(absl::StatusCode::kInvalidArgument, "254 descriptors"));
}

TEST(FdChannel, ReportsDescriptorsThatNobodyAskedForAndClosesThem) {
  Pair pair = MakePair();
  for (const size_t sent : {1u, 2u, 3u, 4u, 5u, 100u}) {
    for (const size_t wanted : {0u, 1u, 2u, 3u, 4u}) {
      const std::vector<UniqueFd> fds = OpenMany(sent);
      const int before = test::OpenFds();
      ASSERT_THAT(pair.ours.Send(BytesOf("x"), NumbersOf(fds)), IsOk());
      const ReceiveOutcome outcome = ReceiveText(pair.theirs, wanted).received.outcome;
      EXPECT_EQ(outcome, sent > wanted ? ReceiveOutcome::kFdsDropped : ReceiveOutcome::kPacket)
          << sent << " sent, " << wanted << " wanted";
      EXPECT_EQ(test::OpenFds(), before);
    }
  }
}

TEST(FdChannel, ReportsDescriptorsThatItsFullTableCouldNotTake) {
  test::ExpectInChild([] {
    Pair pair = MakePair();
    const std::vector<UniqueFd> fds = OpenMany(4);
    rlimit wide = {};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &wide), 0);
    const int before = test::OpenFds();
    for (const int room : {0, 1, 3}) {
      ASSERT_THAT(pair.ours.Send(BytesOf("x"), NumbersOf(fds)), IsOk());
      test::LimitOpenFds(room);
      std::array<std::byte, 8> buffer;
      absl::StatusOr<Received> received = pair.theirs.Receive(buffer, 4);
      ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &wide), 0);
      ASSERT_THAT(received, IsOk());
      EXPECT_EQ(received->outcome, ReceiveOutcome::kFdsDropped);
      EXPECT_EQ(received->fds.size(), static_cast<size_t>(room));
      received->fds.clear();
      EXPECT_EQ(test::OpenFds(), before);
    }
  });
}

TEST(FdChannel, ReportsAPacketThatIsLongerThanTheBuffer) {
  Pair pair = MakePair();
  const std::vector<UniqueFd> fds = OpenMany(1);
  const int before = test::OpenFds();
  ASSERT_THAT(pair.ours.Send(BytesOf("0123456789"), NumbersOf(fds)), IsOk());
  {
    const Packet packet = ReceiveText(pair.theirs, 1, 4);
    EXPECT_EQ(packet.received.outcome, ReceiveOutcome::kTooLong);
    EXPECT_EQ(packet.text, "0123");
  }
  EXPECT_EQ(test::OpenFds(), before);
  ASSERT_THAT(pair.ours.Send(BytesOf("0123")), IsOk());
  EXPECT_EQ(ReceiveText(pair.theirs, 0, 4).received.outcome, ReceiveOutcome::kPacket);
}

TEST(FdChannel, CarriesTheLargestPacketOfTheProtocol) {
  Pair pair = MakePair();
  const std::string text = test::PatternText(1, kPacketBytesMax);
  ASSERT_THAT(pair.ours.Send(BytesOf(text)), IsOk());
  EXPECT_EQ(ReceiveText(pair.theirs, 0, kPacketBytesMax).text, text);
}

TEST(FdChannel, TellsAnEmptyPacketFromTheEnd) {
  Pair pair = MakePair();
  ASSERT_THAT(pair.ours.Send({}), IsOk());
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kEmpty);
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kNothing);
  pair.ours.Close();
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kClosed);
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kClosed);
}

// "The client's last packet was never handled, because an empty one came before it."
TEST(FdChannel, DoesNotTakeAnEmptyPacketForTheEndWhenMoreIsQueued) {
  Pair pair = MakePair();
  ASSERT_THAT(pair.ours.Send({}), IsOk());
  ASSERT_THAT(pair.ours.Send(BytesOf("last words")), IsOk());
  pair.ours.Close();
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kEmpty);
  EXPECT_EQ(ReceiveText(pair.theirs).text, "last words");
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kClosed);
}

// "The broker hung up on me and my client could not say why": the reason was in the queue, behind
// the ECONNRESET that the broker's close had caused by leaving a packet of ours unread.
TEST(FdChannel, DeliversTheLastWordsOfAPeerThatClosedWithoutReadingOurs) {
  Pair pair = MakePair();
  ASSERT_THAT(pair.theirs.Send(BytesOf("unread")), IsOk());
  ASSERT_THAT(pair.ours.Send(BytesOf("the reason")), IsOk());
  pair.ours.Close();
  const Packet packet = ReceiveText(pair.theirs);
  EXPECT_EQ(packet.received.outcome, ReceiveOutcome::kPacket);
  EXPECT_EQ(packet.text, "the reason");
  EXPECT_EQ(ReceiveText(pair.theirs).received.outcome, ReceiveOutcome::kClosed);
}

TEST(FdChannel, SaysThatThePeerIsGoneWithoutASignal) {
  Pair pair = MakePair();
  pair.theirs.Close();
  EXPECT_THAT(pair.ours.Send(BytesOf("x")), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(pair.ours.SendBy(BytesOf("x"), MonotonicNs() + kPatienceNs),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(ReceiveText(pair.ours).received.outcome, ReceiveOutcome::kClosed);
}

TEST(FdChannel, IsUnavailableWhileTheQueueIsFull) {
  Pair pair = MakePair();
  const std::string text(4096, 'x');
  absl::Status sent;
  int packets = 0;
  while ((sent = pair.ours.Send(BytesOf(text))).ok() && packets < 100'000) ++packets;
  EXPECT_THAT(sent, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(pair.ours.SendBy(BytesOf(text), MonotonicNs() + 1'000'000),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  for (int i = 0; i < packets; ++i) {
    ASSERT_EQ(ReceiveText(pair.theirs, 0, 4096).received.size_bytes, text.size());
  }
  EXPECT_THAT(pair.ours.SendBy(BytesOf(text), MonotonicNs() + kPatienceNs), IsOk());
}

TEST(FdChannel, SendsOnceTheOtherProcessMakesRoom) {
  Pair pair = MakePair();
  const std::string text(4096, 'x');
  int packets = 0;
  while (pair.ours.Send(BytesOf(text)).ok()) ++packets;
  test::Child reader([&pair, packets] {
    pair.ours.Close();
    std::vector<std::byte> buffer(4096);
    for (int i = 0; i < packets + 1; ++i) {
      EXPECT_THAT(pair.theirs.ReceiveBy(buffer, 0, MonotonicNs() + kPatienceNs), IsOk());
    }
  });
  EXPECT_THAT(pair.ours.SendBy(BytesOf(text), MonotonicNs() + kPatienceNs), IsOk());
  EXPECT_EQ(reader.Join(), 0);
}

TEST(FdChannel, WaitsForAPacketOrTheEndUntilTheDeadline) {
  Pair pair = MakePair();
  std::array<std::byte, 8> buffer;
  const int64_t deadline_ns = MonotonicNs() + 2'000'000;
  EXPECT_THAT(pair.ours.ReceiveBy(buffer, 0, deadline_ns),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_GE(MonotonicNs(), deadline_ns);
  EXPECT_THAT(pair.ours.ReceiveBy(buffer, 0, 0), StatusIs(absl::StatusCode::kDeadlineExceeded));
  test::Child sender([&pair] { EXPECT_THAT(pair.theirs.Send(BytesOf("x")), IsOk()); });
  ASSERT_OK_AND_ASSIGN(const Received received,
                       pair.ours.ReceiveBy(buffer, 0, MonotonicNs() + kPatienceNs));
  EXPECT_EQ(received.outcome, ReceiveOutcome::kPacket);
  EXPECT_EQ(sender.Join(), 0);
  pair.theirs.Close();
  ASSERT_OK_AND_ASSIGN(const Received end,
                       pair.ours.ReceiveBy(buffer, 0, MonotonicNs() + kPatienceNs));
  EXPECT_EQ(end.outcome, ReceiveOutcome::kClosed);
}

TEST(FdChannel, ConnectsToAListenerByPath) {
  char folder[] = "/tmp/iob-XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/s";
  EXPECT_THAT(FdChannel::Connect(path),
              StatusIs(absl::StatusCode::kUnavailable, "No such file or directory"));
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_THAT(FdChannel::Connect(path),
              StatusIs(absl::StatusCode::kUnavailable, "Connection refused"));
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_OK_AND_ASSIGN(FdChannel client, FdChannel::Connect(path));
  FdChannel server(UniqueFd(::accept(listener.get(), nullptr, nullptr)));
  ASSERT_THAT(client.Send(BytesOf("hello")), IsOk());
  EXPECT_EQ(ReceiveText(server).text, "hello");
  ::unlink(path.c_str());
  ::rmdir(folder);
}

TEST(FdChannel, RefusesAPathThatNoSocketCanHave) {
  EXPECT_THAT(FdChannel::Connect("/" + std::string(107, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument, "at most 107"));
  EXPECT_THAT(FdChannel::Connect("/" + std::string(106, 'x')),
              StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace iob::shm
