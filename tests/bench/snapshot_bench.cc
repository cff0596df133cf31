// snapshot_bench: what a snapshot of 64 MiB costs, beside every way that we know to fill a fresh
// memory file on this machine; and how long others are held up meanwhile.
//
// A real iobd runs as a child. Rounds of all cases are interleaved, so that what the machine does
// meanwhile hits all alike; medians and the ratio come from one run. Every case ends with a memory
// file sealed WRITE, GROW, SHRINK and SEAL; ours also has the calls, the ticket and the mapping in
// it. How long loop and rings were held is what the daemon has measured itself; the times of calls
// and writes from outside are beside those of a daemon that takes no snapshots, because most of
// either is the machine.
//
//   snapshot_bench --iobd PATH [--rounds N]

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iob.h"
#include "shm/unique_fd.h"

namespace iob {
namespace {

using namespace std::chrono_literals;
using Steady = std::chrono::steady_clock;

constexpr size_t kBytes = 64 << 20;
constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "snapshot_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Must(absl::StatusOr<T> result) {
  if (!result.ok()) Die(result.status());
  return *std::move(result);
}

void Must(const absl::Status& status) {
  if (!status.ok()) Die(status);
}

sockaddr_in LocalAddress(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Free a moment ago.
uint16_t FreePort() {
  const shm::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = LocalAddress(0);
  socklen_t size = sizeof(address);
  ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), size);
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

class DaemonChild {
 public:
  explicit DaemonChild(const char* iobd) : port_(FreePort()) {
    char name[] = "/tmp/iob-bench-XXXXXX";
    directory_ = ::mkdtemp(name);
    runtime_dir_ = directory_ + "/run";
    pid_ = ::fork();
    if (pid_ == 0) {
      // Also when this process dies without its destructors.
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      ::execl(iobd, iobd, "--runtime-dir", runtime_dir_.c_str(), "--admin-address",
              absl::StrCat("127.0.0.1:", port_).c_str(), "--log-level", "warn", nullptr);
      std::perror(iobd);
      ::_exit(127);
    }
  }
  ~DaemonChild() {
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
    ::rmdir(directory_.c_str());
  }

