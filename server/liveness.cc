#include "server/liveness.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::server {
namespace {

constexpr int64_t kSoonMs = 2;
constexpr int64_t kSlowMs = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<Liveness>> Liveness::Create(EventLoop& loop, Registry& registry) {
  shm::UniqueFd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify.valid()) return shm::ErrnoStatus(errno, "inotify_init1");
  std::unique_ptr<Liveness> liveness(new Liveness(loop, registry, std::move(inotify)));
  IOB_ASSIGN_OR_RETURN(liveness->inotify_watch_,
                       loop.WatchFd(liveness->inotify_.get(), EPOLLIN,
                                    [self = liveness.get()](uint32_t) { self->OnInotify(); }));
  return liveness;
}

Liveness::Liveness(EventLoop& loop, Registry& registry, shm::UniqueFd inotify)
    : loop_(loop), registry_(registry), inotify_(std::move(inotify)) {}

void Liveness::OnEndpointUnheld(Koid koid, shm::EndpointId endpoint) {
  const Key key{koid, endpoint};
  if (Settle(key)) return;
  // Watch first, look again after: a close in between would go unseen otherwise.
  WatchSections(koid);
  waiting_.insert(key);
  if (Settle(key)) {
    StopWaiting(key);
    return;
  }
  ArmTimers();
}

void Liveness::OnOwnersLeft(Koid koid) {
  if (registry_.ReapOwners(koid)) return;
  WatchSections(koid);
  reaping_.insert(koid);
  // As above: a close before the watch would go unseen.
  if (registry_.ReapOwners(koid)) {
    reaping_.erase(koid);
    if (!Waits(koid)) DropWatches(koid);
  }
  ArmTimers();
}

bool Liveness::Settle(const Key& key) {
  Buffer* const buffer = registry_.Find(key.first);
  if (buffer == nullptr) return true;
  const Endpoint& endpoint = buffer->endpoint(key.second);
  if (endpoint.closed || endpoint.held()) return true;
  if (buffer->AnyGrantHeld(key.second)) return false;
  // What it left unfinished is settled before anybody hears that it is gone.
  registry_.ReapOwners(key.first);
  registry_.EndpointReleased(key.first, key.second);
  return true;
}

void Liveness::WatchSections(Koid koid) {
  Buffer* const buffer = registry_.Find(koid);
  if (buffer == nullptr) return;
  std::vector<const shm::SealedMemfd*> sections;
  if (const auto* page = buffer->signal().page_if_made()) sections.push_back(page);
  for (const Region& region : buffer->regions()) {
    for (const shm::SealedMemfd* section : region.Sections()) sections.push_back(section);
  }
  // There may be watches already, but the signal page may be newer than they are.
  std::vector<int>& watches = watches_[koid];
  for (const shm::SealedMemfd* section : sections) {
    // Without a watch (the limit is per user) the slow timer still finds out.
    const int watch = ::inotify_add_watch(
        inotify_.get(), absl::StrCat("/proc/self/fd/", section->fd()).c_str(), IN_CLOSE);
    // A section has one watch, however often it is asked for.
    if (watch < 0 || std::find(watches.begin(), watches.end(), watch) != watches.end()) continue;
    watches.push_back(watch);
    watch_users_[watch] += 1;
  }
}

void Liveness::DropWatches(Koid koid) {
  const auto found = watches_.find(koid);
  if (found == watches_.end()) return;
  for (const int watch : found->second) {
    const auto users = watch_users_.find(watch);
    if (--users->second != 0) continue;
    watch_users_.erase(users);
    // EINVAL when the memory is gone already: the kernel dropped the watch with it.
    ::inotify_rm_watch(inotify_.get(), watch);
  }
  watches_.erase(found);
}

void Liveness::OnBufferGone(Koid koid) {
  reaping_.erase(koid);
  DropWatches(koid);
}

void Liveness::OnInotify() {
  // Which events they are does not matter: few endpoints wait, and asking costs half a microsecond
  // each.
  alignas(inotify_event) std::array<char, 4096> events;
  while (::read(inotify_.get(), events.data(), events.size()) > 0) {
  }
  LookAtAll();
  if ((!waiting_.empty() || !reaping_.empty()) && !soon_.active()) {
    soon_ = loop_.RunAfterMs(kSoonMs, [this] {
      soon_.End();
      LookAtAll();
    });
  }
}

void Liveness::LookAtAll() {
  const std::vector<Key> keys(waiting_.begin(), waiting_.end());
  for (const Key& key : keys) {
    if (Settle(key)) StopWaiting(key);
  }
  const std::vector<Koid> koids(reaping_.begin(), reaping_.end());
  for (const Koid koid : koids) {
    if (!registry_.ReapOwners(koid)) continue;
    reaping_.erase(koid);
    if (!Waits(koid)) DropWatches(koid);
  }
  ArmTimers();
}

bool Liveness::Waits(Koid koid) const {
  return reaping_.contains(koid) || waiting_.contains({koid, shm::EndpointId::kEp0}) ||
         waiting_.contains({koid, shm::EndpointId::kEp1});
}

void Liveness::StopWaiting(const Key& key) {
  waiting_.erase(key);
  if (!Waits(key.first)) DropWatches(key.first);
}

void Liveness::ArmTimers() {
  if (waiting_.empty() && reaping_.empty()) {
    slow_.End();
  } else if (!slow_.active()) {
    slow_ = loop_.RunAfterMs(kSlowMs, [this] {
      slow_.End();
      LookAtAll();
    });
  }
}

}  // namespace iob::server
