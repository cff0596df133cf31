#include "client/internal/request_id.h"

#include <sys/random.h>

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "shm/check.h"

namespace iob {

std::string NewRequestId() {
  std::array<char, 16> bits;
  // 16 bytes come whole or not at all; a kernel without getrandom (before 3.17) has no memfd
  // either.
  IOB_CHECK(::getrandom(bits.data(), bits.size(), 0) == static_cast<ssize_t>(bits.size()));
  return absl::BytesToHexString(absl::string_view(bits.data(), bits.size()));
}

}  // namespace iob
