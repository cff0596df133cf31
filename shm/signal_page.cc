#include "shm/signal_page.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "shm/result.h"

namespace iob::shm {
namespace {

constexpr uint64_t kSignalsOffset = 0;
constexpr uint64_t kChangesOffset = 4;
constexpr uint64_t kCloseKindOffset = 8;
constexpr uint64_t kCloseCodeOffset = 12;
constexpr uint64_t kGenerationOffset = 16;
constexpr uint64_t kLineBytes = 24;

constexpr size_t IndexOf(EndpointId endpoint) { return endpoint == EndpointId::kEp0 ? 0 : 1; }

}  // namespace

absl::StatusOr<SignalPageWriter> SignalPageWriter::Create(uint64_t generation) {
  IOB_ASSIGN_OR_RETURN(Memfd fresh, Memfd::Create("iob-signal"));
  IOB_ASSIGN_OR_RETURN(SealedMemfd memfd, std::move(fresh).SealSize(PageBytes()));
  IOB_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Map(memfd));
  // The mapping above keeps writing; from here on nobody gets another writable one.
  IOB_RETURN_IF_ERROR(memfd.SealAgainstWriters());
  for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
    mapping.Word<uint64_t>(SignalLineOffset(endpoint) + kGenerationOffset).StoreRelaxed(generation);
  }
  return SignalPageWriter(std::move(memfd), std::move(mapping));
}

void SignalPageWriter::RaisePeerClosed(EndpointId listener, CloseReason reason) {
  const size_t index = IndexOf(listener);
  if ((signals_[index] & kSignalPeerClosed) != 0) return;
  const uint64_t line = SignalLineOffset(listener);
  mapping_.Word<uint32_t>(line + kCloseKindOffset).StoreRelaxed(static_cast<uint32_t>(reason.kind));
  mapping_.Word<uint32_t>(line + kCloseCodeOffset).StoreRelaxed(static_cast<uint32_t>(reason.code));
  Publish(listener, signals_[index] | kSignalPeerClosed);
}

bool SignalPageWriter::ChangeUserSignals(EndpointId listener, uint32_t clear, uint32_t set) {
  const uint32_t before = signals_[IndexOf(listener)];
  const uint32_t after = (before & ~(clear & kUserSignals)) | (set & kUserSignals);
  if (after == before) return false;
  Publish(listener, after);
  return true;
}

uint32_t SignalPageWriter::signals(EndpointId listener) const {
  return signals_[IndexOf(listener)];
}

void SignalPageWriter::Publish(EndpointId listener, uint32_t signals) {
  const size_t index = IndexOf(listener);
  const uint64_t line = SignalLineOffset(listener);
  signals_[index] = signals;
  changes_[index] += 1;
  // Pairs with the acquire in SignalLine::signals: who sees kPeerClosed sees the reason.
  mapping_.Word<uint32_t>(line + kSignalsOffset).StoreRelease(signals);
  SharedAtomic<uint32_t>& changes = mapping_.Word<uint32_t>(line + kChangesOffset);
  changes.StoreRelease(changes_[index]);
  FutexWakeAll(changes.address());
}

absl::StatusOr<SignalLine> SignalLine::Map(const SealedMemfd& memfd, uint64_t line_offset_bytes) {
  if (line_offset_bytes % 8 != 0 || memfd.size_bytes() < kLineBytes ||
      line_offset_bytes > memfd.size_bytes() - kLineBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a signal line at offset ", line_offset_bytes,
                                                   " does not fit into a page of ",
                                                   memfd.size_bytes(), " bytes"));
  }
  IOB_ASSIGN_OR_RETURN(ReadOnlyMapping page, ReadOnlyMapping::Map(memfd));
  return SignalLine(std::move(page), line_offset_bytes);
}

uint32_t SignalLine::signals() const {
  return page_.Word<uint32_t>(offset_bytes_ + kSignalsOffset).LoadAcquire().ForHintOnly();
}

CloseReason SignalLine::close_reason() const {
  if (!peer_closed()) return {};
  const auto kind =
      page_.Word<uint32_t>(offset_bytes_ + kCloseKindOffset).LoadRelaxed().Between(1, 6);
  const uint32_t code =
      page_.Word<uint32_t>(offset_bytes_ + kCloseCodeOffset).LoadRelaxed().ForHintOnly();
  return {.kind = kind ? static_cast<CloseKind>(*kind) : CloseKind::kDied,
          .code = static_cast<int32_t>(code)};
}

FutexWord SignalLine::ChangeWord() const {
  const SharedAtomic<uint32_t>& changes = page_.Word<uint32_t>(offset_bytes_ + kChangesOffset);
  return {.address = changes.address(), .expected = changes.LoadAcquire().ForHintOnly()};
}

}  // namespace iob::shm
