#include "client/iobctl/buffer_report.h"

#include <chrono>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

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
  json->EndObject();
}

void AddHolder(const Holder& holder, JsonWriter* json) {
  json->Member("uid", uint64_t{holder.uid});
  json->Member("gid", uint64_t{holder.gid});
  json->Member("pid", int64_t{holder.pid});
}

void AddEndpoint(const EndpointInfo& endpoint, JsonWriter* json) {
  json->BeginObject();
  json->Member("endpoint", ToString(endpoint.endpoint));
  json->Member("koid", endpoint.koid);
  json->Member("handles", uint64_t{endpoint.handles});
  json->Member("attachments", uint64_t{endpoint.attachments});
  json->Member("memory_held", endpoint.memory_held);
  AddCloseReason(endpoint.closed, json);
  json->BeginArray("holders");
  for (const Holder& holder : endpoint.holders) {
    json->BeginObject();
    AddHolder(holder, json);
    json->EndObject();
  }
  json->EndArray();
  json->EndObject();
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

void AddWriter(const WriterShare& writer, JsonWriter* json) {
  json->BeginObject();
  json->Member("endpoint", ToString(writer.endpoint));
  json->Member("tag", writer.tag);
  json->Member("attempted_records", writer.attempted_records);
  json->Member("attempted_bytes", writer.attempted_bytes);
  json->Member("stored_records", writer.stored_records);
  json->Member("stored_bytes", writer.stored_bytes);
  AddLosses(writer.rejected, json);
  json->EndObject();
}

void AddRing(const RingStats& ring, JsonWriter* json) {
  json->BeginObject();
  json->Member("region_index", uint64_t{ring.region_index});
  json->Member("attempted_records", ring.attempted_records);
  json->Member("attempted_bytes", ring.attempted_bytes);
  json->Member("stored_records", ring.stored_records);
  json->Member("stored_bytes", ring.stored_bytes);
  AddLosses(ring.rejected, json);
  json->Member("consumed_records", ring.consumed_records);
  json->Member("overwritten_records", ring.overwritten_records);
  json->Member("resident_records", ring.resident_records);
  json->Member("resident_bytes", ring.resident_bytes);
  json->Member("high_water_bytes", ring.high_water_bytes);
  json->Member("capacity_bytes", ring.capacity_bytes);
  json->Member("tail_violations", ring.tail_violations);
  json->BeginArray("writers");
  for (const WriterShare& writer : ring.writers) AddWriter(writer, json);
  json->EndArray();
  json->EndObject();
}

std::string DescribeHolders(const std::vector<Holder>& holders) {
  std::string text;
  for (const Holder& holder : holders) {
    if (!text.empty()) text += ", ";
    absl::StrAppend(&text, "uid ", holder.uid);
    if (holder.pid != 0) absl::StrAppend(&text, " pid ", holder.pid);
  }
  return text.empty() ? "-" : text;
}

std::string DescribeRegions(const std::vector<RegionInfo>& regions) {
  Table table({"REGION", "TYPE", "DISCIPLINE", "SIZE", "EP0", "EP1", "ENFORCED EP0", "ENFORCED EP1",
               "TAG"});
  for (const RegionInfo& region : regions) {
    table.AddRow({absl::StrCat(region.index), ToString(region.type), ToString(region.discipline),
                  FormatBytes(region.size_bytes), FormatRights(region.access.For(EndpointId::kEp0)),
                  FormatRights(region.access.For(EndpointId::kEp1)),
                  ToString(region.ep0_enforcement), ToString(region.ep1_enforcement),
                  region.tag == 0 ? "writer's koid" : absl::StrCat(region.tag)});
  }
  return absl::StrCat(table.Render(),
                      "(r w: map for reading, writing; R W: the broker reads, writes for it)\n");
}

std::string DescribeEndpoints(const std::vector<EndpointInfo>& endpoints) {
  Table table({"ENDPOINT", "KOID", "STATE", "HANDLES", "ATTACHED", "MEMORY HELD", "HOLDERS"});
  for (const EndpointInfo& endpoint : endpoints) {
    table.AddRow({ToString(endpoint.endpoint), absl::StrCat(endpoint.koid),
                  ToString(endpoint.closed), absl::StrCat(endpoint.handles),
                  absl::StrCat(endpoint.attachments), endpoint.memory_held ? "yes" : "no",
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
    table.AddRow({"overwritten", FormatCount(ring.overwritten_records), ""});
  }
  table.AddRow(
      {"in the ring", FormatCount(ring.resident_records),
       absl::StrCat(FormatBytes(ring.resident_bytes), " of ", FormatBytes(ring.capacity_bytes),
                    ", high water ", FormatBytes(ring.high_water_bytes))});
  for (const WriterShare& writer : ring.writers) {
    uint64_t lost = 0;
    for (const LossCount& loss : writer.rejected) lost += loss.records;
    table.AddRow({absl::StrCat("by ", ToString(writer.endpoint)),
                  FormatCount(writer.attempted_records),
                  absl::StrCat(FormatBytes(writer.attempted_bytes), ", stored ",
                               FormatCount(writer.stored_records), ", lost ", FormatCount(lost))});
  }
  if (ring.tail_violations != 0) {
    table.AddRow({"refused tails", FormatCount(ring.tail_violations), "a consumer misbehaves"});
  }
  return table.Render();
}

}  // namespace

void AddCloseReason(const CloseReason& reason, JsonWriter* json) {
  json->BeginObject("closed");
  const std::string text = ToString(reason);
  json->Member("reason", std::string_view(text).substr(0, text.find('(')));
  json->Member("code", int64_t{reason.code});
  json->EndObject();
}

void AddBuffer(const BufferInfo& buffer, JsonWriter* json) {
  json->Member("koid", buffer.koid);
  json->Member("name", buffer.name);
  json->BeginObject("owner");
  AddHolder(buffer.owner, json);
  json->EndObject();
  json->Member("create_time_unix_ms", int64_t{std::chrono::duration_cast<std::chrono::milliseconds>(
                                                  buffer.create_time.time_since_epoch())
                                                  .count()});
  json->Member("memory_bytes", buffer.memory_bytes);
  json->BeginArray("regions");
  for (const RegionInfo& region : buffer.regions) AddRegion(region, json);
  json->EndArray();
  json->BeginArray("endpoints");
  for (const EndpointInfo& endpoint : buffer.endpoints) AddEndpoint(endpoint, json);
  json->EndArray();
}

void AddRings(const BufferStats& stats, JsonWriter* json) {
  json->BeginArray("rings");
  for (const RingStats& ring : stats.rings) AddRing(ring, json);
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

std::string DisplayName(const BufferInfo& buffer) {
  return buffer.name.empty() ? absl::StrCat("#", buffer.koid) : Escape(buffer.name);
}

std::string DisplayState(const EndpointInfo& endpoint) {
  if (endpoint.closed.kind != CloseKind::kOpen) return ToString(endpoint.closed);
  if (endpoint.attachments != 0) return absl::StrCat(endpoint.attachments, " attached");
  return "open";
}

std::string DescribeBuffer(const BufferInfo& buffer, const BufferStats& stats) {
  std::string text =
      absl::StrCat("buffer ", buffer.koid, buffer.name.empty() ? "" : " ", Escape(buffer.name),
                   ", created ", FormatTime(buffer.create_time), " by uid ", buffer.owner.uid, ", ",
                   FormatBytes(buffer.memory_bytes), " of memory\n\n",
                   DescribeRegions(buffer.regions), "\n", DescribeEndpoints(buffer.endpoints));
  for (const RingStats& ring : stats.rings) absl::StrAppend(&text, "\n", DescribeRing(ring));
  return text;
}

}  // namespace iob::ctl
