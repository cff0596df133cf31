#include "shm/result.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace iob::shm {

absl::Status ErrnoStatus(int error_number, absl::string_view what) {
  // strerror_r, GNU flavour: thread-safe, and always a string.
  char buffer[128];
  const std::string message =
      absl::StrCat(what, ": ", strerror_r(error_number, buffer, sizeof(buffer)));
  switch (error_number) {
    case EMFILE:
    case ENFILE:
    case ETOOMANYREFS:
    case EAGAIN:
    case EINTR:
      return absl::UnavailableError(message);
    case ENOMEM:
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace iob::shm
