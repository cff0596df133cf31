#include "client/endpoint.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "client/internal/connection.h"
#include "client/internal/grants.h"
#include "client/internal/handshake.h"
#include "client/internal/region_window.h"
#include "client/internal/signal_wait.h"
#include "shm/result.h"
#include "shm/ring_layout.h"

namespace iob {
namespace {

AttachedRegion ToAttachedRegion(const GrantedRegion& region) {
  return {.index = region.index,
          .type = region.type,
          .discipline = region.discipline,
          .size_bytes = region.size_bytes,
          .access = region.access,
          .enforcement = region.enforcement,
          .tag = region.tag,
          .koid = region.koid,
          .mediated_ring = region.mediated_ring,
          .placement = region.placement};
}

AttachedInfo ToInfo(const Grants& grants) {
  AttachedInfo info{.buffer_koid = grants.buffer_koid,
                    .name = grants.name,
                    .endpoint = grants.endpoint,
                    .koid = grants.endpoint_koid,
                    .peer_koid = grants.peer_koid,
                    .rights = grants.rights,
                    .regions = {}};
  info.regions.reserve(grants.regions.size());
  for (const GrantedRegion& region : grants.regions) {
    info.regions.push_back(ToAttachedRegion(region));
  }
  return info;
}

shm::RingOptions ToRingOptions(const MediatedRingOptions& options) {
  shm::RingOptions ring{.policy = shm::RingPolicy::kDropNew,
                        .gap_records = options.gap_records,
                        .stamped = options.stamped,
                        .followers = options.followers};
  if (options.policy == RingPolicy::kOverwriteOldest) {
    ring.policy = shm::RingPolicy::kOverwriteOldest;
  } else if (options.policy == RingPolicy::kBlock) {
    ring.policy = shm::RingPolicy::kBlock;
  }
  return ring;
}

absl::Status WrongRing(uint32_t region_index, const char* why) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat("region ", region_index, ": ", why)),
                    "WRONG_DISCIPLINE");
}

absl::Status AccessDenied(uint32_t region_index, const char* right) {
  return WithReason(absl::PermissionDeniedError(absl::StrCat("this endpoint has no ", right,
                                                             " right to region ", region_index)),
                    "ACCESS_DENIED");
}

absl::Status OutOfRegion(const GrantedRegion& region, uint64_t offset_bytes,
                         uint64_t length_bytes) {
  return WithReason(absl::OutOfRangeError(absl::StrCat(length_bytes, " bytes at offset ",
                                                       offset_bytes, " leave region ", region.index,
                                                       " of ", region.size_bytes)),
                    "OUT_OF_RANGE");
}

// A range that may be asked for.
absl::Status CheckRange(const GrantedRegion& region, const ByteRange& range) {
  if (range.length_bytes == 0) {
    return WithReason(absl::InvalidArgumentError("a range of no bytes"), "INVALID_ARGUMENT");
  }
  const uint64_t end_max = std::min(region.size_bytes, shm::kRangeEndMax);
  if (range.offset_bytes > end_max || range.length_bytes > end_max - range.offset_bytes) {
    return OutOfRegion(region, range.offset_bytes, range.length_bytes);
  }
  return absl::OkStatus();
}

// What is in the way of `range`, as far as it still is.
absl::Status RangeTaken(const shm::RangeLocks& locks, uint32_t region_index,
                        const ByteRange& range) {
  std::string message = absl::StrCat(range.length_bytes, " bytes at offset ", range.offset_bytes,
                                     " of region ", region_index, " are taken");
  const absl::StatusOr<std::vector<RangeHold>> holds = locks.List(range);
  if (holds.ok() && !holds->empty()) {
    const RangeHold& hold = holds->front();
    absl::StrAppend(&message, ": ", hold.range.length_bytes, " bytes at ", hold.range.offset_bytes,
                    hold.mode == RangeMode::kShared ? " are shared" : " are held exclusively");
    if (hold.claimed_pid != 0) {
      absl::StrAppend(&message, " by who says it is pid ", hold.claimed_pid);
    }
  }
  return WithReason(absl::PermissionDeniedError(message), kReasonRangeTaken);
}

