#include "server/event_log.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/convert.h"
#include "server/errors.h"
#include "server/token.h"
#include "shm/check.h"

namespace iob::server {
namespace {

constexpr size_t kHexDigits = 16;  // Of one uint64_t.

uint64_t RandomEpoch() {
  const std::string bytes = Token::Random().ToBytes();
  uint64_t epoch = 0;
  std::memcpy(&epoch, bytes.data(), sizeof(epoch));
  return epoch;
}

// Exactly as Stamp writes it: nothing else is one of ours, upper case or a sign included.
std::optional<uint64_t> FromHex(absl::string_view claimed_digits) {
  uint64_t value = 0;
  for (const char digit : claimed_digits) {
    if (digit >= '0' && digit <= '9') {
      value = value << 4 | static_cast<uint64_t>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      value = value << 4 | static_cast<uint64_t>(digit - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace

EventLog::EventLog(const Clock& clock) : clock_(clock), epoch_(RandomEpoch()) {}

uint64_t EventLog::Append(v1::WatchEventsResponse event, uint32_t owner_uid) {
  const uint64_t sequence = end_++;
  Stamp(sequence + 1, event);
  Entry entry{.event = std::move(event), .owner_uid = owner_uid};
  if (ring_.size() < kEventsMax) {
    ring_.push_back(std::move(entry));
  } else {
    ring_[sequence % kEventsMax] = std::move(entry);
  }
  return sequence;
}

const EventLog::Entry& EventLog::At(uint64_t sequence) const {
  IOB_CHECK(sequence >= oldest() && sequence < end_);
  return ring_[sequence % kEventsMax];
}

void EventLog::Stamp(uint64_t next, v1::WatchEventsResponse& message) const {
  SetTime(clock_.WallTime(), *message.mutable_time());
  message.set_resume_token(
      absl::StrCat(absl::Hex(epoch_, absl::kZeroPad16), absl::Hex(next, absl::kZeroPad16)));
}

absl::StatusOr<std::optional<uint64_t>> EventLog::Parse(absl::string_view claimed_token) const {
  const absl::Status not_ours = BadArgument("resume_token", "not one of ours");
  if (claimed_token.size() != 2 * kHexDigits) return not_ours;
  const auto epoch = FromHex(claimed_token.substr(0, kHexDigits));
  const auto next = FromHex(claimed_token.substr(kHexDigits));
  if (!epoch || !next) return not_ours;
  if (*epoch != epoch_) return std::optional<uint64_t>();
  if (*next > end_) return not_ours;
  if (*next < oldest()) return std::optional<uint64_t>();
  return next;
}

}  // namespace iob::server
