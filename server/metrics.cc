#include "server/metrics.h"

#include <sys/resource.h>

#include <array>
#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "iob/v1/types.pb.h"
#include "server/descriptors.h"
#include "server/errors.h"
#include "server/mutex_lock.h"
#include "shm/mapping.h"

namespace iob::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

class Families {
 public:
  // The family, made on first use. Order of first use is order of output.
  MetricFamily& Family(const std::string& name, MetricType type, const std::string& help) {
    for (MetricFamily& family : families_) {
      if (family.name == name) return family;
    }
    families_.push_back({name, help, type, {}});
    return families_.back();
  }

  void Counter(const std::string& name, const std::string& help, double value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = value;
    Family(name, MetricType::Counter, help).metric.push_back(std::move(metric));
  }

  void Gauge(const std::string& name, const std::string& help, double value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.gauge.value = value;
    Family(name, MetricType::Gauge, help).metric.push_back(std::move(metric));
  }

  std::vector<MetricFamily> Take() && { return std::move(families_); }

 private:
  std::vector<MetricFamily> families_;
};

// One line of the ring tables: a ring, or everything that shares buffer="other".
struct RingRow {
  std::string buffer;
  std::string region;
  shm::Ledger ledger;
  shm::RingOccupancy occupancy;

  void Add(const shm::Ledger& more, const shm::RingOccupancy& now) {
    ledger.Add(more);
    occupancy.consumed_records += now.consumed_records;
    occupancy.resident_records += now.resident_records;
    occupancy.resident_bytes += now.resident_bytes;
    occupancy.capacity_bytes += now.capacity_bytes;
    occupancy.tail_violations += now.tail_violations;
    occupancy.high_water_bytes += now.high_water_bytes;
    occupancy.overwritten_records += now.overwritten_records;
    occupancy.overwritten_bytes += now.overwritten_bytes;
  }
  void Add(MediatedRing& ring) {
    const MutexLock lock(ring.mutex.get());
    Add(ring.ledger, ring.writer.Occupancy());
  }
};

std::string CauseName(size_t cause) {
  const std::string& name = v1::LossCause_Name(static_cast<v1::LossCause>(cause));
  return absl::AsciiStrToLower(absl::StripPrefix(name, "LOSS_CAUSE_"));
}

std::vector<RingRow> CollectRings(Registry& registry) {
  std::vector<RingRow> rows;
  RingRow other{
      .buffer = "other", .region = "", .ledger = registry.retired().ledger, .occupancy = {}};
  other.occupancy.consumed_records = registry.retired().consumed_records;
  other.occupancy.overwritten_records = registry.retired().overwritten_records;
  size_t shown = 0;
  for (const auto& [koid, buffer] : registry.buffers()) {
    const bool show = shown++ < kBuffersShownMax;
    for (size_t i = 0; i < buffer->regions().size(); ++i) {
      MediatedRing* const ring = buffer->regions()[i].ring();
      // A shared region has a row of its own.
      if (ring == nullptr || buffer->regions()[i].shared() != nullptr) continue;
      if (!show) {
        other.Add(*ring);
        continue;
      }
      RingRow row{.buffer = buffer->name().empty() ? absl::StrCat("#", koid) : buffer->name(),
                  .region = absl::StrCat(i),
                  .ledger = {},
                  .occupancy = {}};
      row.Add(*ring);
      rows.push_back(std::move(row));
    }
  }
  for (const auto& [koid, region] : registry.shared_regions()) {
    MediatedRing* const ring = region->ring();
    if (ring == nullptr) continue;
    if (shown++ >= kBuffersShownMax) {
      other.Add(*ring);
      continue;
    }
    RingRow row{
        .buffer = absl::StrCat("shared#", koid), .region = "", .ledger = {}, .occupancy = {}};
    row.Add(*ring);
    rows.push_back(std::move(row));
  }
  rows.push_back(std::move(other));
  return rows;
}

