// Source files as the rules see them: read from the tree, comments and strings blanked, in tokens.
//
// Blanking keeps every offset and every line break, so that a finding still has its line number.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace iob::layering {

// What a rule has to say about one line.
struct Finding {
  std::string path;
  size_t line = 0;
  std::string rule;
  std::string message;
};
std::ostream& operator<<(std::ostream& out, const Finding& finding);

// "path:line: rule: message" per finding.
std::string Report(const std::vector<Finding>& findings);

// Path relative to the root, with '/', to content.
using Tree = std::map<std::string, std::string>;

// All .h, .cc and .proto files of the rooms below `root`.
Tree ReadTree(const std::filesystem::path& root);

enum class Blank { kComments, kCommentsAndStrings };

// C++ with comments (and the insides of string and character literals) turned into spaces.
std::string Blanked(std::string_view text, Blank what);

struct Token {
  std::string_view text;
  size_t line;
};

// Identifiers, numbers, "::", "->" and single punctuation characters.
std::vector<Token> Tokenize(std::string_view blanked);

// 1-based line of an offset.
size_t LineOf(std::string_view text, size_t offset);

std::vector<std::string_view> SplitLines(std::string_view text);

}  // namespace iob::layering