  Broker Connect() const {
    for (int i = 0; i < 500; ++i) {
      auto broker = Broker::Connect({.runtime_dir = runtime_dir_});
      if (broker.ok()) return *std::move(broker);
      ::usleep(10'000);
    }
    Die(absl::UnavailableError("iobd did not start"));
  }

  double Metric(const std::string& name) const {
    const shm::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = LocalAddress(port_);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
      return -1;
    const std::string ask = "GET /metrics HTTP/1.0\r\n\r\n";
    if (::write(socket.get(), ask.data(), ask.size()) < 0) return -1;
    std::string body;
    std::vector<char> part(65536);
    ssize_t size = 0;
    while ((size = ::read(socket.get(), part.data(), part.size())) > 0)
      body.append(part.data(), static_cast<size_t>(size));
    const size_t at = body.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(body.substr(at + name.size() + 2));
  }

 private:
  uint16_t port_;
  std::string directory_;
  std::string runtime_dir_;
  pid_t pid_ = -1;
};

double Quantile(std::vector<double> values, double quantile) {
  const auto rank = static_cast<std::ptrdiff_t>(quantile * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return values[static_cast<size_t>(rank)];
}

template <typename Body>
double MillisecondsOf(Body body) {
  const auto start = Steady::now();
  body();
  return std::chrono::duration<double, std::milli>(Steady::now() - start).count();
}

// --- How a fresh memory file can be filled -------------------------------------------------------

// A source as the daemon has one: a memory file, all there.
struct Source {
  Source() : fd(::memfd_create("bench-source", MFD_CLOEXEC)) {
    if (::ftruncate(fd.get(), kBytes) != 0) Die(absl::InternalError("ftruncate"));
    bytes = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    std::memset(bytes, 7, kBytes);
  }
  shm::UniqueFd fd;
  void* bytes;
};

using Fill = std::function<void(int fd, const Source& source)>;

void ThroughMapping(int fd, const Source& source, int flags, bool huge) {
  // Aligned to 2 MiB, which is what huge pages need.
  constexpr size_t kHuge = 2 << 20;
  void* const room = ::mmap(nullptr, kBytes + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const uintptr_t base = (reinterpret_cast<uintptr_t>(room) + kHuge - 1) & ~(kHuge - 1);
  if (huge) flags &= ~MAP_POPULATE;
  void* const target = ::mmap(reinterpret_cast<void*>(base), kBytes, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_FIXED | flags, fd, 0);
  if (huge) ::madvise(target, kBytes, MADV_HUGEPAGE);
  std::memcpy(target, source.bytes, kBytes);
  ::munmap(room, kBytes + kHuge);
}

void BySlices(ssize_t (*copy)(int fd, const Source& source, off_t at), int fd,
              const Source& source) {
  for (off_t at = 0; at < static_cast<off_t>(kBytes);) {
    const ssize_t copied = copy(fd, source, at);
    if (copied <= 0) Die(absl::InternalError("a copy failed"));
    at += copied;
  }
}

ssize_t ByCopyFileRange(int fd, const Source& source, off_t at) {
  off_t from = at;
  off_t to = at;
  return ::copy_file_range(source.fd.get(), &from, fd, &to, kBytes - static_cast<size_t>(at), 0);
}

ssize_t BySendfile(int fd, const Source& source, off_t at) {
  return ::sendfile(fd, source.fd.get(), &at, kBytes - static_cast<size_t>(at));
}

ssize_t ByWrite(int fd, const Source& source, off_t at) {
  return ::pwrite(fd, static_cast<const char*>(source.bytes) + at, kBytes - static_cast<size_t>(at),
                  at);
}

const std::vector<std::pair<const char*, Fill>>& Ways() {
  static const std::vector<std::pair<const char*, Fill>> ways = {
      {"pwrite from a mapping", [](int fd, const Source& s) { BySlices(ByWrite, fd, s); }},
      {"copy_file_range", [](int fd, const Source& s) { BySlices(ByCopyFileRange, fd, s); }},
      {"sendfile", [](int fd, const Source& s) { BySlices(BySendfile, fd, s); }},
      {"memcpy, page by page", [](int fd, const Source& s) { ThroughMapping(fd, s, 0, false); }},
      {"memcpy, MAP_POPULATE",
       [](int fd, const Source& s) { ThroughMapping(fd, s, MAP_POPULATE, false); }},
      {"memcpy, MADV_HUGEPAGE", [](int fd, const Source& s) { ThroughMapping(fd, s, 0, true); }},
  };
  return ways;
}

void FillAndSeal(const Fill& fill, const Source& source) {
  const shm::UniqueFd fd(::memfd_create("bench-target", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (::ftruncate(fd.get(), kBytes) != 0) Die(absl::InternalError("ftruncate"));
  fill(fd.get(), source);
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) Die(absl::InternalError("F_ADD_SEALS"));
}

// --- Cases ---------------------------------------------------------------------------------------

void CompareWays(Broker& broker, int rounds) {
  const CreatedBuffer plain = Must(broker.CreateBuffer(
      {.regions = {
           {.discipline = Discipline::kNone, .size_bytes = kBytes, .access = AccessBits(0x33)}}}));
  // The daemon's memory is all there from the start; ours is made to be.
  const Source source;
  std::vector<std::vector<double>> times(Ways().size());
  std::vector<double> ours;
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < Ways().size(); ++i)
      times[i].push_back(MillisecondsOf([&] { FillAndSeal(Ways()[i].second, source); }));
    ours.push_back(
        MillisecondsOf([&] { (void)Must(broker.TakeSnapshot(*plain.ep0_handle)).bytes(); }));
  }
  double fastest = Quantile(times[0], 0.5);
  std::printf("64 MiB into a fresh, sealed memory file, median of %d\n", rounds);
  for (size_t i = 0; i < Ways().size(); ++i) {
    const double median = Quantile(times[i], 0.5);
    fastest = std::min(fastest, median);
    std::printf("  %-34s %8.1f ms\n", Ways()[i].first, median);
  }
  const double median = Quantile(ours, 0.5);
  std::printf("  %-34s %8.1f ms   %.2f of the fastest (at most 1.25)\n",
              "Broker::TakeSnapshot, mapped", median, median / fastest);
}

struct Held {
  std::vector<double> calls;
  std::vector<double> writes;
};

// An empty call and an acknowledged record, again and again, for as long as `busy` says.
Held Probe(Broker& broker, const CreatedBuffer& buffer, RingWriter* writer,
           const std::function<bool()>& busy) {
  Held held;
  const std::string text(64, 'p');
  while (busy()) {
    held.calls.push_back(
        MillisecondsOf([&] { Must(broker.GetName(*buffer.ep0_handle).status()); }));
    held.writes.push_back(MillisecondsOf([&] {
      Must(writer->Write(std::as_bytes(std::span(text))));
      Must(writer->Finish(After(10s)));
    }));
  }
  return held;
}

void Print(const char* what, const Held& held) {
  std::printf("  %-22s call p50 %.2f p99 %.2f max %.2f ms; record p50 %.3f p99 %.3f max %.2f ms\n",
              what, Quantile(held.calls, 0.5), Quantile(held.calls, 0.99), Quantile(held.calls, 1),
              Quantile(held.writes, 0.5), Quantile(held.writes, 0.99), Quantile(held.writes, 1));
}

void MeasureHolds(const DaemonChild& daemon, Broker& broker, int rounds) {
  RegionSpec ring = MediatedRingSpec(kBytes);
  ring.mediated_ring.policy = RingPolicy::kOverwriteOldest;
  const CreatedBuffer buffer = Must(broker.CreateBuffer({.regions = {ring}}));
  Endpoint endpoint = Must(Endpoint::Attach(Must(broker.Attach(*buffer.ep1_handle))));
  RingWriter writer = Must(endpoint.OpenWriter(0));
  const std::string text(60'000, 'x');
  for (size_t written = 0; written < kBytes; written += text.size())
    Must(writer.Write(std::as_bytes(std::span(text))));
  Must(writer.Finish(After(30s)));
  int left = 20 * rounds;
  const Held quiet = Probe(broker, buffer, &writer, [&left] { return left-- > 0; });
  std::atomic<bool> done = false;
  std::thread taker([&] {
    Broker other = daemon.Connect();
    for (int round = 0; round < rounds; ++round) (void)Must(other.TakeSnapshot(*buffer.ep0_handle));
    done = true;
  });
  const Held busy = Probe(broker, buffer, &writer, [&done] { return !done; });
  taker.join();
  std::printf("Meanwhile, a full ring of 64 MiB, one snapshot after the other\n");
  Print("without snapshots", quiet);
  Print("with snapshots", busy);
  std::printf(
      "  the daemon's own clock: loop and rings held at most %.3f ms (at most 1), of which "
      "%.0f KiB were copied\n",
      1e3 * daemon.Metric("iob_snapshot_held_seconds_largest"),
      daemon.Metric("iob_snapshot_cut_bytes_largest") / 1024);
}

int Main(int argc, char** argv) {
  const char* iobd = nullptr;
  int rounds = 15;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--iobd") == 0) iobd = argv[i + 1];
    if (std::strcmp(argv[i], "--rounds") == 0) rounds = std::atoi(argv[i + 1]);
  }
  if (iobd == nullptr || rounds < 1) {
    std::fprintf(stderr, "usage: snapshot_bench --iobd PATH [--rounds N]\n");
    return 2;
  }
  const DaemonChild daemon(iobd);
  Broker broker = daemon.Connect();
  CompareWays(broker, rounds);
  MeasureHolds(daemon, broker, rounds);
  return 0;
}

}  // namespace
}  // namespace iob

int main(int argc, char** argv) { return iob::Main(argc, argv); }
