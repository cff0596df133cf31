// WriteBatchEncoder: one ClientPacket{write} built in place, record by record.
//
//     0            16                                                    65536 - at most
//     +------------+--------------------------------------------------+
//     | head room  | record | record | ...                            |   record := tag | length |
//     bytes
//     +------------+--------------------------------------------------+
//          ^ Packet() writes envelope | region_index | wait_ms right up to the first record
//
// The bytes are the protobuf encoding, so the message class and its allocations are not needed:
// each payload is copied once, from the caller into the packet. What precedes the records is known
// from the start, so that what fits is exact: the envelope takes at most 16 bytes, and a record of
// 65519 bytes fits next to any region index and any wait.
//
// Internal to the library. Thread-compatible.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace iob {

class WriteBatchEncoder {
 public:
  // So that the answer, at worst a run per two records, fits into a packet too.
  static constexpr size_t kRecordsMax = 4096;

  WriteBatchEncoder(uint32_t region_index, uint32_t wait_ms);

  // As if made with these. Only while it is empty.
  void SetWait(uint32_t region_index, uint32_t wait_ms);

  bool empty() const { return record_count_ == 0; }
  size_t record_count() const { return record_count_; }

  // Adds one record made of `parts`, `payload_bytes` together. False, and nothing added, when the
  // batch has no room for it; an empty batch has room for any record of at most 65519 bytes.
  bool TryAdd(std::span<const std::span<const std::byte>> parts, size_t payload_bytes);

  // The packet. Valid until the next TryAdd or Clear.
  std::span<const std::byte> Packet();

  void Clear();

 private:
  static constexpr size_t kHeadRoomBytes = 16;

  std::vector<std::byte> buffer_;
  size_t end_ = kHeadRoomBytes;  // Behind the last record.
  size_t end_max_;               // So that the packet stays within its limit.
  size_t record_count_ = 0;
  std::array<std::byte, 12> fields_{};  // region_index and wait_ms, encoded.
  size_t fields_bytes_ = 0;
};

}  // namespace iob
