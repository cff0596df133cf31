// control_bench: what the life of a buffer costs, against one empty gRPC call on the same socket.
//
// A real iobd runs as a child. Rounds of every case are interleaved, so that what the machine does
// meanwhile hits all alike; medians, spread and ratios come from one run. Also: the whole way of a
// mediated record, and what the daemon costs when nobody uses it.
//
//   control_bench --iobd PATH [--rounds N]

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iob.h"

namespace iob {
namespace {

using Steady = std::chrono::steady_clock;

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "control_bench: %s\n", status.ToString().c_str());
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

class DaemonChild {
 public:
  explicit DaemonChild(const char* iobd) {
    char name[] = "/tmp/iob-bench-XXXXXX";
    directory_ = ::mkdtemp(name);
    runtime_dir_ = directory_ + "/run";
    pid_ = ::fork();
    if (pid_ == 0) {
      // Also when this process dies without its destructors.
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      ::execl(iobd, iobd, "--runtime-dir", runtime_dir_.c_str(), "--admin-address", "127.0.0.1:0",
              "--log-level", "warn", nullptr);
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

  pid_t pid() const { return pid_; }

  // User and system time so far, in clock ticks.
  uint64_t CpuTicks() const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/stat"));
    std::string word;
    uint64_t user = 0;
    uint64_t system = 0;
    for (int i = 0; i < 13; ++i) file >> word;
    file >> user >> system;
    return user + system;
  }

  uint64_t ResidentKib() const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
    std::string word;
    while (file >> word) {
      uint64_t kib = 0;
      if (word == "VmRSS:" && file >> kib) return kib;
    }
    return 0;
  }

 private:
  std::string directory_;
  std::string runtime_dir_;
  pid_t pid_ = -1;
};

double MedianOf(std::vector<double> values, double quantile = 0.5) {
  const auto rank = static_cast<std::ptrdiff_t>(quantile * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + rank, values.end());
  return values[static_cast<size_t>(rank)];
}

RegionSpec OneMebibyte() {
  return {.discipline = Discipline::kNone, .size_bytes = 1 << 20, .access = AccessBits(0x33)};
}

void Idle(const DaemonChild& daemon) {
  ::sleep(1);
  const uint64_t before = daemon.CpuTicks();
  ::sleep(5);
  std::printf("\nidle daemon, nobody connected: %llu ticks of CPU in 5 s, %.1f MiB resident\n",
              static_cast<unsigned long long>(daemon.CpuTicks() - before),
              static_cast<double>(daemon.ResidentKib()) / 1024);
}

// Times that any thread of the daemon went to sleep and was woken, so far.
uint64_t WakeUps(pid_t pid) {
  uint64_t sum = 0;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
    std::ifstream file(task.path() / "status");
    std::string word;
    while (file >> word) {
      uint64_t count = 0;
      if (word == "voluntary_ctxt_switches:" && file >> count) sum += count;
    }
  }
  return sum;
}

// One record, until it is known to be stored: median, and after the daemon's thread went to sleep.
struct AcknowledgedUs {
  double steady = 0;
  double after_idle = 0;
};

