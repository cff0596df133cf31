// Who may do what with a region: Zircon's eight access bits, and the rights that follow from them.
//
//   bit   7      6      5      4      3      2      1      0
//        ep1    ep1    ep1    ep1    ep0    ep0    ep0    ep0
//        med-w  med-r  map-w  map-r  med-w  med-r  map-w  map-r
//
// An effective right is a region's bit AND a handle's right; nothing here ever widens. Values and
// meaning are those of ZX_IOB_ACCESS_*. Execute does not exist.
#pragma once

#include <cstdint>

namespace iob::shm {

enum class EndpointId : uint8_t { kEp0 = 0, kEp1 = 1 };

constexpr EndpointId PeerOf(EndpointId endpoint) {
  return endpoint == EndpointId::kEp0 ? EndpointId::kEp1 : EndpointId::kEp0;
}

// The four rights that one endpoint has to one region.
class RegionRights {
 public:
  static constexpr uint32_t kMapRead = 1;
  static constexpr uint32_t kMapWrite = 2;
  static constexpr uint32_t kMediatedRead = 4;
  static constexpr uint32_t kMediatedWrite = 8;
  static constexpr uint32_t kAll = 15;

  constexpr explicit RegionRights(uint32_t bits) : bits_(bits & kAll) {}

  constexpr bool map_read() const { return (bits_ & kMapRead) != 0; }
  constexpr bool map_write() const { return (bits_ & kMapWrite) != 0; }
  constexpr bool mediated_read() const { return (bits_ & kMediatedRead) != 0; }
  constexpr bool mediated_write() const { return (bits_ & kMediatedWrite) != 0; }
  constexpr bool may_map() const { return (bits_ & (kMapRead | kMapWrite)) != 0; }
  constexpr uint32_t bits() const { return bits_; }

  friend constexpr bool operator==(RegionRights, RegionRights) = default;

 private:
  uint32_t bits_;
};

// What a handle allows: Zircon's ZX_RIGHT_* bits. Rights only shrink from a handle to what is made
// of it. There is no right to execute.
class HandleRights {
 public:
  static constexpr uint32_t kDuplicate = 1u << 0;
  static constexpr uint32_t kTransfer = 1u << 1;
  static constexpr uint32_t kRead = 1u << 2;
  static constexpr uint32_t kWrite = 1u << 3;
  static constexpr uint32_t kMap = 1u << 5;
  static constexpr uint32_t kGetProperty = 1u << 6;
  static constexpr uint32_t kSetProperty = 1u << 7;
  static constexpr uint32_t kSignal = 1u << 12;
  static constexpr uint32_t kSignalPeer = 1u << 13;
  static constexpr uint32_t kWait = 1u << 14;
  static constexpr uint32_t kInspect = 1u << 15;
  // In a request only: whatever the source handle has.
  static constexpr uint32_t kSameRights = 1u << 31;

  // ZX_DEFAULT_IOB_RIGHTS.
  static constexpr uint32_t kEndpointDefault = kDuplicate | kTransfer | kRead | kWrite | kMap |
                                               kGetProperty | kSetProperty | kSignal | kSignalPeer |
                                               kWait | kInspect;
  // A region object cannot be read, written or mapped: only buffers that use it can.
  static constexpr uint32_t kSharedRegionDefault =
      kDuplicate | kTransfer | kGetProperty | kSetProperty | kSignal | kWait | kInspect;

  constexpr HandleRights() = default;
  constexpr explicit HandleRights(uint32_t bits) : bits_(bits) {}

  constexpr uint32_t bits() const { return bits_; }
  constexpr bool Has(uint32_t rights) const { return (bits_ & rights) == rights; }
  constexpr bool read() const { return Has(kRead); }
  constexpr bool write() const { return Has(kWrite); }
  constexpr bool map() const { return Has(kMap); }

  friend constexpr bool operator==(HandleRights, HandleRights) = default;

 private:
  uint32_t bits_ = kEndpointDefault;
};

// The access bits of a region, in ep0's view.
class AccessBits {
 public:
  static constexpr uint32_t kValid = 0xff;

  constexpr AccessBits() = default;
  constexpr explicit AccessBits(uint32_t bits) : bits_(bits) {}

  constexpr uint32_t bits() const { return bits_; }

  // Bits beyond the eight make a request malformed, unlike in Zircon, which ignores them.
  constexpr bool valid() const { return (bits_ & ~kValid) == 0; }

  constexpr RegionRights For(EndpointId endpoint) const {
    return RegionRights(endpoint == EndpointId::kEp0 ? bits_ : bits_ >> 4);
  }

  // The same bits with the viewer's own in the low four.
  constexpr AccessBits SeenFrom(EndpointId viewer) const {
    if (viewer == EndpointId::kEp0) return *this;
    return AccessBits(((bits_ & 0x0f) << 4) | ((bits_ & 0xf0) >> 4));
  }

  // Somebody can put bytes in: a map-write right or a mediated right of either endpoint.
  constexpr bool useful() const { return (bits_ & 0xee) != 0; }

  constexpr bool any_mediated() const { return (bits_ & 0xcc) != 0; }
  constexpr bool any_map_write() const { return (bits_ & 0x22) != 0; }

  friend constexpr bool operator==(AccessBits, AccessBits) = default;

 private:
  uint32_t bits_ = 0;
};

// Region bits AND handle rights. `map` gates both map rights (Zircon's newest rule).
constexpr RegionRights EffectiveRights(RegionRights region, HandleRights handle) {
  uint32_t mask = 0;
  if (handle.read()) mask |= RegionRights::kMediatedRead;
  if (handle.write()) mask |= RegionRights::kMediatedWrite;
  if (handle.map() && handle.read()) mask |= RegionRights::kMapRead;
  // Memory that may be written can be read: without READ there is no writing through a mapping.
  if (handle.map() && handle.read() && handle.write()) mask |= RegionRights::kMapWrite;
  return RegionRights(region.bits() & mask);
}

}  // namespace iob::shm
