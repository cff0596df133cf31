// What the tests of iobctl need and iobctl cannot make: region objects, spoiled memory, and many
// buffers at once.
//
//     objects_helper shared              two buffers "one" and "two" on one region object
//     objects_helper many N              N buffers "many-00001", ... of next to nothing
//     objects_helper damage NAME         spoils the id allocator in region 0, through ep0
//     objects_helper hold NAME           holds bytes 0 to 99 of region 0 exclusively, through ep0,
//                                        and bytes 4096 to 4103 shared
//
// Prints a line when it is done; what it made lives until its stdin ends.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/iob.h"
#include "shm/result.h"

namespace iob {
namespace {

constexpr uint64_t kRingBytes = uint64_t{1} << 20;

absl::StatusOr<std::string> MakeShared(Broker* broker) {
  IOB_ASSIGN_OR_RETURN(const CreatedSharedRegion region, broker->CreateSharedRegion(kRingBytes));
  for (const char* name : {"one", "two"}) {
    IOB_RETURN_IF_ERROR(
        broker
            ->CreateBuffer(
                {.name = name, .regions = {MediatedRingSpec(65536), SharedRingSpec(region.handle)}})
            .status());
  }
  IOB_RETURN_IF_ERROR(broker->Signal(region.handle, 0, UserSignal(2)));
  return absl::StrFormat("%d", region.info.koid);
}

absl::StatusOr<std::string> MakeMany(Broker* broker, int count) {
  // Without bytes there is no descriptor either, so that any machine has room for them.
  const RegionSpec empty{.discipline = Discipline::kNone,
                         .access = AccessBits(RegionRights::kMapRead | RegionRights::kMapWrite)};
  for (int i = 1; i <= count; ++i) {
    IOB_RETURN_IF_ERROR(
        broker->CreateBuffer({.name = absl::StrFormat("many-%05d", i), .regions = {empty}})
            .status());
  }
  return absl::StrFormat("%d", count);
}

absl::StatusOr<std::string> Damage(Broker* broker, const std::string& name) {
  IOB_ASSIGN_OR_RETURN(const Endpoint endpoint, broker->OpenEndpoint(name, EndpointId::kEp0));
  IOB_ASSIGN_OR_RETURN(
      MappedRegion region,
      endpoint.Map(0, 0, endpoint.info().regions[0].size_bytes, Prot::kRead | Prot::kWrite));
  std::fill_n(region.writable_bytes().begin(), 8, std::byte{0xff});
  return std::string("damaged");
}

absl::StatusOr<std::string> Hold(Broker* broker, const std::string& name) {
  static absl::StatusOr<Endpoint> endpoint = absl::UnknownError("not yet");
  static std::vector<AcquiredRange> held;
  endpoint = broker->OpenEndpoint(name, EndpointId::kEp0);
  IOB_RETURN_IF_ERROR(endpoint.status());
  IOB_ASSIGN_OR_RETURN(AcquiredRange alone, endpoint->Acquire(0, 0, 100, RangeMode::kExclusive));
  IOB_ASSIGN_OR_RETURN(AcquiredRange shared, endpoint->Acquire(0, 4096, 8, RangeMode::kShared));
  held.push_back(std::move(alone));
  held.push_back(std::move(shared));
  return absl::StrFormat("%d", ::getpid());
}

absl::StatusOr<std::string> Run(Broker* broker, std::string_view what,
                                const std::string& argument) {
  if (what == "shared") return MakeShared(broker);
  if (what == "many") return MakeMany(broker, std::atoi(argument.c_str()));
  if (what == "damage") return Damage(broker, argument);
  if (what == "hold") return Hold(broker, argument);
  return absl::InvalidArgumentError("see the file's header");
}

absl::StatusOr<std::string> Connected(std::string_view what, const std::string& argument,
                                      std::optional<Broker>* broker) {
  IOB_ASSIGN_OR_RETURN(*broker, Broker::Connect());
  return Run(&**broker, what, argument);
}

int Main(int argc, char** argv) {
  std::optional<Broker> broker;
  const absl::StatusOr<std::string> done =
      Connected(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "", &broker);
  if (!done.ok()) {
    std::fprintf(stderr, "%s\n", done.status().ToString().c_str());
    return 1;
  }
  std::printf("%s\n", done->c_str());
  std::fflush(stdout);
  char ignored = 0;
  while (::read(STDIN_FILENO, &ignored, 1) == 1) {
  }
  return 0;
}

}  // namespace
}  // namespace iob

int main(int argc, char** argv) { return iob::Main(argc, argv); }
