#include "client/iobctl/text.h"

#include <algorithm>
#include <array>
#include <utility>

namespace iob::ctl {
namespace {

constexpr std::string_view kHexDigits = "0123456789abcdef";
constexpr size_t kColumnGap = 2;

// The code point of a well-formed sequence.
uint32_t CodePoint(std::string_view sequence) {
  constexpr std::array<uint32_t, 5> kLeadMasks = {0, 0x7f, 0x1f, 0x0f, 0x07};
  uint32_t point = static_cast<unsigned char>(sequence[0]) & kLeadMasks[sequence.size()];
  for (const char c : sequence.substr(1))
    point = point << 6 | (static_cast<unsigned char>(c) & 0x3f);
  return point;
}

// Controls, and what makes text read in another order than it is stored.
bool MustEscape(uint32_t point) {
  return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == '\\' || point == 0x061c ||
         (point >= 0x200e && point <= 0x200f) || (point >= 0x2028 && point <= 0x202e) ||
         (point >= 0x2066 && point <= 0x2069) || point == 0xfeff;
}

void AppendEscapedByte(unsigned char byte, std::string* target) {
  switch (byte) {
    case '\n':
      *target += "\\n";
      return;
    case '\t':
      *target += "\\t";
      return;
    case '\r':
      *target += "\\r";
      return;
    case '\\':
      *target += "\\\\";
      return;
    default:
      *target += "\\x";
      *target += kHexDigits[byte >> 4];
      *target += kHexDigits[byte & 0xf];
  }
}

// How many columns: one per character.
size_t Width(const std::string& cell) {
  return static_cast<size_t>(
      std::count_if(cell.begin(), cell.end(), [](unsigned char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

size_t Utf8SequenceBytes(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&text](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < bytes) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond Unicode.
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) ||
      (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return bytes;
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t bytes = Utf8SequenceBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

void AppendEscaped(std::string_view text, std::string* target) {
  while (!text.empty()) {
    const size_t bytes = Utf8SequenceBytes(text);
    const std::string_view sequence = text.substr(0, std::max<size_t>(bytes, 1));
    if (bytes == 0 || MustEscape(CodePoint(sequence))) {
      for (const char c : sequence) AppendEscapedByte(static_cast<unsigned char>(c), target);
    } else {
      target->append(sequence);
    }
    text.remove_prefix(sequence.size());
  }
}

std::string Escape(std::string_view text) {
  std::string escaped;
  AppendEscaped(text, &escaped);
  return escaped;
}

void Table::AddRow(std::vector<std::string> cells) {
  widths_.resize(std::max(widths_.size(), cells.size()));
  for (size_t i = 0; i < cells.size(); ++i) widths_[i] = std::max(widths_[i], Width(cells[i]));
  rows_.push_back(std::move(cells));
}

std::string Table::Render() {
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    const size_t start = text.size();
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths_[i] - Width(row[i]) + kColumnGap, ' ');
    }
    // An empty last cell leaves no blanks.
    const size_t last = text.find_last_not_of(' ');
    text.erase(std::max(last + 1, start));
    text += '\n';
  }
  rows_.clear();
  return text;
}

}  // namespace iob::ctl
