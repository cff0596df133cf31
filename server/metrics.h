// Metrics: the daemon's figures in Prometheus' model.
//
// Collect runs on the loop and only copies numbers; the admin thread turns them into text. Names
// follow Prometheus' rules (base units, _total). Per-buffer series are labelled by name or, without
// one, by id, for the first kBuffersShownMax buffers; the others, and those that are gone, share
// buffer="other", so that sums never go down and cardinality is bounded.
#pragma once

#include <prometheus/metric_family.h>

#include <map>
#include <string>
#include <vector>

#include "server/attach_listener.h"
#include "server/crash_store.h"
#include "server/event_loop.h"
#include "server/grpc_listener.h"
#include "server/liveness.h"
#include "server/mediator_pool.h"
#include "server/quota.h"
#include "server/registry.h"
#include "server/snapshots.h"
#include "server/watchers.h"

namespace iob::server {

inline constexpr size_t kBuffersShownMax = 200;

struct MetricSources {
  const EventLoop& loop;
  Registry& registry;
  const Quota& quota;
  const AttachListener& attach_listener;
  const GrpcListener& grpc_listener;
  const Liveness& liveness;
  const Watchers& watchers;
  const MediatorPool& mediator_pool;
  const Snapshots& snapshots;
  const CrashStore& crash_store;
  uint64_t stalls;                                          // Of producers.
  uint64_t renewals;                                        // Of rings, because of them.
  const std::map<std::string, uint64_t>& endpoints_closed;  // By reason.
};

std::vector<prometheus::MetricFamily> CollectMetrics(const MetricSources& sources);

}  // namespace iob::server
