#include "client/iobctl/buffer_report.h"
#include "client/iobctl/placement_report.h"

#include <algorithm>
#include <chrono>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/signal_words.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

// A person looks at the first ones; --json has all that the daemon lists.
constexpr size_t kUsersShownMax = 20;

void AddTime(std::string_view key, std::chrono::system_clock::time_point time, JsonWriter* json) {
  json->Member(
      key,
      int64_t{
          std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count()});
}

void AddOwner(const Holder& owner, JsonWriter* json) {
  json->BeginObject("owner");
  AddHolder(owner, json);
  json->EndObject();
}

void AddOptions(const RegionInfo& region, JsonWriter* json) {
  if (const auto& options = region.mediated_ring) {
    json->BeginObject("mediated_ring");
    json->Member("policy", ToString(options->policy));
    json->Member("block_ms", int64_t{options->block.count()});
    json->Member("gap_records", options->gap_records);
    json->Member("stamped", options->stamped);
    json->Member("followers", options->followers);
    json->Member("writer_records_max", options->writer_records_max);
    json->Member("writer_bytes_max", options->writer_bytes_max);
    json->EndObject();
  }
  if (const auto& options = region.reserve_ring) {
    json->BeginObject("reserve_ring");
    json->Member("mode", ToString(options->mode));
    json->Member("lanes", uint64_t{options->lanes});
    json->Member("granule_bytes", uint64_t{options->granule_bytes});
    json->Member("consumer_clears", options->consumer_clears);
    json->Member("stamped", options->stamped);
    json->Member("on_stall", ToString(options->on_stall));
    json->Member("stall_ms", int64_t{options->stall.count()});
    json->EndObject();
  }
  if (region.slot_value_bytes) json->Member("slot_value_bytes", *region.slot_value_bytes);
}

void AddRegion(const RegionInfo& region, JsonWriter* json) {
  json->BeginObject();
  json->Member("index", uint64_t{region.index});
  json->Member("type", ToString(region.type));
  json->Member("discipline", ToString(region.discipline));
  json->Member("size_bytes", region.size_bytes);
  json->Member("koid", region.koid);
  json->Member("tag", region.tag);
  json->Member("ep0_rights", FormatRights(region.access.For(EndpointId::kEp0)));
  json->Member("ep1_rights", FormatRights(region.access.For(EndpointId::kEp1)));
  json->Member("ep0_enforcement", ToString(region.ep0_enforcement));
  json->Member("ep1_enforcement", ToString(region.ep1_enforcement));
  if (region.id_allocator) {
    json->BeginObject("id_allocator");
    AddIdAllocator(*region.id_allocator, json);
    json->EndObject();
  }
  AddOptions(region, json);
  AddPlacement(region.placement, json);
  json->EndObject();
}

// The koid of the other endpoint (ZX_INFO_HANDLE_BASIC calls it related); 0 if there is none.
uint64_t RelatedKoid(const std::vector<EndpointInfo>& endpoints, const EndpointInfo& endpoint) {
  for (const EndpointInfo& other : endpoints) {
    if (other.endpoint != endpoint.endpoint) return other.koid;
  }
  return 0;
}

void AddEndpoint(const EndpointInfo& endpoint, uint64_t related_koid, JsonWriter* json) {
  json->BeginObject();
  json->Member("endpoint", ToString(endpoint.endpoint));
  json->Member("koid", endpoint.koid);
  json->Member("related_koid", related_koid);
  json->Member("handles", uint64_t{endpoint.handles});
  json->Member("attachments", uint64_t{endpoint.attachments});
  json->Member("memory_held", endpoint.memory_held);
  AddCloseReason(endpoint.closed, json);
  AddSignals("signals", endpoint.signals, json);
  json->BeginArray("holders");
  for (const Holder& holder : endpoint.holders) {
    json->BeginObject();
    AddHolder(holder, json);
    json->EndObject();
  }
  json->EndArray();
  json->EndObject();
}

void AddWriter(const WriterShare& writer, JsonWriter* json) {
  json->BeginObject();
  json->Member("endpoint", ToString(writer.endpoint));
  json->Member("tag", writer.tag);
  json->Member("attempted_records", writer.attempted_records);
  json->Member("attempted_bytes", writer.attempted_bytes);
  json->Member("stored_records", writer.stored_records);
  json->Member("stored_bytes", writer.stored_bytes);
  AddLosses(writer.rejected, json);
  json->Member("seat", uint64_t{writer.seat});
  json->Member("discarded_records", writer.discarded_records);
  json->EndObject();
}

std::string DescribeHolders(const std::vector<Holder>& holders) {
  std::string text;
  for (const Holder& holder : holders) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", DisplayHolder(holder));
  }
  return text.empty() ? "-" : text;
}

