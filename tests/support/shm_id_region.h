// Id-allocator regions for tests: either kind behind one face, and a reader by Zircon's rules.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "shm/id_allocator_layout.h"
#include "shm/id_allocator_reader.h"
#include "shm/id_allocator_sealed_writer.h"
#include "shm/id_allocator_shared_writer.h"
#include "tests/support/shm_ring.h"

namespace iob::shm {

inline IdAllocatorLayout Pages(uint64_t pages) {
  return IdAllocatorLayout::ForRegion(pages * PageBytes()).value();
}

inline uint64_t WordAt(const ReadOnlyMapping& region, uint64_t offset) {
  return region.Word<uint64_t>(offset).LoadAcquire().ForHintOnly();
}

// The rules of a reader made for Zircon, word for word (blob_id_allocator.h).
enum class ZirconError { kNone, kInvalidHeader, kUnallocatedId, kUncommittedIndex, kInvalidIndex };
inline ZirconError ZirconGet(const ReadOnlyMapping& region, uint32_t id, std::string* ret_blob) {
  const uint64_t length = region.size_bytes();
  const uint64_t header = WordAt(region, 0);
  const auto next_id = static_cast<uint32_t>(header);
  const auto blob_head = static_cast<uint32_t>(header >> 32);
  if (next_id > (UINT32_MAX - 8) / 8) return ZirconError::kInvalidHeader;
  if (8 + 8 * uint64_t{next_id} > blob_head || blob_head > length)
    return ZirconError::kInvalidHeader;
  if (id >= next_id) return ZirconError::kUnallocatedId;
  const uint64_t index = WordAt(region, 8 * (uint64_t{id} + 1));
  const auto size = static_cast<uint32_t>(index);
  const auto offset = static_cast<uint32_t>(index >> 32);
  if (size == 0 && offset == 0) return ZirconError::kUncommittedIndex;
  if (offset < blob_head || offset > length || size > length - offset)
    return ZirconError::kInvalidIndex;
  ret_blob->resize(size);
  region.CopyOut(offset, std::as_writable_bytes(std::span(*ret_blob)));
  return ZirconError::kNone;
}

// Either kind of region, behind one face.
class Region {
 public:
  virtual ~Region() = default;
  virtual AllocateOutcome Allocate(const std::string& blob, uint32_t* ret_id) = 0;
  virtual BlobOutcome Get(uint32_t id, std::string* ret_blob) const = 0;
  virtual FindOutcome Find(const std::string& blob, uint32_t* ret_id) const = 0;
  virtual const SealedMemfd& memfd() const = 0;

  uint32_t MustAllocate(const std::string& blob) {
    uint32_t id = UINT32_MAX;
    EXPECT_EQ(Allocate(blob, &id), AllocateOutcome::kAllocated);
    return id;
  }
  std::string MustGet(uint32_t id) const {
    std::string blob = "untouched";
    EXPECT_EQ(Get(id, &blob), BlobOutcome::kBlob) << "id " << id;
    return blob;
  }
  ReadOnlyMapping MapForReading() const { return ReadOnlyMapping::Map(memfd()).value(); }
  std::string Image() const {
    const ReadOnlyMapping region = MapForReading();
    std::string image(region.size_bytes(), '\0');
    region.CopyOut(0, std::as_writable_bytes(std::span(image)));
    return image;
  }
};

class SealedRegion : public Region {
 public:
  explicit SealedRegion(const IdAllocatorLayout& layout, uint32_t interned_max = 0)
      : writer_(IdAllocatorSealedWriter::Create(layout, {.interned_max = interned_max}).value()),
        reader_(IdAllocatorSealedReader::Map(layout, writer_.memfd()).value()) {}
  AllocateOutcome Allocate(const std::string& blob, uint32_t* ret_id) override {
    return writer_.Allocate(test::BytesOf(blob), ret_id);
  }
  BlobOutcome Get(uint32_t id, std::string* ret_blob) const override {
    std::span<const std::byte> view;
    const BlobOutcome outcome = reader_.GetView(id, &view);
    if (outcome == BlobOutcome::kBlob) *ret_blob = test::TextOf(view);
    return outcome;
  }
  FindOutcome Find(const std::string& blob, uint32_t* ret_id) const override {
    return reader_.Find(test::BytesOf(blob), ret_id);
  }
  const SealedMemfd& memfd() const override { return writer_.memfd(); }
  IdAllocatorSealedWriter& writer() { return writer_; }

 private:
  IdAllocatorSealedWriter writer_;
  IdAllocatorSealedReader reader_;
};

class SharedRegion : public Region {
 public:
  explicit SharedRegion(const IdAllocatorLayout& layout)
      : SharedRegion(layout, IdAllocatorSharedWriter::Create(layout).value()) {}
  AllocateOutcome Allocate(const std::string& blob, uint32_t* ret_id) override {
    return broker_.Allocate(test::BytesOf(blob), ret_id);
  }
  BlobOutcome Get(uint32_t id, std::string* ret_blob) const override {
    std::vector<std::byte> copy;
    const BlobOutcome outcome = reader_.GetCopy(id, UINT32_MAX, &copy);
    if (outcome == BlobOutcome::kBlob) *ret_blob = test::TextOf(copy);
    return outcome;
  }
  FindOutcome Find(const std::string& blob, uint32_t* ret_id) const override {
    return reader_.Find(test::BytesOf(blob), ret_id);
  }
  const SealedMemfd& memfd() const override { return memfd_; }
  const IdAllocatorSharedWriter& broker() const { return broker_; }
  const IdAllocatorSharedReader& reader() const { return reader_; }
  IdAllocatorSharedWriter WriterOf(IdOwner owner) const {
    return IdAllocatorSharedWriter::Map(broker_.layout(), memfd_, owner).value();
  }
  uint32_t Entomb(IdOwner owner) const { return broker_.TombstoneOwner(owner).value(); }
  // What another process could do to a word.
  void Set(uint64_t offset, uint64_t word) {
    Mapping::Map(memfd_).value().Word<uint64_t>(offset).StoreRelease(word);
  }

 private:
  SharedRegion(const IdAllocatorLayout& layout,
               std::pair<SealedMemfd, IdAllocatorSharedWriter> made)
      : memfd_(std::move(made.first)),
        broker_(std::move(made.second)),
        reader_(IdAllocatorSharedReader::Map(layout, memfd_).value()) {}
  SealedMemfd memfd_;
  IdAllocatorSharedWriter broker_;
  IdAllocatorSharedReader reader_;
};

}  // namespace iob::shm
