// How calls are turned away when the loop is behind, and streams cut off when the daemon stops.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/event_loop.h"

namespace iob::server {

// When the daemon stops: a message that somebody reads is written in microseconds, and a tenth of
// gRPC's drain is left.
inline constexpr int64_t kStopGraceMs = 50;

// The loop takes no more calls.
inline absl::Status LoopIsBehind() {
  return MakeError(v1::ERROR_REASON_BUSY,
                   absl::StrCat("the daemon has ", kPostedTasksMax, " calls waiting; retry"));
}

// A call that the loop has no room for. gRPC alone knows it, until OnDone.
template <typename Reactor>
Reactor* RefuseStream(const grpc::Status& status) {
  class Refusal final : public Reactor {
   public:
    explicit Refusal(const grpc::Status& refused) { this->Finish(refused); }
    void OnDone() override { delete this; }
  };
  return new Refusal(status);
}

}  // namespace iob::server
