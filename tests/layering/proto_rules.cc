#include "tests/layering/proto_rules.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"

namespace iob::layering {
namespace {

namespace pb = google::protobuf;

// Descriptors live as long as their pool.
struct Protos {
  std::unique_ptr<pb::DescriptorPool> pool = std::make_unique<pb::DescriptorPool>();
  std::vector<const pb::FileDescriptor*> ours;
};

Protos Load(const pb::FileDescriptorSet& set, std::vector<Finding>& findings) {
  Protos protos;
  for (const pb::FileDescriptorProto& file : set.file()) {
    const pb::FileDescriptor* const built = protos.pool->BuildFile(file);
    if (built == nullptr) {
      findings.push_back({file.name(), 0, "load", "does not build; are its imports in the set?"});
    } else if (!built->package().starts_with("google.protobuf")) {
      protos.ours.push_back(built);
    }
  }
  return protos;
}

std::string UpperSnake(std::string_view camel) {
  const auto is_upper = [](char c) { return c >= 'A' && c <= 'Z'; };
  std::string snake;
  for (size_t i = 0; i < camel.size(); ++i) {
    if (i > 0 && is_upper(camel[i]) && !is_upper(camel[i - 1])) snake += '_';
    const bool is_lower = camel[i] >= 'a' && camel[i] <= 'z';
    snake += is_lower ? static_cast<char>(camel[i] - 'a' + 'A') : camel[i];
  }
  return snake;
}

const pb::FileDescriptor* FileOf(const pb::EnumValueDescriptor* value) {
  return value->type()->file();
}
const pb::FileDescriptor* FileOf(const pb::MethodDescriptor* method) {
  return method->service()->file();
}
template <typename Descriptor>
const pb::FileDescriptor* FileOf(const Descriptor* descriptor) {
  return descriptor->file();
}

class Linter {
 public:
  explicit Linter(std::vector<Finding>& findings) : findings_(findings) {}

  void Lint(const pb::FileDescriptor* file) {
    names_are_ours_ = !file->package().starts_with("google.");
    CheckPackage(file);
    for (int i = 0; i < file->message_type_count(); ++i) LintMessage(file->message_type(i));
    for (int i = 0; i < file->enum_type_count(); ++i) LintEnum(file->enum_type(i));
    for (int i = 0; i < file->service_count(); ++i) LintService(file->service(i));
  }

  // Only once all files are seen: a type may be used from several.
  void CheckUses() {
    for (const auto& [type, methods] : uses_) {
      if (methods.size() < 2) continue;
      for (const pb::MethodDescriptor* method : methods) {
        Add(method, "rpc",
            type + " is used " + std::to_string(methods.size()) +
                " times; give each use its own type, so that one can change alone");
      }
    }
  }

 private:
  template <typename Descriptor>
  void Add(const Descriptor* descriptor, const char* rule, const std::string& message) {
    pb::SourceLocation location;
    const bool known = descriptor->GetSourceLocation(&location);
    findings_.push_back({FileOf(descriptor)->name(),
                         known ? static_cast<size_t>(location.start_line) + 1 : 0, rule,
                         descriptor->full_name() + ": " + message});
  }

  template <typename Descriptor>
  void CheckComment(const Descriptor* descriptor) {
    pb::SourceLocation location;
    if (descriptor->GetSourceLocation(&location) &&
        (!location.leading_comments.empty() || !location.trailing_comments.empty())) {
      return;
    }
    Add(descriptor, "comment", "no comment above or beside it; say what it means and its limits");
  }

  void CheckPackage(const pb::FileDescriptor* file) {
    std::string folder = file->name().substr(0, file->name().rfind('/'));
    std::ranges::replace(folder, '/', '.');
    if (folder == file->package()) return;
    findings_.push_back(
        {file->name(), 1, "package", "package " + file->package() + " lies in folder " + folder});
  }