// Nothing without WAIT.
absl::StatusOr<std::optional<shm::SignalLine>> MapSignal(const Grants& grants) {
  if (!grants.signal) return std::optional<shm::SignalLine>();
  absl::StatusOr<shm::SignalLine> line =
      shm::SignalLine::Map(*grants.signal, grants.signal_offset_bytes);
  if (absl::IsInvalidArgument(line.status())) {
    return WithReason(absl::DataLossError(line.status().message()), "PROTOCOL");
  }
  IOB_RETURN_IF_ERROR(line.status());
  return std::optional<shm::SignalLine>(std::move(*line));
}

absl::Status ChangeSignals(Connection& connection, bool peer, uint32_t clear, uint32_t set,
                           Deadline deadline) {
  v1::ClientPacket packet;
  v1::ChangeSignals& change = *packet.mutable_change_signals();
  change.set_peer(peer);
  change.set_clear(clear);
  change.set_set(set);
  return connection.Call(packet, deadline);
}

}  // namespace

class Endpoint::Impl {
 public:
  Impl(std::shared_ptr<Connection> connection, Grants grants)
      : info_(ToInfo(grants)),
        regions_(std::move(grants.regions)),
        readers_(regions_.size()),
        range_locks_(regions_.size()),
        queues_(grants.queues),
        connection_(std::move(connection)) {}
  ~Impl() { Close(); }

  const AttachedInfo& info() const { return info_; }
  const std::shared_ptr<Connection>& connection() const { return connection_; }
  bool queues() const { return queues_; }

  // The region, if it exists and the endpoint is not closed.
  absl::StatusOr<const GrantedRegion*> Find(uint32_t region_index) const;
  // And if it has that discipline.
  absl::StatusOr<const GrantedRegion*> Find(uint32_t region_index, Discipline discipline) const;

  absl::StatusOr<MappedRegion> Map(const GrantedRegion& region, const RegionWindow& window) const;
  // Any bytes, by way of the pages around them.
  absl::StatusOr<shm::AddressRange> MapAround(const GrantedRegion& region,
                                              const RegionWindow& window) const;

  // The ranges that are held in a region with memory, or of none yet.
  absl::StatusOr<std::shared_ptr<shm::RangeLocks>> Locks(const GrantedRegion& region) const;
  void KeepLocks(uint32_t region_index, const std::shared_ptr<shm::RangeLocks>& locks) {
    range_locks_[region_index] = locks;
  }

  // What an open reader holds, so that there is one per ring.
  absl::StatusOr<std::shared_ptr<void>> ClaimReader(uint32_t region_index) {
    return Claim(region_index, "reader");
  }
  // And of a direct ring's writer: an attachment has one seat. No endpoint has both.
  absl::StatusOr<std::shared_ptr<void>> ClaimWriter(uint32_t region_index) {
    return Claim(region_index, "writer");
  }

  // A direct ring's region, if this endpoint has that role in it.
  enum class Role { kProducer, kConsumer };
  absl::StatusOr<const GrantedRegion*> FindDirect(uint32_t region_index, Discipline discipline,
                                                  Role role) const;

  void Close() {
    connection_->Close();
    // The descriptors count as held by this endpoint.
    regions_.clear();
  }

 private:
  absl::StatusOr<std::shared_ptr<void>> Claim(uint32_t region_index, const char* what);

  AttachedInfo info_;
  std::vector<GrantedRegion> regions_;
  std::vector<std::weak_ptr<void>> readers_;
  // As long as a range is held: one table for all ranges, because they share a description.
  std::vector<std::weak_ptr<shm::RangeLocks>> range_locks_;
  bool queues_;  // The broker makes submission queues.
  std::shared_ptr<Connection> connection_;
};

absl::StatusOr<const GrantedRegion*> Endpoint::Impl::Find(uint32_t region_index) const {
  if (connection_->fd() < 0) return connection_->status();
  if (region_index >= regions_.size()) {
    return WithReason(
        absl::OutOfRangeError(absl::StrCat("region ", region_index, "; the buffer has ",
                                           regions_.size(), ", counted from 0")),
        "OUT_OF_RANGE");
  }
  return &regions_[region_index];
}

absl::StatusOr<const GrantedRegion*> Endpoint::Impl::Find(uint32_t region_index,
                                                          Discipline discipline) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, Find(region_index));
  if (region->discipline != discipline) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "region ", region_index, " has discipline ", ToString(region->discipline),
                          ", this needs ", ToString(discipline))),
                      "WRONG_DISCIPLINE");
  }
  return region;
}

