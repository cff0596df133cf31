#include "server/snapshots.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/mutex_lock.h"
#include "shm/result.h"

namespace iob::server {

struct Snapshots::Job {
  JobId id = 0;
  uint32_t uid = 0;
  Koid buffer = 0;
  bool last_state = false;
  v1::SnapshotInfo info;
  Done done;
  std::vector<JobRegion> regions;
  std::optional<shm::FreshMemfd> target;  // The thread's, while it has something to do for us.
  Charge descriptor;
  std::deque<CopyRun> runs;        // Of this pass, not begun.
  std::vector<std::byte> scratch;  // The thread makes it, so that the loop finds its pages there.
  std::vector<CopyPatch> patches;  // Found in scratch and beside it by the cut.
  std::vector<CopyRun> cut_runs;
  std::vector<CopyHole> holes;
  int passes = 0;

  bool AnyStill() const {
    return std::any_of(regions.begin(), regions.end(),
                       [](const JobRegion& region) { return region.copy.still(); });
  }
};

namespace {

std::array<bool, 2> OpenEndpoints(const Buffer& buffer) {
  return {!buffer.endpoint(shm::EndpointId::kEp0).closed,
          !buffer.endpoint(shm::EndpointId::kEp1).closed};
}

v1::SnapshotRegion Describe(const Buffer& buffer, uint32_t index) {
  const Region& region = buffer.regions()[index];
  v1::SnapshotRegion told;
  told.set_index(index);
  told.set_discipline(region.spec().discipline);
  told.set_koid(region.koid());
  told.set_may_be_torn(MayBeTorn(region, OpenEndpoints(buffer)));
  if (region.spec().discipline == v1::DISCIPLINE_MEDIATED_RING)
    *told.mutable_mediated_ring() = region.spec().mediated;
  if (region.spec().reserve) *told.mutable_reserve_ring() = *region.spec().reserve;
  told.set_slot_value_bytes(region.spec().slot_value_bytes);
  if (!MayBeCopied(region)) told.set_omission(v1::OMISSION_SENSITIVE);
  return told;
}

absl::Status NotCopied(uint32_t index) {
  return MakeError(v1::ERROR_REASON_NOT_COPIED,
                   absl::StrCat("region ", index, " was made sensitive: it is never copied"));
}

absl::Status NotReadable(absl::string_view what) {
  return MakeError(v1::ERROR_REASON_ACCESS_DENIED,
                   absl::StrCat("the handle may not read ", what,
                                "; map-read or mediated-read is needed, and of a ring that "
                                "producers write themselves the consuming endpoint"));
}

absl::Status Torn(uint32_t index) {
  return MakeError(v1::ERROR_REASON_MAY_BE_TORN,
                   absl::StrCat("region ", index,
                                " can be written by an endpoint while it is copied, and "
                                "require_consistent was asked for"));
}

absl::Status Busy(absl::string_view why) { return MakeError(v1::ERROR_REASON_BUSY, why); }

// On the copying thread.
absl::Status CopyRuns(const std::vector<CopyRun>& runs, shm::FreshMemfd& target) {
  for (const CopyRun& run : runs) {
    IOB_RETURN_IF_ERROR(target.CopyFrom(run.target_offset_bytes, run.source_fd,
                                        run.source_offset_bytes,
                                        std::span(run.source, run.size_bytes)));
  }
  return absl::OkStatus();
}

// Splits what fits into one slice off the front.
std::vector<CopyRun> TakeSlice(std::deque<CopyRun>& runs) {
  std::vector<CopyRun> slice;
  for (uint64_t room = kSliceBytesMax; room != 0 && !runs.empty();) {
    CopyRun& front = runs.front();
    const uint64_t bytes = std::min(room, front.size_bytes);
    slice.push_back(front);
    slice.back().size_bytes = bytes;
    room -= bytes;
    front.source += bytes;
    front.source_offset_bytes += bytes;
    front.target_offset_bytes += bytes;
    front.size_bytes -= bytes;
    if (front.size_bytes == 0) runs.pop_front();
  }
  return slice;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Snapshots>> Snapshots::Create(Dependencies dependencies) {
  std::unique_ptr<Snapshots> snapshots(new Snapshots(dependencies));
  IOB_ASSIGN_OR_RETURN(snapshots->memory_, SnapshotMemory::Create(dependencies.loop));
  snapshots->thread_ = std::make_unique<CopyThread>();
  return snapshots;
}

Snapshots::Snapshots(Dependencies dependencies) : dependencies_(dependencies) {}
Snapshots::~Snapshots() = default;

// --- What to copy --------------------------------------------------------------------------------

absl::StatusOr<v1::SnapshotInfo> Snapshots::Choose(const Wish& wish) const {
  const Buffer& buffer = *wish.held.buffer;
  v1::SnapshotInfo info;
  info.set_buffer_koid(buffer.koid());
  if (wish.held.rights.Has(shm::HandleRights::kGetProperty)) info.set_buffer_name(buffer.name());
  const size_t count = buffer.regions().size();
  if (wish.region_index && *wish.region_index >= count) {
    return MakeError(
        v1::ERROR_REASON_OUT_OF_RANGE,
        absl::StrCat("region_index: ", *wish.region_index, ", the buffer has ", count));
  }
  bool any_readable = false;
  for (uint32_t i = 0; i < count; ++i) {
    if (wish.region_index && i != *wish.region_index) continue;
    v1::SnapshotRegion told = Describe(buffer, i);
    // Before anything else is told about it.
    if (!MayReadCopy(buffer.regions()[i], wish.held.endpoint, wish.held.rights)) {
      if (wish.region_index) return NotReadable(absl::StrCat("region ", i));
      told.set_omission(v1::OMISSION_ACCESS);
    } else {
      any_readable = true;
    }
    if (wish.region_index && told.omission() == v1::OMISSION_SENSITIVE) return NotCopied(i);
    if (told.omission() != v1::OMISSION_UNSPECIFIED) told.set_may_be_torn(false);
    if (told.may_be_torn() && wish.require_consistent) return Torn(i);
    if (told.may_be_torn()) info.set_may_be_torn(true);
    *info.add_regions() = std::move(told);
  }
  if (!any_readable) return NotReadable("any region of the buffer");
  return info;
}

void Snapshots::Take(uint32_t uid, const Wish& wish, Done done) {
  absl::StatusOr<v1::SnapshotInfo> info = Choose(wish);
  if (!info.ok()) return done(info.status());
  Begin(uid, *wish.held.buffer, *std::move(info), /*last_state=*/false, std::move(done));
}

v1::SnapshotInfo Snapshots::DescribeAll(const Buffer& buffer) {
  v1::SnapshotInfo info;
  info.set_buffer_koid(buffer.koid());
  info.set_buffer_name(buffer.name());
  for (uint32_t i = 0; i < buffer.regions().size(); ++i) {
    v1::SnapshotRegion told = Describe(buffer, i);
    if (told.omission() != v1::OMISSION_UNSPECIFIED) told.set_may_be_torn(false);
    info.set_may_be_torn(info.may_be_torn() || told.may_be_torn());
    *info.add_regions() = std::move(told);
  }
  return info;
}

uint64_t Snapshots::BytesOf(const Buffer& buffer, const v1::SnapshotInfo& info) {
  uint64_t size_bytes = 0;
  for (const v1::SnapshotRegion& told : info.regions()) {
    if (told.omission() != v1::OMISSION_UNSPECIFIED) continue;
    const uint64_t more = CopyBytesOf(buffer.regions()[told.index()]);
    // Saturates: a sum that wrapped around would slip through the quota.
    size_bytes = more > UINT64_MAX - size_bytes ? UINT64_MAX : size_bytes + more;
  }
  return size_bytes;
}

void Snapshots::TakeLastState(Buffer& buffer, v1::SnapshotInfo info, Done done) {
  Begin(buffer.owner().uid, buffer, std::move(info), /*last_state=*/true, std::move(done));
}

void Snapshots::Begin(uint32_t uid, Buffer& buffer, v1::SnapshotInfo info, bool last_state,
                      Done done) {
  const int64_t start_ns = dependencies_.loop.clock().MonotonicNs();
  absl::StatusOr<std::unique_ptr<Job>> made = MakeJob(uid, buffer, std::move(info), last_state);
  NoteHeld(start_ns);
  if (!made.ok()) {
    counters_.failed += 1;
    return done(made.status());
  }
  std::unique_ptr<Job> job = *std::move(made);
  if (!job->target) {
    counters_.taken += 1;
    return done(
        Snapshot{.info = std::move(job->info), .memory = std::nullopt, .descriptor = Charge()});
  }
  job->done = std::move(done);
  Job& begun = *job;
  jobs_[begun.id] = std::move(job);
  NextSlice(begun);
}

absl::Status Snapshots::CheckRoom(uint32_t uid) const {
  size_t copies = 0;
  size_t mine = 0;
  for (const auto& [id, job] : jobs_) {
    if (job->last_state) continue;
    copies += 1;
    if (job->uid == uid) mine += 1;
  }
  if (copies < kCopiesMax && mine < kCopiesPerUidMax) return absl::OkStatus();
  return Busy(absl::StrCat(copies, " copies are under way, ", mine, " of them of uid ", uid,
                           "; at most ", kCopiesMax, " and ", kCopiesPerUidMax, "; retry"));
}

absl::StatusOr<std::unique_ptr<Snapshots::Job>> Snapshots::MakeJob(uint32_t uid, Buffer& buffer,
                                                                   v1::SnapshotInfo info,
                                                                   bool last_state) {
  if (stopped_) return Busy("the daemon is shutting down");
  if (!last_state) {
    IOB_RETURN_IF_ERROR(CheckRoom(uid));
  } else if (jobs_.size() >= kLastStatesMax) {
    return Busy("too many endpoints crashed at once");
  }
  auto job = std::make_unique<Job>();
  job->id = next_job_++;
  job->uid = uid;
  job->buffer = buffer.koid();
  job->last_state = last_state;
  const uint64_t size_bytes = BytesOf(buffer, info);
  info.set_size_bytes(size_bytes);
  job->info = std::move(info);
  SetTime(dependencies_.loop.clock().WallTime(), *job->info.mutable_time());
  if (size_bytes == 0) return job;
  IOB_ASSIGN_OR_RETURN(Charge memory, dependencies_.quota.ChargeRegion(uid, size_bytes));
  IOB_ASSIGN_OR_RETURN(job->descriptor, dependencies_.quota.ChargeRegion(uid, 0, 1));
  IOB_RETURN_IF_ERROR(dependencies_.quota.CheckRoom(size_bytes));
  IOB_ASSIGN_OR_RETURN(job->target, shm::FreshMemfd::Create(size_bytes));
  IOB_RETURN_IF_ERROR(memory_->Add(job->target->fd(), std::move(memory)));
  IOB_RETURN_IF_ERROR(AddRegions(buffer, *job));
  return job;
}

absl::Status Snapshots::AddRegions(Buffer& buffer, Job& job) {
  uint64_t offset_bytes = 0;
  for (int i = 0; i < job.info.regions_size(); ++i) {
    const v1::SnapshotRegion& told = job.info.regions(i);
    if (told.omission() != v1::OMISSION_UNSPECIFIED) continue;
    Region& region = buffer.regions()[told.index()];
    IOB_ASSIGN_OR_RETURN(RegionCopy copy, RegionCopy::Open(region, offset_bytes));
    offset_bytes += copy.size_bytes();
    job.regions.push_back({.copy = std::move(copy),
                           .index = told.index(),
                           .info_index = i,
                           .shared_region = region.shared() != nullptr ? region.koid() : 0,
                           .final_look = false});
  }
  for (JobRegion& region : job.regions) {
    if (region.copy.still()) {
      const MediatedRing* const ring = RingOf(job, region);
      std::optional<MutexLock> lock;
      if (ring != nullptr) lock.emplace(ring->mutex.get());
      LookAt(job, region);
    }
    for (const CopyRun& run : region.copy.TakePending()) job.runs.push_back(run);
  }
  return absl::OkStatus();
}

// --- Copying -------------------------------------------------------------------------------------

void Snapshots::NextSlice(Job& job) {
  const bool wants_scratch = job.scratch.empty() && job.AnyStill();
  thread_->Run([this, &job, id = job.id, wants_scratch, slice = TakeSlice(job.runs)] {
    if (wants_scratch) job.scratch.resize(kCutBytesMax);
    absl::Status status = CopyRuns(slice, *job.target);
    dependencies_.loop.PostUrgent(
        [this, id, status = std::move(status)] { OnSliceDone(id, status); });
  });
}

void Snapshots::OnSliceDone(JobId id, const absl::Status& status) {
  Job& job = *jobs_.at(id);
  if (!status.ok()) return Fail(job, status);
  if (stopped_) return Fail(job, Busy("the daemon is shutting down"));
  if (!job.runs.empty()) return NextSlice(job);
  Cut(job);
}

MediatedRing* Snapshots::RingOf(const Job& job, const JobRegion& region) {
  if (region.shared_region != 0) {
    SharedRegion* const shared = dependencies_.registry.FindSharedRegion(region.shared_region);
    return shared == nullptr ? nullptr : shared->ring();
  }
  Buffer* const buffer = dependencies_.registry.Find(job.buffer);
  return buffer == nullptr ? nullptr : buffer->regions()[region.index].ring();
}

// With the ring's mutex held. False when the region went unseen.
bool Snapshots::LookAt(Job& job, JobRegion& region) {
  if (region.final_look || !region.copy.still()) return true;
  if (MediatedRing* const ring = RingOf(job, region)) {
    region.copy.Look(*ring);
    return true;
  }
  Buffer* const buffer = dependencies_.registry.Find(job.buffer);
  if (buffer == nullptr || region.shared_region != 0) return false;
  region.copy.Look(*buffer->regions()[region.index].sealed_ids());
  return true;
}

// Two regions of a buffer may be one shared ring; an order of its own is not needed, because the
// loop alone ever holds two rings.
void Snapshots::Cut(Job& job) {
  const int64_t start_ns = dependencies_.loop.clock().MonotonicNs();
  absl::btree_set<absl::Mutex*> mutexes;
  for (const JobRegion& region : job.regions) {
    const MediatedRing* const ring =
        region.copy.still() && !region.final_look ? RingOf(job, region) : nullptr;
    if (ring != nullptr) mutexes.insert(ring->mutex.get());
  }
  std::vector<std::unique_ptr<MutexLock>> locks;
  for (absl::Mutex* const mutex : mutexes) locks.push_back(std::make_unique<MutexLock>(mutex));

  bool all_seen = true;
  uint64_t pending_bytes = 0;
  for (JobRegion& region : job.regions) {
    all_seen = LookAt(job, region) && all_seen;
    pending_bytes += region.copy.pending_bytes();
  }
  if (!all_seen) return Fail(job, Busy("a shared region went while it was copied"));
  std::vector<CopyRun> pending;
  for (JobRegion& region : job.regions) {
    for (const CopyRun& run : region.copy.TakePending()) pending.push_back(run);
  }
  if (pending_bytes > kCutBytesMax) {
    locks.clear();
    NoteHeld(start_ns);
    counters_.passes += 1;
    if (++job.passes > kPassesMax)
      return Fail(job, Busy("a ring is written faster than it can be copied; retry"));
    job.runs.assign(pending.begin(), pending.end());
    return NextSlice(job);
  }
  uint64_t used_bytes = 0;
  for (const CopyRun& run : pending) {
    std::byte* const kept = job.scratch.data() + used_bytes;
    std::memcpy(kept, run.source, run.size_bytes);
    job.cut_runs.push_back({.source = kept,
                            .target_offset_bytes = run.target_offset_bytes,
                            .size_bytes = run.size_bytes,
                            .source_fd = -1,
                            .source_offset_bytes = 0});
    used_bytes += run.size_bytes;
  }
  locks.clear();
  NoteHeld(start_ns);
  counters_.cut_bytes_largest = std::max(counters_.cut_bytes_largest, pending_bytes);
  Finish(job);
}

void Snapshots::NoteHeld(int64_t start_ns) {
  const int64_t held_ns = dependencies_.loop.clock().MonotonicNs() - start_ns;
  counters_.held_ns_largest = std::max(counters_.held_ns_largest, held_ns);
}

void Snapshots::Finish(Job& job) {
  SetTime(dependencies_.loop.clock().WallTime(), *job.info.mutable_time());
  for (const JobRegion& region : job.regions) {
    region.copy.FillInfo(*job.info.mutable_regions(region.info_index));
    for (CopyPatch& patch : region.copy.Patches()) job.patches.push_back(std::move(patch));
    for (const CopyHole& hole : region.copy.Holes()) job.holes.push_back(hole);
  }
  thread_->Run([this, &job, id = job.id] {
    const auto finish = [&job]() -> absl::StatusOr<shm::FrozenMemfd> {
      shm::FreshMemfd& target = *job.target;
      IOB_RETURN_IF_ERROR(CopyRuns(job.cut_runs, target));
      for (const CopyPatch& patch : job.patches) {
        IOB_RETURN_IF_ERROR(
            target.Write(patch.target_offset_bytes, std::as_bytes(std::span(patch.bytes))));
      }
      for (const CopyHole& hole : job.holes)
        IOB_RETURN_IF_ERROR(target.Clear(hole.target_offset_bytes, hole.size_bytes));
      return std::move(target).Freeze();
    };
    dependencies_.loop.PostUrgent(
        [this, id, memory = finish()]() mutable { OnFinished(id, std::move(memory)); });
  });
}

void Snapshots::OnFinished(JobId id, absl::StatusOr<shm::FrozenMemfd> memory) {
  Job& job = *jobs_.at(id);
  if (!memory.ok()) return Fail(job, memory.status());
  counters_.taken += 1;
  Done done = std::move(job.done);
  Snapshot snapshot{.info = std::move(job.info),
                    .memory = *std::move(memory),
                    .descriptor = std::move(job.descriptor)};
  jobs_.erase(id);
  done(std::move(snapshot));
}

void Snapshots::Fail(Job& job, const absl::Status& status) {
  counters_.failed += 1;
  Done done = std::move(job.done);
  jobs_.erase(job.id);
  done(status);
}

void Snapshots::BeforeRelease(Buffer& buffer) {
  const std::array<bool, 2> open = OpenEndpoints(buffer);
  if (open[0] || open[1]) return;
  for (const auto& [id, job] : jobs_) {
    if (job->buffer != buffer.koid()) continue;
    for (JobRegion& region : job->regions) {
      Region& live = buffer.regions()[region.index];
      const SharedRegion* const shared = live.shared();
      // Others may go on writing a shared ring; if not, it goes with this buffer.
      const bool others =
          shared != nullptr &&
          (!shared->handles().empty() ||
           std::any_of(shared->uses().begin(), shared->uses().end(),
                       [&buffer](const auto& use) { return use.second.buffer != &buffer; }));
      if (!region.copy.still() || others) continue;
      std::optional<MutexLock> lock;
      if (live.ring() != nullptr) lock.emplace(live.ring()->mutex.get());
      LookAt(*job, region);
      region.final_look = true;
    }
  }
}

// --- Tickets -------------------------------------------------------------------------------------

Token Snapshots::Issue(Snapshot snapshot, uint32_t uid) {
  const Token token = Token::Random();
  const int64_t now_ns = dependencies_.loop.clock().MonotonicNs();
  const uint32_t lifetime_ms = dependencies_.registry.limits().ticket_lifetime_ms;
  expiries_.emplace_back(now_ns + int64_t{lifetime_ms} * 1'000'000, token);
  tickets_[token] = {.snapshot = std::move(snapshot), .uid = uid};
  if (!expiry_timer_.active()) {
    expiry_timer_ = dependencies_.loop.RunAt(expiries_.front().first, [this] { ExpireTickets(); });
  }
  return token;
}

absl::StatusOr<Token> Snapshots::IssueCopy(const Snapshot& snapshot, uint32_t uid) {
  if (tickets_.size() >= kSnapshotsMax) {
    return MakeError(v1::ERROR_REASON_QUOTA,
                     absl::StrCat("tickets for snapshots: ", tickets_.size(), " in use"));
  }
  shm::UniqueFd fd(::fcntl(snapshot.memory->fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return shm::ErrnoStatus(errno, "F_DUPFD_CLOEXEC of a snapshot");
  IOB_ASSIGN_OR_RETURN(shm::FrozenMemfd memory,
                       shm::FrozenMemfd::Adopt(std::move(fd), snapshot.memory->size_bytes()));
  return Issue({.info = {}, .memory = std::move(memory), .descriptor = Charge()}, uid);
}

std::optional<absl::Status> Snapshots::Redeem(const Token& ticket, uint32_t uid,
                                              shm::FdChannel& channel) {
  const auto found = tickets_.find(ticket);
  if (found == tickets_.end() || found->second.uid != uid) return std::nullopt;
  const shm::FrozenMemfd& memory = *found->second.snapshot.memory;
  v1::BrokerPacket packet;
  packet.mutable_snapshot()->set_size_bytes(memory.size_bytes());
  const std::string bytes = packet.SerializeAsString();
  const int fd = memory.fd();
  absl::Status sent =
      channel.Send(std::as_bytes(std::span(bytes.data(), bytes.size())), std::span(&fd, 1));
  if (sent.ok()) tickets_.erase(found);
  return sent;
}

void Snapshots::ExpireTickets() {
  expiry_timer_.End();
  const int64_t now_ns = dependencies_.loop.clock().MonotonicNs();
  while (!expiries_.empty() && expiries_.front().first <= now_ns) {
    tickets_.erase(expiries_.front().second);  // Unless it was spent.
    expiries_.pop_front();
  }
  if (expiries_.empty()) return;
  expiry_timer_ = dependencies_.loop.RunAt(expiries_.front().first, [this] { ExpireTickets(); });
}

void Snapshots::Stop() {
  stopped_ = true;
  expiry_timer_.End();
  expiries_.clear();
  tickets_.clear();
}

}  // namespace iob::server
