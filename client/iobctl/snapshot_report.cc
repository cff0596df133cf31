#include "client/iobctl/snapshot_report.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/iobctl/output.h"
#include "client/iobctl/record_format.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "client/snapshot_records.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// What is in one ring, or one lane, and what became of reading it.
struct RingRemains {
  uint64_t count = 0;
  std::deque<RecordView> last;
  bool torn_tail = false;
  absl::Status status;  // Of words that cannot be.
};

std::string_view ViewOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string NameOf(uint64_t koid, const std::string& name) {
  return name.empty() ? absl::StrCat("#", koid) : Escape(name);
}

bool HasRecords(const SnapshotRegion& region) {
  return !region.sections.empty() && (region.discipline == Discipline::kMediatedRing ||
                                      (region.discipline == Discipline::kReserveRing &&
                                       region.reserve_ring.mode == ReserveMode::kLanes));
}

std::vector<uint32_t> LanesOf(const SnapshotRegion& region) {
  if (region.discipline != Discipline::kReserveRing) return {0};
  std::vector<uint32_t> lanes;
  for (const SnapshotSection& section : region.sections) {
    if (section.kind == SectionKind::kLane) lanes.push_back(section.lane);
  }
  return lanes;
}

RingRemains ReadAll(SnapshotRecords& records, uint64_t records_max) {
  RingRemains remains;
  RecordView record;
  ReadOutcome outcome = ReadOutcome::kEmpty;
  while ((outcome = records.Next(&record)) == ReadOutcome::kRecord) {
    remains.count += 1;
    remains.last.push_back(record);
    if (remains.last.size() > records_max) remains.last.pop_front();
  }
  remains.torn_tail = outcome == ReadOutcome::kPoisoned;
  return remains;
}

std::string DescribeRing(const Snapshot& state, const SnapshotRegion& region, uint32_t lane,
                         uint64_t records_max) {
  auto records = SnapshotRecords::Open(state, region.index, lane);
  const std::string what = region.discipline == Discipline::kReserveRing
                               ? absl::StrCat("region ", region.index, ", lane ", lane)
                               : absl::StrCat("region ", region.index);
  if (!records.ok()) {
    return absl::StrCat(what, ": ", Escape(std::string(records.status().message())), "\n");
  }
  const RingRemains remains = ReadAll(*records, records_max);
  std::string text = absl::StrCat(what, ": ", FormatCount(remains.count), " records left");
  if (remains.count > remains.last.size())
    absl::StrAppend(&text, ", the last ", remains.last.size());
  absl::StrAppend(&text, "\n");
  RecordFormatter formatter(RecordFormat::kText);
  for (const RecordView& record : remains.last) {
    text += "  ";
    formatter.Append(record, &text);
  }
  if (remains.torn_tail) text += "  (torn: what follows is not a record)\n";
  return text;
}

std::string DescribeRegion(const Snapshot& state, const SnapshotRegion& region,
                           uint64_t records_max) {
  std::string text;
  if (region.omission != Omission::kNone) {
    return absl::StrCat("region ", region.index, ": not kept (", ToString(region.omission), ")\n");
  }
  if (HasRecords(region)) {
    for (const uint32_t lane : LanesOf(region))
      text += DescribeRing(state, region, lane, records_max);
  } else {
    text = absl::StrCat("region ", region.index, ": ", ToString(region.discipline), "\n");
  }
  if (region.stats) {
    absl::StrAppend(&text, "  ledger: ", FormatCount(region.stats->attempted_records),
                    " attempted, ", FormatCount(region.stats->stored_records), " stored, ",
                    FormatCount(region.stats->consumed_records), " consumed\n");
  }
  if (region.unfinished) {
    absl::StrAppend(&text, "  unfinished: a reservation of producer ", region.unfinished->seat,
                    " at position ", region.unfinished->position, "\n");
  }
  return text;
}

void AddRegion(const SnapshotRegion& region, JsonWriter* json) {
  json->Member("index", uint64_t{region.index});
  json->Member("discipline", ToString(region.discipline));
  json->Member("omission", ToString(region.omission));
  json->Member("may_be_torn", region.may_be_torn);
  uint64_t bytes = 0;
  for (const SnapshotSection& section : region.sections) bytes += section.size_bytes;
  json->Member("size_bytes", bytes);
  if (!region.sections.empty()) json->Member("offset_bytes", region.sections.front().offset_bytes);
  if (region.discipline == Discipline::kMediatedRing) {
    json->Member("head", region.head);
    json->Member("tail", region.tail);
  }
  if (region.unfinished) {
    json->BeginObject("unfinished");
    json->Member("seat", uint64_t{region.unfinished->seat});
    json->Member("position", region.unfinished->position);
    json->EndObject();
  }
}

void AddRecords(const Snapshot& state, const SnapshotRegion& region, uint64_t records_max,
                JsonWriter* json) {
  json->BeginArray("rings");
  for (const uint32_t lane : LanesOf(region)) {
    json->BeginObject();
    json->Member("lane", uint64_t{lane});
    auto records = SnapshotRecords::Open(state, region.index, lane);
    RingRemains remains;
    if (records.ok()) {
      remains = ReadAll(*records, records_max);
    } else {
      json->Member("damaged", std::string(records.status().message()));
    }
    json->Member("records", remains.count);
    json->Member("torn_tail", remains.torn_tail);
    json->BeginArray("last");
    for (const RecordView& record : remains.last) {
      json->BeginObject();
      json->Member("tag", record.tag);
      AddPayload(ViewOf(record.payload), json);
      json->EndObject();
    }
    json->EndArray();
    json->EndObject();
  }
  json->EndArray();
}

}  // namespace

