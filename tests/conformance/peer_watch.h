// PeerWatch: one endpoint's view of whether its peer is closed, by every road at once: packets and
// signal page of a raw attachment, libiob, and WatchEvents. They must agree.
#pragma once

#include <memory>

#include "client/endpoint.h"
#include "client/event_watch.h"
#include "tests/support/raw_client.h"

namespace iob::test {

class PeerWatch {
 public:
  PeerWatch(std::unique_ptr<RawClient> raw, Endpoint endpoint, EventWatch events);

  // Not yet, as far as anybody was told.
  void ExpectOpen();
  // It is, or will be within seconds, and for this reason.
  void ExpectClosed(CloseKind kind, int code = 0);

 private:
  std::unique_ptr<RawClient> raw_;
  Endpoint endpoint_;
  EventWatch events_;
};

}  // namespace iob::test
