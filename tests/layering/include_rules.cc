#include "tests/layering/include_rules.h"

#include <set>

namespace iob::layering {
namespace {

std::string_view RoomOf(std::string_view path) { return path.substr(0, path.find('/')); }

bool IsGenerated(std::string_view include) { return include.ends_with(".pb.h"); }

bool IsGrpc(std::string_view include) {
  return include.starts_with("grpc/") || include.starts_with("grpcpp/") ||
         include.starts_with("grpc++/");
}

bool IsProtobuf(std::string_view include) { return include.starts_with("google/protobuf/"); }

// The room that an include leads to; empty for everything that is not ours.
std::string_view RoomOfInclude(std::string_view include) {
  if (IsGenerated(include) && !IsProtobuf(include)) return "proto";
  const std::string_view room = RoomOf(include);
  if (room == "shm" || room == "server" || room == "client" || room == "tests") return room;
  return "";
}

bool MayUse(std::string_view from, std::string_view to) {
  if (to.empty() || from == to || from == "tests") return true;
  if (from == "server" || from == "client") return to == "shm" || to == "proto";
  return false;
}

// gRPC or protobuf that `path` includes, also through headers of ours. The path of includes is the
// message: it is what one has to cut.
void FindLeaks(const Tree& tree, const std::string& path, const std::string& trail,
               std::set<std::string>& seen, std::vector<Finding>& findings, const Finding& origin) {
  const auto file = tree.find(path);
  if (file == tree.end() || !seen.insert(path).second) return;
  for (const Include& include : IncludesOf(file->second)) {
    const std::string steps = trail + " -> " + include.name;
    Finding finding = origin;
    if (finding.line == 0) finding.line = include.line;
    if (IsGrpc(include.name) || IsProtobuf(include.name) || IsGenerated(include.name)) {
      finding.message = "gRPC or protobuf reaches " + steps +
                        "; name the type in client/internal/ and keep it behind a pointer";
      findings.push_back(finding);
    } else if (!RoomOfInclude(include.name).empty()) {
      FindLeaks(tree, include.name, steps, seen, findings, finding);
    }
  }
}

void CheckFile(const Tree& tree, const std::string& path, std::vector<Finding>& findings) {
  const std::string_view room = RoomOf(path);
  for (const Include& include : IncludesOf(tree.at(path))) {
    const std::string_view target = RoomOfInclude(include.name);
    if (!MayUse(room, target)) {
      findings.push_back({path, include.line, "layering",
                          std::string(room) + " must not include " + include.name +
                              "; move what both need down into shm/ or proto/"});
    }
    if (room == "shm" && include.name.starts_with("spdlog/")) {
      findings.push_back({path, include.line, "layering",
                          "shm does not log; return an absl::Status and let the caller log it"});
    }
    if (include.quoted &&
        (include.name.starts_with(".") || include.name.find('/') == std::string::npos)) {
      findings.push_back({path, include.line, "layering",
                          "\"" + include.name + "\": includes of ours start at the root of the " +
                              "tree, as in \"shm/memfd.h\""});
    }
  }
  if (room == "shm" || IsPublicClientHeader(path)) {
    std::set<std::string> seen;
    FindLeaks(tree, path, path, seen, findings,
              {.path = path, .line = 0, .rule = "layering", .message = ""});
  }
}

}  // namespace

std::vector<Include> IncludesOf(std::string_view text) {
  const std::string code = Blanked(text, Blank::kComments);
  std::vector<Include> includes;
  size_t line_number = 0;
  for (std::string_view line : SplitLines(code)) {
    ++line_number;
    const size_t hash = line.find_first_not_of(" \t");
    if (hash == std::string_view::npos || line[hash] != '#') continue;
    const size_t word = line.find_first_not_of(" \t", hash + 1);
    if (word == std::string_view::npos || !line.substr(word).starts_with("include")) continue;
    const size_t open = line.find_first_of("\"<", word);
    if (open == std::string_view::npos) continue;
    const size_t close = line.find_first_of("\">", open + 1);
    if (close == std::string_view::npos) continue;
    includes.push_back({.name = std::string(line.substr(open + 1, close - open - 1)),
                        .quoted = line[open] == '"',
                        .line = line_number});
  }
  return includes;
}

bool IsPublicClientHeader(std::string_view path) {
  return path.starts_with("client/") && path.ends_with(".h") &&
         !path.starts_with("client/internal/") && !path.starts_with("client/iobctl/") &&
         !path.starts_with("client/demo/");
}

std::vector<Finding> CheckIncludes(const Tree& tree) {
  std::vector<Finding> findings;
  for (const auto& [path, text] : tree) {
    if (!path.ends_with(".proto")) CheckFile(tree, path, findings);
  }
  return findings;
}

}  // namespace iob::layering