absl::StatusOr<MappedRegion> Endpoint::Impl::Map(const GrantedRegion& region,
                                                 const RegionWindow& window) const {
  IOB_ASSIGN_OR_RETURN(shm::AddressRange range, MapWindow(region, info_.rights, window));
  return MappedRegion(std::move(range), window.offset_bytes, Has(window.prot, Prot::kWrite));
}

absl::StatusOr<shm::AddressRange> Endpoint::Impl::MapAround(const GrantedRegion& region,
                                                            const RegionWindow& window) const {
  const uint64_t before_bytes = window.offset_bytes % shm::PageBytes();
  RegionWindow around = window;
  around.offset_bytes -= before_bytes;
  // Nothing stays nothing, and what is too much stays too much.
  if (window.length_bytes != 0) {
    around.length_bytes += std::min(before_bytes, UINT64_MAX - window.length_bytes);
  }
  absl::StatusOr<shm::AddressRange> range = MapWindow(region, info_.rights, around);
  if (absl::IsOutOfRange(range.status())) {
    return OutOfRegion(region, window.offset_bytes, window.length_bytes);
  }
  return range;
}

absl::StatusOr<std::shared_ptr<shm::RangeLocks>> Endpoint::Impl::Locks(
    const GrantedRegion& region) const {
  std::shared_ptr<shm::RangeLocks> locks = range_locks_[region.index].lock();
  if (locks != nullptr) return locks;
  // It outlives the endpoint's own descriptor when a range does.
  shm::UniqueFd fd(::fcntl(region.data->memfd.fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return shm::ErrnoStatus(errno, "dup of a section");
  return std::make_shared<shm::RangeLocks>(std::move(fd));
}

absl::StatusOr<const GrantedRegion*> Endpoint::Impl::FindDirect(uint32_t region_index,
                                                                Discipline discipline,
                                                                Role role) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, Find(region_index, discipline));
  if (!region->direct->mapped()) return AccessDenied(region_index, "map-read");
  const bool produces = region->direct->seat.has_value();
  if (role == Role::kProducer && !produces) return AccessDenied(region_index, "map-write");
  // Also when its handle took the right to produce away: consuming is the other endpoint's part.
  if (role == Role::kConsumer && region->access.For(EndpointId::kEp0).map_write()) {
    return WithReason(
        absl::PermissionDeniedError(absl::StrCat("this endpoint produces in region ", region_index,
                                                 ", the other one consumes")),
        "ACCESS_DENIED");
  }
  return region;
}

absl::StatusOr<std::shared_ptr<void>> Endpoint::Impl::Claim(uint32_t region_index,
                                                            const char* what) {
  if (!readers_[region_index].expired()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat("region ", region_index, " has a ",
                                                                 what, " open; there can be one")),
                      "IN_USE");
  }
  std::shared_ptr<void> claim = std::make_shared<char>();
  readers_[region_index] = claim;
  return claim;
}

absl::StatusOr<Endpoint> Endpoint::Attach(const Ticket& ticket, const AttachOptions& options) {
  IOB_ASSIGN_OR_RETURN(Handshake handshake, RedeemTicket(ticket, After(options.timeout)));
  Grants& grants = handshake.grants;
  IOB_ASSIGN_OR_RETURN(std::optional<shm::SignalLine> signal, MapSignal(grants));
  IOB_RETURN_IF_ERROR(ConfirmMapped(&handshake.channel));
  auto connection = std::make_shared<Connection>(std::move(handshake.channel), std::move(signal));
  return Endpoint(std::make_unique<Impl>(std::move(connection), std::move(grants)));
}

Endpoint::Endpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Endpoint::Endpoint(Endpoint&& other) noexcept = default;
Endpoint& Endpoint::operator=(Endpoint&& other) noexcept = default;
Endpoint::~Endpoint() = default;

const AttachedInfo& Endpoint::info() const { return impl_->info(); }

absl::StatusOr<MappedRegion> Endpoint::Map(uint32_t region_index) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index, Discipline::kNone));
  return impl_->Map(*region, {.offset_bytes = 0,
                              .length_bytes = region->size_bytes,
                              .prot = WidestProt(*region, info().rights)});
}

