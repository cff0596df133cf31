// Options: a flag beats the environment, which beats the default; what cannot be ends with 2.

#include "server/options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

namespace iob::server {
namespace {

// An environment variable for the length of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() { ::unsetenv(name_); }

 private:
  const char* name_;
};

ParsedOptions Parse(std::vector<std::string> words) {
  words.insert(words.begin(), "iobd");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return ParseOptions(static_cast<int>(argv.size()), argv.data());
}

TEST(Options, DefaultsAreUsable) {
  const auto parsed = Parse({});
  ASSERT_TRUE(parsed.options.has_value());
  EXPECT_EQ(parsed.options->runtime_dir, DefaultRuntimeDir());
  EXPECT_EQ(parsed.options->admin_address, "127.0.0.1:9464");
  EXPECT_EQ(parsed.options->socket_mode, 0666u);
  EXPECT_EQ(parsed.options->log_level, LogLevel::kInfo);
  EXPECT_GT(parsed.options->limits.memory_bytes_max, 0u);
  EXPECT_EQ(parsed.options->limits.memory_bytes_per_uid_max,
            parsed.options->limits.memory_bytes_max);
}

TEST(Options, TheEnvironmentBeatsTheDefaultAndAFlagBeatsTheEnvironment) {
  const Variable dir("IOBD_RUNTIME_DIR", "/tmp/from-env");
  const Variable step("IOBD_ATTACH_STEP_MS", "123");
  const Variable mode("IOBD_SOCKET_MODE", "0600");
  const Variable level("IOBD_LOG_LEVEL", "warn");
  const auto by_env = Parse({});
  ASSERT_TRUE(by_env.options.has_value());
  EXPECT_EQ(by_env.options->runtime_dir, "/tmp/from-env");
  EXPECT_EQ(by_env.options->limits.attach_step_ms, 123u);
  EXPECT_EQ(by_env.options->socket_mode, 0600u);
  EXPECT_EQ(by_env.options->log_level, LogLevel::kWarn);
  const auto by_flag = Parse({"--runtime-dir", "/tmp/from-flag", "--attach-step-ms=7",
                              "--socket-mode", "0660", "--log-level=ERROR"});
  ASSERT_TRUE(by_flag.options.has_value());
  EXPECT_EQ(by_flag.options->runtime_dir, "/tmp/from-flag");
  EXPECT_EQ(by_flag.options->limits.attach_step_ms, 7u);
  EXPECT_EQ(by_flag.options->socket_mode, 0660u);
  EXPECT_EQ(by_flag.options->log_level, LogLevel::kError);
}

TEST(Options, SizesHaveUnits) {
  const auto parsed =
      Parse({"--memory-max", "512MiB", "--memory-per-uid-max=1GiB", "--region-max", "65536"});
  ASSERT_TRUE(parsed.options.has_value());
  EXPECT_EQ(parsed.options->limits.memory_bytes_max, uint64_t{512} << 20);
  EXPECT_EQ(parsed.options->limits.memory_bytes_per_uid_max, uint64_t{1} << 30);
  EXPECT_EQ(parsed.options->limits.region_bytes_max, 65536u);
}

TEST(Options, WhatCannotBeIsAUsageError) {
  const std::vector<std::vector<std::string>> wrong = {{"--no-such-flag"},
                                                       {"stray"},
                                                       {"--runtime-dir"},
                                                       {"--socket-mode", "0999"},
                                                       {"--socket-mode", "rw"},
                                                       {"--socket-mode", ""},
                                                       {"--socket-mode", "00666"},
                                                       {"--log-level", "loud"},
                                                       {"--memory-max", "lots"},
                                                       {"--memory-max", "-1"},
                                                       {"--buffers-max", "x"},
                                                       {"--ticket-lifetime-ms", "0"},
                                                       {"--ticket-lifetime-ms", "-1"},
                                                       {"--ticket-lifetime-ms", "3600001"},
                                                       {"--attach-step-ms", "0"},
                                                       {"--attach-pending-max", "0"},
                                                       {"--attach-pending-max", "65537"}};
  for (const auto& words : wrong) {
    const auto parsed = Parse(words);
    EXPECT_FALSE(parsed.options.has_value()) << words.front();
    EXPECT_EQ(parsed.exit_code, kExitUsage) << words.front();
  }
  const Variable step("IOBD_ATTACH_STEP_MS", "soon");
  EXPECT_EQ(Parse({}).exit_code, kExitUsage);
}

// Somebody wrote --memory-max -1, meaning "no limit", and the daemon took it for 16 exbibytes.
TEST(Options, NegativeSizesAreUsageErrors) {
  for (const char* flag : {"--memory-max", "--memory-per-uid-max", "--region-max"}) {
    for (const char* size : {"-1", "-1MiB", "-0"}) {
      EXPECT_EQ(Parse({std::string(flag) + "=" + size}).exit_code, kExitUsage) << flag << size;
    }
  }
}

TEST(Options, HelpAndVersionEndWithZero) {
  for (const char* word : {"--help", "--version"}) {
    const auto parsed = Parse({word});
    EXPECT_FALSE(parsed.options.has_value());
    EXPECT_EQ(parsed.exit_code, kExitOk);
  }
}

TEST(Options, GivenMemoryLimitsAreKept) {
  Limits limits;
  limits.memory_bytes_max = 5;
  FillMemoryLimits(limits);
  EXPECT_EQ(limits.memory_bytes_max, 5u);
  EXPECT_EQ(limits.memory_bytes_per_uid_max, 5u);
}

}  // namespace
}  // namespace iob::server
