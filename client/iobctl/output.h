// Stdin and stdout of commands that stream.
//
// A reader that is gone (iobctl ls | head) is no error: whoever prints to it stops. A full disk is
// one. Thread-safe: no state.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace iob::ctl {

// All of `text`, at once; false when nobody reads stdout any more.
absl::StatusOr<bool> WriteOut(std::string_view text);

// What stdin has, at most `target`; 0 at its end, and when a stop was requested (stop_signal.h).
absl::StatusOr<size_t> ReadIn(std::span<char> target);

}  // namespace iob::ctl
