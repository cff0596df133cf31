// What mediation costs: the mediated ring beside a plain SPSC ring of the same record format.
//
// One process and one thread play both sides, so that the numbers are instructions and cache, not
// the machine's way between two cores. A round writes a batch, publishes it, reads it and releases
// it, with the payload written and read at both ends. The comparison runs the two rings in turns
// and prints the medians of many rounds, so that a machine that gets slower slows both. Without
// arguments only the comparison runs; arguments go to Google Benchmark, which then runs instead.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <vector>

#include "shm/mapping.h"
#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "shm/memfd.h"
#include "shm/ring_layout.h"

namespace iob {
namespace {

constexpr uint64_t kCapacityBytes = 256 << 10;

// The mediated ring as the mediator uses it: every record is counted.
class Mediated {
 public:
  Mediated()
      : layout_(shm::RingLayout::ForRegion(kCapacityBytes + shm::PageBytes()).value()),
        writer_(shm::MediatedRingWriter::Create(layout_).value()),
        reader_(shm::MediatedRingReader::Map(layout_, writer_.head_memfd(), writer_.data_memfd())
                    .value()) {}

  bool Append(uint64_t tag, std::span<const std::byte> payload) {
    if (writer_.Append(tag, payload) != shm::AppendOutcome::kStored) return false;
    ledger_.CountStored(payload.size());
    return true;
  }
  void Publish() { writer_.Publish(ledger_); }
  bool Next(shm::RecordView* ret_record) {
    return reader_.Next(ret_record) == shm::ReadOutcome::kRecord;
  }
  void Release() { reader_.Release(); }

 private:
  shm::RingLayout layout_;
  shm::MediatedRingWriter writer_;
  shm::MediatedRingReader reader_;
  shm::Ledger ledger_;
};

// As fast as we can write it: both sides trust each other, nothing is counted, nobody sleeps. Each
// side caches the other's position; the records are mapped twice in a row.
class Spsc {
 public:
  Spsc()
      : memfd_(shm::Memfd::Create("iob-bench").value().SealSize(kCapacityBytes).value()),
        records_(
            shm::Mapping::MapWindow(memfd_, 0, kCapacityBytes, 2, shm::OnFork::kShare).value()),
        data_(records_.base()) {}

  bool Append(uint64_t tag, std::span<const std::byte> payload) {
    const uint64_t record_bytes = shm::RecordBytes(payload.size());
    if (head_ + record_bytes - tail_cached_ > kCapacityBytes) [[unlikely]] {
      tail_cached_ = shared_tail_.load(std::memory_order_acquire);
      if (head_ + record_bytes - tail_cached_ > kCapacityBytes) return false;
    }
    std::byte* const record = data_ + (head_ & (kCapacityBytes - 1));
    std::memset(record + record_bytes - sizeof(uint64_t), 0, sizeof(uint64_t));
    const std::array<uint64_t, 2> header = {tag, payload.size()};
    std::memcpy(record, header.data(), sizeof(header));
    std::memcpy(record + sizeof(header), payload.data(), payload.size());
    head_ += record_bytes;
    return true;
  }
  void Publish() { shared_head_.store(head_, std::memory_order_release); }
  bool Next(shm::RecordView* ret_record) {
    if (next_ == head_cached_) [[unlikely]] {
      head_cached_ = shared_head_.load(std::memory_order_acquire);
      if (next_ == head_cached_) return false;
    }
    const std::byte* const record = data_ + (next_ & (kCapacityBytes - 1));
    std::array<uint64_t, 2> header;
    std::memcpy(header.data(), record, sizeof(header));
    *ret_record = {.tag = header[0], .payload = {record + sizeof(header), header[1]}};
    next_ += shm::RecordBytes(header[1]);
    return true;
  }
  void Release() { shared_tail_.store(next_, std::memory_order_release); }

