// What checking costs: numbers and bytes read through a Window, beside plain accesses to the same
// memory.
//
// A number is read in three ways. `stream`: one after the other, at offsets that the compiler
// follows. `scatter`: at offsets from a table, of which it knows nothing, and none of which depends
// on what was read: all that a core can do at once is seen, and each instruction more costs.
// `chase`: the value says where the next one is, as in a list: the time of a load is seen, and
// checks run beside it. The two sides run in turns, so that a machine that gets slower slows both;
// medians of many rounds.
//
//     window_bench                    all of it
//     window_bench plain|checked N    N numbers of `scatter`, for an instruction counter:
//                                     valgrind --tool=callgrind window_bench checked 1000000
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "client/window.h"
#include "shm/check.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "tests/bench/results.h"

namespace iob::bench {
namespace {

constexpr uint64_t kNumbers = 2048;  // 16 KiB: in the first cache.
constexpr uint64_t kNumberBytes = kNumbers * sizeof(uint64_t);

// The window is the caller's own copy, and everything it does is inlined, as in a program.
[[gnu::noinline]] uint64_t StreamChecked(const Window& shared, uint64_t passes) {
  const Window window = shared;
  uint64_t sum = 0;
  for (uint64_t pass = 0; pass < passes; ++pass) {
    for (uint64_t offset = 0; offset < kNumberBytes; offset += sizeof(uint64_t)) {
      const absl::StatusOr<uint64_t> value = window.ReadOnce<uint64_t>(offset);
      if (!value.ok()) return 0;
      sum += *value;
    }
  }
  return sum;
}
[[gnu::noinline]] uint64_t StreamPlain(const std::byte* memory, uint64_t passes) {
  uint64_t sum = 0;
  for (uint64_t pass = 0; pass < passes; ++pass) {
    for (uint64_t offset = 0; offset < kNumberBytes; offset += sizeof(uint64_t)) {
      sum += *reinterpret_cast<const volatile uint64_t*>(memory + offset);
    }
  }
  return sum;
}

using Offsets = std::vector<uint64_t>;

[[gnu::noinline]] uint64_t ScatterChecked(const Window& shared, const Offsets& offsets,
                                          uint64_t passes) {
  const Window window = shared;
  const uint64_t* const first = offsets.data();
  uint64_t sum = 0;
  for (uint64_t pass = 0; pass < passes; ++pass) {
    for (uint64_t i = 0; i < kNumbers; ++i) {
      const absl::StatusOr<uint64_t> value = window.ReadOnce<uint64_t>(first[i]);
      if (!value.ok()) return 0;
      sum += *value;
    }
  }
  return sum;
}
[[gnu::noinline]] uint64_t ScatterPlain(const std::byte* memory, const Offsets& offsets,
                                        uint64_t passes) {
  const uint64_t* const first = offsets.data();
  uint64_t sum = 0;
  for (uint64_t pass = 0; pass < passes; ++pass) {
    for (uint64_t i = 0; i < kNumbers; ++i) {
      sum += *reinterpret_cast<const volatile uint64_t*>(memory + first[i]);
    }
  }
  return sum;
}

[[gnu::noinline]] uint64_t ChaseChecked(const Window& shared, uint64_t passes) {
  const Window window = shared;
  uint64_t offset = 0;
  for (uint64_t i = 0; i < passes * kNumbers; ++i) {
    const absl::StatusOr<uint64_t> next = window.ReadOnce<uint64_t>(offset);
    if (!next.ok()) return 0;
    offset = *next;
  }
  return offset;
}
[[gnu::noinline]] uint64_t ChasePlain(const std::byte* memory, uint64_t passes) {
  uint64_t offset = 0;
  for (uint64_t i = 0; i < passes * kNumbers; ++i) {
    offset = *reinterpret_cast<const volatile uint64_t*>(memory + offset);
  }
  return offset;
}

// A region as an attachment maps it, for the window and for the plain pointer alike.
class Region {
 public:
  explicit Region(uint64_t size_bytes)
      : memfd_(shm::Memfd::Create("iob-bench").value().SealSize(size_bytes).value()) {
    const shm::Part part{
        .memfd = &memfd_, .offset_bytes = 0, .size_bytes = size_bytes, .writable = true};
    window_ = Window(shm::AddressRange::MapParts({&part, 1}, shm::OnFork::kShare).value(), 0, true);
  }
  const Window& window() const { return window_; }
  const std::byte* memory() const { return window_.UnsafeData(); }

  // One circle through all numbers.
  void MakeChain(const Offsets& order) const {
    for (uint64_t i = 0; i < kNumbers; ++i) {
      IOB_CHECK(window_.WriteOnce<uint64_t>(order[i], order[(i + 1) % kNumbers]).ok());
    }
  }

