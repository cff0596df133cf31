#include "server/crash_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/convert.h"
#include "server/errors.h"

namespace iob::server {

bool IsCrash(const shm::CloseReason& reason) {
  return reason.kind == shm::CloseKind::kKilled || reason.kind == shm::CloseKind::kDied ||
         (reason.kind == shm::CloseKind::kExited && reason.code != 0);
}

void CrashStore::OnDetached(Koid koid, shm::EndpointId endpoint, const shm::CloseReason& reason) {
  const Buffer* const buffer = dependencies_.registry.Find(koid);
  if (buffer == nullptr || !buffer->snapshot_on_crash() || !IsCrash(reason)) return;
  std::vector<Note>& notes = notes_[{koid, endpoint}];
  notes.clear();
  for (uint32_t i = 0; i < buffer->regions().size(); ++i) {
    const Region& region = buffer->regions()[i];
    if (!region.Produces(endpoint)) continue;
    const std::optional<StalledSeat> busy = region.direct()->FirstBusy();
    if (!busy) continue;
    Note note{.region_index = i, .unfinished = {}};
    note.unfinished.set_seat(busy->seat);
    note.unfinished.set_position(busy->position);
    notes.push_back(std::move(note));
  }
}

void CrashStore::OnBufferGone(Koid buffer) {
  notes_.erase({buffer, shm::EndpointId::kEp0});
  notes_.erase({buffer, shm::EndpointId::kEp1});
}

void CrashStore::OnClosing(Buffer& buffer, shm::EndpointId endpoint,
                           const shm::CloseReason& reason) {
  if (!buffer.snapshot_on_crash() || !IsCrash(reason)) return;
  const uint32_t uid = buffer.owner().uid;
  MakePlace(uid);
  if (dependencies_.limits.crash_states_per_uid_max == 0) return;
  const uint64_t id = next_id_++;
  Entry& entry = entries_[id];
  entry.told.set_id(id);
  entry.told.set_buffer_koid(buffer.koid());
  entry.told.set_buffer_name(buffer.name());
  entry.told.set_owner_uid(uid);
  entry.told.set_endpoint(ToProto(endpoint));
  *entry.told.mutable_reason() = ToProto(reason);
  SetTime(dependencies_.clock.WallTime(), *entry.told.mutable_time());
  entry.info = Snapshots::DescribeAll(buffer);
  for (v1::SnapshotRegion& region : *entry.info.mutable_regions()) {
    if (auto stats = RingStatsOf(buffer, region.index())) *region.mutable_stats() = *stats;
  }
  if (const auto notes = notes_.find({buffer.koid(), endpoint}); notes != notes_.end()) {
    for (const Note& note : notes->second) {
      *entry.info.mutable_regions(static_cast<int>(note.region_index))->mutable_unfinished() =
          note.unfinished;
    }
  }
  const uint64_t size_bytes = Snapshots::BytesOf(buffer, entry.info);
  if (size_bytes > dependencies_.limits.crash_bytes_per_uid_max) {
    entry.told.set_omission(v1::OMISSION_TOO_LARGE);
    return;
  }
  MakeRoom(uid, size_bytes);
  entry.told.set_size_bytes(size_bytes);
  dependencies_.snapshots.TakeLastState(
      buffer, entry.info,
      [this, id](absl::StatusOr<Snapshot> snapshot) { OnCopied(id, std::move(snapshot)); });
}

void CrashStore::OnCopied(uint64_t id, absl::StatusOr<Snapshot> snapshot) {
  const auto found = entries_.find(id);
  // It made room for others while it was copied.
  if (found == entries_.end() || found->second.told.omission() != v1::OMISSION_UNSPECIFIED) return;
  Entry& entry = found->second;
  if (!snapshot.ok()) {
    entry.told.set_size_bytes(0);
    entry.told.set_omission(ReasonOf(snapshot.status()) == v1::ERROR_REASON_QUOTA
                                ? v1::OMISSION_QUOTA
                                : v1::OMISSION_FAILED);
    return;
  }
  entry.info = snapshot->info;
  entry.snapshot = *std::move(snapshot);
}

void CrashStore::MakePlace(uint32_t uid) {
  const auto is_his = [uid](const auto& item) { return item.second.told.owner_uid() == uid; };
  const uint64_t count_max = dependencies_.limits.crash_states_per_uid_max;
  while (true) {
    const auto count = std::count_if(entries_.begin(), entries_.end(), is_his);
    if (count == 0 || std::cmp_less(count, count_max)) return;
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), is_his));
  }
}

void CrashStore::MakeRoom(uint32_t uid, uint64_t size_bytes) {
  uint64_t used_bytes = 0;
  for (const auto& [id, entry] : entries_) {
    if (entry.told.owner_uid() == uid) used_bytes += entry.told.size_bytes();
  }
  const uint64_t bytes_max = dependencies_.limits.crash_bytes_per_uid_max;
  for (auto& [id, entry] : entries_) {
    if (used_bytes <= bytes_max - size_bytes) return;
    if (entry.told.owner_uid() != uid || entry.told.size_bytes() == 0) continue;
    used_bytes -= entry.told.size_bytes();
    entry.told.set_size_bytes(0);
    entry.told.set_omission(v1::OMISSION_EVICTED);
    entry.snapshot.reset();
  }
}

bool CrashStore::MaySee(const Entry& entry, const Caller& caller) const {
  return caller.uid == entry.told.owner_uid() || caller.uid == 0 ||
         caller.uid == dependencies_.registry.broker_uid();
}

std::vector<const CrashStore::Entry*> CrashStore::List(const Caller& caller,
                                                       absl::string_view buffer_name,
                                                       size_t count_max) const {
  std::vector<const Entry*> list;
  for (auto it = entries_.rbegin(); it != entries_.rend() && list.size() < count_max; ++it) {
    const Entry& entry = it->second;
    if (!MaySee(entry, caller)) continue;
    if (!buffer_name.empty() && entry.told.buffer_name() != buffer_name) continue;
    list.push_back(&entry);
  }
  return list;
}

absl::StatusOr<const CrashStore::Entry*> CrashStore::Find(const Caller& caller, uint64_t id) const {
  const auto found = entries_.find(id);
  if (found != entries_.end() && MaySee(found->second, caller)) return &found->second;
  return MakeError(v1::ERROR_REASON_NOT_FOUND,
                   absl::StrCat("no autopsy ", id, ", or it is not yours to see"));
}

uint64_t CrashStore::bytes() const {
  uint64_t bytes = 0;
  for (const auto& [id, entry] : entries_) bytes += entry.told.size_bytes();
  return bytes;
}

}  // namespace iob::server