// What was chosen for it when it was made.
std::string DescribeOptions(const RegionInfo& region) {
  if (region.slot_value_bytes)
    return absl::StrCat("values of up to ", FormatCount(*region.slot_value_bytes), " B");
  return FormatOptions(region);
}

std::string DescribeRegions(const std::vector<RegionInfo>& regions) {
  Table table({"REGION", "KOID", "TYPE", "DISCIPLINE", "SIZE", "EP0", "EP1", "ENFORCED EP0",
               "ENFORCED EP1", "TAG"});
  for (const RegionInfo& region : regions) {
    table.AddRow({absl::StrCat(region.index), absl::StrCat(region.koid), ToString(region.type),
                  ToString(region.discipline), FormatBytes(region.size_bytes),
                  FormatRights(region.access.For(EndpointId::kEp0)),
                  FormatRights(region.access.For(EndpointId::kEp1)),
                  ToString(region.ep0_enforcement), ToString(region.ep1_enforcement),
                  region.tag == 0 ? "writer's koid" : absl::StrCat(region.tag)});
  }
  std::string text = absl::StrCat(
      table.Render(), "(r w: map for reading, writing; R W: the broker reads, writes for it)\n");
  for (const RegionInfo& region : regions) {
    const std::string options = DescribeOptions(region);
    if (!options.empty()) absl::StrAppend(&text, "region ", region.index, ": ", options, "\n");
    absl::StrAppend(&text, DescribePlacement(region));
  }
  return text;
}

std::string DescribeEndpoints(const std::vector<EndpointInfo>& endpoints) {
  Table table({"ENDPOINT", "KOID", "RELATED", "STATE", "HANDLES", "ATTACHED", "MEMORY HELD",
               "SIGNALS", "HOLDERS"});
  for (const EndpointInfo& endpoint : endpoints) {
    table.AddRow({ToString(endpoint.endpoint), absl::StrCat(endpoint.koid),
                  absl::StrCat(RelatedKoid(endpoints, endpoint)), ToString(endpoint.closed),
                  absl::StrCat(endpoint.handles), absl::StrCat(endpoint.attachments),
                  endpoint.memory_held ? "yes" : "no", SignalsToString(endpoint.signals),
                  DescribeHolders(endpoint.holders)});
  }
  return table.Render();
}

std::string DescribeRing(const RingStats& ring) {
  Table table({absl::StrCat("RING ", ring.region_index), "RECORDS", "BYTES"});
  table.AddRow(
      {"attempted", FormatCount(ring.attempted_records), FormatBytes(ring.attempted_bytes)});
  table.AddRow({"stored", FormatCount(ring.stored_records), FormatBytes(ring.stored_bytes)});
  for (const LossCount& loss : ring.rejected) {
    table.AddRow({absl::StrCat("lost: ", ToString(loss.cause)), FormatCount(loss.records),
                  FormatBytes(loss.bytes)});
  }
  if (ring.rejected.empty()) table.AddRow({"lost", "0", "0 B"});
  table.AddRow({"consumed", FormatCount(ring.consumed_records), ""});
  if (ring.overwritten_records != 0) {
    table.AddRow({"overwritten", FormatCount(ring.overwritten_records),
                  absl::StrCat(FormatBytes(ring.overwritten_bytes), " of the ring")});
  }
  table.AddRow(
      {"in the ring", FormatCount(ring.resident_records),
       absl::StrCat(FormatBytes(ring.resident_bytes), " of ", FormatBytes(ring.capacity_bytes),
                    ", high water ", FormatBytes(ring.high_water_bytes))});
  for (const WriterShare& writer : ring.writers) {
    uint64_t lost = 0;
    for (const LossCount& loss : writer.rejected) lost += loss.records;
    std::string name = absl::StrCat("by ", ToString(writer.endpoint));
    std::string account =
        absl::StrCat(FormatBytes(writer.attempted_bytes), ", stored ",
                     FormatCount(writer.stored_records), ", lost ", FormatCount(lost));
    if (ring.claimed) {
      absl::StrAppend(&name, " seat ", writer.seat);
      absl::StrAppend(&account, ", discarded ", FormatCount(writer.discarded_records));
    }
    table.AddRow({std::move(name), FormatCount(writer.attempted_records), std::move(account)});
  }
  if (ring.tail_violations != 0) {
    table.AddRow({"refused tails", FormatCount(ring.tail_violations), "a consumer misbehaves"});
  }
  std::string text = table.Render();
  // Nobody stands between a producer and these figures.
  if (ring.claimed) absl::StrAppend(&text, "(as its producers and its consumer count)\n");
  return text;
}

}  // namespace

