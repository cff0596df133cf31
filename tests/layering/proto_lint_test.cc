// The rules of proto_rules.h: held by our protocol, and each seen to fire on a small bad file.

#include <gmock/gmock.h>
#include <google/protobuf/compiler/parser.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "tests/layering/proto_rules.h"

namespace iob::layering {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string ReadFile(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

google::protobuf::FileDescriptorSet OurProtos() {
  google::protobuf::FileDescriptorSet set;
  EXPECT_TRUE(set.ParseFromString(ReadFile(IOB_PROTO_DESCRIPTORS))) << IOB_PROTO_DESCRIPTORS;
  EXPECT_GT(set.file_size(), 3);
  return set;
}

// One file as protoc would see it.
google::protobuf::FileDescriptorSet Parsed(const std::string& body,
                                           const std::string& name = "iob/v1/a.proto",
                                           const std::string& package = "iob.v1") {
  const std::string text = "syntax = \"proto3\";\npackage " + package + ";\n" + body;
  google::protobuf::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  google::protobuf::io::Tokenizer tokenizer(&input, nullptr);
  google::protobuf::FileDescriptorSet set;
  google::protobuf::FileDescriptorProto* const file = set.add_file();
  EXPECT_TRUE(google::protobuf::compiler::Parser().Parse(&tokenizer, file)) << text;
  file->set_name(name);
  return set;
}

std::string Lint(const std::string& body) { return Report(LintProtos(Parsed(body))); }

// An rpc with types that have comments; `types` are "Request type, response type".
std::string Rpc(const std::string& service, const std::string& request,
                const std::string& response) {
  return "// S.\nservice " + service + " {\n  // R.\n  rpc Get(" + request + ") returns (" +
         response + ");\n}\n// Q.\nmessage " + request + " {}\n" +
         (request == response ? "" : "// A.\nmessage " + response + " {}\n");
}

TEST(ProtoLint, OurProtocolKeepsTheRules) {
  const std::vector<Finding> findings = LintProtos(OurProtos());
  EXPECT_TRUE(findings.empty()) << Report(findings);
}

// IOB_PROTO_BASELINE=rewrite in the environment rewrites the file instead.
TEST(ProtoLint, NothingPublishedChanges) {
  const google::protobuf::FileDescriptorSet set = OurProtos();
  const char* const mode = std::getenv("IOB_PROTO_BASELINE");
  if (mode != nullptr && std::string_view(mode) == "rewrite") {
    std::ofstream file(IOB_PROTO_BASELINE_FILE, std::ios::binary);
    file << "# What clients rely on. Rewritten by IOB_PROTO_BASELINE=rewrite ./dev test -R "
            "proto_lint\n";
    for (const std::string& line : BaselineOf(set)) file << line << '\n';
    ASSERT_TRUE(file.flush()) << IOB_PROTO_BASELINE_FILE;
  }
  const std::string baseline = ReadFile(IOB_PROTO_BASELINE_FILE);
  ASSERT_THAT(baseline, Not(IsEmpty())) << IOB_PROTO_BASELINE_FILE;
  const std::vector<Finding> findings = CheckBaseline(set, baseline);
  EXPECT_TRUE(findings.empty())
      << Report(findings)
      << "To rewrite the baseline: IOB_PROTO_BASELINE=rewrite ./dev test -R proto_lint";
}

TEST(ProtoLint, AcceptsAGoodFile) {
  EXPECT_EQ("", Lint(Rpc("AService", "GetRequest", "GetResponse") +
                     "// E.\nenum CloseKind {\n  CLOSE_KIND_UNSPECIFIED = 0;  // Zero.\n}\n"
                     "// M.\nmessage M {\n  // F.\n  map<string, string> f = 1;\n}\n"));
}

TEST(ProtoLint, RequestAndResponseAreNamedAfterTheRpc) {
  EXPECT_THAT(
      Lint(Rpc("AService", "Query", "GetResponse")),
      HasSubstr("a.proto:6: rpc: iob.v1.AService.Get: uses Query; name the type GetRequest"));
  EXPECT_THAT(Lint(Rpc("AService", "GetRequest", "Answer")),
              HasSubstr("name the type GetResponse"));
}

TEST(ProtoLint, NoTwoRpcsShareAType) {
  EXPECT_THAT(Lint(Rpc("AService", "Same", "Same")), HasSubstr("iob.v1.Same is used 2 times"));
  EXPECT_THAT(Lint(Rpc("AService", "GetRequest", "GetResponse") +
                   "// S.\nservice BService {\n  // R.\n"
                   "  rpc Get(GetRequest) returns (GetResponse);\n}\n"),
              AllOf(HasSubstr("iob.v1.AService.Get: iob.v1.GetRequest is used 2"),
                    HasSubstr("iob.v1.BService.Get: iob.v1.GetResponse is used 2")));
}

TEST(ProtoLint, ServicesEndInService) {
  EXPECT_THAT(Lint(Rpc("Broker", "GetRequest", "GetResponse")),
              HasSubstr("service: iob.v1.Broker"));
}

TEST(ProtoLint, EnumValuesCarryThePrefixAndStartUnspecified) {
  EXPECT_THAT(Lint("// E.\nenum CloseKind {\n  // Z.\n  CLOSE_KIND_UNSPECIFIED = 0;\n"
                   "  // V.\n  KILLED = 1;\n}\n"),
              HasSubstr("KILLED: must start with CLOSE_KIND_"));
  EXPECT_THAT(Lint("// E.\nenum CloseKind {\n  // Z.\n  CLOSE_KIND_NONE = 0;\n}\n"),
              HasSubstr("value 0 must be CLOSE_KIND_UNSPECIFIED"));
}

TEST(ProtoLint, EverythingHasAComment) {
  EXPECT_THAT(Lint("message M {\n  int32 f = 1;\n  message N {}\n}\n"
                   "enum E {\n  E_UNSPECIFIED = 0;\n}\n"
                   "service AService {\n  rpc Get(GetRequest) returns (GetResponse);\n}\n"
                   "// Q.\nmessage GetRequest {}\n// A.\nmessage GetResponse {}\n"),
              AllOf(HasSubstr("a.proto:3: comment: iob.v1.M:"), HasSubstr("iob.v1.M.f:"),
                    HasSubstr("iob.v1.M.N:"), HasSubstr("iob.v1.E:"),
                    HasSubstr("iob.v1.E_UNSPECIFIED:"), HasSubstr("iob.v1.AService:"),
                    HasSubstr("iob.v1.AService.Get:"), Not(HasSubstr("Request:"))));
}

TEST(ProtoLint, ThePackageIsTheFolder) {
  EXPECT_THAT(Report(LintProtos(Parsed("", "iob/v2/a.proto"))),
              HasSubstr("package iob.v1 lies in folder iob.v2"));
}

TEST(ProtoLint, GoogleRpcNamesItsThingsItself) {
  const auto lint = [](const std::string& body) {
    return Report(LintProtos(Parsed(body, "google/rpc/a.proto", "google.rpc")));
  };
  EXPECT_EQ("", lint("// C.\nenum Code {\n  // O.\n  OK = 0;\n}\n"));
  EXPECT_THAT(lint("message Status {}\n"), HasSubstr("comment: google.rpc.Status"));
}

std::string Against(const std::string& baseline, const std::string& body) {
  return Report(CheckBaseline(Parsed(body), baseline));
}

TEST(ProtoBaseline, HoldsNameNumberAndType) {
  const std::string was = "# comment\n\niob.v1.M.f 1 uint32\n";
  EXPECT_EQ("", Against(was, "message M { uint32 f = 1; }"));
  EXPECT_THAT(
      Against(was, "message M { uint32 f = 2; }"),
      AllOf(HasSubstr("iob.v1.M.f was (1 uint32) and is (2 uint32)"), HasSubstr("Breaking")));
  EXPECT_THAT(Against(was, "message M { uint64 f = 1; }"), HasSubstr("is (1 uint64)"));
  EXPECT_THAT(Against(was, "message M { repeated uint32 f = 1; }"), HasSubstr("is (1 repeated"));
  EXPECT_THAT(Against(was, "message M { optional uint32 f = 1; }"), HasSubstr("is (1 optional"));
  EXPECT_THAT(Against(was, "message M { oneof o { uint32 f = 1; } }"), HasSubstr("is (1 oneof o"));
  EXPECT_THAT(Against(was, "message M { uint32 g = 1; }"),
              HasSubstr("iob.v1.M.f (1 uint32) is gone"));
}

TEST(ProtoBaseline, ARemovedFieldIsReservedByNumberAndName) {
  const std::string was = "iob.v1.M.f 1 uint32\n";
  EXPECT_EQ("", Against(was, "message M { reserved 1; reserved \"f\"; }"));
  EXPECT_THAT(Against(was, "message M { reserved 1; }"), HasSubstr("is gone"));
  EXPECT_THAT(Against(was, "message M { reserved \"f\"; }"), HasSubstr("is gone"));
  EXPECT_THAT(Against(was, ""), HasSubstr("is gone"));
}

TEST(ProtoBaseline, HoldsEnumValuesAndRpcs) {
  const std::string was = "iob.v1.E.E_B 1 value\n";
  EXPECT_THAT(Against(was, "enum E { E_A = 0; E_B = 2; }"), HasSubstr("was (1 value) and is (2"));
  EXPECT_THAT(Against(was, "enum E { E_A = 0; reserved 1; reserved \"E_B\"; }"),
              Not(HasSubstr("E_B")));
  const std::string types = "message Q {} message A {} ";
  const std::string rpc = "iob.v1.S.Get - iob.v1.Q -> iob.v1.A\n";
  EXPECT_EQ("", Against(rpc, types + "service S { rpc Get(Q) returns (A); }"));
  EXPECT_THAT(Against(rpc, types + "service S { rpc Get(Q) returns (stream A); }"),
              HasSubstr("is (- iob.v1.Q -> stream iob.v1.A)"));
  EXPECT_THAT(Against(rpc, types + "service S {}"), HasSubstr("iob.v1.S.Get"));
}

// What is not in the baseline is not protected, so additions are recorded too.
TEST(ProtoBaseline, AnAdditionIsFineButRecorded) {
  EXPECT_THAT(Against("", "message M { map<string, E> f = 1; } enum E { E_A = 0; }"),
              AllOf(HasSubstr("iob.v1.M.f (1 map<string,iob.v1.E>) is new, which is fine"),
                    Not(HasSubstr("Breaking"))));
}

TEST(ProtoBaseline, WritesWhatItReads) {
  const google::protobuf::FileDescriptorSet set = OurProtos();
  std::string text;
  for (const std::string& line : BaselineOf(set)) text += line + "\n";
  EXPECT_THAT(CheckBaseline(set, text), IsEmpty());
}

}  // namespace
}  // namespace iob::layering