void AddRing(const RingRow& row, Families& out) {
  const Labels labels = {{"buffer", row.buffer}, {"region", row.region}};
  const shm::Ledger& ledger = row.ledger;
  const shm::RingOccupancy& now = row.occupancy;
  const auto count = [&](const char* name, const char* help, uint64_t value) {
    out.Counter(name, help, static_cast<double>(value), labels);
  };
  const auto gauge = [&](const char* name, const char* help, uint64_t value) {
    out.Gauge(name, help, static_cast<double>(value), labels);
  };
  count("iob_ring_attempted_records_total", "Records that writers asked to append.",
        ledger.attempted_records);
  count("iob_ring_attempted_bytes_total", "Their payload bytes.", ledger.attempted_bytes);
  count("iob_ring_stored_records_total", "Records appended.", ledger.stored_records);
  count("iob_ring_stored_bytes_total", "Their payload bytes.", ledger.stored_bytes);
  count("iob_ring_consumed_records_total", "Records that the consumer released.",
        now.consumed_records);
  count("iob_ring_overwritten_records_total", "Records that made room before they were released.",
        now.overwritten_records);
  for (size_t cause = 1; cause < shm::kLossCauses; ++cause) {
    Labels with_cause = labels;
    with_cause.push_back({"cause", CauseName(cause)});
    out.Counter("iob_ring_rejected_records_total", "Records that were not appended, by cause.",
                static_cast<double>(ledger.rejected_records[cause]), with_cause);
    out.Counter("iob_ring_rejected_bytes_total", "Their payload bytes.",
                static_cast<double>(ledger.rejected_bytes[cause]), with_cause);
  }
  count("iob_ring_tail_violations_total", "Tails that could not be and were refused.",
        now.tail_violations);
  gauge("iob_ring_resident_records", "Records in the ring.", now.resident_records);
  gauge("iob_ring_resident_bytes", "Ring bytes in use, headers and padding included.",
        now.resident_bytes);
  gauge("iob_ring_high_water_bytes", "Most ring bytes seen in use.", now.high_water_bytes);
  gauge("iob_ring_capacity_bytes", "Ring bytes in all.", now.capacity_bytes);
}

void AddObjects(const MetricSources& sources, Families& out) {
  const Registry& registry = sources.registry;
  const auto gauge = [&](const char* name, const char* help, auto value) {
    out.Gauge(name, help, static_cast<double>(value));
  };
  gauge("iob_buffers", "Buffers alive.", registry.buffers().size());
  out.Counter("iob_buffers_created_total", "Buffers ever made.",
              static_cast<double>(registry.buffers_created()));
  gauge("iob_shared_regions", "Shared regions alive.", registry.shared_regions().size());
  gauge("iob_watchers", "Streams of events.", sources.watchers.count());
  gauge("iob_handles", "Handles and tickets that no attachment holds.", registry.handle_count());
  gauge("iob_attachments", "Endpoints held by a connection.", registry.attachments().size());
  gauge("iob_endpoints_waiting", "Endpoints let go of whose memory is still mapped or held.",
        sources.liveness.waiting_count());
  gauge("iob_memory_bytes", "Region memory charged.", sources.quota.memory_bytes());
  gauge("iob_section_descriptors", "Descriptors that sections take.", sources.quota.descriptors());
  gauge("iob_section_descriptors_limit", "Descriptors that sections may take.",
        registry.limits().descriptors_max);
  gauge("iob_memory_limit_bytes", "Region memory allowed.", registry.limits().memory_bytes_max);
  for (const auto& [reason, count] : sources.endpoints_closed) {
    out.Counter("iob_endpoints_closed_total", "Endpoints closed, by reason.",
                static_cast<double>(count), {{"reason", reason}});
  }
}

void AddConnections(const MetricSources& sources, Families& out) {
  const AttachListener::Counters attach = sources.attach_listener.counters();
  out.Gauge("iob_attach_connections", "Connections on the attach socket.",
            static_cast<double>(sources.attach_listener.connection_count()));
  out.Counter("iob_attached_total", "Tickets redeemed.", static_cast<double>(attach.attached));
  for (const auto& [reason, count] : attach.refused_by_reason) {
    out.Counter(
        "iob_attach_refused_total", "Attach connections ended with an error, by reason.",
        static_cast<double>(count),
        {{"reason", absl::AsciiStrToLower(ReasonName(static_cast<v1::ErrorReason>(reason)))}});
  }
  out.Counter("iob_attach_turned_away_total", "Attach connections closed for want of room.",
              static_cast<double>(attach.turned_away));
  out.Gauge("iob_grpc_connections", "Connections on the gRPC socket.",
            static_cast<double>(sources.grpc_listener.connection_count()));
  out.Counter("iob_grpc_turned_away_total", "gRPC connections closed for want of room.",
              static_cast<double>(sources.grpc_listener.turned_away()));
  out.Counter("iob_loop_refused_total", "Calls answered UNAVAILABLE because the loop was behind.",
              static_cast<double>(sources.loop.posts_refused()));
}

