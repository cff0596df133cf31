#include "tests/layering/tidy_rules.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <span>

namespace iob::layering {
namespace {

// --- Exceptions ----------------------------------------------------------------------------------

struct Exception {
  std::string_view rule;
  // A file, or a folder when it ends in '/'. "x/mapping." stands for both mapping.h and mapping.cc.
  std::string_view prefix;
  std::string_view reason;
};

constexpr Exception kExceptions[] = {
    {"cast", "shm/hostile.h", "turns bounded addresses into shared words"},
    {"cast", "shm/window.", "turns bounded addresses into single accesses"},
    {"cast", "shm/fallible_copy.", "asks where in its page an address is"},
    {"cast", "shm/fd_channel.cc", "sockaddr"},
    {"cast", "shm/futex.cc", "futex_waitv carries addresses as u64"},
    {"cast", "server/runtime_dir.cc", "sockaddr"},
    {"cast", "client/broker.cc", "sockaddr"},
    {"cast", "client/demo/machine.cc", "sockaddr"},
    {"cast", "tests/", "tests play the hostile side"},
    {"close", "shm/unique_fd.h", "the one place"},
    {"close", "tests/unit/shm/unique_fd_test.cc", "closes a number behind its owner's back"},
    {"shared_ptr", "client/internal/connection.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/endpoint.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/id_allocator.", "an endpoint and its regions end in any order"},
    {"shared_ptr", "client/ring_reader.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/ring_writer.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/ring_follower.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/reserve_ring_reader.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/reserve_ring_writer.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/broadcast.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/slot.", "an endpoint and its regions end in any order"},
    {"shared_ptr", "client/internal/grants.",
     "a renewed ring's memory has the ring and the endpoint"},
    {"shared_ptr", "client/window.", "an endpoint, its windows and their slices end in any order"},
    {"shared_ptr", "client/acquired_range.", "an endpoint and its ranges end in any order"},
    {"shared_ptr", "client/internal/queue_writer.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/internal/socket_writer.", "an endpoint and its rings end in any order"},
    {"shared_ptr", "client/iobctl/", "CLI11 copies its callbacks, and what they capture"},
    {"shared_ptr", "tests/", "std::function copies what it captures"},
    {"sleep", "client/broker.cc", "the pause that a retry hint asks for"},
    {"sleep", "client/internal/handshake.cc", "pauses between attempts to connect"},
    {"sleep", "client/iobctl/create.cc", "looks at the broker from outside"},
    {"sleep", "client/demo/", "looks at other processes from outside"},
    {"sleep", "tests/bench/", "measuring that nothing happens takes its time"},
    {"thread", "server/main.cc", "main builds the object graph and its threads"},
    {"thread", "server/daemon.", "grpc::Server::Shutdown blocks and must not run on the loop"},
    {"thread", "server/mediator_thread.", "submission queues are served beside the loop"},
    {"thread", "server/copy_thread.", "snapshots are copied beside the loop"},
    {"thread", "server/admin_http.", "the HTTP library blocks its caller"},
    {"thread", "client/demo/", "the demo plays several parties"},
    {"thread", "tests/", "tests play several parties"},
    {"volatile", "tests/", "tests force an access that must fault"},
};

bool Allowed(std::string_view rule, std::string_view path) {
  return std::ranges::any_of(kExceptions, [&](const Exception& exception) {
    if (exception.rule != rule || !path.starts_with(exception.prefix)) return false;
    const std::string_view rest = path.substr(exception.prefix.size());
    return rest.empty() || exception.prefix.ends_with('/') || exception.prefix.ends_with('.');
  });
}

// --- Token rules ---------------------------------------------------------------------------------

// The tokens around one position; empty text beyond the ends.
class Cursor {
 public:
  Cursor(std::span<const Token> tokens, size_t position) : tokens_(tokens), position_(position) {}

