// Registry, the part about regions that endpoints write by themselves: who writes under which
// number, what they leave unfinished, and newer memory for a ring that one of them holds up.
#include <utility>

#include "server/errors.h"
#include "server/owner_ring.h"
#include "server/registry.h"
#include "shm/result.h"

namespace iob::server {

void Registry::SetOwners(AttachmentId id, std::vector<OwnerOf> owners) {
  attachments_.at(id).owners = std::move(owners);
}

bool Registry::ReapOwners(Koid koid) {
  Buffer* const buffer = Find(koid);
  bool done = true;
  if (buffer == nullptr) return done;
  for (uint32_t i = 0; i < buffer->regions().size(); ++i) {
    Region& region = buffer->regions()[i];
    done = region.ReapOwners() && done;
    TellOwedPacket(koid, i);
  }
  return done;
}

absl::Status Registry::RenewRing(Koid koid, uint32_t region_index) {
  Buffer& buffer = *Find(koid);
  Region& region = buffer.regions()[region_index];
  IOB_ASSIGN_OR_RETURN(Charge charge,
                       quota_.ChargeRegion(buffer.owner().uid, MemoryBytesFor(region.spec()),
                                           SectionsOf(region.spec())));
  IOB_RETURN_IF_ERROR(quota_.CheckRoom(charge.memory_bytes()));
  IOB_RETURN_IF_ERROR(region.direct()->owner_ring()->Renew(std::move(charge)));
  TellOwedPacket(koid, region_index);
  return absl::OkStatus();
}

bool Registry::ReapGenerations(Koid koid, uint32_t region_index) {
  Buffer* const buffer = Find(koid);
  if (buffer == nullptr) return true;
  Region& region = buffer->regions()[region_index];
  const shm::EndpointId producer =
      region.Produces(shm::EndpointId::kEp0) ? shm::EndpointId::kEp0 : shm::EndpointId::kEp1;
  const bool done = region.direct()->owner_ring()->ReapGenerations(
      region.GrantRangeOf(producer), region.GrantRangeOf(shm::PeerOf(producer)));
  TellOwedPacket(koid, region_index);
  return done;
}

void Registry::TellOwedPacket(Koid koid, uint32_t region_index) {
  DirectRing* const ring = Find(koid)->regions()[region_index].direct();
  if (ring == nullptr || !ring->TakeOwedPacket()) return;
  Emit([koid, region_index](RegistryObserver& observer) {
    observer.OnRecordsReadable(koid, region_index);
  });
  DeliverEvents();
}

}  // namespace iob::server
