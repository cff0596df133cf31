// iobctl id put, iobctl id find: blobs in, ids out.
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/id.h"
#include "client/iobctl/json.h"
#include "client/iobctl/output.h"
#include "client/iobctl/stop_signal.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// A line per blob: its id, if it has one.
class Answers {
 public:
  explicit Answers(bool json) : json_(json) {}

  void Add(std::optional<uint32_t> id, size_t blob_bytes) {
    if (!json_) {
      absl::StrAppend(&text_, id ? absl::StrCat(*id) : "-", "\n");
      return;
    }
    JsonWriter json;
    json.BeginObject();
    json.Member("found", id.has_value());
    if (id) json.Member("id", uint64_t{*id});
    json.Member("length", uint64_t{blob_bytes});
    json.EndObject();
    absl::StrAppend(&text_, json.text(), "\n");
  }

  // Cancelled when nobody reads them any more: the ids would be lost.
  absl::Status Print() {
    IOB_ASSIGN_OR_RETURN(const bool written, WriteOut(std::exchange(text_, "")));
    return written ? absl::OkStatus() : absl::CancelledError("nobody reads the ids any more");
  }

 private:
  bool json_;
  std::string text_;
};

std::span<const std::byte> BytesOf(std::string_view blob) { return std::as_bytes(std::span(blob)); }

}  // namespace

absl::StatusOr<int> PutIds(const Globals& globals, const IdFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const std::chrono::milliseconds timeout, TimeoutOf(globals));
  IOB_ASSIGN_OR_RETURN(AttachedIds attached, AttachIds(globals, flags, /*to_allocate=*/true));
  CatchStopSignals();
  const uint64_t blob_bytes_max =
      attached.ids.direct() ? attached.region_bytes : kMediatedBlobBytesMax;
  Answers answers(globals.json);
  IOB_RETURN_IF_ERROR(ForEachBlob(
      flags.whole, blob_bytes_max,
      [&](std::string_view blob) -> absl::Status {
        IOB_ASSIGN_OR_RETURN(const uint32_t id,
                             attached.ids.AllocateId(BytesOf(blob), After(timeout)));
        answers.Add(id, blob.size());
        return absl::OkStatus();
      },
      [&answers] { return answers.Print(); }));
  return StopRequested() ? kExitInterrupted : kExitOk;
}

absl::StatusOr<int> FindIds(const Globals& globals, const IdFlags& flags) {
  IOB_ASSIGN_OR_RETURN(const AttachedIds attached,
                       AttachIds(globals, flags, /*to_allocate=*/false));
  CatchStopSignals();
  Answers answers(globals.json);
  uint64_t asked = 0;
  uint64_t missing = 0;
  IOB_RETURN_IF_ERROR(ForEachBlob(
      flags.whole, attached.region_bytes,
      [&](std::string_view blob) -> absl::Status {
        IOB_ASSIGN_OR_RETURN(const std::optional<uint32_t> id, attached.ids.Find(BytesOf(blob)));
        asked += 1;
        missing += id ? 0 : 1;
        answers.Add(id, blob.size());
        return absl::OkStatus();
      },
      [&answers] { return answers.Print(); }));
  if (StopRequested()) return kExitInterrupted;
  if (missing == 0) return kExitOk;
  return WithReason(absl::NotFoundError(absl::StrCat(
                        FormatCount(missing), " of ", FormatCount(asked),
                        asked == 1 ? " blob has" : " blobs have", " no id in ", attached.what)),
                    kReasonNoSuchId);
}

}  // namespace iob::ctl
