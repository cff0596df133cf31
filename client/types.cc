#include "client/types.h"

#include <algorithm>
#include <span>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace iob {
namespace {

struct BitName {
  uint32_t bit = 0;
  const char* name = nullptr;
};

// The names of the bits that are set, in the order of `names`, and what has no name as a number.
std::string JoinNames(uint32_t bits, std::span<const BitName> names) {
  std::string text;
  const auto add = [&text](absl::string_view name) {
    absl::StrAppend(&text, text.empty() ? "" : ",", name);
  };
  for (const BitName& known : names) {
    if ((bits & known.bit) == 0) continue;
    add(known.name);
    bits &= ~known.bit;
  }
  if (bits != 0) add(absl::StrCat("0x", absl::Hex(bits)));
  return text.empty() ? "none" : text;
}

constexpr BitName kRightNames[] = {
    {HandleRights::kDuplicate, "duplicate"},
    {HandleRights::kTransfer, "transfer"},
    {HandleRights::kRead, "read"},
    {HandleRights::kWrite, "write"},
    {HandleRights::kMap, "map"},
    {HandleRights::kGetProperty, "get-property"},
    {HandleRights::kSetProperty, "set-property"},
    {HandleRights::kSignal, "signal"},
    {HandleRights::kSignalPeer, "signal-peer"},
    {HandleRights::kWait, "wait"},
    {HandleRights::kInspect, "inspect"},
    {HandleRights::kSameRights, "same-rights"},
};

constexpr BitName kProtNames[] = {
    {static_cast<uint32_t>(Prot::kRead), "read"},
    {static_cast<uint32_t>(Prot::kWrite), "write"},
    {static_cast<uint32_t>(Prot::kExecute), "execute"},
};

constexpr BitName kSignalNames[] = {
    {kSignalPeerClosed, "peer-closed"}, {UserSignal(0), "user-0"}, {UserSignal(1), "user-1"},
    {UserSignal(2), "user-2"},          {UserSignal(3), "user-3"}, {UserSignal(4), "user-4"},
    {UserSignal(5), "user-5"},          {UserSignal(6), "user-6"}, {UserSignal(7), "user-7"},
};

// A ring that ep1 fills and ep0 reads, both in memory.
RegionSpec DirectSpec(Discipline discipline, uint64_t size_bytes) {
  return {.type = RegionType::kPrivate,
          .discipline = discipline,
          .size_bytes = size_bytes,
          .access = AccessBits(RegionRights::kMapRead |
                               (RegionRights::kMapRead | RegionRights::kMapWrite) << 4)};
}

}  // namespace

Deadline After(std::chrono::nanoseconds timeout) {
  const Deadline now = std::chrono::steady_clock::now();
  if (timeout > Deadline::max() - now) return Deadline::max();
  return now + timeout;
}

std::string ToString(EndpointId endpoint) { return endpoint == EndpointId::kEp0 ? "ep0" : "ep1"; }

std::string ToString(RegionType type) {
  return type == RegionType::kPrivate ? "private" : "shared";
}

std::string ToString(Discipline discipline) {
  switch (discipline) {
    case Discipline::kNone:
      return "none";
    case Discipline::kIdAllocator:
      return "id-allocator";
    case Discipline::kMediatedRing:
      return "mediated-ring";
    case Discipline::kReserveRing:
      return "reserve-ring";
    case Discipline::kBroadcast:
      return "broadcast";
    case Discipline::kSlot:
      return "slot";
  }
  return "unknown";
}

std::string ToString(RingPolicy policy) {
  switch (policy) {
    case RingPolicy::kDropNew:
      return "drop-new";
    case RingPolicy::kOverwriteOldest:
      return "overwrite";
    case RingPolicy::kBlock:
      return "block";
  }
  return "unknown";
}

std::string ToString(ReserveMode mode) { return mode == ReserveMode::kLanes ? "lanes" : "shared"; }

std::string ToString(StallPolicy on_stall) {
  switch (on_stall) {
    case StallPolicy::kWait:
      return "wait";
    case StallPolicy::kKill:
      return "kill";
    case StallPolicy::kRenew:
      break;
  }
  return "renew";
}

