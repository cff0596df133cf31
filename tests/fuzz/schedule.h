// Input and Peer: a fuzzer's bytes as a schedule of honest steps and of a peer's scribbles.
//
//     bytes --Input--> step, step, ambush(moment, word, value), step, scribble(word, value), ...
//
//     Watch(victim's step)
//        |  shared access 0    1    2    3        n      before every access of the victim the
//        '---------------+----+----+----+-- ... -+-->    hooks of shm/hostile.h call OnAccess
//                                  |
//                                  ambush of moment 2: scribbles, or lets the honest side act
//
// The victim is the honest side under test; the peer owns every section that it may write in real
// life, and some more. Words that the protocol gives a meaning to are named, so that they are hit
// often; any other word is hit now and then.
//
//   Z1  What happens is a function of the bytes alone: an input that failed once fails again.
//   Z2  A step of the victim makes at most kAccessesMax shared accesses; more is a walk that the
//       peer can make endless.
//   Z3  While honest() no word was scribbled: then a target holds the victim to its whole contract,
//       afterwards to what it promises whatever a peer does.
//
// A violation aborts (IOB_CHECK), as do the sanitizers and the guard pages around each mapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "shm/check.h"
#include "shm/hostile.h"
#include "shm/mapping.h"
#include "shm/memfd.h"

namespace iob::fuzz {

// Bytes as decisions. Where they end, every decision is 0.
class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  bool empty() const { return next_ == bytes_.size(); }
  uint8_t Byte() { return empty() ? uint8_t{0} : bytes_[next_++]; }
  bool Flag() { return (Byte() & 1) != 0; }
  // Little-endian, of `bytes` bytes.
  uint64_t Word(int bytes);
  uint64_t Below(uint64_t count) { return Byte() % count; }
  // 0..high, of which the small ones are the most likely.
  uint64_t UpTo(uint64_t high);

 private:
  std::span<const uint8_t> bytes_;
  size_t next_ = 0;
};

// A section that lives as long as the program: making one costs more than a whole schedule.
struct Section {
  explicit Section(uint64_t size_bytes);
  // Zeros, as a fresh one has.
  void Clear();

  shm::SealedMemfd memfd;
  shm::Mapping mapping;
};

class Peer {
 public:
  static constexpr uint64_t kAccessesMax = uint64_t{1} << 16;

  explicit Peer(Input& input) : input_(input) {}

  // `words` are offsets of what the protocol names. A Mapping outlives the peer.
  void Owns(const shm::Mapping& section, std::initializer_list<uint64_t> words);
  // Sizes and limits whose neighbourhood is interesting.
  void Knows(std::initializer_list<uint64_t> values);
  // What an ambush may do instead of scribbling: a step of the honest other side.
  void Acts(std::function<void()> act) { act_ = std::move(act); }

  // Changes one word, now.
  void Scribble() { Strike(DecodeStrike()); }
  // Changes one word, or acts, before a later shared access of the victim.
  void Ambush();
  // No ambush any more: for what is true when nobody is at work.
  void CallOff() { ambushes_.clear(); }
  bool honest() const { return honest_; }

  // One step of the victim, with ambushes on the way.
  template <typename Step>
  auto Watch(Step step) {
    const Watching watching(this);
    return step();
  }

 private:
  enum class Change : uint8_t { kSmall, kNear, kAny, kKnown, kHalf, kBit, kCopy, kAct };
  static constexpr uint8_t kChanges = 8;

  struct Target {
    const shm::Mapping* section = nullptr;
    uint64_t offset = 0;
  };
  struct Blow {
    uint64_t moment = 0;  // Shared accesses until it falls.
    Target target;
    Change change = Change::kSmall;
    uint64_t value = 0;
  };
  class Watching {
   public:
    explicit Watching(Peer* peer);
    Watching(const Watching&) = delete;
    Watching& operator=(const Watching&) = delete;
    ~Watching();
  };

  void OnAccess();
  Blow DecodeStrike();
  Target DecodeTarget();
  void Strike(const Blow& blow);
  uint64_t ValueOf(const Blow& blow, uint64_t current) const;

  Input& input_;
  std::vector<const shm::Mapping*> sections_;
  std::vector<Target> words_;
  std::vector<uint64_t> values_ = {0,
                                   1,
                                   7,
                                   8,
                                   uint64_t{1} << 31,
                                   (uint64_t{1} << 32) - 8,
                                   uint64_t{1} << 62,
                                   uint64_t{1} << 63,
                                   UINT64_MAX - 15,
                                   UINT64_MAX - 7,
                                   UINT64_MAX};
  std::function<void()> act_;
  std::vector<Blow> ambushes_;
  uint64_t accesses_ = 0;
  bool striking_ = false;
  bool honest_ = true;
};

// Bytes that follow from a number, for payloads that can be checked.
void FillPattern(uint64_t seed, std::span<std::byte> bytes);
bool HasPattern(uint64_t seed, std::span<const std::byte> bytes);
// Touches every byte, so that one outside of a mapping is noticed.
void LookAt(std::span<const std::byte> bytes);

// Where positions may begin: at nothing, after a few laps, around the halves of a word, at the top.
uint64_t DecodeStart(Input& input, uint64_t capacity_bytes, uint64_t highest);

}  // namespace iob::fuzz

// What each target defines. Also called by the replay program, which needs no libFuzzer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
