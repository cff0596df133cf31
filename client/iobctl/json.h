// JsonWriter: builds one JSON value, member by member.
//
//     JsonWriter json;
//     json.BeginObject();
//     json.Member("name", name);
//     json.BeginArray("regions"); ... json.EndArray();
//     json.EndObject();
//     Print(json.text());
//
// Strings are written as UTF-8; bytes that are not come out as U+FFFD. Unsigned 64-bit numbers are
// written as numbers, exactly. Nesting is the caller's care. Thread-compatible.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace iob::ctl {

class JsonWriter {
 public:
  // The first ones are for elements of an array, or the whole value; those with a key for members.
  void BeginObject();
  void BeginObject(std::string_view key);
  void EndObject();
  void BeginArray();
  void BeginArray(std::string_view key);
  void EndArray();

  void Value(uint64_t value);
  void Value(std::string_view value);
  void Member(std::string_view key, uint64_t value);
  void Member(std::string_view key, int64_t value);
  void Member(std::string_view key, std::string_view value);
  // To three places.
  void Member(std::string_view key, double value);
  void Member(std::string_view key, bool value);
  // Without it, text would turn into bool.
  void Member(std::string_view key, const char* value) { Member(key, std::string_view(value)); }

  const std::string& text() const { return text_; }
  // Empty again, with its capacity.
  void Clear();

 private:
  void Separate();
  void Key(std::string_view key);
  void Quote(std::string_view value);

  std::string text_;
  bool first_ = true;  // Nothing precedes the next value at this level.
};

}  // namespace iob::ctl