absl::StatusOr<MappedRegion> Endpoint::Map(uint32_t region_index, uint64_t offset_bytes,
                                           uint64_t length_bytes, Prot prot) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index));
  return impl_->Map(*region,
                    {.offset_bytes = offset_bytes, .length_bytes = length_bytes, .prot = prot});
}

absl::StatusOr<Window> Endpoint::OpenWindow(uint32_t region_index) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index, Discipline::kNone));
  return OpenWindow(region_index, 0, region->size_bytes, WidestProt(*region, info().rights));
}

absl::StatusOr<Window> Endpoint::OpenWindow(uint32_t region_index, uint64_t offset_bytes,
                                            uint64_t length_bytes, Prot prot) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index));
  IOB_ASSIGN_OR_RETURN(
      shm::AddressRange range,
      impl_->MapAround(*region,
                       {.offset_bytes = offset_bytes, .length_bytes = length_bytes, .prot = prot}));
  const uint64_t before_bytes = offset_bytes % shm::PageBytes();
  const Window around(std::move(range), offset_bytes - before_bytes, Has(prot, Prot::kWrite));
  return around.Slice(before_bytes, length_bytes);
}

absl::StatusOr<AcquiredRange> Endpoint::Acquire(uint32_t region_index, uint64_t offset_bytes,
                                                uint64_t length_bytes, RangeMode mode) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index, Discipline::kNone));
  const ByteRange range{.offset_bytes = offset_bytes, .length_bytes = length_bytes};
  const bool exclusive = mode == RangeMode::kExclusive;
  const Prot prot = exclusive ? Prot::kRead | Prot::kWrite : Prot::kRead;
  // A region of no bytes is readable without memory; no range of it passes the check.
  IOB_RETURN_IF_ERROR(CheckProt(*region, info().rights, prot));
  IOB_RETURN_IF_ERROR(CheckRange(*region, range));
  // Before the lock, so that a failure to map takes nothing.
  IOB_ASSIGN_OR_RETURN(Window window, OpenWindow(region_index, offset_bytes, length_bytes, prot));
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<shm::RangeLocks> locks, impl_->Locks(*region));
  IOB_ASSIGN_OR_RETURN(const bool locked, locks->TryLock(range, mode));
  if (!locked) return RangeTaken(*locks, region_index, range);
  impl_->KeepLocks(region_index, locks);
  return AcquiredRange(std::move(locks), range, mode, std::move(window));
}

absl::StatusOr<std::vector<RangeHold>> Endpoint::RangeHolds(uint32_t region_index) const {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region, impl_->Find(region_index, Discipline::kNone));
  IOB_RETURN_IF_ERROR(CheckProt(*region, info().rights, Prot::kRead));
  if (!region->data) return std::vector<RangeHold>();
  IOB_ASSIGN_OR_RETURN(const std::shared_ptr<shm::RangeLocks> locks, impl_->Locks(*region));
  return locks->List({.offset_bytes = 0, .length_bytes = region->size_bytes});
}

absl::StatusOr<RingReader> Endpoint::OpenReader(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->Find(region_index, Discipline::kMediatedRing));
  if (!region->data) return AccessDenied(region_index, "map-read");
  if (!region->head->writable) return AccessDenied(region_index, "map-write");
  if (region->mediated_ring.policy == RingPolicy::kOverwriteOldest) {
    return WrongRing(region_index,
                     "it overwrites its oldest records, which cannot be read in place; open a "
                     "follower that consumes");
  }
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<void> claim, impl_->ClaimReader(region_index));
  IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout,
                       shm::RingLayout::ForRegion(region->size_bytes));
  absl::StatusOr<shm::MediatedRingReader> ring = shm::MediatedRingReader::Map(
      layout, region->head->memfd, region->data->memfd, ToRingOptions(region->mediated_ring));
  if (absl::IsDataLoss(ring.status())) return WithReason(ring.status(), "INTEGRITY");
  IOB_RETURN_IF_ERROR(ring.status());
  return RingReader(std::move(*ring), region_index, impl_->connection(), std::move(claim));
}

