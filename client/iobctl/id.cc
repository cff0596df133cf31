// iobctl id: blobs and their ids.
#include "client/iobctl/id.h"

#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/named_handle.h"
#include "client/iobctl/output.h"
#include "client/iobctl/record_splitter.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 10;

const RegionInfo* FindRegion(const BufferInfo& buffer, uint32_t index) {
  return index < buffer.regions.size() ? &buffer.regions[index] : nullptr;
}

bool IsIdAllocator(const RegionInfo* region) {
  return region != nullptr && region->discipline == Discipline::kIdAllocator;
}

absl::Status CheckRegion(const BufferInfo& buffer, uint32_t index) {
  const RegionInfo* const region = FindRegion(buffer, index);
  if (IsIdAllocator(region)) return absl::OkStatus();
  if (region != nullptr) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "region ", index, " of ", DisplayName(buffer), " is of discipline ",
                          ToString(region->discipline), ", not id-allocator")),
                      "WRONG_DISCIPLINE");
  }
  return WithReason(
      absl::OutOfRangeError(absl::StrCat("no region ", index, "; ", DisplayName(buffer),
                                         " has regions 0 to ", buffer.regions.size() - 1)),
      "OUT_OF_RANGE");
}

// `status`, of the blob with this number.
absl::Status OfBlob(const absl::Status& status, uint64_t number) {
  if (status.ok()) return status;
  const absl::Status told(status.code(),
                          absl::StrCat("blob ", number, " of the input: ", status.message()));
  return WithReason(told, ReasonText(status));
}

absl::Status TakeWhole(uint64_t blob_bytes_max, const TakeBlob& take) {
  std::string blob;
  std::vector<char> chunk(kChunkBytes);
  while (true) {
    IOB_ASSIGN_OR_RETURN(const size_t size, ReadIn(chunk));
    if (size == 0) break;
    blob.append(chunk.data(), size);
    if (blob.size() > blob_bytes_max) {
      return absl::InvalidArgumentError(absl::StrCat("stdin is longer than ", blob_bytes_max,
                                                     " bytes, the most that a blob can have here"));
    }
  }
  if (StopRequested()) return absl::OkStatus();
  return OfBlob(take(blob), 1);
}

}  // namespace

absl::StatusOr<AttachedIds> AttachIds(const Globals& globals, const IdFlags& flags,
                                      bool to_allocate) {
  const absl::StatusOr<uint64_t> index =
      ParseNumber(flags.region, std::numeric_limits<uint32_t>::max());
  if (!index.ok()) return UsageError("REGION", index.status());
  const auto region_index = static_cast<uint32_t>(*index);
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  const Usable usable = [&](const NamedHandle& opened) {
    const RegionInfo* const region = FindRegion(opened.buffer(), region_index);
    // What cannot be right for any endpoint is told below.
    if (!IsIdAllocator(region)) return true;
    const RegionRights rights = opened.RightsTo(*region);
    return to_allocate ? rights.mediated_write() || rights.map_write() : rights.map_read();
  };
  const std::string what =
      absl::StrCat(to_allocate ? "allocate ids in region " : "read the ids of region ",
                   region_index, to_allocate ? " (needs W or w)" : " (needs r)");
  IOB_ASSIGN_OR_RETURN(NamedHandle opened,
                       OpenUsable(&broker, flags.name, flags.endpoint, usable, what));
  IOB_RETURN_IF_ERROR(CheckRegion(opened.buffer(), region_index));
  const uint64_t region_bytes = opened.buffer().regions[region_index].size_bytes;
  std::string place = absl::StrCat("region ", region_index, " of ", DisplayName(opened.buffer()));
  IOB_ASSIGN_OR_RETURN(Endpoint endpoint, std::move(opened).Attach(timeout));
  IOB_ASSIGN_OR_RETURN(IdAllocator ids, endpoint.OpenIdAllocator(region_index));
  return AttachedIds{.endpoint = std::move(endpoint),
                     .ids = std::move(ids),
                     .what = std::move(place),
                     .region_bytes = region_bytes};
}

