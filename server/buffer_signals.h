// BufferSignals: the signals of a buffer's two endpoints, and the page that shows them.
//
// The state is here; the page is made when somebody is first attached, and brought up to date then:
// most of what a buffer that nobody has attached to costs is its descriptors.
//
//   N1  PEER_CLOSED is never cleared, and only its first reason counts.
//   N2  From the moment it exists the page says what the state says.
//
// Owned by the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "shm/access.h"
#include "shm/memfd.h"
#include "shm/signal_page.h"

namespace iob::server {

class BufferSignals {
 public:
  // Raised now.
  uint32_t signals(shm::EndpointId endpoint) const { return signals_[IndexOf(endpoint)]; }

  // Tells `listener` that its peer is gone.
  void RaisePeerClosed(shm::EndpointId listener, shm::CloseReason reason);
  // Clears, then raises; true when that changes anything. Other bits are left alone.
  bool ChangeUserSignals(shm::EndpointId listener, uint32_t clear, uint32_t set);

  // The page, made now if it is not there yet. RESOURCE_EXHAUSTED, UNAVAILABLE.
  absl::StatusOr<const shm::SealedMemfd*> Page();
  // nullptr when it is not there.
  const shm::SealedMemfd* page_if_made() const { return page_ ? &page_->memfd() : nullptr; }

 private:
  static size_t IndexOf(shm::EndpointId endpoint) { return static_cast<size_t>(endpoint); }

  std::array<uint32_t, 2> signals_ = {0, 0};
  std::array<shm::CloseReason, 2> peer_closed_;
  std::optional<shm::SignalPageWriter> page_;
};

}  // namespace iob::server