void AddCloseReason(const CloseReason& reason, JsonWriter* json) {
  json->BeginObject("closed");
  const std::string text = ToString(reason);
  json->Member("reason", std::string_view(text).substr(0, text.find('(')));
  json->Member("code", int64_t{reason.code});
  json->EndObject();
}

void AddHolder(const Holder& holder, JsonWriter* json) {
  json->Member("uid", uint64_t{holder.uid});
  json->Member("gid", uint64_t{holder.gid});
  json->Member("pid", int64_t{holder.pid});
}

void AddIdAllocator(const IdAllocatorInfo& ids, JsonWriter* json) {
  json->Member("next_id", uint64_t{ids.next_id});
  json->Member("free_bytes", ids.free_bytes);
  json->Member("shared", ids.shared);
  json->Member("damaged", ids.damaged);
}

void AddBuffer(const BufferInfo& buffer, JsonWriter* json) {
  json->Member("koid", buffer.koid);
  json->Member("name", buffer.name);
  AddOwner(buffer.owner, json);
  AddTime("create_time_unix_ms", buffer.create_time, json);
  json->Member("memory_bytes", buffer.memory_bytes);
  json->BeginArray("regions");
  for (const RegionInfo& region : buffer.regions) AddRegion(region, json);
  json->EndArray();
  json->BeginArray("endpoints");
  for (const EndpointInfo& endpoint : buffer.endpoints)
    AddEndpoint(endpoint, RelatedKoid(buffer.endpoints, endpoint), json);
  json->EndArray();
}

void AddLosses(const std::vector<LossCount>& losses, JsonWriter* json) {
  json->BeginObject("rejected");
  for (const LossCount& loss : losses) {
    json->BeginObject(ToString(loss.cause));
    json->Member("records", loss.records);
    json->Member("bytes", loss.bytes);
    json->EndObject();
  }
  json->EndObject();
}

void AddRing(const RingStats& ring, JsonWriter* json) {
  json->Member("region_index", uint64_t{ring.region_index});
  json->Member("discipline", ToString(ring.discipline));
  json->Member("claimed", ring.claimed);
  json->Member("attempted_records", ring.attempted_records);
  json->Member("attempted_bytes", ring.attempted_bytes);
  json->Member("stored_records", ring.stored_records);
  json->Member("stored_bytes", ring.stored_bytes);
  AddLosses(ring.rejected, json);
  json->Member("consumed_records", ring.consumed_records);
  json->Member("overwritten_records", ring.overwritten_records);
  json->Member("overwritten_bytes", ring.overwritten_bytes);
  json->Member("resident_records", ring.resident_records);
  json->Member("resident_bytes", ring.resident_bytes);
  json->Member("high_water_bytes", ring.high_water_bytes);
  json->Member("capacity_bytes", ring.capacity_bytes);
  json->Member("tail_violations", ring.tail_violations);
  json->BeginArray("writers");
  for (const WriterShare& writer : ring.writers) AddWriter(writer, json);
  json->EndArray();
}

void AddSharedRegion(const SharedRegionInfo& region, JsonWriter* json) {
  json->Member("koid", region.koid);
  AddOwner(region.owner, json);
  AddTime("create_time_unix_ms", region.create_time, json);
  json->Member("size_bytes", region.size_bytes);
  json->Member("handles", uint64_t{region.handles});
  json->Member("memory_bytes", region.memory_bytes);
  AddSignals("signals", region.signals, json);
  json->Member("user_count", uint64_t{region.user_count});
  json->BeginArray("users");
  for (const SharedRegionUser& user : region.users) {
    json->BeginObject();
    json->Member("buffer_koid", user.buffer_koid);
    json->Member("buffer_name", user.buffer_name);
    json->Member("region_index", uint64_t{user.region_index});
    json->EndObject();
  }
  json->EndArray();
}

void AddReport(const BufferReport& report, JsonWriter* json) {
  AddBuffer(report.buffer, json);
  if (report.stats) {
    json->BeginArray("rings");
    for (const RingStats& ring : report.stats->rings) {
      json->BeginObject();
      AddRing(ring, json);
      json->EndObject();
    }
    json->EndArray();
  }
  json->BeginArray("shared_regions");
  for (const SharedRegionInfo& region : report.shared_regions) {
    json->BeginObject();
    AddSharedRegion(region, json);
    json->EndObject();
  }
  json->EndArray();
}

void AddTicket(const Ticket& ticket, JsonWriter* json) {
  json->BeginObject();
  json->Member("endpoint", ToString(ticket.endpoint()));
  json->Member("ticket", ticket.ToHex());
  json->Member("socket_path", ticket.socket_path());
  json->Member("lifetime_ms", int64_t{ticket.lifetime().count()});
  json->EndObject();
}