absl::StatusOr<RingFollower> Endpoint::OpenFollower(uint32_t region_index,
                                                    const RingFollowerOptions& options) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->Find(region_index, Discipline::kMediatedRing));
  if (!region->data) return AccessDenied(region_index, "map-read");
  const shm::RingOptions ring_options = ToRingOptions(region->mediated_ring);
  std::shared_ptr<void> claim;
  if (options.consume) {
    if (!region->head->writable) return AccessDenied(region_index, "map-write");
    if (!ring_options.overwrites()) {
      return WrongRing(region_index, "it keeps its records until they are read; open a reader");
    }
    IOB_ASSIGN_OR_RETURN(claim, impl_->ClaimReader(region_index));
  } else if (!region->follow) {
    return WrongRing(region_index, "it was not made for followers");
  }
  IOB_ASSIGN_OR_RETURN(const shm::RingLayout layout,
                       shm::RingLayout::ForRegion(region->size_bytes));
  absl::StatusOr<shm::MediatedRingFollower> ring =
      options.consume ? shm::MediatedRingFollower::Consume(layout, ring_options,
                                                           region->head->memfd, region->data->memfd)
                      : shm::MediatedRingFollower::Follow(layout, ring_options, region->data->memfd,
                                                          region->follow->memfd);
  if (absl::IsDataLoss(ring.status())) return WithReason(ring.status(), "INTEGRITY");
  IOB_RETURN_IF_ERROR(ring.status());
  return RingFollower(std::move(*ring), region_index, impl_->connection(), std::move(claim));
}

absl::StatusOr<RingWriter> Endpoint::OpenWriter(uint32_t region_index,
                                                const RingWriterOptions& options) {
  // As in zx_iob_writev: the handle's right before anything about the region.
  if (impl_->connection()->fd() >= 0 && !info().rights.write()) {
    return WithReason(absl::PermissionDeniedError("the handle has no right WRITE"),
                      "ACCESS_DENIED");
  }
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->Find(region_index, Discipline::kMediatedRing));
  if (!EffectiveRights(region->access.For(EndpointId::kEp0), info().rights).mediated_write()) {
    return AccessDenied(region_index, "mediated-write");
  }
  return RingWriter::Open(*region, impl_->queues(), options, impl_->connection());
}

absl::StatusOr<IdAllocator> Endpoint::OpenIdAllocator(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->Find(region_index, Discipline::kIdAllocator));
  return IdAllocator::Open(*region, info().rights, impl_->connection());
}

absl::StatusOr<ReserveRingWriter> Endpoint::OpenReserveWriter(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(
      const GrantedRegion* region,
      impl_->FindDirect(region_index, Discipline::kReserveRing, Impl::Role::kProducer));
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<void> claim, impl_->ClaimWriter(region_index));
  return ReserveRingWriter::Open(*region, impl_->connection(), std::move(claim));
}

absl::StatusOr<ReserveRingReader> Endpoint::OpenReserveReader(uint32_t region_index,
                                                              const ReserveReaderOptions& options) {
  IOB_ASSIGN_OR_RETURN(
      const GrantedRegion* region,
      impl_->FindDirect(region_index, Discipline::kReserveRing, Impl::Role::kConsumer));
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<void> claim, impl_->ClaimReader(region_index));
  return ReserveRingReader::Open(*region, options, impl_->connection(), std::move(claim));
}

absl::StatusOr<BroadcastWriter> Endpoint::OpenBroadcastWriter(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(
      const GrantedRegion* region,
      impl_->FindDirect(region_index, Discipline::kBroadcast, Impl::Role::kProducer));
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<void> claim, impl_->ClaimWriter(region_index));
  return BroadcastWriter::Open(*region, impl_->connection(), std::move(claim));
}

absl::StatusOr<BroadcastFollower> Endpoint::OpenBroadcastFollower(uint32_t region_index,
                                                                  FollowFrom from) {
  IOB_ASSIGN_OR_RETURN(
      const GrantedRegion* region,
      impl_->FindDirect(region_index, Discipline::kBroadcast, Impl::Role::kConsumer));
  return BroadcastFollower::Open(*region, from, impl_->connection());
}

absl::StatusOr<SlotWriter> Endpoint::OpenSlotWriter(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->FindDirect(region_index, Discipline::kSlot, Impl::Role::kProducer));
  IOB_ASSIGN_OR_RETURN(std::shared_ptr<void> claim, impl_->ClaimWriter(region_index));
  return SlotWriter::Open(*region, impl_->connection(), std::move(claim));
}

