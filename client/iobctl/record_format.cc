#include "client/iobctl/record_format.h"

#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "client/iobctl/text.h"

namespace iob::ctl {
namespace {

// Memory is little-endian here (shm/ring_layout.h), and so is the prefix.
void AppendLength(size_t size, std::string* target) {
  const auto length = static_cast<uint32_t>(size);
  target->append(reinterpret_cast<const char*>(&length), sizeof(length));
}

}  // namespace

void AddPayload(std::string_view payload, JsonWriter* json) {
  json->Member("length", uint64_t{payload.size()});
  if (IsUtf8(payload)) {
    json->Member("data", payload);
  } else {
    json->Member("data_base64",
                 absl::Base64Escape(absl::string_view(payload.data(), payload.size())));
  }
}

std::optional<RecordFormat> ParseRecordFormat(std::string_view text) {
  if (text == "text") return RecordFormat::kText;
  if (text == "json") return RecordFormat::kJson;
  if (text == "raw") return RecordFormat::kRaw;
  if (text == "length-prefixed") return RecordFormat::kLengthPrefixed;
  return std::nullopt;
}

void RecordFormatter::Append(const RecordView& record, std::string* target) {
  const std::string_view payload(reinterpret_cast<const char*>(record.payload.data()),
                                 record.payload.size());
  switch (format_) {
    case RecordFormat::kText:
      AppendEscaped(payload, target);
      target->push_back('\n');
      return;
    case RecordFormat::kJson:
      return AppendJson(record, payload, target);
    case RecordFormat::kLengthPrefixed:
      AppendLength(payload.size(), target);
      target->append(payload);
      return;
    case RecordFormat::kRaw:
      target->append(payload);
      return;
  }
}

void RecordFormatter::AppendJson(const RecordView& record, std::string_view payload,
                                 std::string* target) {
  json_.Clear();
  json_.BeginObject();
  json_.Member("tag", record.tag);
  AddPayload(payload, &json_);
  json_.EndObject();
  target->append(json_.text());
  target->push_back('\n');
}

}  // namespace iob::ctl
