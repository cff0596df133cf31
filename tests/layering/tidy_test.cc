// The house rules of tidy_rules.h: held by the tree, and each seen to fire.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iostream>

#include "tests/layering/tidy_rules.h"

namespace iob::layering {
namespace {

using ::testing::HasSubstr;

std::string Tidy(const std::string& path, const std::string& text) {
  return Report(CheckTidy({{path, text}}));
}

TEST(Tidy, TheTreeKeepsTheRules) {
  const Tree tree = ReadTree(IOB_SOURCE_ROOT);
  ASSERT_TRUE(tree.contains("shm/hostile.h")) << "no sources under " << IOB_SOURCE_ROOT;
  const std::vector<Finding> findings = CheckTidy(tree);
  EXPECT_TRUE(findings.empty()) << Report(findings);
  std::cout << "long functions, worth a look:\n" << Report(FindLongFunctions(tree));
}

struct Case {
  const char* rule;
  const char* path;
  const char* text;
};

class TidyFires : public ::testing::TestWithParam<Case> {};

TEST_P(TidyFires, OnTheSecondLine) {
  const Case& bad = GetParam();
  const std::string where = std::string(bad.path) + ":2: " + bad.rule + ": ";
  EXPECT_THAT(Tidy(bad.path, std::string("\n") + bad.text), HasSubstr(where));
}

INSTANTIATE_TEST_SUITE_P(
    Rules, TidyFires,
    ::testing::Values(Case{"cast", "server/a.cc", "auto* p = reinterpret_cast<char*>(q);"},
                      Case{"cast", "client/a.cc", "p = reinterpret_cast<int*>(q);"},
                      Case{"cast", "shm/fd_channel.h", "auto* p = reinterpret_cast<char*>(q);"},
                      Case{"close", "server/a.cc", "::close(fd);"},
                      Case{"close", "server/a.cc", "close (fd);"},
                      Case{"close", "client/a.cc", "return ::close(fd);"},
                      Case{"close", "tests/a.cc", "if (x) close(fd);"},
                      Case{"volatile", "shm/a.cc", "volatile int x;"},
                      Case{"volatile", "server/a.cc", "static_cast<volatile char*>(p);"},
                      Case{"mutex", "server/a.h", "std::mutex m;"},
                      Case{"mutex", "server/a.cc", "std :: lock_guard<T> l(m);"},
                      Case{"mutex", "server/a.cc", "std::condition_variable c;"},
                      Case{"mutex", "server/a.cc", "pthread_mutex_lock(&m);"},
                      Case{"thread", "server/registry.cc", "std::thread t([] {});"},
                      Case{"thread", "client/broker.cc", "std::jthread t;"},
                      Case{"sleep", "server/a.cc", "usleep(1);"},
                      Case{"sleep", "tests/a.cc", "absl::SleepFor(absl::Seconds(1));"},
                      Case{"sleep", "tests/a.cc", "std::this_thread::sleep_for(1s);"},
                      Case{"shared_ptr", "server/a.h", "std::shared_ptr<Buffer> b;"},
                      Case{"shared_ptr", "server/a.cc", "auto b = std::make_shared<Buffer>();"},
                      Case{"marker", "server/a.cc",
                           "// TO"
                           "DO: later"},
                      Case{"marker", "proto/iob/v1/a.proto",
                           "// FIX"
                           "ME(1)"},
                      Case{"tab", "server/a.cc", "\tint x;"}));

TEST(Tidy, NamesTheReplacement) {
  EXPECT_THAT(Tidy("server/a.cc", "std::mutex m;"), HasSubstr("use absl::Mutex"));
  EXPECT_THAT(Tidy("server/a.cc", "::close(fd);"), HasSubstr("shm::UniqueFd"));
}

TEST(Tidy, CommentsAndStringsAreFree) {
  EXPECT_EQ("", Tidy("server/a.cc",
                     "// std::mutex, ::close(1), volatile\n"
                     "/* usleep(1);\n   std::shared_ptr<X> */ int x = 1'000;\n"
                     "const char* s = \"reinterpret_cast \\\" volatile\";\n"
                     "const char* r = R\"x(std::thread t; \" ::close(1);)x\";\n"
                     "char c = '\"'; char d = '\\''; int y = 0xFF'FF;\n"));
}

TEST(Tidy, CodeAfterACommentOrStringIsSeen) {
  for (const char* text : {"/* x */ volatile int a;", "f(\"x\"); volatile int a;",
                           "char c = '\"'; volatile int a;", "int b = 1'000; volatile int a;",
                           "f(R\"(\\)\"); volatile int a;", "// x\nvolatile int a;"}) {
    EXPECT_THAT(Tidy("server/a.cc", text), HasSubstr("volatile: ")) << text;
  }
}

TEST(Tidy, LeavesWhatIsMeant) {
  EXPECT_EQ("", Tidy("server/a.cc",
                     "asm volatile(\"\");\nsocket.close();\nfile->close();\nfiles::close(x);\n"
                     "void close();\nstd::thread::id owner;\nstd::this_thread::get_id();\n"
                     "std::shared_ptr<grpc::Channel> c;\nstd::shared_ptr<::grpc::Channel> d;\n"));
  EXPECT_EQ("", Tidy("client/a.cc",
                     "volatile std::sig_atomic_t a; volatile sig_atomic_t b;\n"
                     "reinterpret_cast<const char*>(bytes.data());"));
  EXPECT_THAT(Tidy("shm/a.cc", "reinterpret_cast<const char*>(p);"), HasSubstr("cast: "));
  EXPECT_EQ("", Tidy("shm/hostile.h", "reinterpret_cast<char*>(p);"));
  EXPECT_EQ("", Tidy("server/main.cc", "std::thread t;"));
  EXPECT_EQ("", Tidy("tests/unit/a.cc", "std::thread t; reinterpret_cast<char*>(p);"));
}

TEST(Tidy, CountsColumnsNotBytes) {
  std::string wide;
  for (size_t i = 0; i < kColumnsMax; ++i) wide += "\u00e4";
  EXPECT_EQ("", Tidy("server/a.h", wide));
  EXPECT_THAT(Tidy("server/a.h", wide + "x"), HasSubstr("101 columns"));
  EXPECT_THAT(Tidy("proto/a.proto", std::string(kColumnsMax + 1, 'x')), HasSubstr("columns"));
}

TEST(Tidy, AFileFitsItsLimit) {
  std::string text;
  for (size_t i = 0; i < kFileLinesMax; ++i) text += "\n";
  EXPECT_EQ("", Tidy("server/a.cc", text));
  EXPECT_THAT(Tidy("server/a.cc", text + "\n"), HasSubstr("file: 601 lines"));
}

std::string Body(size_t lines) {
  std::string text = " {\n";
  for (size_t i = 2; i < lines; ++i) text += "  if (x) { y(); }\n";
  return text + "}\n";
}

TEST(Tidy, FindsLongFunctions) {
  const auto find = [](const std::string& text) {
    return Report(FindLongFunctions({{"server/a.cc", text}}));
  };
  const std::string longer = Body(kFunctionLinesMax + 1);
  EXPECT_EQ("", find("namespace a {\nvoid F()" + Body(kFunctionLinesMax) + "}\n"));
  EXPECT_THAT(find("namespace a {\nvoid F()" + longer + "}\n"), HasSubstr("a.cc:2: function: 71"));
  EXPECT_THAT(find("class A {\n  A() : b_{1}, c_(2)" + longer + "};\n"), HasSubstr("a.cc:2:"));
  EXPECT_THAT(find("template <class T>\nvoid F(T t)" + longer), HasSubstr("a.cc:2:"));
  EXPECT_EQ("", find("constexpr int kTable[] =" + longer + ";\n"));
  EXPECT_EQ("", find("struct A" + longer + ";\nenum class E" + longer + ";\n"));
  EXPECT_EQ("", find("#define X(a) {\n" + std::string(80, '\n') + "void F() {}\n"));
}

}  // namespace
}  // namespace iob::layering
