// Text for a terminal: what peers chose is escaped, columns line up.
//
// Names and records come from other processes, which may be hostile: an escape sequence that
// reaches a terminal can rewrite what is on it. Bytes that are not printable UTF-8 come out as
// \xNN, \n, \t and so on. Thread-safe: pure functions; Table is thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace iob::ctl {

// Length of the well-formed UTF-8 sequence at the front of `text`; 0 if there is none.
size_t Utf8SequenceBytes(std::string_view text);

bool IsUtf8(std::string_view text);

// Appends `text` escaped: control characters (C0, DEL, C1), bytes that are not UTF-8, characters
// that reorder text, and the backslash.
void AppendEscaped(std::string_view text, std::string* target);
std::string Escape(std::string_view text);

// Rows of cells; each column is as wide as its widest cell so far.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { AddRow(std::move(header)); }
  void AddRow(std::vector<std::string> cells);
  size_t row_count() const { return rows_.size(); }
  // The rows since the last call. A long table can be printed in parts: columns only grow, so one
  // that moves at all moves once or twice.
  std::string Render();

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<size_t> widths_;
};

}  // namespace iob::ctl
