#include "server/watcher_room.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "shm/check.h"

namespace iob::server {

absl::Status WatcherRoom::Take(uint32_t uid) {
  if (count_ >= streams_max_) {
    return MakeError(v1::ERROR_REASON_QUOTA, absl::StrCat("watchers of the daemon: ", count_,
                                                          " of ", streams_max_, " in use"));
  }
  const size_t of_uid_max = std::max<size_t>(streams_max_ / 4, 1);
  const auto found = count_by_uid_.find(uid);
  const size_t of_uid = found == count_by_uid_.end() ? 0 : found->second;
  if (of_uid >= of_uid_max) {
    return MakeError(v1::ERROR_REASON_QUOTA, absl::StrCat("watchers of uid ", uid, ": ", of_uid,
                                                          " of ", of_uid_max, " in use"));
  }
  ++count_;
  ++count_by_uid_[uid];
  return absl::OkStatus();
}

void WatcherRoom::Return(uint32_t uid) {
  const auto found = count_by_uid_.find(uid);
  IOB_CHECK(found != count_by_uid_.end());
  --count_;
  if (--found->second == 0) count_by_uid_.erase(found);
}

}  // namespace iob::server
