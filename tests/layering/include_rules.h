// Who may include whom. Dependencies run one way:
//
//     server --+--> shm, proto
//     client --+--> shm, proto        server and client never meet
//     shm ---------> nothing of ours
//     tests -------> everything; nothing includes tests
//
// Compile time and the users of libiob depend on two more: no gRPC and no generated code in shm/ or
// in what a public client header reaches.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tests/layering/source.h"

namespace iob::layering {

struct Include {
  std::string name;
  bool quoted = false;
  size_t line = 0;
};

std::vector<Include> IncludesOf(std::string_view text);

// A header that users of libiob include.
bool IsPublicClientHeader(std::string_view path);

std::vector<Finding> CheckIncludes(const Tree& tree);

}  // namespace iob::layering
