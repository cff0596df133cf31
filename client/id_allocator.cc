#include "client/id_allocator.h"

#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "client/internal/connection.h"
#include "client/internal/grants.h"
#include "shm/id_allocator_layout.h"
#include "shm/id_allocator_reader.h"
#include "shm/id_allocator_shared_writer.h"
#include "shm/result.h"

namespace iob {
namespace {

using shm::IdAllocatorSealedReader;
using shm::IdAllocatorSharedReader;
using shm::IdAllocatorSharedWriter;

// Reading in the one way or the other, or not at all.
using Reader = std::variant<std::monostate, IdAllocatorSealedReader, IdAllocatorSharedReader>;

absl::Status ToStatus(shm::AllocateOutcome outcome) {
  const absl::Status status = shm::StatusOf(outcome);
  switch (outcome) {
    case shm::AllocateOutcome::kAllocated:
    case shm::AllocateOutcome::kInterned:
      return status;
    case shm::AllocateOutcome::kOutOfMemory:
      return WithReason(status, "REGION_FULL");
    case shm::AllocateOutcome::kBusy:
      return WithReason(status, "BUSY");
    case shm::AllocateOutcome::kInvalidHeader:
    case shm::AllocateOutcome::kNonEmptyIndex:
      break;
  }
  return WithReason(status, "INTEGRITY");
}

absl::Status ToStatus(shm::BlobOutcome outcome, uint32_t id) {
  const absl::Status status = shm::StatusOf(outcome, id);
  switch (outcome) {
    case shm::BlobOutcome::kBlob:
      return status;
    case shm::BlobOutcome::kUnallocatedId:
    case shm::BlobOutcome::kTombstone:
      return WithReason(status, "NOT_FOUND");
    case shm::BlobOutcome::kUncommitted:
      return WithReason(status, "BUSY");
    case shm::BlobOutcome::kTooLarge:
      return WithReason(status, kReasonTooLarge);
    case shm::BlobOutcome::kInvalidHeader:
    case shm::BlobOutcome::kInvalidIndex:
      break;
  }
  return WithReason(status, "INTEGRITY");
}

absl::Status AccessDenied(uint32_t region_index, const char* what) {
  return WithReason(absl::PermissionDeniedError(
                        absl::StrCat("this endpoint may not ", what, " region ", region_index)),
                    "ACCESS_DENIED");
}

absl::Status InvalidHeader() { return ToStatus(shm::BlobOutcome::kInvalidHeader, 0); }

absl::StatusOr<Reader> MapReader(const shm::IdAllocatorLayout& layout, const GrantedRegion& region,
                                 RegionRights rights) {
  if (!rights.map_read() || !region.data) return Reader();
  if (region.access.any_map_write()) {
    IOB_ASSIGN_OR_RETURN(auto shared, IdAllocatorSharedReader::Map(layout, region.data->memfd));
    return Reader(std::move(shared));
  }
  IOB_ASSIGN_OR_RETURN(auto sealed, IdAllocatorSealedReader::Map(layout, region.data->memfd));
  return Reader(std::move(sealed));
}

absl::StatusOr<std::span<const std::byte>> ViewOf(const IdAllocatorSealedReader& reader,
                                                  uint32_t id) {
  std::span<const std::byte> view;
  IOB_RETURN_IF_ERROR(ToStatus(reader.GetView(id, &view), id));
  return view;
}

absl::StatusOr<std::span<const std::byte>> ViewOf(const IdAllocatorSharedReader& /*reader*/,
                                                  uint32_t id) {
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat("blob ", id,
                                                 " is in a region that processes may "
                                                 "write: it can be copied, not read in place")),
      "ENFORCEMENT");
}

absl::StatusOr<std::vector<std::byte>> CopyOf(const IdAllocatorSealedReader& reader, uint32_t id,
                                              uint32_t bytes_max) {
  IOB_ASSIGN_OR_RETURN(const std::span<const std::byte> view, ViewOf(reader, id));
  if (view.size() > bytes_max) return ToStatus(shm::BlobOutcome::kTooLarge, id);
  return std::vector<std::byte>(view.begin(), view.end());
}

absl::StatusOr<std::vector<std::byte>> CopyOf(const IdAllocatorSharedReader& reader, uint32_t id,
                                              uint32_t bytes_max) {
  std::vector<std::byte> copy;
  IOB_RETURN_IF_ERROR(ToStatus(reader.GetCopy(id, bytes_max, &copy), id));
  return copy;
}

}  // namespace

class IdAllocator::Impl {
 public:
  Impl(const GrantedRegion& region, const shm::IdAllocatorLayout& layout, bool mediated,
       Reader reader, std::optional<IdAllocatorSharedWriter> writer,
       std::shared_ptr<Connection> connection)
      : region_index_(region.index),
        layout_(layout),
        sealed_(!region.access.any_map_write()),
        mediated_(mediated),
        reader_(std::move(reader)),
        writer_(std::move(writer)),
        connection_(std::move(connection)) {}

  uint32_t region_index() const { return region_index_; }
  bool direct() const { return writer_.has_value(); }
  bool sealed() const { return sealed_; }

  absl::StatusOr<uint32_t> AllocateId(std::span<const std::byte> blob, Deadline deadline);

