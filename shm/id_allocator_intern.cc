#include "shm/id_allocator_intern.h"

#include <sys/random.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

class SipState {
 public:
  explicit SipState(const SipHashKey& key)
      : v0_(key[0] ^ 0x736f6d6570736575),
        v1_(key[1] ^ 0x646f72616e646f6d),
        v2_(key[0] ^ 0x6c7967656e657261),
        v3_(key[1] ^ 0x7465646279746573) {}

  void Add(uint64_t word) {
    v3_ ^= word;
    Round();
    Round();
    v0_ ^= word;
  }

  uint64_t Finish() {
    v2_ ^= 0xff;
    for (int i = 0; i < 4; ++i) Round();
    return v0_ ^ v1_ ^ v2_ ^ v3_;
  }

 private:
  void Round() {
    v0_ += v1_;
    v2_ += v3_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v1_;
    v0_ += v3_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ = std::rotl(v2_, 32);
  }

  uint64_t v0_;
  uint64_t v1_;
  uint64_t v2_;
  uint64_t v3_;
};

}  // namespace

uint64_t SipHash(const SipHashKey& key, std::span<const std::byte> bytes) {
  SipState state(key);
  const uint64_t total_bytes = bytes.size();
  while (bytes.size() >= sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof(word));
    state.Add(word);
    bytes = bytes.subspan(sizeof(word));
  }
  uint64_t last = total_bytes << 56;
  for (size_t i = 0; i < bytes.size(); ++i) last |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  state.Add(last);
  return state.Finish();
}

absl::StatusOr<InternTable> InternTable::Create(uint32_t entries_max) {
  if (entries_max > kEntriesMax) {
    return absl::InvalidArgumentError(absl::StrCat("interning of ", entries_max, " blobs: at most ",
                                                   kEntriesMax, " are remembered"));
  }
  SipHashKey key = {};
  // So few bytes are given whole or not at all.
  if (entries_max != 0 && ::getrandom(key.data(), sizeof(key), 0) != sizeof(key))
    return ErrnoStatus(errno, "getrandom");
  return InternTable(key, entries_max == 0 ? 0 : std::bit_ceil(entries_max));
}

bool InternTable::Remember(const Entry& entry) {
  for (size_t probe = 0; probe < ProbesMax(); ++probe) {
    Entry& place = entries_[(entry.hash + probe) & (entries_.size() - 1)];
    if (place.used) continue;
    place = entry;
    place.used = true;
    return true;
  }
  return false;
}

}  // namespace iob::shm
