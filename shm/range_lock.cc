#include "shm/range_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "absl/strings/str_cat.h"
#include "shm/check.h"
#include "shm/kernel.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

constexpr uint64_t kClaims = uint64_t{1} << 62;
// Linux has pids below 2^22.
constexpr uint64_t kPidMax = (uint64_t{1} << 22) - 1;
constexpr uint64_t kOffsetsEnd = uint64_t{1} << 63;
static_assert(kClaims + (kPidMax + 1) * kRangeEndMax == kOffsetsEnd);

// Where a process says that it holds `range` (L2).
ByteRange ClaimOf(pid_t pid, const ByteRange& range) {
  return {.offset_bytes = kClaims + static_cast<uint64_t>(pid) * kRangeEndMax + range.offset_bytes,
          .length_bytes = range.length_bytes};
}

struct flock LockOf(const ByteRange& range, int type) {
  struct flock lock = {};
  lock.l_type = static_cast<decltype(lock.l_type)>(type);
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(range.offset_bytes);
  lock.l_len = static_cast<off_t>(range.length_bytes);
  return lock;
}

int SetLock(int fd, const ByteRange& range, int type) {
  struct flock lock = LockOf(range, type);
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

int TypeOf(RangeMode mode) { return mode == RangeMode::kExclusive ? F_WRLCK : F_RDLCK; }

// A lock of another description, as far as it lies within what was asked for.
struct Found {
  ByteRange range;
  RangeMode mode = RangeMode::kShared;
};

absl::StatusOr<std::optional<Found>> FindOne(int fd, const ByteRange& within) {
  struct flock lock = LockOf(within, F_WRLCK);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return ErrnoStatus(errno, "F_OFD_GETLK of a range");
  if (lock.l_type == F_UNLCK) return std::optional<Found>();
  const uint64_t start = std::max(static_cast<uint64_t>(lock.l_start), within.offset_bytes);
  // A length of 0 is one up to the last offset there is.
  const uint64_t lock_end =
      lock.l_len == 0 ? kOffsetsEnd
                      : static_cast<uint64_t>(lock.l_start) + static_cast<uint64_t>(lock.l_len);
  const uint64_t end = std::min(lock_end, within.end_bytes());
  return std::optional<Found>(
      Found{.range = {.offset_bytes = start, .length_bytes = end - start},
            .mode = lock.l_type == F_WRLCK ? RangeMode::kExclusive : RangeMode::kShared});
}

// The kernel tells one lock at a time, so the rest is asked for on both sides of it. What several
// descriptions hold at once is found once. In the order of offsets.
absl::StatusOr<std::vector<Found>> FindAll(int fd, const ByteRange& within) {
  std::vector<Found> all;
  std::vector<ByteRange> open = {within};
  while (!open.empty() && all.size() < RangeLocks::kHoldsMax) {
    const ByteRange asked = open.back();
    open.pop_back();
    if (asked.length_bytes == 0) continue;
    IOB_ASSIGN_OR_RETURN(const std::optional<Found> found, FindOne(fd, asked));
    if (!found) continue;
    all.push_back(*found);
    const ByteRange& range = found->range;
    open.push_back(
        {.offset_bytes = range.end_bytes(), .length_bytes = asked.end_bytes() - range.end_bytes()});
    open.push_back({.offset_bytes = asked.offset_bytes,
                    .length_bytes = range.offset_bytes - asked.offset_bytes});
  }
  std::sort(all.begin(), all.end(), [](const Found& a, const Found& b) {
    return a.range.offset_bytes < b.range.offset_bytes;
  });
  return all;
}

// What is left of `range` without `taken`.
std::vector<ByteRange> Without(const ByteRange& range, std::span<const ByteRange> taken) {
  std::vector<ByteRange> left = {range};
  for (const ByteRange& cut : taken) {
    std::vector<ByteRange> next;
    for (const ByteRange& piece : left) {
      if (!piece.Overlaps(cut)) {
        next.push_back(piece);
        continue;
      }
      if (piece.offset_bytes < cut.offset_bytes) {
        next.push_back({.offset_bytes = piece.offset_bytes,
                        .length_bytes = cut.offset_bytes - piece.offset_bytes});
      }
      if (cut.end_bytes() < piece.end_bytes()) {
        next.push_back(
            {.offset_bytes = cut.end_bytes(), .length_bytes = piece.end_bytes() - cut.end_bytes()});
      }
    }
    left = std::move(next);
  }
  return left;
}

// What a lock among the claims says, if it is one and `locked` bears it out.
std::optional<RangeHold> ReadClaim(const Found& claim, std::span<const Found> locked) {
  const uint64_t first = claim.range.offset_bytes - kClaims;
  const uint64_t offset_bytes = first % kRangeEndMax;
  const ByteRange range = {.offset_bytes = offset_bytes, .length_bytes = claim.range.length_bytes};
  if (range.end_bytes() > kRangeEndMax) return std::nullopt;
  const auto borne_out = std::find_if(locked.begin(), locked.end(), [&range](const Found& lock) {
    return lock.range.Overlaps(range);
  });
  if (borne_out == locked.end()) return std::nullopt;
  return RangeHold{.range = range,
                   .mode = borne_out->mode,
                   .claimed_pid = static_cast<pid_t>(first / kRangeEndMax)};
}

}  // namespace

