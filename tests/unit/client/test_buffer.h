// A buffer of whatever regions a test needs, handed out as an honest broker does: sections and
// their modes follow from the access bits and the rights of the handle.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "client/endpoint.h"
#include "client/types.h"
#include "iob/v1/attach.pb.h"
#include "shm/access.h"
#include "shm/mapping.h"
#include "shm/memfd.h"
#include "shm/signal_page.h"
#include "tests/support/shm_id_region.h"
#include "tests/support/shm_ring.h"
#include "tests/unit/client/fake_broker.h"

namespace iob::test {

inline constexpr uint32_t kOwnerNumber = 17;

// What a ticket is answered with.
struct Given {
  v1::GrantSet grants;
  std::vector<shm::UniqueFd> fds;
};

// The default rights without some.
inline HandleRights RightsWithout(uint32_t rights) {
  return HandleRights(HandleRights::kEndpointDefault & ~rights);
}

class TestBuffer {
 public:
  // All of them return the region's index; `access_bits` are as the endpoint sees them.
  uint32_t AddRaw(uint64_t size_bytes, uint32_t access_bits) {
    return Add(v1::DISCIPLINE_NONE, size_bytes, access_bits, MakeMemfd(size_bytes));
  }
  uint32_t AddRing(uint64_t capacity_bytes, uint32_t access_bits) {
    return Add(v1::DISCIPLINE_MEDIATED_RING, capacity_bytes + shm::PageBytes(), access_bits,
               std::make_unique<CountingWriter>(capacity_bytes));
  }
  uint32_t AddIds(uint64_t pages, uint32_t access_bits) {
    const shm::IdAllocatorLayout layout = shm::Pages(pages);
    std::unique_ptr<shm::Region> ids;
    if (AccessBits(access_bits).any_map_write()) {
      ids = std::make_unique<shm::SharedRegion>(layout);
    } else {
      ids = std::make_unique<shm::SealedRegion>(layout);
    }
    return Add(v1::DISCIPLINE_ID_ALLOCATOR, layout.region_bytes(), access_bits, std::move(ids));
  }

  const shm::SealedMemfd& raw(uint32_t index) const {
    return std::get<shm::SealedMemfd>(regions_[index].memory);
  }
  CountingWriter& ring(uint32_t index) {
    return *std::get<std::unique_ptr<CountingWriter>>(regions_[index].memory);
  }
  shm::Region& ids(uint32_t index) {
    return *std::get<std::unique_ptr<shm::Region>>(regions_[index].memory);
  }
  shm::SharedRegion& shared_ids(uint32_t index) {
    return dynamic_cast<shm::SharedRegion&>(ids(index));
  }
  shm::SignalPageWriter& signal() { return signal_; }

  Given Give(HandleRights rights = HandleRights()) const {
    Given given;
    v1::GrantSet& grants = given.grants;
    grants.set_buffer_koid(7);
    grants.set_endpoint(v1::ENDPOINT_ID_EP0);
    grants.set_handle_rights(rights.bits());
    for (const Made& region : regions_) {
      v1::RegionGrant& grant = *grants.add_regions();
      grant.set_index(static_cast<uint32_t>(grants.regions_size() - 1));
      grant.set_type(v1::REGION_TYPE_PRIVATE);
      grant.set_discipline(region.discipline);
      grant.set_size_bytes(region.size_bytes);
      grant.set_access_bits(region.access.bits());
      grant.set_enforcement(v1::ENFORCEMENT_SEALED);
      GiveSections(region, EffectiveRights(region.access.For(EndpointId::kEp0), rights), &given,
                   &grant);
    }
    if (rights.Has(HandleRights::kWait)) {
      GiveSection(v1::SECTION_KIND_SIGNAL, signal_.memfd(), false, &given, grants.mutable_signal());
    }
    return given;
  }

 private:
  using Memory =
      std::variant<shm::SealedMemfd, std::unique_ptr<CountingWriter>, std::unique_ptr<shm::Region>>;
  struct Made {
    v1::Discipline discipline;
    uint64_t size_bytes;
    AccessBits access;
    Memory memory;
  };

  uint32_t Add(v1::Discipline discipline, uint64_t size_bytes, uint32_t access_bits,
               Memory memory) {
    regions_.push_back({discipline, size_bytes, AccessBits(access_bits), std::move(memory)});
    return static_cast<uint32_t>(regions_.size() - 1);
  }

  static void GiveSection(v1::SectionKind kind, const shm::SealedMemfd& memfd, bool writable,
                          Given* given, v1::SectionGrant* section) {
    section->set_kind(kind);
    section->set_size_bytes(memfd.size_bytes());
    section->set_writable(writable);
    section->set_fd_index(static_cast<uint32_t>(given->fds.size()));
    given->fds.push_back(
        memfd.OpenGrant(writable ? shm::FdMode::kReadWrite : shm::FdMode::kReadOnly).value());
  }

  static void GiveSections(const Made& region, shm::RegionRights rights, Given* given,
                           v1::RegionGrant* grant) {
    if (!rights.may_map()) return;
    const bool writable = rights.map_write();
    if (const auto* ring = std::get_if<std::unique_ptr<CountingWriter>>(&region.memory)) {
      GiveSection(v1::SECTION_KIND_HEAD, (*ring)->ring().head_memfd(), writable, given,
                  grant->add_sections());
      GiveSection(v1::SECTION_KIND_DATA, (*ring)->ring().data_memfd(), false, given,
                  grant->add_sections());
      return;
    }
    const auto* ids = std::get_if<std::unique_ptr<shm::Region>>(&region.memory);
    const shm::SealedMemfd& data =
        ids != nullptr ? (*ids)->memfd() : std::get<shm::SealedMemfd>(region.memory);
    if (data.size_bytes() != 0) {
      GiveSection(v1::SECTION_KIND_DATA, data, writable, given, grant->add_sections());
    }
    if (ids != nullptr && writable) grant->set_id_owner(kOwnerNumber);
  }

  std::vector<Made> regions_;
  shm::SignalPageWriter signal_ = shm::SignalPageWriter::Create(1).value();
};

// Attaches to a broker that answers like this; its side of the connection is broker.peer().
inline absl::StatusOr<Endpoint> AttachTo(FakeBroker* broker, Given given) {
  broker->Answer(GrantsPacket(given.grants), std::move(given.fds));
  absl::StatusOr<Endpoint> endpoint = Endpoint::Attach(broker->ticket());
  broker->Join();
  if (endpoint.ok()) {
    const auto mapped = ReceivePacket(broker->peer());
    EXPECT_TRUE(mapped && mapped->has_mapped());
  }
  return endpoint;
}

}  // namespace iob::test