 private:
  shm::SealedMemfd memfd_;
  shm::Mapping records_;
  std::byte* data_;
  alignas(128) std::atomic<uint64_t> shared_head_ = 0;
  uint64_t head_ = 0;
  uint64_t tail_cached_ = 0;
  alignas(128) std::atomic<uint64_t> shared_tail_ = 0;
  uint64_t next_ = 0;
  uint64_t head_cached_ = 0;
};

struct Shape {
  size_t payload_bytes = 0;
  int records_per_publish = 0;
};

// `batches` times: write, publish, read, release. The sum keeps the reads from being dropped.
template <typename Ring>
[[gnu::noinline]] uint64_t RunBatches(Ring& ring, const Shape& shape, int batches) {
  std::array<std::byte, 4096> payload = {};
  const std::span<const std::byte> bytes(payload.data(), shape.payload_bytes);
  const size_t last = shape.payload_bytes - sizeof(uint64_t);
  uint64_t number = 0;
  uint64_t sum = 0;
  for (int batch = 0; batch < batches; ++batch) {
    for (int i = 0; i < shape.records_per_publish; ++i) {
      ++number;
      std::memcpy(payload.data(), &number, sizeof(number));
      std::memcpy(payload.data() + last, &number, sizeof(number));
      if (!ring.Append(number, bytes)) std::abort();
    }
    ring.Publish();
    shm::RecordView record;
    while (ring.Next(&record)) {
      uint64_t first_word = 0;
      uint64_t last_word = 0;
      std::memcpy(&first_word, record.payload.data(), sizeof(first_word));
      std::memcpy(&last_word, record.payload.data() + record.payload.size() - sizeof(last_word),
                  sizeof(last_word));
      sum += record.tag + first_word + last_word;
    }
    ring.Release();
  }
  return sum;
}

template <typename Ring>
void BM_Ring(benchmark::State& state) {
  Ring ring;
  const Shape shape{.payload_bytes = static_cast<size_t>(state.range(0)),
                    .records_per_publish = static_cast<int>(state.range(1))};
  for (auto unused : state) benchmark::DoNotOptimize(RunBatches(ring, shape, 1));
  state.SetItemsProcessed(state.iterations() * shape.records_per_publish);
  state.SetBytesProcessed(state.items_processed() * state.range(0));
}
BENCHMARK_TEMPLATE(BM_Ring, Mediated)->ArgsProduct({{64, 1024}, {1, 16}});
BENCHMARK_TEMPLATE(BM_Ring, Spsc)->ArgsProduct({{64, 1024}, {1, 16}});

template <typename Ring>
double NsPerRecord(Ring& ring, const Shape& shape, int records) {
  const int batches = records / shape.records_per_publish;
  const auto start = std::chrono::steady_clock::now();
  benchmark::DoNotOptimize(RunBatches(ring, shape, batches));
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  return took.count() / (batches * shape.records_per_publish);
}

struct Quartiles {
  double low = 0;
  double median = 0;
  double high = 0;
};

Quartiles QuartilesOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t count = values.size();
  return {.low = values[count / 4], .median = values[count / 2], .high = values[count * 3 / 4]};
}

void Compare(const Shape& shape) {
  constexpr int kRounds = 101;
  constexpr int kRecordsPerRound = 64'000;
  Mediated mediated;
  Spsc spsc;
  std::vector<double> mediated_ns;
  std::vector<double> spsc_ns;
  std::vector<double> ratios;
  // One round more, for the caches and the clock; it does not count.
  for (int round = 0; round <= kRounds; ++round) {
    const double spsc_took = NsPerRecord(spsc, shape, kRecordsPerRound);
    const double mediated_took = NsPerRecord(mediated, shape, kRecordsPerRound);
    if (round == 0) continue;
    spsc_ns.push_back(spsc_took);
    mediated_ns.push_back(mediated_took);
    ratios.push_back(mediated_took / spsc_took);
  }
  const Quartiles ours = QuartilesOf(mediated_ns);
  const Quartiles plain = QuartilesOf(spsc_ns);
  const Quartiles ratio = QuartilesOf(ratios);
  std::printf(
      "%7zu B %4d/publish   %7.2f [%6.2f %6.2f]   %7.2f [%6.2f %6.2f]   %5.2f [%5.2f %5.2f]\n",
      shape.payload_bytes, shape.records_per_publish, ours.median, ours.low, ours.high,
      plain.median, plain.low, plain.high, ratio.median, ratio.low, ratio.high);
}

}  // namespace
}  // namespace iob

int main(int argc, char** argv) {
  if (argc > 1) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  }
  std::printf("ns per record: median [quartiles] of interleaved rounds\n");
  std::printf(
      "  payload  batch           mediated                   spsc                      ratio\n");
  for (const size_t payload_bytes : {64, 1024}) {
    for (const int batch : {1, 16}) iob::Compare({payload_bytes, batch});
  }
  return 0;
}