absl::StatusOr<bool> RangeLocks::TryLock(const ByteRange& range, RangeMode mode) {
  IOB_CHECK(range.length_bytes != 0 && range.offset_bytes < kRangeEndMax &&
            range.length_bytes <= kRangeEndMax - range.offset_bytes);
  for (const Held& held : held_) {
    const bool both_shared = mode == RangeMode::kShared && held.mode == RangeMode::kShared;
    if (held.range.Overlaps(range) && !both_shared) return false;
  }
  const int error = SetLock(fd_.get(), range, TypeOf(mode));
  if (error == EAGAIN || error == EACCES) return false;
  if (error == ENOLCK) return absl::ResourceExhaustedError("the kernel has no room for a lock");
  if (error != 0) return ErrnoStatus(error, "F_OFD_SETLK of a range");
  const pid_t pid = ::getpid();
  // Whoever keeps this place from us keeps our name from being seen, and nothing else.
  SetLock(fd_.get(), ClaimOf(pid, range), TypeOf(mode));
  held_.push_back({.range = range, .mode = mode, .pid = pid});
  return true;
}

void RangeLocks::Unlock(const ByteRange& range, RangeMode mode) {
  const auto found = std::find_if(held_.begin(), held_.end(), [&](const Held& held) {
    return held.range == range && held.mode == mode;
  });
  IOB_CHECK(found != held_.end());
  const pid_t pid = found->pid;
  held_.erase(found);
  if (pid != ::getpid()) return;  // L5
  std::vector<ByteRange> still_held;
  for (const Held& held : held_) still_held.push_back(held.range);
  for (const ByteRange& piece : Without(range, still_held)) {
    // The name first: it is never seen over bytes that the next holder has.
    SetLock(fd_.get(), ClaimOf(pid, piece), F_UNLCK);
    // Fails only when the kernel has no memory to split a lock. Then it stays until the end of the
    // description, which is safe.
    SetLock(fd_.get(), piece, F_UNLCK);
  }
}

absl::StatusOr<std::vector<RangeHold>> RangeLocks::List(const ByteRange& within) const {
  IOB_ASSIGN_OR_RETURN(const std::vector<Found> locked, FindAll(fd_.get(), within));
  const ByteRange claims = {.offset_bytes = kClaims, .length_bytes = kOffsetsEnd - 1 - kClaims};
  IOB_ASSIGN_OR_RETURN(const std::vector<Found> claimed, FindAll(fd_.get(), claims));
  std::vector<RangeHold> holds;
  std::vector<ByteRange> named;
  for (const Found& claim : claimed) {
    const std::optional<RangeHold> hold = ReadClaim(claim, locked);
    if (!hold) continue;
    holds.push_back(*hold);
    named.push_back(hold->range);
  }
  for (const Found& lock : locked) {
    for (const ByteRange& piece : Without(lock.range, named)) {
      holds.push_back({.range = piece, .mode = lock.mode, .claimed_pid = 0});
    }
  }
  for (const Held& held : held_) {
    if (!held.range.Overlaps(within)) continue;
    holds.push_back({.range = held.range, .mode = held.mode, .claimed_pid = held.pid});
  }
  std::sort(holds.begin(), holds.end(), [](const RangeHold& a, const RangeHold& b) {
    return std::pair(a.range.offset_bytes, a.claimed_pid) <
           std::pair(b.range.offset_bytes, b.claimed_pid);
  });
  if (holds.size() > kHoldsMax) holds.resize(kHoldsMax);
  return holds;
}

}  // namespace iob::shm