  std::string_view At(std::ptrdiff_t distance) const {
    const auto index = static_cast<std::ptrdiff_t>(position_) + distance;
    if (index < 0 || index >= std::ssize(tokens_)) return "";
    return tokens_[static_cast<size_t>(index)].text;
  }
  std::string_view text() const { return At(0); }

  bool IsStd() const { return At(-1) == "::" && At(-2) == "std"; }

 private:
  std::span<const Token> tokens_;
  size_t position_;
};

template <size_t kCount>
bool OneOf(std::string_view text, const std::string_view (&words)[kCount]) {
  return std::ranges::find(words, text) != std::end(words);
}

bool IsName(std::string_view text) {
  return !text.empty() && (text[0] == '_' || (text[0] >= 'a' && text[0] <= 'z') ||
                           (text[0] >= 'A' && text[0] <= 'Z'));
}

// The global close(): not a method, not another namespace's, not a declaration.
bool IsRawClose(const Cursor& at, std::string_view /*path*/) {
  if (at.text() != "close" || at.At(1) != "(") return false;
  if (at.At(-1) == "::") return !IsName(at.At(-2)) || at.At(-2) == "return";
  if (at.At(-1) == "." || at.At(-1) == "->") return false;
  return !IsName(at.At(-1)) || at.At(-1) == "return" || at.At(-1) == "else";
}

// Not for what a signal handler writes: there it is what the standard asks for.
bool IsVolatile(const Cursor& at, std::string_view /*path*/) {
  if (at.text() != "volatile" || at.At(-1) == "asm" || at.At(-1) == "__asm__") return false;
  return at.At(1) != "sig_atomic_t" && at.At(3) != "sig_atomic_t";
}

// Outside shm/, reading bytes as characters is free: a library that speaks std::string leaves no
// other way, and it makes no type of foreign memory.
bool IsCast(const Cursor& at, std::string_view path) {
  if (at.text() != "reinterpret_cast") return false;
  const bool to_text =
      at.At(1) == "<" && at.At(2) == "const" && at.At(3) == "char" && at.At(4) == "*";
  return path.starts_with("shm/") || !to_text;
}

bool IsStdLock(const Cursor& at, std::string_view /*path*/) {
  constexpr std::string_view kLocks[] = {"mutex",
                                         "timed_mutex",
                                         "recursive_mutex",
                                         "shared_mutex",
                                         "lock_guard",
                                         "unique_lock",
                                         "scoped_lock",
                                         "shared_lock",
                                         "condition_variable",
                                         "condition_variable_any"};
  constexpr std::string_view kPthread[] = {"pthread_mutex_lock", "pthread_mutex_init",
                                           "pthread_rwlock_init", "pthread_cond_wait"};
  return (at.IsStd() && OneOf(at.text(), kLocks)) || OneOf(at.text(), kPthread);
}

bool IsThread(const Cursor& at, std::string_view /*path*/) {
  constexpr std::string_view kThreads[] = {"thread", "jthread", "async"};
  // std::thread::id and std::thread::hardware_concurrency start nothing.
  if (at.IsStd() && OneOf(at.text(), kThreads)) return at.At(1) != "::";
  return at.text() == "pthread_create";
}

bool IsSleep(const Cursor& at, std::string_view /*path*/) {
  constexpr std::string_view kSleeps[] = {
      "sleep", "usleep", "nanosleep", "clock_nanosleep", "sleep_for", "sleep_until", "SleepFor"};
  return OneOf(at.text(), kSleeps) && at.At(1) == "(" && at.At(-1) != "." && at.At(-1) != "->";
}

// Some libraries hand out shared_ptr and leave no choice.
bool IsSharedPtr(const Cursor& at, std::string_view /*path*/) {
  constexpr std::string_view kNames[] = {"shared_ptr", "make_shared", "enable_shared_from_this"};
  constexpr std::string_view kLibraries[] = {"grpc", "prometheus", "spdlog"};
  if (!at.IsStd() || !OneOf(at.text(), kNames)) return false;
  const size_t first = at.At(2) == "::" ? 3 : 2;
  return !(at.At(1) == "<" && OneOf(at.At(static_cast<std::ptrdiff_t>(first)), kLibraries));
}

struct TokenRule {
  std::string_view name;
  bool (*matches)(const Cursor&, std::string_view path);
  std::string_view message;
};

constexpr TokenRule kTokenRules[] = {
    {"cast", IsCast,
     "reinterpret_cast outside the files audited for memory safety; use Mapping::At, SharedBytes "
     "or "
     "std::bit_cast, and for a sockaddr name the file in tests/layering/tidy_rules.cc"},
    {"close", IsRawClose, "close() of a raw descriptor; let a shm::UniqueFd own it"},
    {"volatile", IsVolatile,
     "volatile orders nothing and may be read twice; use SharedAtomic, or asm volatile for a "
     "barrier"},
    {"mutex", IsStdLock,
     "std and pthread locks escape clang's analysis; use absl::Mutex with ABSL_GUARDED_BY"},
    {"thread", IsThread, "the daemon has one loop; post to it instead"},
    {"sleep", IsSleep,
     "sleeping is guessing; wait for the condition with a deadline, or use FakeClock"},
    {"shared_ptr", IsSharedPtr,
     "nothing here has two owners; use std::unique_ptr and pass references down"},
};

void CheckTokens(const std::string& path, std::string_view text, std::vector<Finding>& findings) {
  const std::string code = Blanked(text, Blank::kCommentsAndStrings);
  const std::vector<Token> tokens = Tokenize(code);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const Cursor at(tokens, i);
    for (const TokenRule& rule : kTokenRules) {
      if (!rule.matches(at, path) || Allowed(rule.name, path)) continue;
      findings.push_back({path, tokens[i].line, std::string(rule.name), std::string(rule.message)});
    }
  }
}

// --- Text rules ----------------------------------------------------------------------------------

// Code points of UTF-8, which is what an editor counts as columns.
size_t ColumnsOf(std::string_view line) {
  return static_cast<size_t>(std::ranges::count_if(
      line, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

bool HasWord(std::string_view line, std::string_view word) {
  const auto is_name = [](char c) { return IsName({&c, 1}) || (c >= '0' && c <= '9'); };
  for (size_t at = line.find(word); at != line.npos; at = line.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !is_name(line[at - 1])) && (end == line.size() || !is_name(line[end])))
      return true;
  }
  return false;
}

void CheckText(const std::string& path, std::string_view text, std::vector<Finding>& findings) {
  // In two halves, so that this file does not break its own rule.
  static constexpr std::string_view kMarkers[] = {
      "TO"
      "DO",
      "FIX"
      "ME"};
  const std::vector<std::string_view> lines = SplitLines(text);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (ColumnsOf(lines[i]) > kColumnsMax) {
      findings.push_back({path, i + 1, "columns",
                          std::to_string(ColumnsOf(lines[i])) + " columns, at most " +
                              std::to_string(kColumnsMax) + "; break the line"});
    }
    if (lines[i].find('\t') != std::string_view::npos)
      findings.push_back({path, i + 1, "tab", "a tab; indent with two spaces"});
    for (const std::string_view marker : kMarkers) {
      if (!HasWord(lines[i], marker)) continue;
      findings.push_back(
          {path, i + 1, "marker",
           std::string(marker) + "; do it now, or open an issue and say nothing here"});
    }
  }
  if (lines.size() > kFileLinesMax) {
    findings.push_back({path, lines.size(), "file",
                        std::to_string(lines.size()) + " lines, at most " +
                            std::to_string(kFileLinesMax) +
                            "; give a part of it a file of its own"});
  }
}

// --- Function length -----------------------------------------------------------------------------

// Directives hold unbalanced braces; they and their continuations become spaces.
std::string WithoutDirectives(std::string code) {
  bool in_directive = false;
  for (size_t start = 0; start < code.size();) {
    const size_t end = std::min(code.find('\n', start), code.size());
    const size_t first = code.find_first_not_of(' ', start);
    in_directive = in_directive || (first < end && code[first] == '#');
    const bool continues = end > start && code[end - 1] == '\\';
    if (in_directive)
      std::fill(code.begin() + static_cast<std::ptrdiff_t>(start),
                code.begin() + static_cast<std::ptrdiff_t>(end), ' ');
    in_directive = in_directive && continues;
    start = end + 1;
  }
  return code;
}

// Without a leading "template <...>".
std::string_view WithoutTemplate(std::string_view head) {
  const auto trim = [&] {
    head.remove_prefix(std::min(head.find_first_not_of(" \n"), head.size()));
  };
  trim();
  while (head.starts_with("template")) {
    size_t depth = 0;
    size_t i = head.find('<');
    for (; i < head.size(); ++i) {
      if (head[i] == '<') ++depth;
      if (head[i] == '>' && --depth == 0) break;
    }
    head.remove_prefix(std::min(i + 1, head.size()));
    trim();
  }
  return head;
}

enum class Scope { kNames, kFunction, kOther };

// What an opening brace opens, by the text since the last ';', '{' or '}'.
Scope Classify(std::string_view head) {
  head = WithoutTemplate(head);
  for (const std::string_view word :
       {"namespace", "inline namespace", "extern", "class", "struct", "union"}) {
    if (head.starts_with(word)) return Scope::kNames;
  }
  const size_t last = head.find_last_not_of(" \n");
  if (head.starts_with("enum") || last == head.npos || head[last] == '=') return Scope::kOther;
  return head.find('(') == head.npos ? Scope::kOther : Scope::kFunction;
}

// Walks the braces of one file. Formatted code has a space before the brace of a body and none
// before that of an initializer, which is how `Foo() : a_{1} {` is told apart.
void FindLong(const std::string& path, std::string_view text, std::vector<Finding>& findings) {
  const std::string code = WithoutDirectives(Blanked(text, Blank::kCommentsAndStrings));
  struct Open {
    Scope scope;
    size_t start;
    size_t head;
  };
  std::vector<Open> open;
  size_t head = 0;
  for (size_t i = 0; i < code.size(); ++i) {
    const bool at_names = open.empty() || open.back().scope == Scope::kNames;
    if (code[i] == '{') {
      const bool initializer = i > 0 && code[i - 1] != ' ' && code[i - 1] != '\n';
      const Scope scope = !at_names || initializer
                              ? Scope::kOther
                              : Classify(std::string_view(code).substr(head, i - head));
      open.push_back({scope, i, initializer ? head : i + 1});
      head = i + 1;
    } else if (code[i] == '}' && !open.empty()) {
      const Open closed = open.back();
      open.pop_back();
      head = closed.head == closed.start + 1 ? i + 1 : closed.head;
      const size_t lines = LineOf(code, i) - LineOf(code, closed.start) + 1;
      if (closed.scope == Scope::kFunction && lines > kFunctionLinesMax) {
        findings.push_back({path, LineOf(code, closed.start), "function",
                            std::to_string(lines) + " lines, aim for 40 and at most " +
                                std::to_string(kFunctionLinesMax)});
      }
    } else if (code[i] == ';' && at_names) {
      head = i + 1;
    }
  }
}

}  // namespace

std::vector<Finding> CheckTidy(const Tree& tree) {
  std::vector<Finding> findings;
  for (const auto& [path, text] : tree) {
    if (!path.ends_with(".proto")) CheckTokens(path, text, findings);
    CheckText(path, text, findings);
  }
  return findings;
}

std::vector<Finding> FindLongFunctions(const Tree& tree) {
  std::vector<Finding> findings;
  for (const auto& [path, text] : tree) {
    if (!path.ends_with(".proto")) FindLong(path, text, findings);
  }
  return findings;
}

}  // namespace iob::layering