absl::StatusOr<SlotReader> Endpoint::OpenSlotReader(uint32_t region_index) {
  IOB_ASSIGN_OR_RETURN(const GrantedRegion* region,
                       impl_->FindDirect(region_index, Discipline::kSlot, Impl::Role::kConsumer));
  return SlotReader::Open(*region, impl_->connection());
}

absl::Status Endpoint::SetName(const std::string& name, Deadline deadline) {
  v1::ClientPacket packet;
  IOB_ASSIGN_OR_RETURN(*packet.mutable_change_name()->mutable_name(), NameToWire(name));
  return impl_->connection()->Call(packet, deadline);
}

absl::Status Endpoint::Signal(uint32_t clear, uint32_t set, Deadline deadline) {
  return ChangeSignals(*impl_->connection(), /*peer=*/false, clear, set, deadline);
}

absl::Status Endpoint::SignalPeer(uint32_t clear, uint32_t set, Deadline deadline) {
  return ChangeSignals(*impl_->connection(), /*peer=*/true, clear, set, deadline);
}

uint32_t Endpoint::signals() const { return impl_->connection()->signals(); }

absl::StatusOr<ObservedSignals> Endpoint::WaitSignals(uint32_t signals, Deadline deadline) const {
  SignalWait wait{.connection = impl_->connection().get(), .signals = signals, .observed = 0};
  size_t failed = 0;
  IOB_ASSIGN_OR_RETURN(const size_t satisfied, AwaitSignals({&wait, 1}, deadline, &failed));
  return ObservedSignals{.signals = wait.observed, .timed_out = satisfied == 0};
}

absl::StatusOr<size_t> Endpoint::WaitMany(std::span<WaitItem> items, Deadline deadline) {
  if (items.size() > kWaitItemsMax) {
    return WithReason(absl::OutOfRangeError(absl::StrCat(items.size(), " items; at most ",
                                                         kWaitItemsMax, " can be waited for")),
                      "OUT_OF_RANGE");
  }
  std::array<SignalWait, kWaitItemsMax> waits;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].endpoint == nullptr) {
      return WithReason(absl::InvalidArgumentError(absl::StrCat("item ", i, " has no endpoint")),
                        "INVALID_ARGUMENT");
    }
    waits[i] = {.connection = items[i].endpoint->impl_->connection().get(),
                .signals = items[i].signals,
                .observed = 0};
  }
  if (items.empty()) {
    return WithReason(absl::InvalidArgumentError("nothing to wait for"), "INVALID_ARGUMENT");
  }
  size_t failed = 0;
  const absl::StatusOr<size_t> satisfied =
      AwaitSignals(std::span(waits).first(items.size()), deadline, &failed);
  for (size_t i = 0; i < items.size(); ++i) items[i].observed = waits[i].observed;
  if (satisfied.ok()) return satisfied;
  return WithReason(absl::Status(satisfied.status().code(),
                                 absl::StrCat("item ", failed, ": ", satisfied.status().message())),
                    ReasonText(satisfied.status()));
}

absl::StatusOr<std::optional<Event>> Endpoint::PollEvents() {
  Connection& connection = *impl_->connection();
  if (!connection.has_event()) connection.Pump();
  std::optional<Event> event = connection.TakeEvent();
  if (!event) IOB_RETURN_IF_ERROR(connection.status());
  return event;
}

absl::StatusOr<std::optional<Event>> Endpoint::WaitEvent(Deadline deadline) {
  while (true) {
    IOB_ASSIGN_OR_RETURN(std::optional<Event> event, PollEvents());
    if (event) return event;
    const absl::Status pumped = impl_->connection()->PumpBy(deadline);
    // What ended the connection is told after the events that came before.
    if (pumped.ok() || !impl_->connection()->status().ok()) continue;
    if (absl::IsDeadlineExceeded(pumped)) return std::optional<Event>();
    return pumped;
  }
}

bool Endpoint::peer_closed() const { return impl_->connection()->peer_closed(); }

CloseReason Endpoint::close_reason() const { return impl_->connection()->close_reason(); }

int Endpoint::fd() const { return impl_->connection()->fd(); }

void Endpoint::Close() { impl_->Close(); }

}  // namespace iob
