// The include rules of include_rules.h: held by the tree, and each seen to fire.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/layering/include_rules.h"

namespace iob::layering {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Layering, TheTreeKeepsIt) {
  const Tree tree = ReadTree(IOB_SOURCE_ROOT);
  ASSERT_TRUE(tree.contains("shm/hostile.h")) << "no sources under " << IOB_SOURCE_ROOT;
  const std::vector<Finding> findings = CheckIncludes(tree);
  EXPECT_TRUE(findings.empty()) << Report(findings);
}

TEST(Layering, ServerAndClientNeverMeet) {
  EXPECT_THAT(Report(CheckIncludes({{"server/a.cc", "#include \"client/broker.h\"\n"}})),
              HasSubstr("server/a.cc:1: layering: server must not include client/broker.h"));
  EXPECT_THAT(Report(CheckIncludes({{"client/iobctl/a.cc", "\n#include \"server/policy.h\"\n"}})),
              HasSubstr("client/iobctl/a.cc:2: layering: client must not include"));
}

TEST(Layering, ShmUsesNothingOfOursAndNoGrpcAndNoLog) {
  for (const char* include :
       {"\"server/registry.h\"", "\"client/broker.h\"", "\"iob/v1/types.pb.h\"",
        "<grpcpp/grpcpp.h>", "<grpc/grpc.h>", "<google/protobuf/message.h>", "<spdlog/spdlog.h>"}) {
    const std::string text = std::string("#include ") + include + "\n";
    EXPECT_FALSE(CheckIncludes({{"shm/a.h", text}}).empty()) << include;
  }
  EXPECT_THAT(CheckIncludes({{"shm/a.h", "#include <atomic>\n#include \"shm/check.h\"\n"},
                             {"shm/check.h", "#include \"absl/status/status.h\"\n"}}),
              IsEmpty());
}

TEST(Layering, NothingIncludesTests) {
  EXPECT_FALSE(CheckIncludes({{"server/a.cc", "#include \"tests/support/clock.h\"\n"}}).empty());
  EXPECT_THAT(CheckIncludes({{"tests/a.cc", "#include \"tests/support/clock.h\"\n"}}), IsEmpty());
}

TEST(Layering, PublicClientHeadersDoNotReachGrpcNotEvenThroughOthers) {
  const Tree tree = {{"client/broker.h", "#include \"client/internal/stub.h\"\n"},
                     {"client/internal/stub.h", "#include <grpcpp/grpcpp.h>\n"}};
  EXPECT_THAT(Report(CheckIncludes(tree)),
              HasSubstr("client/broker.h -> client/internal/stub.h -> grpcpp/grpcpp.h"));
  EXPECT_FALSE(CheckIncludes({{"client/a.h", "#include \"iob/v1/types.pb.h\"\n"}}).empty());
  EXPECT_THAT(CheckIncludes({{"client/a.cc", "#include \"iob/v1/types.pb.h\"\n"}}), IsEmpty());
}

TEST(Layering, AHeaderThatIncludesItselfIsNoEndlessWalk) {
  EXPECT_THAT(
      CheckIncludes({{"shm/a.h", "#include \"shm/b.h\"\n"}, {"shm/b.h", "#include \"shm/a.h\"\n"}}),
      IsEmpty());
}

TEST(Layering, IncludesStartAtTheRoot) {
  EXPECT_FALSE(CheckIncludes({{"shm/a.cc", "#include \"a.h\"\n"}}).empty());
  EXPECT_FALSE(CheckIncludes({{"shm/a.cc", "#include \"../shm/a.h\"\n"}}).empty());
}

TEST(Layering, CommentsIncludeNothing) {
  EXPECT_THAT(
      CheckIncludes({{"shm/a.cc", "// #include \"server/a.h\"\n/*\n#include <grpc/a.h>\n*/"}}),
      IsEmpty());
  EXPECT_FALSE(CheckIncludes({{"shm/a.cc", "#  include /* x */ \"server/a.h\"\n"}}).empty());
}

}  // namespace
}  // namespace iob::layering