AcknowledgedUs MeasureAcknowledged(RingWriter& writer, RingReader& reader, int rounds) {
  const std::string text(64, 'q');
  const auto payload = std::as_bytes(std::span(text));
  const auto once = [&] {
    const auto start = Steady::now();
    Must(writer.WriteAndWait(payload, After(std::chrono::seconds(5))));
    const double us = std::chrono::duration<double, std::micro>(Steady::now() - start).count();
    Must(reader.Drain(1024, [](const RecordView&) {}));
    return us;
  };
  std::vector<double> steady;
  std::vector<double> after_idle;
  for (int i = 0; i < rounds; ++i) steady.push_back(once());
  for (int i = 0; i < rounds / 100; ++i) {
    ::usleep(1'000);
    after_idle.push_back(once());
  }
  return {.steady = MedianOf(steady), .after_idle = MedianOf(after_idle)};
}

struct QueuedBuffer {
  Endpoint consumer;
  Endpoint producer;
  std::vector<RingWriter> writers;
};

QueuedBuffer MakeQueues(Broker& broker, size_t rings) {
  const std::vector<RegionSpec> regions(rings, MediatedRingSpec(64 << 10));
  const CreatedBuffer created = Must(
      broker.CreateBuffer({.regions = regions, .attach = {EndpointId::kEp0, EndpointId::kEp1}}));
  QueuedBuffer buffer{.consumer = Must(Endpoint::Attach(created.tickets[0])),
                      .producer = Must(Endpoint::Attach(created.tickets[1])),
                      .writers = {}};
  for (uint32_t i = 0; i < rings; ++i) {
    buffer.writers.push_back(Must(buffer.producer.OpenWriter(
        i, {.transport = TransportChoice::kQueue, .queue_bytes = 128 << 10})));
  }
  return buffer;
}

// Acknowledged writes against a unary call, and what idle queues cost.
void Queues(const DaemonChild& daemon, Broker& broker, int rounds, size_t buffers,
            double unary_us) {
  QueuedBuffer one = MakeQueues(broker, 1);
  RingReader reader = Must(one.consumer.OpenReader(0));
  // As long as below: where the scheduler puts the two threads depends on what they did before.
  ::sleep(4);
  const AcknowledgedUs alone = MeasureAcknowledged(one.writers[0], reader, rounds);
  std::printf(
      "\nacknowledged write of 64 B through a queue: median %.2f us, 1/%.0f of a unary call; "
      "after 1 ms of nothing %.1f us\n",
      alone.steady, unary_us / alone.steady, alone.after_idle);
  constexpr size_t kRingsEach = 60;
  std::vector<QueuedBuffer> idle;
  for (size_t i = 0; i < buffers; ++i) idle.push_back(MakeQueues(broker, kRingsEach));
  ::sleep(1);
  const uint64_t before = WakeUps(daemon.pid());
  ::sleep(3);
  const uint64_t after = WakeUps(daemon.pid());
  const AcknowledgedUs among = MeasureAcknowledged(one.writers[0], reader, rounds);
  std::printf(
      "with %zu idle rings and queues beside it: %.1f wake-ups of the daemon a second, write "
      "%.2f us (ratio %.2f), after 1 ms of nothing %.1f us (ratio %.2f)\n",
      buffers * kRingsEach, static_cast<double>(after - before) / 3, among.steady,
      among.steady / alone.steady, among.after_idle, among.after_idle / alone.after_idle);
}

// A mediated write from end to end: this process writes batches and reads what arrives, the daemon
// is in between.
class WholePath {
 public:
  WholePath(Broker& broker, TransportChoice transport) {
    const CreatedBuffer created =
        Must(broker.CreateBuffer({.regions = {MediatedRingSpec(256 << 10)},
                                  .attach = {EndpointId::kEp0, EndpointId::kEp1}}));
    consumer_.emplace(Must(Endpoint::Attach(created.tickets[0])));
    producer_.emplace(Must(Endpoint::Attach(created.tickets[1])));
    writer_.emplace(
        Must(producer_->OpenWriter(0, {.transport = transport, .queue_bytes = 256 << 10})));
    reader_.emplace(Must(consumer_->OpenReader(0)));
  }

  // Nanoseconds per record of 64 bytes.
  double Run(uint64_t records) {
    constexpr uint64_t kBatch = 16;
    constexpr uint64_t kUnderWayMax = 1024;
    const std::string text(64, 'w');
    const auto payload = std::as_bytes(std::span(text));
    const auto start = Steady::now();
    uint64_t sent = 0;
    uint64_t arrived = 0;
    while (arrived < records) {
      if (sent < records && sent - arrived < kUnderWayMax) {
        for (uint64_t i = 0; i < kBatch && sent < records; ++i, ++sent) {
          Must(writer_->Write(payload));
        }
        Must(writer_->Flush());
      }
      const size_t drained = Must(reader_->Drain(kUnderWayMax, [&](const RecordView& record) {
        if (record.payload.size() != payload.size()) Die(absl::DataLossError("a wrong record"));
      }));
      arrived += drained;
      // As much is under way as may be: the daemon's turn, perhaps on this very processor.
      if (drained == 0 && (sent == records || sent - arrived >= kUnderWayMax)) {
        Must(reader_->Wait(After(std::chrono::seconds(5))));
      }
    }
    const double ns = std::chrono::duration<double, std::nano>(Steady::now() - start).count();
    return ns / static_cast<double>(records);
  }

 private:
  std::optional<Endpoint> consumer_;
  std::optional<Endpoint> producer_;
  std::optional<RingWriter> writer_;
  std::optional<RingReader> reader_;
};

void WholePaths(Broker& broker) {
  WholePath queue(broker, TransportChoice::kQueue);
  WholePath socket(broker, TransportChoice::kSocket);
  std::vector<double> by_queue;
  std::vector<double> by_socket;
  for (int i = 0; i < 21; ++i) {
    by_queue.push_back(queue.Run(100'000));
    by_socket.push_back(socket.Run(10'000));
  }
  std::printf(
      "\nwritten, mediated by iobd and read, 64 B, in batches of 16: through a queue median %.0f "
      "ns "
      "a record (p10 %.0f, p90 %.0f), through the socket %.0f (%.1f times that)\n",
      MedianOf(by_queue), MedianOf(by_queue, 0.1), MedianOf(by_queue, 0.9), MedianOf(by_socket),
      MedianOf(by_socket) / MedianOf(by_queue));
}

void Main(const char* iobd, int rounds) {
  const DaemonChild daemon(iobd);
  { Must(daemon.Connect().CheckHealth()); }
  Idle(daemon);
  Broker broker = daemon.Connect();
  const std::vector<std::pair<std::string, std::function<void()>>> cases = {
      {"empty unary call (grpc.health.v1.Check)", [&] { Must(broker.CheckHealth()); }},
      {"create + attach + close, 1 MiB, ep0",
       [&] {
         const CreatedBuffer created =
             Must(broker.CreateBuffer({.regions = {OneMebibyte()}, .attach = {EndpointId::kEp0}}));
         Must(Endpoint::Attach(created.tickets[0])).Close();
         // Its other endpoint goes outside of the measured time, see below.
       }},
      {"create + attach both + close both, 1 MiB",
       [&] {
         const CreatedBuffer created = Must(broker.CreateBuffer(
             {.regions = {OneMebibyte()}, .attach = {EndpointId::kEp0, EndpointId::kEp1}}));
         Endpoint ep0 = Must(Endpoint::Attach(created.tickets[0]));
         Endpoint ep1 = Must(Endpoint::Attach(created.tickets[1]));
       }},
      {"create + attach both + close both, 4 KiB",
       [&] {
         RegionSpec spec = OneMebibyte();
         spec.size_bytes = 4096;
         const CreatedBuffer created = Must(broker.CreateBuffer(
             {.regions = {spec}, .attach = {EndpointId::kEp0, EndpointId::kEp1}}));
         Endpoint ep0 = Must(Endpoint::Attach(created.tickets[0]));
         Endpoint ep1 = Must(Endpoint::Attach(created.tickets[1]));
       }},
  };
  std::map<std::string, std::vector<double>> times_us;
  for (int round = 0; round < rounds; ++round) {
    for (const auto& [name, run] : cases) {
      const auto start = Steady::now();
      run();
      times_us[name].push_back(
          std::chrono::duration<double, std::micro>(Steady::now() - start).count());
      // What a case left to its process (an endpoint never attached) goes here.
      for (const BufferInfo& buffer : Must(broker.ListBuffers())) {
        const absl::Status deleted = broker.DeleteBuffer(buffer.koid, true);
        // Closing is not synchronous: it may have gone by itself since.
        if (!absl::IsNotFound(deleted)) Must(deleted);
      }
    }
  }
  const double unit_us = MedianOf(times_us[cases.front().first]);
  std::printf("\n%-45s %10s %10s %10s %8s\n", "case", "median us", "p10", "p90", "ratio");
  for (const auto& [name, run] : cases) {
    const std::vector<double>& times = times_us[name];
    std::printf("%-45s %10.1f %10.1f %10.1f %8.2f\n", name.c_str(), MedianOf(times),
                MedianOf(times, 0.1), MedianOf(times, 0.9), MedianOf(times) / unit_us);
  }
  WholePaths(broker);
  Queues(daemon, broker, 10 * rounds, /*buffers=*/rounds >= 1000 ? 60 : 2, unit_us);
}

}  // namespace
}  // namespace iob

int main(int argc, char** argv) {
  const char* iobd = nullptr;
  int rounds = 2000;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--iobd") iobd = argv[i + 1];
    if (flag == "--rounds") rounds = std::max(1, std::atoi(argv[i + 1]));
  }
  if (iobd == nullptr) {
    std::fprintf(stderr, "usage: control_bench --iobd PATH [--rounds N]\n");
    return 2;
  }
  iob::Main(iobd, rounds);
  return 0;
}
