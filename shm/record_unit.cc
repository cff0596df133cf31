#include "shm/record_unit.h"

namespace iob::shm {
namespace {

Untrusted<uint64_t> LoadWord(const std::byte* start, uint64_t offset_bytes) {
  return SharedWordAt<uint64_t>(start + offset_bytes).LoadRelaxed();
}

// For words that are handed on and decide nothing.
uint64_t WordToTell(const std::byte* start, uint64_t offset_bytes) {
  return LoadWord(start, offset_bytes).ForHintOnly();
}

struct Header {
  uint64_t tag = 0;
  uint64_t length = 0;
};

// The header at `offset_bytes`, if its record ends within `limit_bytes` of the unit.
std::optional<Header> LoadHeader(const std::byte* start, uint64_t offset_bytes,
                                 uint64_t limit_bytes) {
  const uint64_t tag = WordToTell(start, offset_bytes);
  const auto length =
      LoadWord(start, offset_bytes + sizeof(uint64_t)).Between(0, kRecordPayloadBytesMax);
  if (!length || RecordBytes(*length) > limit_bytes - offset_bytes) return std::nullopt;
  return Header{.tag = tag, .length = *length};
}

}  // namespace

std::optional<RecordUnit> ParseRecordUnit(const std::byte* start, uint64_t limit_bytes,
                                          const RingOptions& options) {
  RecordUnit unit;
  uint64_t offset_bytes = 0;
  std::optional<Header> header = LoadHeader(start, 0, limit_bytes);
  if (options.gap_records && header && header->tag == kGapTag) {
    if (header->length != kGapPayloadBytes) return std::nullopt;
    unit.gap = {.records = WordToTell(start, kRecordHeaderBytes),
                .bytes = WordToTell(start, kRecordHeaderBytes + 8),
                .at_record = WordToTell(start, kRecordHeaderBytes + 16)};
    offset_bytes = kGapRecordBytes;
    header = LoadHeader(start, offset_bytes, limit_bytes);
    // Two gaps in a row would be one that the broker has not added up.
    if (header && header->tag == kGapTag) return std::nullopt;
  }
  if (!header || header->length < options.stamp_bytes()) return std::nullopt;
  unit.tag = header->tag;
  unit.ring_bytes = offset_bytes + RecordBytes(header->length);
  unit.payload_offset = offset_bytes + kRecordHeaderBytes + options.stamp_bytes();
  unit.payload_bytes = header->length - options.stamp_bytes();
  if (options.stamped) {
    const uint64_t stamp_offset = offset_bytes + kRecordHeaderBytes;
    unit.sequence = WordToTell(start, stamp_offset);
    unit.time_ns = static_cast<int64_t>(WordToTell(start, stamp_offset + sizeof(uint64_t)));
  }
  return unit;
}

}  // namespace iob::shm
