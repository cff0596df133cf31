#include "client/iobctl/json.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/iobctl/text.h"

namespace iob::ctl {

void JsonWriter::Separate() {
  if (!first_) text_ += ',';
  first_ = false;
}

void JsonWriter::Key(std::string_view key) {
  Separate();
  Quote(key);
  text_ += ':';
}

void JsonWriter::Quote(std::string_view value) {
  text_ += '"';
  while (!value.empty()) {
    const size_t bytes = Utf8SequenceBytes(value);
    if (bytes == 0) {
      text_ += "\xef\xbf\xbd";
      value.remove_prefix(1);
      continue;
    }
    const auto byte = static_cast<unsigned char>(value[0]);
    if (byte == '"' || byte == '\\') {
      text_ += '\\';
      text_ += value[0];
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&text_, "\\u%04x", byte);
    } else {
      text_.append(value.substr(0, bytes));
    }
    value.remove_prefix(bytes);
  }
  text_ += '"';
}

void JsonWriter::BeginObject() {
  Separate();
  text_ += '{';
  first_ = true;
}

void JsonWriter::BeginObject(std::string_view key) {
  Key(key);
  text_ += '{';
  first_ = true;
}

void JsonWriter::EndObject() {
  text_ += '}';
  first_ = false;
}

void JsonWriter::BeginArray() {
  Separate();
  text_ += '[';
  first_ = true;
}

void JsonWriter::BeginArray(std::string_view key) {
  Key(key);
  text_ += '[';
  first_ = true;
}

void JsonWriter::EndArray() {
  text_ += ']';
  first_ = false;
}

void JsonWriter::Value(uint64_t value) {
  Separate();
  absl::StrAppend(&text_, value);
}

void JsonWriter::Value(std::string_view value) {
  Separate();
  Quote(value);
}

void JsonWriter::Member(std::string_view key, uint64_t value) {
  Key(key);
  absl::StrAppend(&text_, value);
}

void JsonWriter::Member(std::string_view key, int64_t value) {
  Key(key);
  absl::StrAppend(&text_, value);
}

void JsonWriter::Member(std::string_view key, std::string_view value) {
  Key(key);
  Quote(value);
}

void JsonWriter::Member(std::string_view key, double value) {
  Key(key);
  absl::StrAppendFormat(&text_, "%.3f", value);
}

void JsonWriter::Member(std::string_view key, bool value) {
  Key(key);
  text_ += value ? "true" : "false";
}

void JsonWriter::Clear() {
  text_.clear();
  first_ = true;
}

}  // namespace iob::ctl
