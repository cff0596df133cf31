#include "server/quota.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "shm/check.h"

namespace iob::server {
namespace {

// Without a sum that could overflow.
bool Fits(uint64_t used, uint64_t more, uint64_t limit) {
  return used <= limit && more <= limit - used;
}

absl::Status Exceeded(absl::string_view what, absl::string_view whose, uint64_t used, uint64_t more,
                      uint64_t limit) {
  return MakeError(v1::ERROR_REASON_QUOTA,
                   absl::StrCat(what, " of ", whose, ": ", used, " of ", limit, " in use, ", more,
                                " more asked for"));
}

}  // namespace

Charge& Charge::operator=(Charge&& other) noexcept {
  if (this != &other) {
    Return();
    quota_ = std::exchange(other.quota_, nullptr);
    uid_ = other.uid_;
    memory_bytes_ = other.memory_bytes_;
    buffers_ = other.buffers_;
    descriptors_ = other.descriptors_;
  }
  return *this;
}

void Charge::Return() {
  if (quota_ == nullptr) return;
  const auto account = quota_->by_uid_.find(uid_);
  IOB_CHECK(account != quota_->by_uid_.end());
  for (Quota::Account* books : {&quota_->total_, &account->second}) {
    IOB_CHECK(books->memory_bytes >= memory_bytes_ && books->buffers >= buffers_ &&
              books->descriptors >= descriptors_);
    books->memory_bytes -= memory_bytes_;
    books->buffers -= buffers_;
    books->descriptors -= descriptors_;
  }
  if (account->second.buffers == 0 && account->second.memory_bytes == 0 &&
      account->second.descriptors == 0) {
    quota_->by_uid_.erase(account);
  }
  quota_ = nullptr;
}

Quota::~Quota() { IOB_CHECK(total_.buffers == 0 && total_.memory_bytes == 0 && by_uid_.empty()); }

absl::Status Quota::CheckRoom(uint64_t size_bytes) const {
  return room_ == nullptr || size_bytes == 0 ? absl::OkStatus() : room_->Check(size_bytes);
}

absl::StatusOr<Charge> Quota::ChargeBuffer(uint32_t uid, uint64_t memory_bytes,
                                           uint64_t descriptors) {
  return Take(uid, memory_bytes, 1, descriptors);
}

absl::StatusOr<Charge> Quota::ChargeRegion(uint32_t uid, uint64_t memory_bytes,
                                           uint64_t descriptors) {
  return Take(uid, memory_bytes, 0, descriptors);
}

absl::StatusOr<Charge> Quota::Take(uint32_t uid, uint64_t memory_bytes, uint64_t buffers,
                                   uint64_t descriptors) {
  const auto found = by_uid_.find(uid);
  const Account mine = found == by_uid_.end() ? Account{} : found->second;
  const std::string whose = absl::StrCat("uid ", uid);
  if (!Fits(total_.memory_bytes, memory_bytes, limits_.memory_bytes_max)) {
    return Exceeded("memory bytes", "the daemon", total_.memory_bytes, memory_bytes,
                    limits_.memory_bytes_max);
  }
  if (!Fits(mine.memory_bytes, memory_bytes, limits_.memory_bytes_per_uid_max)) {
    return Exceeded("memory bytes", whose, mine.memory_bytes, memory_bytes,
                    limits_.memory_bytes_per_uid_max);
  }
  if (!Fits(total_.buffers, buffers, limits_.buffers_max)) {
    return Exceeded("buffers", "the daemon", total_.buffers, buffers, limits_.buffers_max);
  }
  if (!Fits(mine.buffers, buffers, limits_.buffers_per_uid_max)) {
    return Exceeded("buffers", whose, mine.buffers, buffers, limits_.buffers_per_uid_max);
  }
  if (!Fits(total_.descriptors, descriptors, limits_.descriptors_max)) {
    return Exceeded("descriptors for sections", "the daemon (bounded by RLIMIT_NOFILE)",
                    total_.descriptors, descriptors, limits_.descriptors_max);
  }
  Account& account = by_uid_[uid];
  for (Account* books : {&total_, &account}) {
    books->memory_bytes += memory_bytes;
    books->buffers += buffers;
    books->descriptors += descriptors;
  }
  return Charge(this, uid, memory_bytes, buffers, descriptors);
}

}  // namespace iob::server
