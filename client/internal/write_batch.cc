#include "client/internal/write_batch.h"

#include <cstring>

#include "iob/v1/attach.pb.h"
#include "shm/fd_channel.h"
#include "shm/ring_layout.h"

namespace iob {
namespace {

// Wire types of protobuf.
constexpr uint32_t kVarint = 0;
constexpr uint32_t kLengthDelimited = 2;

constexpr std::byte TagByte(int field_number, uint32_t wire_type) {
  return static_cast<std::byte>(static_cast<uint32_t>(field_number) << 3 | wire_type);
}

constexpr std::byte kEnvelopeTag = TagByte(v1::ClientPacket::kWriteFieldNumber, kLengthDelimited);
constexpr std::byte kRegionTag = TagByte(v1::WriteBatch::kRegionIndexFieldNumber, kVarint);
constexpr std::byte kRecordTag = TagByte(v1::WriteBatch::kRecordsFieldNumber, kLengthDelimited);
constexpr std::byte kWaitTag = TagByte(v1::WriteBatch::kWaitMsFieldNumber, kVarint);
static_assert(v1::ClientPacket::kWriteFieldNumber < 16 && v1::WriteBatch::kWaitMsFieldNumber < 16,
              "tags of one byte");

constexpr size_t VarintBytes(uint64_t value) {
  size_t bytes = 1;
  for (; value >= 0x80; value >>= 7) ++bytes;
  return bytes;
}

std::byte* PutVarint(std::byte* target, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *target++ = static_cast<std::byte>(value | 0x80);
  *target++ = static_cast<std::byte>(value);
  return target;
}

constexpr size_t kEnvelopeBytesMax = 1 + VarintBytes(shm::kPacketBytesMax);
constexpr size_t kFieldsBytesMax = 2 * (1 + VarintBytes(UINT32_MAX));
static_assert(kEnvelopeBytesMax + kFieldsBytesMax + 1 + VarintBytes(shm::kRecordPayloadBytesMax) +
                      // A region index is below 64, so one byte and not five.
                      shm::kRecordPayloadBytesMax - (VarintBytes(UINT32_MAX) - 1) <=
                  shm::kPacketBytesMax,
              "the longest record fits into a packet with any wait");

}  // namespace

WriteBatchEncoder::WriteBatchEncoder(uint32_t region_index, uint32_t wait_ms)
    : buffer_(kHeadRoomBytes + shm::kPacketBytesMax) {
  SetWait(region_index, wait_ms);
}

void WriteBatchEncoder::SetWait(uint32_t region_index, uint32_t wait_ms) {
  static_assert(kEnvelopeBytesMax + kFieldsBytesMax <= kHeadRoomBytes);
  std::byte* end = fields_.data();
  if (region_index != 0) {
    *end++ = kRegionTag;
    end = PutVarint(end, region_index);
  }
  if (wait_ms != 0) {
    *end++ = kWaitTag;
    end = PutVarint(end, wait_ms);
  }
  fields_bytes_ = static_cast<size_t>(end - fields_.data());
  end_max_ = kHeadRoomBytes + shm::kPacketBytesMax - kEnvelopeBytesMax - fields_bytes_;
}

bool WriteBatchEncoder::TryAdd(std::span<const std::span<const std::byte>> parts,
                               size_t payload_bytes) {
  const size_t record_bytes = 1 + VarintBytes(payload_bytes) + payload_bytes;
  if (record_bytes > end_max_ - end_ || record_count_ == kRecordsMax) return false;
  std::byte* target = buffer_.data() + end_;
  *target++ = kRecordTag;
  target = PutVarint(target, payload_bytes);
  for (const std::span<const std::byte> part : parts) {
    if (part.empty()) continue;
    std::memcpy(target, part.data(), part.size());
    target += part.size();
  }
  end_ += record_bytes;
  record_count_ += 1;
  return true;
}

std::span<const std::byte> WriteBatchEncoder::Packet() {
  const size_t fields_begin = kHeadRoomBytes - fields_bytes_;
  std::memcpy(buffer_.data() + fields_begin, fields_.data(), fields_bytes_);
  const size_t message_bytes = end_ - fields_begin;
  const size_t begin = fields_begin - VarintBytes(message_bytes) - 1;
  buffer_[begin] = kEnvelopeTag;
  PutVarint(buffer_.data() + begin + 1, message_bytes);
  return std::span<const std::byte>(buffer_).subspan(begin, end_ - begin);
}

void WriteBatchEncoder::Clear() {
  end_ = kHeadRoomBytes;
  record_count_ = 0;
}

}  // namespace iob
