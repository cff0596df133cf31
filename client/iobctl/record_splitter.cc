#include "client/iobctl/record_splitter.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "client/types.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

constexpr size_t kPrefixBytes = sizeof(uint32_t);

size_t PrefixedLength(std::string_view input) {
  uint32_t length = 0;
  std::memcpy(&length, input.data(), sizeof(length));
  return length;
}

}  // namespace

size_t RecordSplitter::WholeRecord(std::string_view input) const {
  switch (framing_) {
    case Framing::kLines:
    case Framing::kWholeLines: {
      const size_t newline = input.find('\n');
      return newline == std::string_view::npos ? 0 : newline + 1;
    }
    case Framing::kFixed:
      return input.size() >= record_bytes_ ? record_bytes_ : 0;
    case Framing::kLengthPrefixed:
      if (input.size() < kPrefixBytes) return 0;
      return input.size() - kPrefixBytes >= PrefixedLength(input)
                 ? kPrefixBytes + PrefixedLength(input)
                 : 0;
  }
  return 0;
}

std::string_view RecordSplitter::PayloadOf(std::string_view framed) const {
  switch (framing_) {
    case Framing::kLines:
      return framed.ends_with('\n') ? framed.substr(0, framed.size() - 1) : framed;
    case Framing::kWholeLines:
    case Framing::kFixed:
      return framed;
    case Framing::kLengthPrefixed:
      return framed.substr(kPrefixBytes);
  }
  return framed;
}

// Also for a record that is not whole yet, so that it is not kept in memory to be refused.
absl::Status RecordSplitter::CheckLength(std::string_view input) const {
  const bool prefixed = framing_ == Framing::kLengthPrefixed;
  size_t length = PayloadOf(prefixed ? "0000" : input).size();
  if (prefixed && input.size() >= kPrefixBytes) length = PrefixedLength(input);
  if (length <= kRecordPayloadBytesMax) return absl::OkStatus();
  const bool lines = framing_ == Framing::kLines || framing_ == Framing::kWholeLines;
  return absl::InvalidArgumentError(
      absl::StrCat(lines ? "line " : "record ", records_ + 1, " of the input, at byte ",
                   consumed_bytes_, ", is longer than ", kRecordPayloadBytesMax, " bytes",
                   lines ? absl::StrCat("; for binary input use ", std::string(for_binary_)) : ""));
}

absl::Status RecordSplitter::Feed(std::string_view chunk, const Emit& emit) {
  // Only while a record spans chunks is its beginning copied.
  if (!carry_.empty()) {
    carry_.append(chunk);
    chunk = carry_;
  }
  size_t used = 0;
  while (used < chunk.size()) {
    const std::string_view rest = chunk.substr(used);
    const size_t framed_bytes = WholeRecord(rest);
    const std::string_view framed = rest.substr(0, framed_bytes == 0 ? rest.size() : framed_bytes);
    IOB_RETURN_IF_ERROR(CheckLength(framed));
    if (framed_bytes == 0) break;
    IOB_RETURN_IF_ERROR(emit(PayloadOf(framed)));
    used += framed_bytes;
    records_ += 1;
    consumed_bytes_ += framed_bytes;
  }
  if (chunk.data() == carry_.data()) {
    carry_.erase(0, used);
  } else {
    carry_.assign(chunk.substr(used));
  }
  return absl::OkStatus();
}

absl::Status RecordSplitter::End(const Emit& emit) {
  if (carry_.empty()) return absl::OkStatus();
  if (framing_ == Framing::kLengthPrefixed) {
    return absl::InvalidArgumentError(absl::StrCat("the input ends inside record ", records_ + 1,
                                                   ", at byte ", consumed_bytes_ + carry_.size(),
                                                   ": it is cut off"));
  }
  IOB_RETURN_IF_ERROR(emit(carry_));
  carry_.clear();
  return absl::OkStatus();
}

}  // namespace iob::ctl