  // Calls `read` with either reader. ACCESS_DENIED without one.
  template <typename Read>
  auto Reading(Read read) const -> decltype(read(std::declval<const IdAllocatorSealedReader&>())) {
    if (const auto* sealed = std::get_if<IdAllocatorSealedReader>(&reader_)) return read(*sealed);
    if (const auto* shared = std::get_if<IdAllocatorSharedReader>(&reader_)) return read(*shared);
    return AccessDenied(region_index_, "read the ids of");
  }

 private:
  absl::StatusOr<uint32_t> AskBroker(std::span<const std::byte> blob, Deadline deadline);

  uint32_t region_index_;
  shm::IdAllocatorLayout layout_;
  bool sealed_;
  bool mediated_;  // The broker allocates for this endpoint.
  Reader reader_;
  std::optional<IdAllocatorSharedWriter> writer_;
  std::shared_ptr<Connection> connection_;
};

absl::StatusOr<uint32_t> IdAllocator::Impl::AllocateId(std::span<const std::byte> blob,
                                                       Deadline deadline) {
  if (connection_->fd() < 0) return connection_->status();
  if (!writer_) return AskBroker(blob, deadline);
  uint32_t id = 0;
  IOB_RETURN_IF_ERROR(ToStatus(writer_->Allocate(blob, &id)));
  return id;
}

absl::StatusOr<uint32_t> IdAllocator::Impl::AskBroker(std::span<const std::byte> blob,
                                                      Deadline deadline) {
  if (!mediated_) return AccessDenied(region_index_, "allocate ids in");
  if (blob.size() > kMediatedBlobBytesMax) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat(
                          "a blob of ", blob.size(), " bytes; at most ", kMediatedBlobBytesMax)),
                      "INVALID_ARGUMENT");
  }
  v1::ClientPacket packet;
  v1::AllocateId& request = *packet.mutable_allocate_id();
  request.set_region_index(region_index_);
  request.set_blob(blob.data(), blob.size());
  IOB_ASSIGN_OR_RETURN(const uint32_t id, connection_->CallForId(packet, deadline));
  if (shm::IdSlotOffset(id) > layout_.region_bytes() - shm::kIdSlotBytes) {
    return ProtocolError(
        absl::StrCat("id ", id, " in a region of ", layout_.region_bytes(), " bytes"));
  }
  return id;
}

absl::StatusOr<IdAllocator> IdAllocator::Open(const GrantedRegion& region, HandleRights handle,
                                              std::shared_ptr<Connection> connection) {
  const RegionRights rights = EffectiveRights(region.access.For(EndpointId::kEp0), handle);
  IOB_ASSIGN_OR_RETURN(const shm::IdAllocatorLayout layout,
                       shm::IdAllocatorLayout::ForRegion(region.size_bytes));
  IOB_ASSIGN_OR_RETURN(Reader reader, MapReader(layout, region, rights));
  std::optional<IdAllocatorSharedWriter> writer;
  if (region.data && region.data->writable) {
    IOB_ASSIGN_OR_RETURN(writer,
                         IdAllocatorSharedWriter::Map(layout, region.data->memfd, region.id_owner));
  }
  const bool mediated = rights.mediated_write();
  if (std::holds_alternative<std::monostate>(reader) && !writer && !mediated) {
    return AccessDenied(region.index, "read or allocate ids in");
  }
  return IdAllocator(std::make_unique<Impl>(region, layout, mediated, std::move(reader),
                                            std::move(writer), std::move(connection)));
}

IdAllocator::IdAllocator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
IdAllocator::IdAllocator(IdAllocator&& other) noexcept = default;
IdAllocator& IdAllocator::operator=(IdAllocator&& other) noexcept = default;
IdAllocator::~IdAllocator() = default;

uint32_t IdAllocator::region_index() const { return impl_->region_index(); }

bool IdAllocator::direct() const { return impl_->direct(); }

bool IdAllocator::sealed() const { return impl_->sealed(); }

absl::StatusOr<uint32_t> IdAllocator::AllocateId(std::span<const std::byte> blob,
                                                 Deadline deadline) {
  return impl_->AllocateId(blob, deadline);
}

absl::StatusOr<std::vector<std::byte>> IdAllocator::GetBlob(uint32_t id, uint32_t bytes_max) const {
  return impl_->Reading([&](const auto& reader) { return CopyOf(reader, id, bytes_max); });
}

absl::StatusOr<std::span<const std::byte>> IdAllocator::ViewBlob(uint32_t id) const {
  return impl_->Reading([&](const auto& reader) { return ViewOf(reader, id); });
}

absl::StatusOr<std::optional<uint32_t>> IdAllocator::Find(std::span<const std::byte> blob) const {
  return impl_->Reading([&](const auto& reader) -> absl::StatusOr<std::optional<uint32_t>> {
    uint32_t id = 0;
    switch (reader.Find(blob, &id)) {
      case shm::FindOutcome::kFound:
        return std::optional<uint32_t>(id);
      case shm::FindOutcome::kAbsent:
        return std::optional<uint32_t>();
      case shm::FindOutcome::kInvalidHeader:
        break;
      case shm::FindOutcome::kInvalidIndex:
        return WithReason(absl::DataLossError("the id allocator's slots overlap"), "INTEGRITY");
    }
    return InvalidHeader();
  });
}

absl::StatusOr<uint32_t> IdAllocator::next_id() const {
  return impl_->Reading([&](const auto& reader) -> absl::StatusOr<uint32_t> {
    const std::optional<shm::IdHeader> header = reader.LoadHeader();
    if (!header) return InvalidHeader();
    return header->next_id;
  });
}

}  // namespace iob
