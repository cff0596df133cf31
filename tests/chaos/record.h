// A record of a round: who wrote it, which one it is, and a pattern that nothing else has.
//
//   0        4        8        12       16
//   +--------+--------+--------+--------+---------------------- ... --+
//   | round  | writer | number | bytes  | pattern of all four          |
//   +--------+--------+--------+--------+---------------------- ... --+
//
// One byte from another record, another lap or another round, and it is told.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace iob::test {

struct RecordHeader {
  uint32_t round = 0;
  uint32_t writer = 0;
  uint32_t number = 0;
  uint32_t bytes = 0;  // All of it, this header included.
};
inline constexpr uint32_t kRecordBytesMin = sizeof(RecordHeader);
inline constexpr uint32_t kRecordBytesMax = 3000;

// splitmix64: neighbours have nothing in common.
inline uint64_t Mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// The same number has the same length for ever: mostly short, now and then a long one.
inline uint32_t RecordBytes(uint32_t round, uint32_t writer, uint32_t number) {
  const uint64_t draw = Mix(uint64_t{round} << 40 ^ uint64_t{writer} << 32 ^ number);
  const uint32_t range = draw % 16 == 0 ? kRecordBytesMax - kRecordBytesMin : 200;
  return kRecordBytesMin + static_cast<uint32_t>((draw >> 8) % (range + 1));
}

inline void FillPattern(const RecordHeader& header, std::span<std::byte> pattern) {
  uint64_t word = Mix(uint64_t{header.round} << 32 | header.bytes) ^
                  Mix(uint64_t{header.writer} << 32 | header.number);
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (i % 8 == 0) word = Mix(word);
    pattern[i] = static_cast<std::byte>(word >> (i % 8 * 8));
  }
}

inline void FillRecord(const RecordHeader& header, std::span<std::byte> target) {
  std::memcpy(target.data(), &header, sizeof(header));
  FillPattern(header, target.subspan(sizeof(header)));
}

// Empty when it is whole, else what is wrong with it.
inline std::string CheckRecord(uint32_t round, std::span<const std::byte> bytes,
                               RecordHeader* ret_header) {
  if (bytes.size() < sizeof(RecordHeader)) return absl::StrCat(bytes.size(), " bytes long");
  std::memcpy(ret_header, bytes.data(), sizeof(RecordHeader));
  const std::string what = absl::StrCat("record ", ret_header->number, " of writer ",
                                        ret_header->writer, " in round ", ret_header->round);
  if (ret_header->round != round) return what + " is of another round";
  if (ret_header->bytes != bytes.size()) return absl::StrCat(what, " has ", bytes.size(), " bytes");
  if (ret_header->bytes != RecordBytes(round, ret_header->writer, ret_header->number))
    return what + " has not the length that it was written with";
  std::vector<std::byte> expected(bytes.size() - sizeof(RecordHeader));
  FillPattern(*ret_header, expected);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] != bytes[sizeof(RecordHeader) + i])
      return absl::StrCat(what, " is damaged from byte ", sizeof(RecordHeader) + i, " on");
  }
  return {};
}

}  // namespace iob::test
