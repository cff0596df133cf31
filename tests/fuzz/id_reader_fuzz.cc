// Readers and writers of a shared id region against somebody who writes whatever he likes into it.
//
// Always: every call comes back with an answer of its own, and a copy is no longer than was asked
// for. While honest, with another writer at work between any two accesses: every id has the blob
// that it was given for, an equal blob is found, and the dead leave tombstones.
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "shm/id_allocator_layout.h"
#include "shm/id_allocator_reader.h"
#include "shm/id_allocator_shared_writer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::AllocateOutcome;
using shm::BlobOutcome;
using shm::FindOutcome;

constexpr shm::IdOwner kVictim = 2;
constexpr shm::IdOwner kOther = 3;

// The section, made once.
struct IdRegion {
  IdRegion()
      : layout(shm::IdAllocatorLayout::ForRegion(shm::PageBytes()).value()),
        region(layout.region_bytes()) {}
  IdRegion& Fresh() {
    region.Clear();
    const shm::IdHeader empty{.next_id = 0, .blob_head = layout.region_bytes()};
    region.mapping.Word<uint64_t>(shm::kIdHeaderOffset).StoreRelease(empty.word());
    return *this;
  }
  shm::IdAllocatorSharedWriter WriterOf(shm::IdOwner owner) const {
    return shm::IdAllocatorSharedWriter::Map(layout, region.memfd, owner).value();
  }

  shm::IdAllocatorLayout layout;
  Section region;
};

class IdReaderSchedule {
 public:
  IdReaderSchedule(IdRegion& region, Input& input)
      : input_(input),
        peer_(input),
        reader_(
            shm::IdAllocatorSharedReader::Map(region.Fresh().layout, region.region.memfd).value()),
        victim_(region.WriterOf(kVictim)),
        other_(region.WriterOf(kOther)) {
    peer_.Owns(region.region.mapping,
               {shm::kIdHeaderOffset, shm::IdSlotOffset(0), shm::IdSlotOffset(1),
                shm::IdSlotOffset(2), shm::IdSlotOffset(3)});
    const uint64_t page = region.layout.region_bytes();
    peer_.Knows({page, page << 32, page << 32 | 1, shm::IdSlot::PendingWord(kVictim, 8),
                 shm::IdSlot::PendingWord(kOther, 8), shm::IdSlot::TombstoneWord(8),
                 shm::IdSlot::BlobWord(16, static_cast<uint32_t>(page) - 16)});
    peer_.Acts([this] { Allocate(other_, 24, /*watched=*/false); });
  }

  void Run() {
    while (!input_.empty()) {
      switch (input_.Below(8)) {
        case 0:
        case 1:
          Allocate(victim_, input_.UpTo(1024), /*watched=*/true);
          break;
        case 2:
        case 3:
          Get(input_.Byte() % 64, input_.UpTo(UINT16_MAX));
          break;
        case 4:
          Find(input_.UpTo(64));
          break;
        case 5:
          Entomb();
          break;
        case 6:
          peer_.Scribble();
          break;
        default:
          peer_.Ambush();
          break;
      }
    }
  }

 private:
  // Equal sizes come twice, and equal blobs with them.
  static std::vector<std::byte> BlobOf(uint64_t bytes) {
    std::vector<std::byte> blob(bytes);
    FillPattern(bytes / 2, blob);
    return blob;
  }

  void Allocate(const shm::IdAllocatorSharedWriter& writer, uint64_t bytes, bool watched) {
    const std::vector<std::byte> blob = BlobOf(bytes);
    uint32_t id = UINT32_MAX;
    const auto allocate = [&] { return writer.Allocate(blob, &id); };
    const AllocateOutcome outcome = watched ? peer_.Watch(allocate) : allocate();
    IOB_CHECK(outcome != AllocateOutcome::kInterned);
    if (outcome == AllocateOutcome::kAllocated) {
      IOB_CHECK(id <= shm::kNextIdMax);
      if (peer_.honest()) IOB_CHECK(blobs_.emplace(id, bytes).second);
    } else if (peer_.honest()) {
      IOB_CHECK(outcome == AllocateOutcome::kOutOfMemory);
    }
  }

  void Get(uint32_t id, uint64_t bytes_max) {
    const bool known = blobs_.contains(id);
    std::vector<std::byte> blob;
    const BlobOutcome outcome =
        peer_.Watch([&] { return reader_.GetCopy(id, static_cast<uint32_t>(bytes_max), &blob); });
    if (outcome == BlobOutcome::kBlob) IOB_CHECK(blob.size() <= bytes_max);
    if (!peer_.honest()) return;
    switch (outcome) {
      case BlobOutcome::kBlob:
        IOB_CHECK(blobs_.contains(id) && blob == BlobOf(blobs_[id]));
        break;
      case BlobOutcome::kTooLarge:
        IOB_CHECK(blobs_.contains(id) && blobs_[id] > bytes_max);
        break;
      case BlobOutcome::kUnallocatedId:
        IOB_CHECK(!known);
        break;
      case BlobOutcome::kInvalidHeader:
      case BlobOutcome::kUncommitted:
      case BlobOutcome::kTombstone:
      case BlobOutcome::kInvalidIndex:
        IOB_CHECK(false);
        break;
    }
  }

  void Find(uint64_t bytes) {
    const std::vector<std::byte> blob = BlobOf(bytes);
    std::optional<uint32_t> expected;
    for (const auto& [id, size] : blobs_) {
      if (size == bytes && !expected) expected = id;
    }
    uint32_t id = UINT32_MAX;
    const FindOutcome outcome = peer_.Watch([&] { return reader_.Find(blob, &id); });
    if (!peer_.honest()) return;
    if (outcome == FindOutcome::kFound) {
      IOB_CHECK(blobs_.contains(id) && BlobOf(blobs_[id]) == blob &&
                (!expected || id == *expected));
    } else {
      IOB_CHECK(outcome == FindOutcome::kAbsent && !expected);
    }
  }

  // Nobody is in the middle of a call here, so an honest region has nothing to bury.
  void Entomb() {
    const auto buried = peer_.Watch([this] { return other_.TombstoneOwner(kVictim); });
    if (peer_.honest()) IOB_CHECK(buried.ok() && *buried == 0);
    const auto header = peer_.Watch([this] { return reader_.LoadHeader(); });
    IOB_CHECK(header.has_value() || !peer_.honest());
    if (header) IOB_CHECK(shm::IdSlotOffset(header->next_id) <= header->blob_head);
  }

  Input& input_;
  Peer peer_;
  shm::IdAllocatorSharedReader reader_;
  shm::IdAllocatorSharedWriter victim_;
  shm::IdAllocatorSharedWriter other_;
  std::map<uint32_t, uint64_t> blobs_;  // Sizes.
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::IdRegion region;
  iob::fuzz::Input input({data, size});
  iob::fuzz::IdReaderSchedule(region, input).Run();
  return 0;
}
