// StatsStream: one WatchStats call.
//
// Internal to the library; includes gRPC, so only .cc files include it. Thread-compatible.
#pragma once

#include <memory>
#include <utility>

#include "client/internal/message_stream.h"
#include "iob/v1/broker.pb.h"

namespace iob {

class StatsStream final : public MessageStream<v1::WatchStatsResponse> {
 public:
  StatsStream(std::shared_ptr<grpc::Channel> channel, const v1::WatchStatsRequest& request)
      : MessageStream(std::move(channel), &v1::BrokerService::Stub::PrepareAsyncWatchStats,
                      request) {}
};

}  // namespace iob
