#include "server/descriptors.h"

#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <iterator>

namespace iob::server {
namespace {

// 16384 buffers of several regions each, their attachments, and gRPC's connections.
constexpr rlim_t kUseful = 1 << 18;
// Four times as many as there are connections at most.
constexpr uint64_t kConnectionNumbers = 4096;

}  // namespace

void RaiseDescriptorLimit() {
  rlimit files = {};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  const rlimit wanted = {.rlim_cur = std::max(files.rlim_max, kUseful),
                         .rlim_max = std::max(files.rlim_max, kUseful)};
  // The hard limit is only for those who have CAP_SYS_RESOURCE, and bounded by fs.nr_open.
  if (::setrlimit(RLIMIT_NOFILE, &wanted) == 0) return;
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
}

uint64_t DescriptorsMax() {
  rlimit files = {};
  return ::getrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur : 0;
}

uint64_t FirstConnectionNumber() {
  const uint64_t table = std::min<uint64_t>(DescriptorsMax(), 1 << 20);
  return table - std::min(table / 2, kConnectionNumbers);
}

uint64_t DescriptorsForSections() { return FirstConnectionNumber() / 4 * 3; }

uint64_t DescriptorsOpen() {
  std::error_code error;
  const std::filesystem::directory_iterator fds("/proc/self/fd", error);
  if (error) return 0;
  // One of them is the iterator's own.
  return static_cast<uint64_t>(std::distance(begin(fds), end(fds))) - 1;
}

}  // namespace iob::server
