#include "tests/layering/source.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

namespace iob::layering {
namespace {

constexpr std::string_view kRooms[] = {"proto", "shm", "server", "client", "tests"};

bool IsWordChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Where the word that ends just before `end` starts; digit separators count as part of it.
size_t WordStart(std::string_view text, size_t end) {
  while (end > 0 && (IsWordChar(text[end - 1]) || text[end - 1] == '\'')) --end;
  return end;
}

// End of a literal that opens with the quote at `start`: the offset after its closing quote.
size_t EndOfQuoted(std::string_view text, size_t start) {
  const char quote = text[start];
  size_t i = start + 1;
  while (i < text.size() && text[i] != quote && text[i] != '\n') i += text[i] == '\\' ? 2 : 1;
  return std::min(i + 1, text.size());
}

// The same for R"delimiter( ... )delimiter".
size_t EndOfRaw(std::string_view text, size_t quote) {
  const size_t open = text.find('(', quote);
  if (open == std::string_view::npos) return text.size();
  std::string close = ")";
  close.append(text.substr(quote + 1, open - quote - 1)).append("\"");
  const size_t end = text.find(close, open);
  return end == std::string_view::npos ? text.size() : end + close.size();
}

size_t EndOfComment(std::string_view text, size_t start) {
  const bool block = text[start + 1] == '*';
  const size_t end = text.find(block ? "*/" : "\n", start + 2);
  if (end == std::string_view::npos) return text.size();
  return block ? end + 2 : end;
}

void BlankRange(std::string& text, size_t begin, size_t end) {
  for (size_t i = begin; i < end; ++i) {
    if (text[i] != '\n') text[i] = ' ';
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Finding& finding) {
  return out << finding.path << ':' << finding.line << ": " << finding.rule << ": "
             << finding.message;
}

std::string Report(const std::vector<Finding>& findings) {
  std::ostringstream out;
  for (const Finding& finding : findings) out << finding << '\n';
  return out.str();
}

Tree ReadTree(const std::filesystem::path& root) {
  Tree tree;
  for (const std::string_view room : kRooms) {
    if (!std::filesystem::is_directory(root / room)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / room)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cc" && extension != ".proto") continue;
      std::ifstream file(entry.path(), std::ios::binary);
      tree[entry.path().lexically_relative(root).generic_string()] =
          std::string(std::istreambuf_iterator<char>(file), {});
    }
  }
  return tree;
}

std::string Blanked(std::string_view text, Blank what) {
  std::string result(text);
  size_t i = 0;
  while (i < text.size()) {
    const char c = text[i];
    if (c == '/' && i + 1 < text.size() && (text[i + 1] == '/' || text[i + 1] == '*')) {
      const size_t end = EndOfComment(text, i);
      BlankRange(result, i, end);
      i = end;
    } else if (c == '"' || c == '\'') {
      const size_t word = WordStart(text, i);
      if (c == '\'' && word < i && IsDigit(text[word])) {
        ++i;  // 1'000'000
        continue;
      }
      const bool raw = c == '"' && i > word && text[i - 1] == 'R';
      const size_t end = raw ? EndOfRaw(text, i) : EndOfQuoted(text, i);
      if (what == Blank::kCommentsAndStrings && end > i + 1) BlankRange(result, i + 1, end - 1);
      i = end;
    } else {
      ++i;
    }
  }
  return result;
}

std::vector<Token> Tokenize(std::string_view blanked) {
  std::vector<Token> tokens;
  size_t line = 1;
  size_t i = 0;
  while (i < blanked.size()) {
    const char c = blanked[i];
    size_t size = 1;
    if (c == '\n') ++line;
    if (IsWordChar(c)) {
      while (i + size < blanked.size() && IsWordChar(blanked[i + size])) ++size;
    } else if (blanked.substr(i, 2) == "::" || blanked.substr(i, 2) == "->") {
      size = 2;
    }
    if (c != ' ' && c != '\n' && c != '\t') tokens.push_back({blanked.substr(i, size), line});
    i += size;
  }
  return tokens;
}

size_t LineOf(std::string_view text, size_t offset) {
  const auto end = text.begin() + static_cast<std::ptrdiff_t>(std::min(offset, text.size()));
  return 1 + static_cast<size_t>(std::count(text.begin(), end, '\n'));
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

}  // namespace iob::layering
