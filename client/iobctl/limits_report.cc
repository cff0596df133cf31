#include "client/iobctl/limits_report.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {

void AddLimits(const Limits& limits, JsonWriter* json) {
  json->BeginObject("limits");
  json->Member("regions_max", uint64_t{limits.regions_max});
  json->Member("region_bytes_max", limits.region_bytes_max);
  json->Member("mediated_ring_bytes_max", limits.mediated_ring_bytes_max);
  json->Member("id_allocator_bytes_max", limits.id_allocator_bytes_max);
  json->Member("record_bytes_max", uint64_t{limits.record_bytes_max});
  json->Member("record_parts_max", uint64_t{limits.record_parts_max});
  json->Member("id_blob_bytes_max", uint64_t{limits.id_blob_bytes_max});
  json->Member("interned_blobs_max", uint64_t{limits.interned_blobs_max});
  json->Member("name_bytes_max", uint64_t{limits.name_bytes_max});
  json->Member("attach_packet_bytes_max", uint64_t{limits.attach_packet_bytes_max});
  json->Member("buffers_max", limits.buffers_max);
  json->Member("memory_bytes_max", limits.memory_bytes_max);
  json->Member("memory_bytes_per_uid_max", limits.memory_bytes_per_uid_max);
  json->Member("handles_max", limits.handles_max);
  json->Member("attachments_max", uint64_t{limits.attachments_max});
  json->Member("watchers_max", uint64_t{limits.watchers_max});
  json->Member("descriptors_max", limits.descriptors_max);
  json->Member("descriptors_open", limits.descriptors_open);
  json->Member("page_bytes", uint64_t{limits.page_bytes});
  json->Member("ticket_lifetime_ms", int64_t{limits.ticket_lifetime.count()});
  json->Member("lease_ms_max", int64_t{limits.lease_max.count()});
  json->EndObject();
  json->BeginArray("kernel_features");
  for (const KernelFeature& feature : limits.kernel_features) {
    json->BeginObject();
    json->Member("name", feature.name);
    json->Member("available", feature.available);
    json->Member("effect", feature.effect);
    json->Member("optional", feature.optional);
    json->EndObject();
  }
  json->EndArray();
}

std::string DescribeLimits(const Limits& limits) {
  const auto bytes = [](uint64_t count) { return absl::StrCat(FormatCount(count), " B"); };
  Table table({"LIMIT", ""});
  table.AddRow({"buffers", FormatCount(limits.buffers_max)});
  table.AddRow({"regions per buffer", FormatCount(limits.regions_max)});
  table.AddRow({"region", FormatBytes(limits.region_bytes_max)});
  table.AddRow({"mediated ring", FormatBytes(limits.mediated_ring_bytes_max)});
  table.AddRow({"id allocator", FormatBytes(limits.id_allocator_bytes_max)});
  table.AddRow({"record", absl::StrCat(bytes(limits.record_bytes_max), " in ",
                                       limits.record_parts_max, " parts")});
  table.AddRow({"blob with an id", bytes(limits.id_blob_bytes_max)});
  table.AddRow({"interned blobs", FormatCount(limits.interned_blobs_max)});
  table.AddRow({"name", bytes(limits.name_bytes_max)});
  table.AddRow({"memory", FormatBytes(limits.memory_bytes_max)});
  table.AddRow({"memory per uid", FormatBytes(limits.memory_bytes_per_uid_max)});
  table.AddRow({"page", FormatBytes(limits.page_bytes)});
  table.AddRow({"handles", FormatCount(limits.handles_max)});
  table.AddRow({"attachments", FormatCount(limits.attachments_max)});
  table.AddRow({"attach packet", FormatBytes(limits.attach_packet_bytes_max)});
  table.AddRow({"watchers", FormatCount(limits.watchers_max)});
  table.AddRow({"ticket lifetime", FormatDuration(limits.ticket_lifetime)});
  table.AddRow({"lease", FormatDuration(limits.lease_max)});
  table.AddRow({"descriptors", absl::StrCat(FormatCount(limits.descriptors_max), ", ",
                                            FormatCount(limits.descriptors_open), " in use")});
  return table.Render();
}

std::string DescribeFeatures(const Limits& limits) {
  Table table({"KERNEL FEATURE", "HERE", "WHAT FOR"});
  for (const KernelFeature& feature : limits.kernel_features) {
    table.AddRow({Escape(feature.name), feature.available ? "yes" : "no", Escape(feature.effect)});
  }
  return table.Render();
}

}  // namespace iob::ctl
