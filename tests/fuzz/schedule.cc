#include "tests/fuzz/schedule.h"

#include <algorithm>
#include <cstring>

namespace iob::fuzz {
namespace {

// Schedules are short: what many ambushes at once find, two find.
constexpr size_t kAmbushesMax = 8;

uint8_t PatternByte(uint64_t seed, size_t index) {
  return static_cast<uint8_t>((seed * 0x9e3779b97f4a7c15 >> 32) + index * 7);
}

}  // namespace

uint64_t Input::Word(int bytes) {
  uint64_t word = 0;
  for (int i = 0; i < bytes; ++i) word |= static_cast<uint64_t>(Byte()) << (8 * i);
  return word;
}

uint64_t Input::UpTo(uint64_t high) {
  const uint64_t small = Byte();
  // One in eight says that two more bytes follow.
  const uint64_t wanted = small < 224 ? small : Word(2);
  return high == UINT64_MAX ? wanted : wanted % (high + 1);
}

Section::Section(uint64_t size_bytes)
    : memfd(shm::Memfd::Create("iob-fuzz").value().SealSize(size_bytes).value()),
      mapping(shm::Mapping::Map(memfd).value()) {}

void Section::Clear() { std::memset(mapping.base(), 0, mapping.size_bytes()); }

void Peer::Owns(const shm::Mapping& section, std::initializer_list<uint64_t> words) {
  sections_.push_back(&section);
  for (const uint64_t offset : words) words_.push_back({.section = &section, .offset = offset});
}

void Peer::Knows(std::initializer_list<uint64_t> values) {
  values_.insert(values_.end(), values.begin(), values.end());
}

void Peer::Ambush() {
  const uint64_t moment = input_.Byte();
  Blow blow = DecodeStrike();
  blow.moment = moment;
  if (ambushes_.size() < kAmbushesMax) ambushes_.push_back(blow);
}

Peer::Target Peer::DecodeTarget() {
  const uint8_t choice = input_.Byte();
  if (choice < 160 && !words_.empty()) return words_[choice % words_.size()];
  const shm::Mapping* const section = sections_[choice % sections_.size()];
  const uint64_t offset = input_.Word(2) * sizeof(uint64_t) % section->size_bytes();
  return {.section = section, .offset = offset};
}

Peer::Blow Peer::DecodeStrike() {
  IOB_CHECK(!sections_.empty());
  Blow blow;
  blow.change = static_cast<Change>(input_.Byte() % kChanges);
  if (blow.change == Change::kAct) return blow;
  blow.target = DecodeTarget();
  switch (blow.change) {
    case Change::kAny:
      blow.value = input_.Word(8);
      break;
    case Change::kHalf:
      blow.value = input_.Word(4);
      break;
    case Change::kSmall:
    case Change::kNear:
    case Change::kKnown:
    case Change::kBit:
    case Change::kCopy:
    case Change::kAct:
      blow.value = input_.Byte();
      break;
  }
  return blow;
}

uint64_t Peer::ValueOf(const Blow& blow, uint64_t current) const {
  // Signed, in multiples of the alignment that positions have, or off it.
  const uint64_t low_byte = blow.value & 0xff;
  const uint64_t near = low_byte < 128 ? low_byte : low_byte - 256;
  switch (blow.change) {
    case Change::kSmall:
    case Change::kAny:
    case Change::kAct:
      return blow.value;
    case Change::kNear:
      return current + near * ((blow.value & 1) != 0 ? 1 : sizeof(uint64_t));
    case Change::kKnown:
      return values_[blow.value % values_.size()];
    case Change::kHalf:
      return (current & ~uint64_t{UINT32_MAX}) | blow.value;
    case Change::kBit:
      return current ^ uint64_t { 1 } << blow.value % 64;
    case Change::kCopy: {
      if (words_.empty()) return 0;
      const Target& source = words_[blow.value % words_.size()];
      return source.section->Word<uint64_t>(source.offset).LoadRelaxed().ForHintOnly();
    }
  }
  return 0;
}

void Peer::Strike(const Blow& blow) {
  striking_ = true;
  if (blow.change == Change::kAct) {
    if (act_) act_();
  } else {
    auto& word = blow.target.section->Word<uint64_t>(blow.target.offset);
    word.StoreRelease(ValueOf(blow, word.LoadRelaxed().ForHintOnly()));
    honest_ = false;
  }
  striking_ = false;
}

void Peer::OnAccess() {
  // The peer's own looks at the memory are not the victim's.
  if (striking_) return;
  IOB_CHECK(++accesses_ <= kAccessesMax);
  for (size_t i = 0; i < ambushes_.size();) {
    if (ambushes_[i].moment-- != 0) {
      ++i;
      continue;
    }
    const Blow blow = ambushes_[i];
    ambushes_.erase(ambushes_.begin() + static_cast<std::ptrdiff_t>(i));
    Strike(blow);
  }
}

Peer::Watching::Watching(Peer* peer) {
  peer->accesses_ = 0;
  const auto on_access = [](void* self) { static_cast<Peer*>(self)->OnAccess(); };
  shm::before_shared_load_context = shm::before_shared_store_context = peer;
  shm::before_shared_load = shm::before_shared_store = on_access;
}

Peer::Watching::~Watching() { shm::before_shared_load = shm::before_shared_store = nullptr; }

void FillPattern(uint64_t seed, std::span<std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte{PatternByte(seed, i)};
}

bool HasPattern(uint64_t seed, std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != std::byte{PatternByte(seed, i)}) return false;
  }
  return true;
}

void LookAt(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (const std::byte byte : bytes) sum += static_cast<uint64_t>(byte);
  asm volatile("" : : "r"(sum));
}

uint64_t DecodeStart(Input& input, uint64_t capacity_bytes, uint64_t highest) {
  const std::array<uint64_t, 6> starts = {0,
                                          capacity_bytes - 64,
                                          7 * capacity_bytes + 256,
                                          (uint64_t{1} << 32) - 128,
                                          (uint64_t{1} << 61),
                                          highest - 16 * capacity_bytes};
  return starts[input.Below(starts.size())] & ~uint64_t{7};
}

}  // namespace iob::fuzz