  void LintMessage(const pb::Descriptor* message) {
    if (message->options().map_entry()) return;
    CheckComment(message);
    for (int i = 0; i < message->field_count(); ++i) CheckComment(message->field(i));
    for (int i = 0; i < message->nested_type_count(); ++i) LintMessage(message->nested_type(i));
    for (int i = 0; i < message->enum_type_count(); ++i) LintEnum(message->enum_type(i));
  }

  void LintEnum(const pb::EnumDescriptor* type) {
    CheckComment(type);
    const std::string prefix = UpperSnake(type->name()) + "_";
    bool has_zero = false;
    for (int i = 0; i < type->value_count(); ++i) {
      const pb::EnumValueDescriptor* const value = type->value(i);
      CheckComment(value);
      if (!names_are_ours_) continue;
      if (!value->name().starts_with(prefix)) Add(value, "enum", "must start with " + prefix);
      if (value->number() != 0) continue;
      has_zero = true;
      if (value->name() != prefix + "UNSPECIFIED")
        Add(value, "enum", "value 0 must be " + prefix + "UNSPECIFIED");
    }
    if (names_are_ours_ && !has_zero) Add(type, "enum", "has no " + prefix + "UNSPECIFIED = 0");
  }

  void LintService(const pb::ServiceDescriptor* service) {
    CheckComment(service);
    if (names_are_ours_ && !service->name().ends_with("Service"))
      Add(service, "service", "the name must end in Service");
    for (int i = 0; i < service->method_count(); ++i) {
      const pb::MethodDescriptor* const method = service->method(i);
      CheckComment(method);
      if (!names_are_ours_) continue;
      uses_[method->input_type()->full_name()].push_back(method);
      uses_[method->output_type()->full_name()].push_back(method);
      CheckName(method, method->input_type(), "Request");
      CheckName(method, method->output_type(), "Response");
    }
  }

  void CheckName(const pb::MethodDescriptor* method, const pb::Descriptor* type,
                 const char* suffix) {
    if (type->name() == method->name() + suffix) return;
    Add(method, "rpc", "uses " + type->name() + "; name the type " + method->name() + suffix);
  }

