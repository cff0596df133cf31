// iobctl map-dump: a region's memory, as bytes for people or raw.
#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/output.h"
#include "client/iobctl/record_format.h"
#include "client/iobctl/region_memory.h"
#include "client/iobctl/stop_signal.h"
#include "client/window.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr size_t kChunkBytes = size_t{64} << 10;
constexpr size_t kRowBytes = 16;

struct DumpFlags {
  RegionFlags region;
  std::string offset = "0";
  std::string length;
  bool raw = false;
};

// Rows of 16 bytes; those that repeat the one before are one "*".
class HexRows {
 public:
  void Append(uint64_t offset, std::span<const std::byte> bytes, std::string* target) {
    for (size_t i = 0; i < bytes.size(); i += kRowBytes) {
      const std::span<const std::byte> row =
          bytes.subspan(i, std::min(kRowBytes, bytes.size() - i));
      if (std::equal(row.begin(), row.end(), last_.begin(), last_.end())) {
        if (!starred_) absl::StrAppend(target, "*\n");
        starred_ = true;
        continue;
      }
      starred_ = false;
      last_.assign(row.begin(), row.end());
      AppendRow(offset + i, row, target);
    }
  }

 private:
  static void AppendRow(uint64_t offset, std::span<const std::byte> row, std::string* target) {
    absl::StrAppendFormat(target, "%08x ", offset);
    std::string text;
    for (size_t i = 0; i < kRowBytes; ++i) {
      if (i % 8 == 0) target->push_back(' ');
      if (i >= row.size()) {
        target->append("   ");
        continue;
      }
      const auto byte = static_cast<unsigned char>(row[i]);
      absl::StrAppendFormat(target, "%02x ", byte);
      text.push_back(byte >= 0x20 && byte < 0x7f ? static_cast<char>(byte) : '.');
    }
    absl::StrAppend(target, " |", text, "|\n");
  }

  std::vector<std::byte> last_;
  bool starred_ = false;
};

void AppendJson(uint64_t offset, std::string_view bytes, std::string* target) {
  JsonWriter json;
  json.BeginObject();
  json.Member("offset", offset);
  AddPayload(bytes, &json);
  json.EndObject();
  absl::StrAppend(target, json.text(), "\n");
}

absl::StatusOr<int> Print(const Globals& globals, const DumpFlags& flags, const Window& window) {
  CatchStopSignals();
  HexRows rows;
  std::vector<std::byte> chunk(std::min<uint64_t>(kChunkBytes, window.size_bytes()));
  uint64_t offset = 0;
  while (offset < window.size_bytes() && !StopRequested()) {
    const std::span<std::byte> wanted =
        std::span(chunk).first(std::min<uint64_t>(chunk.size(), window.size_bytes() - offset));
    const Moved moved = window.ReadFallible(offset, wanted);
    const std::span<const std::byte> bytes = wanted.first(moved.moved_bytes);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    std::string lines;
    if (globals.json) {
      AppendJson(window.offset_bytes() + offset, text, &lines);
    } else if (!flags.raw) {
      rows.Append(window.offset_bytes() + offset, bytes, &lines);
    }
    const bool as_is = flags.raw && !globals.json;
    IOB_ASSIGN_OR_RETURN(const bool read, WriteOut(as_is ? text : std::string_view(lines)));
    if (!read) return kExitOk;
    // What was there is told first.
    IOB_RETURN_IF_ERROR(moved.status);
    offset += bytes.size();
  }
  if (StopRequested()) return kExitInterrupted;
  if (!globals.json && !flags.raw) {
    PrintLine(absl::StrFormat("%08x", window.offset_bytes() + window.size_bytes()));
  }
  return kExitOk;
}

absl::StatusOr<int> Dump(const Globals& globals, const DumpFlags& flags) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  const absl::StatusOr<uint64_t> offset = ParseHexOrNumber(flags.offset, kMax);
  if (!offset.ok()) return UsageError("--offset", offset.status());
  absl::StatusOr<uint64_t> length = uint64_t{0};
  if (!flags.length.empty()) length = ParseHexOrNumber(flags.length, kMax);
  if (!length.ok()) return UsageError("--length", length.status());
  IOB_ASSIGN_OR_RETURN(const OpenedRegion region,
                       OpenRegion(globals, flags.region, /*to_write=*/false));
  // The rest of the region, unless it was said; behind the end that is an error of the window.
  const uint64_t rest = region.size_bytes - std::min(*offset, region.size_bytes);
  const uint64_t wanted = flags.length.empty() ? std::max<uint64_t>(rest, 1) : *length;
  IOB_ASSIGN_OR_RETURN(const Window window,
                       region.endpoint.OpenWindow(region.index, *offset, wanted, Prot::kRead));
  return Print(globals, flags, window);
}

}  // namespace

void AddMapDump(CLI::App* app, const Globals* globals, Command* selected) {
  auto flags = std::make_shared<DumpFlags>();
  CLI::App* const command = app->add_subcommand("map-dump", "Print a region's memory");
  AddRegionOptions(command, &flags->region);
  command->add_option("--offset", flags->offset, "From this byte on; 0x... too")
      ->capture_default_str();
  command->add_option("--length", flags->length, "So many bytes; default: to the end; 0x... too");
  command->add_flag("--raw", flags->raw, "The bytes as they are");
  command->footer(
      "Rows that repeat the one before are shown as one *. Needs map-read. Writers do not stop\n"
      "meanwhile: a row can mix what was there before and after. A mediated ring is its head page\n"
      "and its records; disciplines with several parts have no one range.\n"
      "Example:\n"
      "  iobctl map-dump state 0 --length 256\n"
      "  iobctl map-dump state 0 --raw > state.bin");
  command->callback([=] { *selected = [=] { return Dump(*globals, *flags); }; });
}

}  // namespace iob::ctl
