// iobctl id get, iobctl id ls: ids in, blobs out.
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/id.h"
#include "client/iobctl/json.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/output.h"
#include "client/iobctl/record_format.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// A blob is cut in a table; `id get` has all of it.
constexpr size_t kShownBytes = 48;
// One part of a long list.
constexpr size_t kRowsPerPrint = 1000;
constexpr size_t kPrintBytes = size_t{256} << 10;

std::string_view TextOf(const std::vector<std::byte>& blob) {
  return {reinterpret_cast<const char*>(blob.data()), blob.size()};
}

// NOT_FOUND is about ids here, not about buffers.
absl::Status OfId(const absl::Status& status) {
  return absl::IsNotFound(status) ? WithReason(status, kReasonNoSuchId) : status;
}

void AddBlob(uint32_t id, const absl::StatusOr<std::vector<std::byte>>& blob, JsonWriter* json) {
  json->BeginObject();
  json->Member("id", uint64_t{id});
  if (blob.ok()) {
    AddPayload(TextOf(*blob), json);
  } else {
    json->BeginObject("error");
    json->Member("code", absl::StatusCodeToString(blob.status().code()));
    json->Member("reason", ReasonText(OfId(blob.status())));
    json->Member("message", std::string(blob.status().message()));
    json->EndObject();
  }
  json->EndObject();
}

// What a person sees of it.
std::string Shorten(std::string_view blob) {
  if (blob.size() <= kShownBytes) return Escape(blob);
  // Not within a character.
  size_t end = kShownBytes;
  while (end > kShownBytes - 4 && (static_cast<unsigned char>(blob[end]) & 0xc0) == 0x80) --end;
  return absl::StrCat(Escape(blob.substr(0, end)), "...");
}

absl::StatusOr<int> ListAllocators(const Globals& globals, const IdFlags& flags) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const NamedHandle opened,
                       OpenUsable(
                           &broker, flags.name, flags.endpoint,
                           [](const NamedHandle&) { return true; }, "be opened"));
  const std::vector<RegionInfo>& regions = opened.buffer().regions;
  if (globals.json) {
    JsonWriter json;
    json.BeginArray();
    for (const RegionInfo& region : regions) {
      if (!region.id_allocator) continue;
      json.BeginObject();
      json.Member("region_index", uint64_t{region.index});
      json.Member("size_bytes", region.size_bytes);
      AddIdAllocator(*region.id_allocator, &json);
      json.EndObject();
    }
    json.EndArray();
    PrintLine(json.text());
    return kExitOk;
  }
  std::string text = DescribeIdAllocators(regions);
  if (text.empty()) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(DisplayName(opened.buffer()),
                                                   " has no region of discipline id-allocator")),
        "WRONG_DISCIPLINE");
  }
  text.pop_back();
  PrintLine(text);
  return kExitOk;
}

}  // namespace

absl::StatusOr<int> GetBlobOfId(const Globals& globals, const IdFlags& flags) {
  const absl::StatusOr<uint64_t> id = ParseNumber(flags.id, std::numeric_limits<uint32_t>::max());
  if (!id.ok()) return UsageError("ID", id.status());
  IOB_ASSIGN_OR_RETURN(const AttachedIds attached,
                       AttachIds(globals, flags, /*to_allocate=*/false));
  const auto blob = attached.ids.GetBlob(static_cast<uint32_t>(*id));
  IOB_RETURN_IF_ERROR(OfId(blob.status()));
  if (globals.json) {
    JsonWriter json;
    AddBlob(static_cast<uint32_t>(*id), blob, &json);
    PrintLine(json.text());
  } else if (flags.raw) {
    IOB_RETURN_IF_ERROR(WriteOut(TextOf(*blob)).status());
  } else {
    PrintLine(Escape(TextOf(*blob)));
  }
  return kExitOk;
}

absl::StatusOr<int> ListIds(const Globals& globals, const IdFlags& flags) {
  if (flags.region.empty()) return ListAllocators(globals, flags);
  IOB_ASSIGN_OR_RETURN(const AttachedIds attached,
                       AttachIds(globals, flags, /*to_allocate=*/false));
  CatchStopSignals();
  IOB_ASSIGN_OR_RETURN(const uint32_t next_id, attached.ids.next_id());
  Table table({"ID", "BYTES", "BLOB"});
  std::string lines;
  for (uint32_t id = 0; id < next_id && !StopRequested(); ++id) {
    const auto blob = attached.ids.GetBlob(id);
    if (globals.json) {
      JsonWriter json;
      AddBlob(id, blob, &json);
      absl::StrAppend(&lines, json.text(), "\n");
    } else if (blob.ok()) {
      table.AddRow({absl::StrCat(id), FormatCount(blob->size()), Shorten(TextOf(*blob))});
    } else {
      table.AddRow({absl::StrCat(id), "-", Escape(std::string(blob.status().message()))});
    }
    if (table.row_count() < kRowsPerPrint && lines.size() < kPrintBytes) continue;
    IOB_ASSIGN_OR_RETURN(const bool written, WriteOut(globals.json ? lines : table.Render()));
    if (!written) return kExitOk;
    lines.clear();
  }
  IOB_RETURN_IF_ERROR(WriteOut(globals.json ? lines : table.Render()).status());
  return StopRequested() ? kExitInterrupted : kExitOk;
}

}  // namespace iob::ctl
