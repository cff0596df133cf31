// Records as text, JSON, or bytes.
//
// Thread-compatible.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "client/iobctl/json.h"
#include "client/ring_reader.h"

namespace iob::ctl {

enum class RecordFormat {
  kText,            // One line each, escaped for a terminal.
  kJson,            // One object each: the tag, and what AddPayload adds.
  kRaw,             // The payloads, one behind the other.
  kLengthPrefixed,  // u32 little-endian length, then the payload.
};

// Members `length`, and `data` or (unless UTF-8) `data_base64`.
void AddPayload(std::string_view payload, JsonWriter* json);

// "text", "json", "raw", "length-prefixed".
std::optional<RecordFormat> ParseRecordFormat(std::string_view text);

class RecordFormatter {
 public:
  explicit RecordFormatter(RecordFormat format) : format_(format) {}

  void Append(const RecordView& record, std::string* target);

 private:
  void AppendJson(const RecordView& record, std::string_view payload, std::string* target);

  RecordFormat format_;
  JsonWriter json_;  // Keeps its memory between records.
};

}  // namespace iob::ctl
