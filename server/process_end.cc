#include "server/process_end.h"

#include <sys/epoll.h>

#include <utility>

namespace iob::server {
namespace {

constexpr int64_t kReapWaitNs = 100'000'000;
constexpr int64_t kLookAgainMs = 100;

}  // namespace

void ProcessEnd::Watch(EventLoop& loop, const Identity& identity, Report report) {
  loop_ = &loop;
  identity_ = &identity;
  report_ = std::move(report);
  give_up_ns_ = 0;
  Arm(EPOLLIN);
}

void ProcessEnd::Arm(uint32_t events) {
  auto watch = loop_->WatchFd(identity_->pidfd.get(), events, [this](uint32_t) { Look(); });
  if (watch.ok()) {
    pidfd_watch_ = *std::move(watch);
  } else {
    timer_ = loop_->RunAfterMs(kLookAgainMs, [this] { Look(); });
  }
}

void ProcessEnd::Look() {
  if (!HasEnded(identity_->pidfd.get())) {
    timer_ = loop_->RunAfterMs(kLookAgainMs, [this] { Look(); });
    return;
  }
  const shm::CloseReason reason = HowItEnded(*identity_);
  if (reason.kind != shm::CloseKind::kOpen) return Finish(reason);
  const int64_t now_ns = loop_->clock().MonotonicNs();
  if (give_up_ns_ != 0 && now_ns >= give_up_ns_) return Finish({.kind = shm::CloseKind::kDied});
  if (give_up_ns_ != 0) return;
  // A zombie. Only the hang-up, which always counts, is news from here on.
  give_up_ns_ = now_ns + kReapWaitNs;
  pidfd_watch_.End();
  Arm(0);
  timer_ = loop_->RunAt(give_up_ns_, [this] { Look(); });
}

void ProcessEnd::Finish(shm::CloseReason reason) {
  pidfd_watch_.End();
  timer_.End();
  // Last: the report may destroy this object.
  Report report = std::move(report_);
  report(reason);
}

}  // namespace iob::server