  std::vector<Finding>& findings_;
  bool names_are_ours_ = true;
  std::map<std::string, std::vector<const pb::MethodDescriptor*>> uses_;
};

// --- Baseline ------------------------------------------------------------------------------------

std::string TypeOf(const pb::FieldDescriptor* field) {
  std::string type = field->type_name();
  if (field->type() == pb::FieldDescriptor::TYPE_MESSAGE) type = field->message_type()->full_name();
  if (field->type() == pb::FieldDescriptor::TYPE_ENUM) type = field->enum_type()->full_name();
  if (field->is_map()) {
    return "map<" + TypeOf(field->message_type()->map_key()) + "," +
           TypeOf(field->message_type()->map_value()) + ">";
  }
  if (field->is_repeated()) return "repeated " + type;
  if (field->has_optional_keyword()) return "optional " + type;
  if (field->real_containing_oneof() != nullptr)
    return "oneof " + field->real_containing_oneof()->name() + " " + type;
  return type;
}

using Entries = std::map<std::string, std::string>;  // Full name to the rest of the line.

void AddEnum(const pb::EnumDescriptor* type, Entries& entries) {
  for (int i = 0; i < type->value_count(); ++i) {
    entries[type->full_name() + "." + type->value(i)->name()] =
        std::to_string(type->value(i)->number()) + " value";
  }
}

void AddMessage(const pb::Descriptor* message, Entries& entries) {
  if (message->options().map_entry()) return;
  for (int i = 0; i < message->field_count(); ++i) {
    const pb::FieldDescriptor* const field = message->field(i);
    entries[field->full_name()] = std::to_string(field->number()) + " " + TypeOf(field);
  }
  for (int i = 0; i < message->nested_type_count(); ++i)
    AddMessage(message->nested_type(i), entries);
  for (int i = 0; i < message->enum_type_count(); ++i) AddEnum(message->enum_type(i), entries);
}

void AddService(const pb::ServiceDescriptor* service, Entries& entries) {
  for (int i = 0; i < service->method_count(); ++i) {
    const pb::MethodDescriptor* const method = service->method(i);
    const auto side = [](bool stream, const pb::Descriptor* type) {
      return (stream ? "stream " : "") + type->full_name();
    };
    entries[method->full_name()] = "- " + side(method->client_streaming(), method->input_type()) +
                                   " -> " + side(method->server_streaming(), method->output_type());
  }
}

Entries EntriesOf(const Protos& protos) {
  Entries entries;
  for (const pb::FileDescriptor* const file : protos.ours) {
    for (int i = 0; i < file->message_type_count(); ++i) AddMessage(file->message_type(i), entries);
    for (int i = 0; i < file->enum_type_count(); ++i) AddEnum(file->enum_type(i), entries);
    for (int i = 0; i < file->service_count(); ++i) AddService(file->service(i), entries);
  }
  return entries;
}

// Both the number and the name must be reserved: the one for old binaries, the other for JSON.
bool IsReserved(const pb::DescriptorPool& pool, const std::string& full_name, int number) {
  const size_t dot = full_name.rfind('.');
  const std::string parent = full_name.substr(0, dot);
  const std::string name = full_name.substr(dot + 1);
  if (const pb::Descriptor* const message = pool.FindMessageTypeByName(parent))
    return message->IsReservedNumber(number) && message->IsReservedName(name);
  if (const pb::EnumDescriptor* const type = pool.FindEnumTypeByName(parent))
    return type->IsReservedNumber(number) && type->IsReservedName(name);
  return false;
}

Entries Parse(std::string_view baseline) {
  Entries entries;
  for (const std::string_view line : SplitLines(baseline)) {
    if (line.empty() || line.starts_with('#')) continue;
    const size_t space = std::min(line.find(' '), line.size());
    entries[std::string(line.substr(0, space))] =
        space < line.size() ? std::string(line.substr(space + 1)) : "";
  }
  return entries;
}

int NumberIn(const std::string& entry) {
  return entry.starts_with('-') ? -1 : std::atoi(entry.c_str());
}

}  // namespace

std::vector<Finding> LintProtos(const pb::FileDescriptorSet& set) {
  std::vector<Finding> findings;
  const Protos protos = Load(set, findings);
  Linter linter(findings);
  for (const pb::FileDescriptor* const file : protos.ours) linter.Lint(file);
  linter.CheckUses();
  return findings;
}

std::vector<std::string> BaselineOf(const pb::FileDescriptorSet& set) {
  std::vector<Finding> ignored;  // LintProtos tells about files that do not build.
  std::vector<std::string> lines;
  const Protos protos = Load(set, ignored);
  for (const auto& [name, entry] : EntriesOf(protos))
    lines.push_back(absl::StrCat(name, " ", entry));
  return lines;
}

std::vector<Finding> CheckBaseline(const pb::FileDescriptorSet& set, std::string_view baseline) {
  constexpr const char* kFile = "tests/layering/proto_baseline.txt";
  constexpr const char* kBreaking =
      "; old clients break. Put it back, or reserve both its number and its name. If the break is "
      "meant, rewrite the baseline and list it under Breaking in the changelog";
  std::vector<Finding> findings;
  const Protos protos = Load(set, findings);
  const Entries now = EntriesOf(protos);
  const Entries before = Parse(baseline);
  for (const auto& [name, entry] : before) {
    const auto found = now.find(name);
    if (found == now.end()) {
      if (!IsReserved(*protos.pool, name, NumberIn(entry)))
        findings.push_back(
            {kFile, 0, "baseline", absl::StrCat(name, " (", entry, ") is gone", kBreaking)});
    } else if (found->second != entry) {
      findings.push_back(
          {kFile, 0, "baseline",
           absl::StrCat(name, " was (", entry, ") and is (", found->second, ")", kBreaking)});
    }
  }
  for (const auto& [name, entry] : now) {
    if (before.contains(name)) continue;
    findings.push_back(
        {kFile, 0, "baseline",
         absl::StrCat(name, " (", entry, ") is new, which is fine; add it to the baseline")});
  }
  return findings;
}

}  // namespace iob::layering
