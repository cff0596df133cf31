// The hand-made packet is what protobuf would have made, and the longest record fits into it.
#include "client/internal/write_batch.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "iob/v1/attach.pb.h"
#include "shm/fd_channel.h"
#include "shm/ring_layout.h"
#include "tests/support/shm_ring.h"

namespace iob::test {
namespace {

bool AddText(WriteBatchEncoder* encoder, const std::string& text) {
  const std::span<const std::byte> part = BytesOf(text);
  return encoder->TryAdd({&part, 1}, part.size());
}

v1::WriteBatch Decode(WriteBatchEncoder* encoder) {
  const std::span<const std::byte> packet = encoder->Packet();
  EXPECT_LE(packet.size(), shm::kPacketBytesMax);
  v1::ClientPacket parsed;
  EXPECT_TRUE(parsed.ParseFromArray(packet.data(), static_cast<int>(packet.size())));
  EXPECT_TRUE(parsed.has_write());
  // No byte more or less than protobuf itself would have used.
  EXPECT_EQ(parsed.ByteSizeLong(), packet.size());
  return parsed.write();
}

TEST(WriteBatchEncoder, SpeaksProtobuf) {
  WriteBatchEncoder encoder(/*region_index=*/5, /*wait_ms=*/300);
  EXPECT_TRUE(AddText(&encoder, "one"));
  EXPECT_TRUE(AddText(&encoder, ""));
  EXPECT_TRUE(AddText(&encoder, std::string(200, 'x')));
  const v1::WriteBatch batch = Decode(&encoder);
  EXPECT_EQ(batch.region_index(), 5u);
  EXPECT_EQ(batch.wait_ms(), 300u);
  ASSERT_EQ(batch.records_size(), 3);
  EXPECT_EQ(batch.records(0), "one");
  EXPECT_EQ(batch.records(1), "");
  EXPECT_EQ(batch.records(2), std::string(200, 'x'));
}

TEST(WriteBatchEncoder, JoinsTheParts) {
  WriteBatchEncoder encoder(0, 0);
  const std::string a = "al";
  const std::string b = "pha";
  const std::array<std::span<const std::byte>, 3> parts = {BytesOf(a), {}, BytesOf(b)};
  EXPECT_TRUE(encoder.TryAdd(parts, 5));
  EXPECT_EQ(Decode(&encoder).records(0), "alpha");
}

TEST(WriteBatchEncoder, HasRoomForTheLongestRecordNextToAnyRegionAndWait) {
  const std::string longest = PatternText(1, shm::kRecordPayloadBytesMax);
  for (const uint32_t region_index : {0u, 1u, 63u}) {
    for (const uint32_t wait_ms :
         {0u, 1u, 127u, 128u, 16383u, 16384u, 60'000u, 2097152u, UINT32_MAX}) {
      WriteBatchEncoder encoder(region_index, wait_ms);
      ASSERT_TRUE(AddText(&encoder, longest)) << region_index << " " << wait_ms;
      const v1::WriteBatch batch = Decode(&encoder);
      EXPECT_EQ(batch.records(0), longest);
      EXPECT_EQ(batch.wait_ms(), wait_ms);
    }
  }
}

TEST(WriteBatchEncoder, FillsThePacketToTheLastByte) {
  // 65536 - envelope 4, minus record header 2 for up to 127 bytes and 3 above.
  WriteBatchEncoder encoder(0, 0);
  ASSERT_TRUE(AddText(&encoder, std::string(65000, 'a')));
  const size_t left = shm::kPacketBytesMax - encoder.Packet().size();
  ASSERT_FALSE(AddText(&encoder, std::string(left - 2, 'b')));
  ASSERT_TRUE(AddText(&encoder, std::string(left - 3, 'c')));
  EXPECT_EQ(encoder.Packet().size(), shm::kPacketBytesMax);
  EXPECT_FALSE(AddText(&encoder, ""));
  EXPECT_EQ(Decode(&encoder).records_size(), 2);
}

TEST(WriteBatchEncoder, HoldsABoundedNumberOfRecords) {
  WriteBatchEncoder encoder(0, 0);
  size_t added = 0;
  while (AddText(&encoder, "")) ++added;
  EXPECT_EQ(added, WriteBatchEncoder::kRecordsMax);
  encoder.Clear();
  EXPECT_TRUE(encoder.empty());
  EXPECT_TRUE(AddText(&encoder, "again"));
  EXPECT_EQ(Decode(&encoder).records(0), "again");
}

}  // namespace
}  // namespace iob::test