std::string DisplayDisciplines(const std::vector<RegionInfo>& regions) {
  std::vector<std::pair<Discipline, size_t>> counts;
  for (const RegionInfo& region : regions) {
    const auto known = std::find_if(counts.begin(), counts.end(), [&region](const auto& count) {
      return count.first == region.discipline;
    });
    if (known == counts.end()) {
      counts.emplace_back(region.discipline, 1);
    } else {
      ++known->second;
    }
  }
  std::string text;
  for (const auto& [discipline, count] : counts) {
    absl::StrAppend(&text, text.empty() ? "" : ", ",
                    count == 1 ? std::string() : absl::StrCat(count, " "), ToString(discipline));
  }
  return text.empty() ? "-" : text;
}

std::string DisplayName(const BufferInfo& buffer) {
  return buffer.name.empty() ? absl::StrCat("#", buffer.koid) : Escape(buffer.name);
}

std::string DisplayState(const EndpointInfo& endpoint) {
  if (endpoint.closed.kind != CloseKind::kOpen) return ToString(endpoint.closed);
  if (endpoint.attachments != 0) return absl::StrCat(endpoint.attachments, " attached");
  return "open";
}

std::string DisplayHolder(const Holder& holder) {
  std::string text = absl::StrCat("uid ", holder.uid, " gid ", holder.gid);
  if (holder.pid != 0) absl::StrAppend(&text, " pid ", holder.pid);
  return text;
}

std::string DescribeIdAllocators(const std::vector<RegionInfo>& regions) {
  Table table({"IDS OF REGION", "IDS", "ROOM LEFT", "WRITTEN BY", "STATE"});
  bool any = false;
  for (const RegionInfo& region : regions) {
    if (!region.id_allocator) continue;
    any = true;
    const IdAllocatorInfo& ids = *region.id_allocator;
    table.AddRow(
        {absl::StrCat(region.index), FormatCount(ids.next_id),
         absl::StrCat(FormatCount(ids.free_bytes), " of ", FormatCount(region.size_bytes), " B"),
         ids.shared ? "endpoints too (shared)" : "the broker alone (sealed)",
         ids.damaged ? "damaged: whoever may write it has spoiled its header" : "ok"});
  }
  return any ? table.Render() : "";
}

std::string DescribeSharedRegion(const SharedRegionInfo& region) {
  std::string text = absl::StrCat(
      "shared region ", region.koid, ", created ", FormatTime(region.create_time), " by ",
      DisplayHolder(region.owner), ", ", FormatBytes(region.size_bytes), ", ",
      FormatBytes(region.memory_bytes), " of memory\nhandles ", region.handles, ", signals ",
      SignalsToString(region.signals), ", regions that refer to it ", region.user_count, "\n");
  if (region.users.empty()) return text;
  Table table({"USED BY", "KOID", "REGION"});
  const size_t shown = std::min(region.users.size(), kUsersShownMax);
  for (size_t i = 0; i < shown; ++i) {
    const SharedRegionUser& user = region.users[i];
    table.AddRow({user.buffer_name.empty() ? "-" : Escape(user.buffer_name),
                  absl::StrCat(user.buffer_koid), absl::StrCat(user.region_index)});
  }
  absl::StrAppend(&text, table.Render());
  if (region.user_count > shown)
    absl::StrAppend(&text, "and ", FormatCount(region.user_count - shown), " more\n");
  return text;
}

std::string DescribeReport(const BufferReport& report) {
  const BufferInfo& buffer = report.buffer;
  std::string text = absl::StrCat(
      "buffer ", buffer.koid, buffer.name.empty() ? "" : " ", Escape(buffer.name), ", created ",
      FormatTime(buffer.create_time), " by ", DisplayHolder(buffer.owner), ", ",
      FormatBytes(buffer.memory_bytes), " of memory\n\n", DescribeRegions(buffer.regions), "\n",
      DescribeEndpoints(buffer.endpoints));
  if (const std::string ids = DescribeIdAllocators(buffer.regions); !ids.empty())
    absl::StrAppend(&text, "\n", ids);
  for (const SharedRegionInfo& region : report.shared_regions)
    absl::StrAppend(&text, "\n", DescribeSharedRegion(region));
  if (!report.stats) {
    absl::StrAppend(&text, "\n(what became of records is for its owner and root to see)\n");
    return text;
  }
  for (const RingStats& ring : report.stats->rings)
    absl::StrAppend(&text, "\n", DescribeRing(ring));
  return text;
}

}  // namespace iob::ctl