absl::Status ForEachBlob(bool whole, uint64_t blob_bytes_max, const TakeBlob& take,
                         const std::function<absl::Status()>& after_chunk) {
  if (whole) {
    IOB_RETURN_IF_ERROR(TakeWhole(blob_bytes_max, take));
    return after_chunk();
  }
  uint64_t number = 0;
  const RecordSplitter::Emit emit = [&](std::string_view line) {
    number += 1;
    return OfBlob(take(line), number);
  };
  RecordSplitter splitter(Framing::kLines, 0, "--whole");
  std::vector<char> chunk(kChunkBytes);
  while (true) {
    IOB_ASSIGN_OR_RETURN(const size_t size, ReadIn(chunk));
    if (StopRequested()) return absl::OkStatus();
    const absl::Status taken =
        size == 0 ? splitter.End(emit) : splitter.Feed({chunk.data(), size}, emit);
    // What was taken before an error is told all the same.
    IOB_RETURN_IF_ERROR(after_chunk());
    if (!taken.ok() || size == 0) return taken;
  }
}

namespace {

using Run = absl::StatusOr<int> (*)(const Globals& globals, const IdFlags& flags);

// A command of `id` with what all have.
CLI::App* AddIdCommand(CLI::App* id, const char* name, const char* help, Run run,
                       const Globals* globals, Command* selected,
                       const std::shared_ptr<IdFlags>& flags) {
  CLI::App* const command = id->add_subcommand(name, help);
  command->add_option("NAME", flags->name, "Name of the buffer, or #KOID")->required();
  AddEndpointOption(command, "Which endpoint to be; default: the first that has the right",
                    &flags->endpoint);
  command->callback([=] { *selected = [=] { return run(*globals, *flags); }; });
  return command;
}

void AddInput(CLI::App* command, IdFlags* flags) {
  command->add_option("REGION", flags->region, "Which region: its index")->required();
  command->add_flag("--whole", flags->whole, "All of stdin is one blob, instead of a line each");
}

}  // namespace

void AddId(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const id =
      app->add_subcommand("id", "Get small numbers for blobs, and the blobs back: put, get, ...");
  id->require_subcommand(1);
  id->footer("Example:\n  iobctl id put names 0 < words.txt\n  iobctl id ls names");

  auto flags = std::make_shared<IdFlags>();
  CLI::App* command = AddIdCommand(id, "put", "Store the lines of stdin, and print their ids",
                                   PutIds, globals, selected, flags);
  AddInput(command, flags.get());
  command->footer(
      "Example:\n"
      "  printf 'main\\nexit\\n' | iobctl id put names 0\n"
      "  iobctl id put names 0 --whole < schema.bin");

  flags = std::make_shared<IdFlags>();
  command =
      AddIdCommand(id, "get", "Print the blob of an id", GetBlobOfId, globals, selected, flags);
  command->add_option("REGION", flags->region, "Which region: its index")->required();
  command->add_option("ID", flags->id, "Its number, from 0")->required();
  command->add_flag("--raw", flags->raw, "The bytes as they are; default: escaped, with a newline");
  command->footer("Example:\n  iobctl id get names 0 17\n  iobctl id get names 0 17 --raw > blob");

  flags = std::make_shared<IdFlags>();
  command = AddIdCommand(id, "find", "Print the id of each line of stdin, - for one without",
                         FindIds, globals, selected, flags);
  AddInput(command, flags.get());
  command->footer(
      "Example:\n"
      "  echo main | iobctl id find names 0\n"
      "Exit code 1 when a blob has no id.");

  flags = std::make_shared<IdFlags>();
  command = AddIdCommand(id, "ls", "List a buffer's id allocators, or the ids of one", ListIds,
                         globals, selected, flags);
  command->add_option("REGION", flags->region, "Only this one, with its blobs");
  command->footer("Example:\n  iobctl id ls names\n  iobctl id ls names 0 --json | jq -r .data");
}

}  // namespace iob::ctl
