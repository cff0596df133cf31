#include "server/ring_keeper.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/logging.h"

namespace iob::server {
namespace {

constexpr int64_t kMaintenanceMs = 60'000;
constexpr int64_t kReapingMs = 1'000;

bool Same(const StalledSeat& one, const StalledSeat& other) {
  return one.seat == other.seat && one.position == other.position;
}

bool InUse(const Buffer& buffer) {
  return std::any_of(buffer.regions().begin(), buffer.regions().end(), [](const Region& region) {
    const DirectRing* const ring = region.direct();
    return ring != nullptr && ring->needs_maintenance() && ring->live_count() != 0;
  });
}

}  // namespace

DirectRing* RingKeeper::RingOf(const Key& key) {
  Buffer* const buffer = registry_.Find(key.first);
  if (buffer == nullptr || key.second >= buffer->regions().size()) return nullptr;
  return buffer->regions()[key.second].direct();
}

void RingKeeper::Report(Koid buffer, uint32_t region_index) {
  const Key key{buffer, region_index};
  const DirectRing* const ring = RingOf(key);
  const auto busy = ring == nullptr ? std::nullopt : ring->FirstBusy();
  if (!busy) return;
  Suspect& suspect = suspects_[key];
  if (suspect.timer.active() || (suspect.told && Same(suspect.seat, *busy))) return;
  const uint32_t stall_ms =
      registry_.Find(buffer)->regions()[region_index].spec().reserve->stall_ms();
  suspect.seat = *busy;
  suspect.told = false;
  suspect.timer = loop_.RunAfterMs(stall_ms, [this, key] { LookAgain(key); });
}

const Attachment* RingKeeper::HolderOf(const Key& key, uint32_t seat) const {
  for (const auto& [id, attachment] : registry_.attachments()) {
    if (attachment.buffer->koid() != key.first) continue;
    for (const OwnerOf& owner : attachment.owners) {
      if (owner.region_index == key.second && owner.owner == seat) return &attachment;
    }
  }
  return nullptr;
}

void RingKeeper::LookAgain(const Key& key) {
  Suspect& suspect = suspects_[key];
  suspect.timer.End();
  const DirectRing* const ring = RingOf(key);
  const auto busy = ring == nullptr ? std::nullopt : ring->FirstBusy();
  const Attachment* const attachment =
      busy && Same(*busy, suspect.seat) ? HolderOf(key, busy->seat) : nullptr;
  // Without a holder its end is being settled already.
  if (attachment == nullptr) {
    suspects_.erase(key);
    return;
  }
  suspect.told = true;
  stalls_ += 1;
  const Buffer& buffer = *attachment->buffer;
  Stall stall{
      .buffer = {.koid = buffer.koid(), .name = buffer.name(), .owner_uid = buffer.owner().uid},
      .endpoint = attachment->endpoint,
      .region_index = key.second,
      .holder = attachment->holder,
      .killed = false,
      .renewed = false};
  const v1::StallPolicy policy = buffer.regions()[key.second].spec().reserve->on_stall();
  if (policy == v1::STALL_POLICY_KILL && attachment->holder.uid == buffer.owner().uid)
    stall.killed = kill_(attachment->id);
  if (policy == v1::STALL_POLICY_RENEW) stall.renewed = Renew(key);
  tell_(stall);
}

bool RingKeeper::Renew(const Key& key) {
  const absl::Status renewed = registry_.RenewRing(key.first, key.second);
  if (!renewed.ok()) {
    LogWarn("ring_not_renewed", {{"buffer", absl::StrCat(key.first)},
                                 {"region", absl::StrCat(key.second)},
                                 {"why", std::string(renewed.message())}});
    return false;
  }
  renewals_ += 1;
  renewed_.insert(key);
  ArmReaping();
  return true;
}

void RingKeeper::ArmReaping() {
  if (reaping_.active()) return;
  reaping_ = loop_.RunAfterMs(kReapingMs, [this] {
    reaping_.End();
    ReapGenerations();
  });
}

void RingKeeper::ReapGenerations() {
  absl::erase_if(renewed_, [this](const Key& key) {
    return registry_.ReapGenerations(key.first, key.second);
  });
  if (!renewed_.empty()) ArmReaping();
}

void RingKeeper::OnAttached(Koid koid) {
  const Buffer* const buffer = registry_.Find(koid);
  if (buffer != nullptr && InUse(*buffer)) ArmMaintenance();
}

void RingKeeper::OnBufferGone(Koid koid) {
  for (auto it = suspects_.lower_bound({koid, 0});
       it != suspects_.end() && it->first.first == koid;)
    it = suspects_.erase(it);
}

void RingKeeper::ArmMaintenance() {
  if (maintenance_.active()) return;
  maintenance_ = loop_.RunAfterMs(kMaintenanceMs, [this] {
    maintenance_.End();
    Maintain();
  });
}

void RingKeeper::Maintain() {
  bool in_use = false;
  for (const auto& [koid, buffer] : registry_.buffers()) {
    if (!InUse(*buffer)) continue;
    in_use = true;
    for (Region& region : buffer->regions()) {
      if (region.direct() != nullptr) region.direct()->Maintain();
    }
  }
  if (in_use) ArmMaintenance();
}

}  // namespace iob::server
