// Passing absl::Status along, and the one place where errno becomes a Status.
//
// A Status is made where the failure happens, with what was asked; whoever handles it logs it once.
#pragma once

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#define IOB_CONCAT_INNER(a, b) a##b
#define IOB_CONCAT(a, b) IOB_CONCAT_INNER(a, b)

// Leaves the function with the status of `expression` unless it is OK.
#define IOB_RETURN_IF_ERROR(expression)                                              \
  do {                                                                               \
    if (absl::Status iob_status = (expression); !iob_status.ok()) return iob_status; \
  } while (false)

// Declares or assigns `target` from a StatusOr, or leaves the function with its status.
#define IOB_ASSIGN_OR_RETURN(target, expression) \
  IOB_ASSIGN_OR_RETURN_INNER(IOB_CONCAT(iob_result_, __LINE__), target, expression)
#define IOB_ASSIGN_OR_RETURN_INNER(result, target, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return std::move(result).status();         \
  target = std::move(*result)

namespace iob::shm {

// "memfd_create: Too many open files". Codes tell the caller what to do, so they are about us, not
// about permissions of the request: EMFILE, ENFILE, ENOMEM, ENOSPC, EAGAIN and EINTR are
// UNAVAILABLE or RESOURCE_EXHAUSTED, everything else is INTERNAL. (absl::ErrnoToStatus would turn a
// daemon's EACCES into PERMISSION_DENIED, which reads like a decision about the caller.)
absl::Status ErrnoStatus(int error_number, absl::string_view what);

}  // namespace iob::shm