std::string ToString(Enforcement enforcement) {
  switch (enforcement) {
    case Enforcement::kUnspecified:
      return "none";
    case Enforcement::kAdvisory:
      return "advisory";
    case Enforcement::kDac:
      return "dac";
    case Enforcement::kSealed:
      return "sealed";
    case Enforcement::kMediated:
      return "mediated";
  }
  return "unknown";
}

std::string ToString(LossCause cause) {
  switch (cause) {
    case LossCause::kFull:
      return "full";
    case LossCause::kBudget:
      return "budget";
    case LossCause::kPolicy:
      return "policy";
    case LossCause::kIntegrity:
      return "integrity";
    case LossCause::kClosed:
      return "closed";
    case LossCause::kDeadline:
      return "deadline";
    case LossCause::kTooLarge:
      return "too-large";
  }
  return "unknown";
}

std::string ToString(ObjectType type) {
  return type == ObjectType::kEndpoint ? "endpoint" : "shared-region";
}

std::string ToString(HandleRights rights) { return JoinNames(rights.bits(), kRightNames); }

std::string ToString(Prot prot) { return JoinNames(static_cast<uint32_t>(prot), kProtNames); }

std::string SignalsToString(uint32_t signals) { return JoinNames(signals, kSignalNames); }

std::string ToString(const CloseReason& reason) {
  switch (reason.kind) {
    case CloseKind::kOpen:
      return "open";
    case CloseKind::kClosed:
      return "closed";
    case CloseKind::kExited:
      return absl::StrCat("exited(", reason.code, ")");
    case CloseKind::kKilled:
      return absl::StrCat("killed(", reason.code, ")");
    case CloseKind::kRevoked:
      return "revoked";
    case CloseKind::kExpired:
      return "expired";
    case CloseKind::kDied:
      return "died";
  }
  return "unknown";
}

RegionSpec MediatedRingSpec(uint64_t size_bytes) {
  return {.type = RegionType::kPrivate,
          .discipline = Discipline::kMediatedRing,
          .size_bytes = size_bytes,
          .access = AccessBits(RegionRights::kMapRead | RegionRights::kMapWrite |
                               RegionRights::kMediatedWrite << 4)};
}

RegionSpec SharedRingSpec(const Handle& shared_region) {
  RegionSpec spec = MediatedRingSpec(0);
  spec.type = RegionType::kShared;
  spec.shared_region = shared_region;
  return spec;
}

RegionSpec ReserveRingSpec(uint64_t size_bytes, const ReserveRingOptions& options) {
  RegionSpec spec = DirectSpec(Discipline::kReserveRing, size_bytes);
  spec.reserve_ring = options;
  return spec;
}

RegionSpec BroadcastSpec(uint64_t size_bytes) {
  return DirectSpec(Discipline::kBroadcast, size_bytes);
}

RegionSpec SlotSpec(uint64_t value_bytes) {
  RegionSpec spec = DirectSpec(Discipline::kSlot, 0);
  spec.slot_value_bytes = value_bytes;
  return spec;
}

RegionSpec IdAllocatorSpec(uint64_t size_bytes) {
  return {.type = RegionType::kPrivate,
          .discipline = Discipline::kIdAllocator,
          .size_bytes = size_bytes,
          .access = AccessBits(RegionRights::kMapRead | RegionRights::kMediatedWrite << 4)};
}

std::ostream& operator<<(std::ostream& stream, const Handle&) {
  return stream << "handle:<redacted>";
}

absl::StatusOr<Ticket> Ticket::FromHex(const std::string& hex, EndpointId endpoint,
                                       std::string socket_path) {
  const bool digits =
      std::all_of(hex.begin(), hex.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
  // The text is not repeated in the message: most of it may be the secret.
  if (hex.size() != 2 * kSecretBytes || !digits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a ticket is ", 2 * kSecretBytes, " hexadecimal digits, not ", hex.size(), " characters"));
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  Secret secret;
  std::transform(bytes.begin(), bytes.end(), secret.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return Ticket(secret, endpoint, std::move(socket_path), std::chrono::milliseconds(0));
}

std::string Ticket::ToHex() const {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(secret_.data()), secret_.size()));
}

std::ostream& operator<<(std::ostream& stream, const Ticket&) {
  return stream << "ticket:<redacted>";
}

}  // namespace iob