std::string DescribeSnapshot(const SnapshotInfo& info) {
  Table table({"REGION", "DISCIPLINE", "OFFSET", "BYTES", "CONTENT"});
  for (const SnapshotRegion& region : info.regions) {
    uint64_t bytes = 0;
    for (const SnapshotSection& section : region.sections) bytes += section.size_bytes;
    std::string content = region.may_be_torn ? "may be torn" : "consistent";
    if (region.omission != Omission::kNone)
      content = absl::StrCat("left out (", ToString(region.omission), ")");
    if (region.discipline == Discipline::kMediatedRing && region.omission == Omission::kNone)
      absl::StrAppend(&content, ", ", FormatBytes(region.head - region.tail), " of records");
    table.AddRow({absl::StrCat(region.index), ToString(region.discipline),
                  region.sections.empty() ? "-" : FormatCount(region.sections[0].offset_bytes),
                  FormatCount(bytes), content});
  }
  std::string text = absl::StrCat(NameOf(info.buffer_koid, info.buffer_name), " at ",
                                  FormatTime(info.time), "\n", table.Render());
  text.pop_back();
  return text;
}

std::string DescribeAutopsies(const std::vector<AutopsyInfo>& autopsies) {
  Table table({"ID", "TIME", "BUFFER", "EP", "REASON", "KEPT"});
  for (const AutopsyInfo& autopsy : autopsies) {
    table.AddRow({absl::StrCat(autopsy.id), FormatTime(autopsy.time),
                  NameOf(autopsy.buffer_koid, autopsy.buffer_name), ToString(autopsy.endpoint),
                  ToString(autopsy.reason),
                  autopsy.omission == Omission::kNone ? FormatBytes(autopsy.size_bytes)
                                                      : ToString(autopsy.omission)});
  }
  std::string text = table.Render();
  text.pop_back();
  return text;
}

std::string DescribeAutopsy(const Autopsy& autopsy, uint64_t records_max) {
  const AutopsyInfo& info = autopsy.info;
  std::string text = absl::StrCat(NameOf(info.buffer_koid, info.buffer_name), ": ",
                                  ToString(info.endpoint), " ", ToString(info.reason), " at ",
                                  FormatTime(info.time), " (autopsy ", info.id, ")\n");
  if (info.omission != Omission::kNone)
    absl::StrAppend(&text, "memory: not kept (", ToString(info.omission), ")\n");
  for (const SnapshotRegion& region : autopsy.state.info().regions)
    text += DescribeRegion(autopsy.state, region, records_max);
  text.pop_back();
  return text;
}

void AddSnapshot(const SnapshotInfo& info, JsonWriter* json) {
  json->BeginObject();
  json->Member("buffer_koid", info.buffer_koid);
  json->Member("buffer_name", info.buffer_name);
  json->Member("time", FormatTime(info.time));
  json->Member("size_bytes", info.size_bytes);
  json->Member("may_be_torn", info.may_be_torn);
  json->BeginArray("regions");
  for (const SnapshotRegion& region : info.regions) {
    json->BeginObject();
    AddRegion(region, json);
    json->EndObject();
  }
  json->EndArray();
  json->EndObject();
}

namespace {

void AddMembers(const AutopsyInfo& autopsy, JsonWriter* json) {
  json->Member("id", autopsy.id);
  json->Member("buffer_koid", autopsy.buffer_koid);
  json->Member("buffer_name", autopsy.buffer_name);
  json->Member("owner_uid", uint64_t{autopsy.owner_uid});
  json->Member("endpoint", ToString(autopsy.endpoint));
  json->Member("reason", ToString(autopsy.reason));
  json->Member("time", FormatTime(autopsy.time));
  json->Member("size_bytes", autopsy.size_bytes);
  json->Member("omission", ToString(autopsy.omission));
}

}  // namespace

void AddAutopsy(const AutopsyInfo& autopsy, JsonWriter* json) {
  json->BeginObject();
  AddMembers(autopsy, json);
  json->EndObject();
}

void AddAutopsy(const Autopsy& autopsy, uint64_t records_max, JsonWriter* json) {
  json->BeginObject();
  AddMembers(autopsy.info, json);
  json->BeginArray("regions");
  for (const SnapshotRegion& region : autopsy.state.info().regions) {
    json->BeginObject();
    AddRegion(region, json);
    if (HasRecords(region)) AddRecords(autopsy.state, region, records_max, json);
    json->EndObject();
  }
  json->EndArray();
  json->EndObject();
}

absl::Status WriteToFile(const std::string& path, std::span<const std::byte> bytes) {
  if (path == "-") return WriteOut(ViewOf(bytes)).status();
  const shm::UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) return shm::ErrnoStatus(errno, absl::StrCat("open ", path));
  while (!bytes.empty()) {
    const ssize_t written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return shm::ErrnoStatus(errno, absl::StrCat("write ", path));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

}  // namespace iob::ctl
