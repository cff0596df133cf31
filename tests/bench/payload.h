// What the records of a benchmark carry: bytes that are written in full and checked in full.
//
//   word 0          words 1 .. n-2       word n-1
//   +----------+--------------------+--------------------+
//   | sequence | a fixed pattern    | sequence + pattern |      (8 bytes: the sequence alone)
//   +----------+--------------------+--------------------+
//
// A sender has each record in private memory, as an application has, and hands it over; what that
// costs is what is measured. A receiver adds up all words: a record that is torn, stale, short or
// out of order does not have the sum that belongs to its number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace iob::bench {

constexpr uint64_t PatternWord(size_t index) { return 0x9e3779b97f4a7c15ULL * (index + 1); }

// Sum of all words of `bytes`, a multiple of 8.
inline uint64_t SumWords(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t offset = 0; offset < bytes.size(); offset += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + offset, sizeof(word));
    sum += word;
  }
  return sum;
}

class Payload {
 public:
  explicit Payload(size_t size_bytes) : words_(size_bytes / sizeof(uint64_t)) {
    for (size_t i = 1; i < words_.size(); ++i) words_[i] = PatternWord(i);
  }

  // The record with this number. Valid until the next call.
  std::span<const std::byte> Stamp(uint64_t sequence) {
    if (words_.size() > 1) words_.back() = PatternWord(words_.size() - 1) + sequence;
    words_.front() = sequence;
    return std::as_bytes(std::span<const uint64_t>(words_));
  }

 private:
  std::vector<uint64_t> words_;
};

class PayloadCheck {
 public:
  explicit PayloadCheck(size_t size_bytes) : size_bytes_(size_bytes) {
    Payload payload(size_bytes);
    sum_of_zeroth_ = SumWords(payload.Stamp(0));
    stamps_ = size_bytes > sizeof(uint64_t) ? 2 : 1;
  }

  // Whether `bytes` are the record with this number, all of them.
  bool Matches(std::span<const std::byte> bytes, uint64_t sequence) const {
    return bytes.size() == size_bytes_ && SumWords(bytes) == sum_of_zeroth_ + stamps_ * sequence;
  }

 private:
  size_t size_bytes_;
  uint64_t sum_of_zeroth_;
  uint64_t stamps_;
};

}  // namespace iob::bench
