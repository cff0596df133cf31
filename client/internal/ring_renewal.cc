#include "client/internal/ring_renewal.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/internal/attach_wire.h"
#include "iob/v1/attach.pb.h"
#include "shm/result.h"

namespace iob {
namespace {

constexpr std::chrono::milliseconds kAskAgain{500};

}  // namespace

RingRenewal::RingRenewal(uint32_t region_index, const DirectGrant& granted)
    : region_index_(region_index),
      size_bytes_(granted.size_bytes),
      options_(granted.reserve),
      seat_(granted.seat) {}

absl::StatusOr<std::optional<DirectGrant>> RingRenewal::Ask(Connection& connection,
                                                            uint32_t generation,
                                                            Deadline deadline) {
  v1::ClientPacket packet;
  packet.mutable_renew_ring()->set_region_index(region_index_);
  packet.mutable_renew_ring()->set_generation(generation);
  const RegionRights rights(RegionRights::kMapRead | (seat_ ? RegionRights::kMapWrite : 0));
  absl::StatusOr<DirectGrant> next =
      connection.CallForRing(packet, region_index_, rights, deadline);
  if (next.ok()) {
    IOB_RETURN_IF_ERROR(CheckSameRing(*next, generation));
    return std::optional<DirectGrant>(std::move(*next));
  }
  not_before_ = std::chrono::steady_clock::now() + kAskAgain;
  if (ReasonOf(next.status()) == "BUSY") return std::optional<DirectGrant>();
  return next.status();
}

absl::Status RingRenewal::CheckSameRing(const DirectGrant& next, uint32_t generation) const {
  if (next.shared && next.size_bytes == size_bytes_ && next.reserve.mode == options_.mode &&
      next.reserve.granule_bytes == options_.granule_bytes && next.seat == seat_ &&
      next.generation > generation) {
    return absl::OkStatus();
  }
  return ProtocolError(absl::StrCat("region ", region_index_, ": generation ", next.generation,
                                    " is of another ring than ", generation));
}

}  // namespace iob
