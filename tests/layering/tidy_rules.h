// House rules that no compiler knows, each with what to write instead.
//
// A rule looks at tokens, never at comments or strings, except where the rule is about text itself
// (columns, tabs, marker words). A file that needs an exception is named with its reason in
// tidy_rules.cc.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tests/layering/source.h"

namespace iob::layering {

inline constexpr size_t kColumnsMax = 100;
inline constexpr size_t kFileLinesMax = 600;
inline constexpr size_t kFunctionLinesMax = 70;

// What must not be.
std::vector<Finding> CheckTidy(const Tree& tree);

// Functions longer than kFunctionLinesMax: worth a look, not a failure.
std::vector<Finding> FindLongFunctions(const Tree& tree);

}  // namespace iob::layering
