// iobctl peek, iobctl poke: one number in a region's memory, read or written in one access.
#include <limits>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/iobctl/command.h"
#include "client/iobctl/json.h"
#include "client/iobctl/region_memory.h"
#include "client/window.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

struct NumberFlags {
  RegionFlags region;
  std::string offset;
  std::string size = "8";
  std::string value;  // Of poke.
};

// What was asked for.
struct Place {
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t value_max = 0;
};

absl::StatusOr<Place> ToPlace(const NumberFlags& flags) {
  Place place;
  const absl::StatusOr<uint64_t> offset =
      ParseHexOrNumber(flags.offset, std::numeric_limits<uint64_t>::max());
  if (!offset.ok()) return UsageError("OFFSET", offset.status());
  place.offset_bytes = *offset;
  if (flags.size != "1" && flags.size != "2" && flags.size != "4" && flags.size != "8") {
    return UsageError("--size", absl::InvalidArgumentError(
                                    absl::StrCat("'", flags.size, "' is not 1, 2, 4 or 8")));
  }
  place.size_bytes = static_cast<uint64_t>(flags.size[0] - '0');
  place.value_max = std::numeric_limits<uint64_t>::max() >> (64 - 8 * place.size_bytes);
  return place;
}

template <typename T>
absl::StatusOr<uint64_t> ReadAs(const Window& window, uint64_t offset_bytes) {
  IOB_ASSIGN_OR_RETURN(const T value, window.ReadOnce<T>(offset_bytes));
  return uint64_t{value};
}

absl::StatusOr<uint64_t> ReadNumber(const Window& window, const Place& place) {
  if (place.size_bytes == 1) return ReadAs<uint8_t>(window, place.offset_bytes);
  if (place.size_bytes == 2) return ReadAs<uint16_t>(window, place.offset_bytes);
  if (place.size_bytes == 4) return ReadAs<uint32_t>(window, place.offset_bytes);
  return ReadAs<uint64_t>(window, place.offset_bytes);
}

absl::Status WriteNumber(const Window& window, const Place& place, uint64_t value) {
  const uint64_t offset = place.offset_bytes;
  if (place.size_bytes == 1) return window.WriteOnce<uint8_t>(offset, static_cast<uint8_t>(value));
  if (place.size_bytes == 2) {
    return window.WriteOnce<uint16_t>(offset, static_cast<uint16_t>(value));
  }
  if (place.size_bytes == 4) {
    return window.WriteOnce<uint32_t>(offset, static_cast<uint32_t>(value));
  }
  return window.WriteOnce<uint64_t>(offset, value);
}

// The bytes of the number must be all in the region, whatever its discipline is.
absl::StatusOr<Window> WindowOf(const OpenedRegion& region, Prot prot) {
  return region.endpoint.OpenWindow(region.index, 0, region.size_bytes, prot);
}

void Print(const Globals& globals, const Place& place, uint64_t value) {
  const std::string hex = absl::StrFormat("0x%0*x", static_cast<int>(2 * place.size_bytes), value);
  if (!globals.json) {
    PrintLine(absl::StrCat(value, " ", hex));
    return;
  }
  JsonWriter json;
  json.BeginObject();
  json.Member("offset", place.offset_bytes);
  json.Member("size", place.size_bytes);
  json.Member("value", value);
  json.Member("hex", hex);
  json.EndObject();
  PrintLine(json.text());
}

absl::StatusOr<int> Peek(const Globals& globals, const NumberFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const Place place, ToPlace(flags));
  IOB_ASSIGN_OR_RETURN(const OpenedRegion region,
                       OpenRegion(globals, flags.region, /*to_write=*/false));
  IOB_ASSIGN_OR_RETURN(const Window window, WindowOf(region, Prot::kRead));
  IOB_ASSIGN_OR_RETURN(const uint64_t value, ReadNumber(window, place));
  Print(globals, place, value);
  return kExitOk;
}

absl::StatusOr<int> Poke(const Globals& globals, const NumberFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const Place place, ToPlace(flags));
  const absl::StatusOr<uint64_t> value = ParseHexOrNumber(flags.value, place.value_max);
  if (!value.ok()) return UsageError("VALUE", value.status());
  IOB_ASSIGN_OR_RETURN(const OpenedRegion region,
                       OpenRegion(globals, flags.region, /*to_write=*/true));
  IOB_ASSIGN_OR_RETURN(const Window window, WindowOf(region, Prot::kRead | Prot::kWrite));
  IOB_RETURN_IF_ERROR(WriteNumber(window, place, *value));
  // What is there now, which another writer may have changed since.
  IOB_ASSIGN_OR_RETURN(const uint64_t now, ReadNumber(window, place));
  Print(globals, place, now);
  return kExitOk;
}

void AddNumberOptions(CLI::App* command, NumberFlags* flags) {
  AddRegionOptions(command, &flags->region);
  command->add_option("OFFSET", flags->offset, "Of the number, in bytes; 0x... too")->required();
  command->add_option("--size", flags->size, "Of the number: 1, 2, 4 or 8 bytes")
      ->capture_default_str();
}

}  // namespace

void AddPeek(CLI::App* app, const Globals* globals, Command* selected) {
  auto flags = std::make_shared<NumberFlags>();
  CLI::App* const command = app->add_subcommand("peek", "Read a number in a region's memory");
  AddNumberOptions(command, flags.get());
  command->footer(
      "In one access, in this machine's byte order; OFFSET is a multiple of the size. Needs\n"
      "map-read. Region disciplines with several parts (reserve rings, broadcast, slot) have no\n"
      "one range to look into.\n"
      "Example:\n"
      "  iobctl peek state 0 0x40\n"
      "  iobctl peek state 0 12 --size 4");
  command->callback([=] { *selected = [=] { return Peek(*globals, *flags); }; });
}

void AddPoke(CLI::App* app, const Globals* globals, Command* selected) {
  auto flags = std::make_shared<NumberFlags>();
  CLI::App* const command = app->add_subcommand("poke", "Write a number into a region's memory");
  AddNumberOptions(command, flags.get());
  command->add_option("VALUE", flags->value, "The number; 0x... too")->required();
  command->footer(
      "As peek; prints what is there afterwards. Needs map-read and map-write. It asks nobody:\n"
      "ranges that others hold exclusively (iobctl who) are written all the same.\n"
      "Example:\n"
      "  iobctl poke state 0 0x40 1\n"
      "  iobctl poke state 0 12 0xff --size 1");
  command->callback([=] { *selected = [=] { return Poke(*globals, *flags); }; });
}

}  // namespace iob::ctl
