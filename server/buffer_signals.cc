#include "server/buffer_signals.h"

#include "shm/result.h"

namespace iob::server {

using shm::EndpointId;

void BufferSignals::RaisePeerClosed(EndpointId listener, shm::CloseReason reason) {
  uint32_t& signals = signals_[IndexOf(listener)];
  if ((signals & shm::kSignalPeerClosed) != 0) return;
  signals |= shm::kSignalPeerClosed;
  peer_closed_[IndexOf(listener)] = reason;
  if (page_) page_->RaisePeerClosed(listener, reason);
}

bool BufferSignals::ChangeUserSignals(EndpointId listener, uint32_t clear, uint32_t set) {
  uint32_t& signals = signals_[IndexOf(listener)];
  const uint32_t before = signals;
  signals = (signals & ~(clear & shm::kUserSignals)) | (set & shm::kUserSignals);
  if (page_) page_->ChangeUserSignals(listener, clear, set);
  return signals != before;
}

absl::StatusOr<const shm::SealedMemfd*> BufferSignals::Page() {
  if (!page_) {
    IOB_ASSIGN_OR_RETURN(page_, shm::SignalPageWriter::Create(/*generation=*/1));
    for (const EndpointId endpoint : {EndpointId::kEp0, EndpointId::kEp1}) {
      const size_t index = IndexOf(endpoint);
      page_->ChangeUserSignals(endpoint, 0, signals_[index]);
      if ((signals_[index] & shm::kSignalPeerClosed) != 0)
        page_->RaisePeerClosed(endpoint, peer_closed_[index]);
    }
  }
  return &page_->memfd();
}

}  // namespace iob::server