void AddMediators(const MetricSources& sources, Families& out) {
  out.Gauge("iob_submission_queues", "Submission queues open.",
            static_cast<double>(sources.mediator_pool.queue_count()));
  out.Counter("iob_submission_entries_total", "Entries of submission queues decided.",
              static_cast<double>(sources.mediator_pool.entries_served()));
  out.Counter("iob_mediator_sleeps_total", "Times that a mediator thread had nothing to do.",
              static_cast<double>(sources.mediator_pool.sleeps()));
  out.Counter("iob_producers_stalled_total",
              "Producers found stopped in the middle of a record of a shared reserve ring.",
              static_cast<double>(sources.stalls));
  out.Counter("iob_rings_renewed_total",
              "Shared reserve rings that got new memory because a producer had stopped.",
              static_cast<double>(sources.renewals));
}

void AddSnapshots(const MetricSources& sources, Families& out) {
  const Snapshots& snapshots = sources.snapshots;
  const auto gauge = [&](const char* name, const char* help, uint64_t value) {
    out.Gauge(name, help, static_cast<double>(value));
  };
  gauge("iob_snapshots", "Copies that exist: in the daemon, on their way, or mapped by a client.",
        snapshots.memory().count());
  gauge("iob_snapshot_bytes", "Their memory.", snapshots.memory().bytes());
  gauge("iob_snapshot_tickets", "Copies whose ticket was not redeemed yet.",
        snapshots.ticket_count());
  gauge("iob_snapshots_copying", "Copies that are being made.", snapshots.copying_count());
  gauge("iob_snapshot_cut_bytes_largest",
        "Most that the loop ever copied at once, while the rings of a snapshot were held.",
        snapshots.counters().cut_bytes_largest);
  out.Gauge("iob_snapshot_held_seconds_largest",
            "Longest that a snapshot ever held up the loop, and with it a ring.",
            static_cast<double>(snapshots.counters().held_ns_largest) / 1e9);
  gauge("iob_autopsies", "Crashes in the crash store.", sources.crash_store.count());
  gauge("iob_autopsy_bytes", "Memory of its copies.", sources.crash_store.bytes());
  out.Counter("iob_snapshots_taken_total", "Copies made.",
              static_cast<double>(snapshots.counters().taken));
  out.Counter("iob_snapshots_failed_total", "Copies given up.",
              static_cast<double>(snapshots.counters().failed));
}

void AddProcess(Families& out) {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  out.Counter("process_cpu_seconds_total", "CPU time used.",
              seconds(usage.ru_utime) + seconds(usage.ru_stime));
  uint64_t size_pages = 0;
  uint64_t resident_pages = 0;
  if (std::ifstream("/proc/self/statm") >> size_pages >> resident_pages) {
    out.Gauge("process_resident_memory_bytes", "Resident memory, shared pages included.",
              static_cast<double>(resident_pages * shm::PageBytes()));
  }
  out.Gauge("process_open_fds", "Open descriptors.", static_cast<double>(DescriptorsOpen()));
  out.Gauge("process_max_fds", "Descriptors allowed.", static_cast<double>(DescriptorsMax()));
}

}  // namespace

std::vector<MetricFamily> CollectMetrics(const MetricSources& sources) {
  Families out;
  out.Gauge("iob_build_info", "Always 1; the labels tell the version.", 1,
            {{"version", IOB_VERSION}});
  AddObjects(sources, out);
  for (const RingRow& row : CollectRings(sources.registry)) AddRing(row, out);
  AddConnections(sources, out);
  AddMediators(sources, out);
  AddSnapshots(sources, out);
  AddProcess(out);
  return std::move(out).Take();
}

}  // namespace iob::server
