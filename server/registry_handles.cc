// Registry, the part about handles: what they allow, how more are made of one, names and signals.
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/registry.h"
#include "shm/result.h"

namespace iob::server {
namespace {

using shm::CloseKind;
using shm::EndpointId;
using shm::HandleRights;

constexpr std::pair<uint32_t, const char*> kRightNames[] = {
    {HandleRights::kDuplicate, "DUPLICATE"},
    {HandleRights::kTransfer, "TRANSFER"},
    {HandleRights::kRead, "READ"},
    {HandleRights::kWrite, "WRITE"},
    {HandleRights::kMap, "MAP"},
    {HandleRights::kGetProperty, "GET_PROPERTY"},
    {HandleRights::kSetProperty, "SET_PROPERTY"},
    {HandleRights::kSignal, "SIGNAL"},
    {HandleRights::kSignalPeer, "SIGNAL_PEER"},
    {HandleRights::kWait, "WAIT"},
    {HandleRights::kInspect, "INSPECT"},
};

absl::Status CheckRights(HandleRights rights, uint32_t needed) {
  for (const auto& [bit, name] : kRightNames) {
    if ((needed & bit) == 0 || rights.Has(bit)) continue;
    return MakeError(v1::ERROR_REASON_ACCESS_DENIED,
                     absl::StrCat("the handle has no right ", name));
  }
  return absl::OkStatus();
}

absl::Status CheckSignalMask(uint32_t clear, uint32_t set) {
  for (const auto& [name, mask] : {std::pair("clear", clear), std::pair("set", set)}) {
    if ((mask & ~shm::kUserSignals) == 0) continue;
    return BadArgument(name, absl::StrCat("0x", absl::Hex(mask),
                                          "; only user signals, 0xff000000, can be changed"));
  }
  return absl::OkStatus();
}

absl::Status WrongObject(absl::string_view is, absl::string_view needed) {
  return MakeError(v1::ERROR_REASON_WRONG_OBJECT,
                   absl::StrCat("the handle leads to ", is, ", this needs ", needed));
}

}  // namespace

Token Registry::AddHandle(const Caller& caller, const ObjectRef& object, HandleRights rights,
                          uint32_t uid, Lease lease) {
  return handles_.Add({.object = object,
                       .rights = rights,
                       .uid = uid,
                       .process = lease.ms == 0 ? caller.process : 0,
                       .lease_ms = lease.ms,
                       .lease_expires_ns = lease.now_ns + int64_t{lease.ms} * 1'000'000});
}

absl::StatusOr<Handle> Registry::FindHandle(const Caller& caller, const Token& token) const {
  const Handle* const handle = handles_.Find(token);
  if (handle == nullptr || handle->uid != caller.uid) {
    return MakeError(v1::ERROR_REASON_BAD_HANDLE,
                     "no such handle or ticket (unknown, spent or expired)");
  }
  return *handle;
}

absl::StatusOr<HeldEndpoint> Registry::ResolveEndpoint(const Caller& caller, const Token& token,
                                                       uint32_t rights) const {
  IOB_ASSIGN_OR_RETURN(const Handle handle, FindHandle(caller, token));
  if (handle.object.buffer == nullptr) return WrongObject("a shared region", "an endpoint");
  IOB_RETURN_IF_ERROR(CheckRights(handle.rights, rights));
  return HeldEndpoint{
      .buffer = handle.object.buffer, .endpoint = handle.object.endpoint, .rights = handle.rights};
}

absl::StatusOr<SharedRegion*> Registry::ResolveSharedRegion(const Caller& caller,
                                                            const Token& token,
                                                            uint32_t rights) const {
  IOB_ASSIGN_OR_RETURN(const Handle handle, FindHandle(caller, token));
  if (handle.object.shared_region == nullptr) return WrongObject("an endpoint", "a shared region");
  IOB_RETURN_IF_ERROR(CheckRights(handle.rights, rights));
  return handle.object.shared_region;
}

absl::Status Registry::CloseHandle(const Caller& caller, const Token& token) {
  IOB_RETURN_IF_ERROR(FindHandle(caller, token).status());
  CloseOne(token, {.kind = CloseKind::kClosed});
  DeliverEvents();
  return absl::OkStatus();
}

// Fills in what the wish leaves to the source.
absl::Status Registry::CheckWish(const Caller& caller, const Handle& source,
                                 HandleWish& wish) const {
  if (wish.recipient_uid.value_or(caller.uid) != caller.uid)
    IOB_RETURN_IF_ERROR(CheckRights(source.rights, HandleRights::kTransfer));
  if (wish.rights == HandleRights::kSameRights) wish.rights = source.rights.bits();
  const uint32_t surplus = wish.rights & ~source.rights.bits();
  if (surplus == 0) return absl::OkStatus();
  return BadArgument("rights",
                     absl::StrCat("0x", absl::Hex(wish.rights), ", the source has 0x",
                                  absl::Hex(source.rights.bits()), "; rights can only shrink"));
}

absl::StatusOr<Token> Registry::DuplicateHandle(const Caller& caller, const Token& token,
                                                const HandleWish& asked) {
  IOB_ASSIGN_OR_RETURN(const Handle source, FindHandle(caller, token));
  IOB_RETURN_IF_ERROR(CheckRights(source.rights, HandleRights::kDuplicate));
  HandleWish wish = asked;
  IOB_RETURN_IF_ERROR(CheckWish(caller, source, wish));
  IOB_RETURN_IF_ERROR(CheckHandleRoom(1));
  const Token made = AddHandle(caller, source.object, HandleRights(wish.rights),
                               wish.recipient_uid.value_or(caller.uid), wish.lease);
  DeliverEvents();
  return made;
}

absl::StatusOr<Token> Registry::ReplaceHandle(const Caller& caller, const Token& token,
                                              const HandleWish& asked) {
  IOB_ASSIGN_OR_RETURN(const Handle source, FindHandle(caller, token));
  HandleWish wish = asked;
  const absl::Status allowed = CheckWish(caller, source, wish);
  std::optional<Token> made;
  // Before the source goes: its object must not be let go of in between.
  if (allowed.ok()) {
    made = AddHandle(caller, source.object, HandleRights(wish.rights),
                     wish.recipient_uid.value_or(caller.uid), wish.lease);
  }
  CloseOne(token, {.kind = CloseKind::kClosed});
  DeliverEvents();
  if (!made) return allowed;
  return *made;
}

absl::Status Registry::KeepAlive(const Caller& caller, const std::vector<Token>& handles,
                                 int64_t now_ns) {
  for (const Token& token : handles) IOB_RETURN_IF_ERROR(FindHandle(caller, token).status());
  for (const Token& token : handles) handles_.Renew(token, now_ns);
  return absl::OkStatus();
}

absl::Status Registry::SetName(const HeldEndpoint& held, std::string name) {
  IOB_RETURN_IF_ERROR(CheckRights(held.rights, HandleRights::kSetProperty));
  Buffer& buffer = *held.buffer;
  if (name.size() > kNameBytesMax) name.resize(kNameBytesMax);
  IOB_RETURN_IF_ERROR(CheckName(name, &buffer));
  if (name == buffer.name()) return absl::OkStatus();
  const std::string old_name = buffer.name();
  ReleaseName(buffer);
  buffer.set_name(name);
  if (!name.empty()) by_name_[name] = &buffer;
  Emit([label =
            BufferLabel{
                .koid = buffer.koid(), .name = std::move(name), .owner_uid = buffer.owner().uid},
        old_name](RegistryObserver& observer) { observer.OnBufferRenamed(label, old_name); });
  DeliverEvents();
  return absl::OkStatus();
}

absl::Status Registry::ChangeSignals(const HeldEndpoint& held, bool peer, uint32_t clear,
                                     uint32_t set) {
  IOB_RETURN_IF_ERROR(CheckSignalMask(clear, set));
  IOB_RETURN_IF_ERROR(
      CheckRights(held.rights, peer ? HandleRights::kSignalPeer : HandleRights::kSignal));
  Buffer& buffer = *held.buffer;
  const EndpointId target = peer ? shm::PeerOf(held.endpoint) : held.endpoint;
  if (peer && !buffer.endpoint(target).held()) {
    return MakeError(v1::ERROR_REASON_PEER_CLOSED, "nobody holds the other endpoint any more");
  }
  if (!buffer.signal().ChangeUserSignals(target, clear, set)) return absl::OkStatus();
  Emit([label =
            BufferLabel{
                .koid = buffer.koid(), .name = buffer.name(), .owner_uid = buffer.owner().uid},
        target, signals = buffer.signal().signals(target)](RegistryObserver& observer) {
    observer.OnSignals(label, target, signals);
  });
  DeliverEvents();
  return absl::OkStatus();
}

absl::Status Registry::ChangeOwnSignals(const Caller& caller, const Token& token, uint32_t clear,
                                        uint32_t set) {
  IOB_ASSIGN_OR_RETURN(const Handle handle, FindHandle(caller, token));
  if (handle.object.buffer != nullptr) {
    return ChangeSignals({.buffer = handle.object.buffer,
                          .endpoint = handle.object.endpoint,
                          .rights = handle.rights},
                         /*peer=*/false, clear, set);
  }
  IOB_RETURN_IF_ERROR(CheckSignalMask(clear, set));
  IOB_RETURN_IF_ERROR(CheckRights(handle.rights, HandleRights::kSignal));
  SharedRegion& region = *handle.object.shared_region;
  if (!region.ChangeUserSignals(clear, set)) return absl::OkStatus();
  Emit([koid = region.koid(), owner_uid = region.owner().uid, signals = region.signals()](
           RegistryObserver& observer) { observer.OnRegionSignals(koid, owner_uid, signals); });
  DeliverEvents();
  return absl::OkStatus();
}

absl::Status Registry::ChangePeerSignals(const Caller& caller, const Token& token, uint32_t clear,
                                         uint32_t set) {
  IOB_ASSIGN_OR_RETURN(const Handle handle, FindHandle(caller, token));
  if (handle.object.buffer == nullptr) {
    // The bits come first, as for endpoints.
    IOB_RETURN_IF_ERROR(CheckSignalMask(clear, set));
    return MakeError(v1::ERROR_REASON_ACCESS_DENIED,
                     "a shared region has no peer, and its handles no right SIGNAL_PEER");
  }
  return ChangeSignals(
      {.buffer = handle.object.buffer, .endpoint = handle.object.endpoint, .rights = handle.rights},
      /*peer=*/true, clear, set);
}

}  // namespace iob::server
