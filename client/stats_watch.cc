#include "client/stats_watch.h"

#include <utility>

#include "client/internal/stats_stream.h"
#include "client/internal/wire_types.h"
#include "shm/result.h"

namespace iob {

StatsWatch::StatsWatch(std::unique_ptr<StatsStream> stream) : stream_(std::move(stream)) {}
StatsWatch::StatsWatch(StatsWatch&& other) noexcept = default;
StatsWatch& StatsWatch::operator=(StatsWatch&& other) noexcept = default;
StatsWatch::~StatsWatch() = default;

absl::StatusOr<std::optional<StatsBeat>> StatsWatch::Next(Deadline deadline) {
  IOB_ASSIGN_OR_RETURN(const v1::WatchStatsResponse* const message, stream_->Next(deadline));
  if (message == nullptr) return std::optional<StatsBeat>();
  return std::optional<StatsBeat>(FromWire(*message));
}

}  // namespace iob
