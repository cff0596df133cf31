// What the commands of `iobctl id` share: which region, through which endpoint, and the blobs that
// stdin has.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/endpoint.h"
#include "client/iobctl/command.h"

namespace iob::ctl {

struct IdFlags {
  std::string name;
  std::string region;  // A number; empty where it may be left out.
  std::string endpoint;
  std::string id;      // Of get.
  bool whole = false;  // Of put and find: stdin is one blob.
  bool raw = false;    // Of get.
};

// An id allocator, attached.
struct AttachedIds {
  Endpoint endpoint;
  IdAllocator ids;   // Gone before the endpoint.
  std::string what;  // "region 0 of logs", escaped.
  uint64_t region_bytes = 0;
};

// As the endpoint that was asked for, or the first one that may read, or allocate (`to_allocate`).
//   OUT_OF_RANGE, FAILED_PRECONDITION / WRONG_DISCIPLINE, and the errors of OpenUsable
absl::StatusOr<AttachedIds> AttachIds(const Globals& globals, const IdFlags& flags,
                                      bool to_allocate);

// Calls `take` with each blob of stdin: its lines, or with --whole all of it, which is at most
// `blob_bytes_max`. An error of `take` says which blob it was, and ends it; so does Ctrl-C.
// `after_chunk` is called between reads.
using TakeBlob = std::function<absl::Status(std::string_view blob)>;
absl::Status ForEachBlob(bool whole, uint64_t blob_bytes_max, const TakeBlob& take,
                         const std::function<absl::Status()>& after_chunk);

absl::StatusOr<int> PutIds(const Globals& globals, const IdFlags& flags);
absl::StatusOr<int> FindIds(const Globals& globals, const IdFlags& flags);
absl::StatusOr<int> GetBlobOfId(const Globals& globals, const IdFlags& flags);
absl::StatusOr<int> ListIds(const Globals& globals, const IdFlags& flags);

}  // namespace iob::ctl