 private:
  shm::SealedMemfd memfd_;
  Window window_;
};

// Of all numbers, in random order.
Offsets RandomOffsets() {
  Offsets offsets(kNumbers);
  for (uint64_t i = 0; i < kNumbers; ++i) offsets[i] = i * sizeof(uint64_t);
  std::shuffle(offsets.begin(), offsets.end(), std::mt19937_64(1));
  return offsets;
}

// What a pass computes must be used.
void Use(uint64_t value) { asm volatile("" : : "r"(value)); }

template <typename Pass>
double NsOf(const Pass& pass) {
  const auto start = std::chrono::steady_clock::now();
  pass();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

// Per item, of `items` in a pass.
template <typename Checked, typename Plain>
void Compare(const char* name, uint64_t items, const Checked& checked, const Plain& plain) {
  constexpr int kRounds = 301;
  std::vector<double> checked_ns;
  std::vector<double> plain_ns;
  std::vector<double> ratios;
  // One round more, for the caches and the clock; it does not count.
  for (int round = 0; round <= kRounds; ++round) {
    const double plain_took = NsOf(plain);
    const double checked_took = NsOf(checked);
    if (round == 0) continue;
    const auto count = static_cast<double>(items);
    checked_ns.push_back(checked_took / count);
    plain_ns.push_back(plain_took / count);
    ratios.push_back(checked_took / plain_took);
  }
  const Quartiles ours = QuartilesOf(checked_ns);
  const Quartiles bare = QuartilesOf(plain_ns);
  const Quartiles ratio = QuartilesOf(ratios);
  std::printf("%-22s %9.3f [%9.3f %9.3f]  %9.3f [%9.3f %9.3f]  %5.2f [%5.2f %5.2f]\n", name,
              ours.median, ours.low, ours.high, bare.median, bare.low, bare.high, ratio.median,
              ratio.low, ratio.high);
}

void CompareNumbers() {
  constexpr uint64_t kPasses = 50;
  const Region region(kNumberBytes);
  const Offsets offsets = RandomOffsets();
  region.MakeChain(offsets);
  Compare(
      "ReadOnce, stream", kPasses * kNumbers, [&] { Use(StreamChecked(region.window(), kPasses)); },
      [&] { Use(StreamPlain(region.memory(), kPasses)); });
  Compare(
      "ReadOnce, scatter", kPasses * kNumbers,
      [&] { Use(ScatterChecked(region.window(), offsets, kPasses)); },
      [&] { Use(ScatterPlain(region.memory(), offsets, kPasses)); });
  Compare(
      "ReadOnce, chase", kPasses * kNumbers, [&] { Use(ChaseChecked(region.window(), kPasses)); },
      [&] { Use(ChasePlain(region.memory(), kPasses)); });
}

void CompareCopies(size_t size_bytes, int copies) {
  const Region region(1 << 20);
  std::vector<std::byte> target(size_bytes);
  const auto plain = [&] {
    for (int i = 0; i < copies; ++i) {
      std::memcpy(target.data(), region.memory(), size_bytes);
      asm volatile("" : : "r"(target.data()) : "memory");
    }
  };
  char name[64];
  std::snprintf(name, sizeof(name), "Read, %zu B", size_bytes);
  Compare(
      name, static_cast<uint64_t>(copies),
      [&] {
        for (int i = 0; i < copies; ++i) IOB_CHECK(region.window().Read(0, target).ok());
      },
      plain);
  std::snprintf(name, sizeof(name), "ReadFallible, %zu B", size_bytes);
  Compare(
      name, static_cast<uint64_t>(copies),
      [&] {
        for (int i = 0; i < copies; ++i) IOB_CHECK(region.window().ReadFallible(0, target).ok());
      },
      plain);
}

int CountInstructions(std::string_view side, uint64_t numbers) {
  const Region region(kNumberBytes);
  const Offsets offsets = RandomOffsets();
  const uint64_t passes = numbers / kNumbers;
  Use(side == "plain" ? ScatterPlain(region.memory(), offsets, passes)
                      : ScatterChecked(region.window(), offsets, passes));
  return 0;
}

int Main(int argc, char** argv) {
  if (argc == 3) return CountInstructions(argv[1], std::strtoull(argv[2], nullptr, 10));
  std::printf("ns each: median [quartiles] of interleaved rounds\n");
  std::printf("%-22s %-33s  %-33s  ratio\n", "", "          window", "          plain");
  CompareNumbers();
  CompareCopies(64, 2000);
  CompareCopies(4096, 500);
  CompareCopies(1 << 20, 4);
  return 0;
}

}  // namespace
}  // namespace iob::bench

int main(int argc, char** argv) { return iob::bench::Main(argc, argv); }
