// Tokens: 16 bytes, random, compared as a whole.

#include "server/token.h"

#include <gtest/gtest.h>

#include <bitset>
#include <set>

namespace iob::server {
namespace {

TEST(Token, TakesSixteenBytesAndNothingElse) {
  for (const size_t size : {0, 1, 15, 17, 32, 65536}) {
    EXPECT_FALSE(Token::FromBytes(std::string(size, 'x')).has_value()) << size;
  }
  const std::string bytes("0123456789\0bcdef", 16);
  const auto token = Token::FromBytes(bytes);
  ASSERT_TRUE(token.has_value());
  EXPECT_EQ(token->ToBytes(), bytes);
}

TEST(Token, DiffersInEveryByte) {
  const std::string bytes(16, 'a');
  for (size_t i = 0; i < 16; ++i) {
    std::string other = bytes;
    other[i] = static_cast<char>(other[i] ^ 1);
    EXPECT_FALSE(*Token::FromBytes(bytes) == *Token::FromBytes(other)) << i;
  }
  EXPECT_TRUE(*Token::FromBytes(bytes) == *Token::FromBytes(bytes));
}

TEST(Token, IsRandom) {
  std::set<std::string> seen;
  size_t ones = 0;
  constexpr size_t kTokens = 10'000;
  for (size_t i = 0; i < kTokens; ++i) {
    const std::string bytes = Token::Random().ToBytes();
    for (const char byte : bytes) ones += std::bitset<8>(static_cast<unsigned char>(byte)).count();
    seen.insert(bytes);
  }
  EXPECT_EQ(seen.size(), kTokens);
  // 1.28 million bits: six standard deviations are 3400.
  EXPECT_NEAR(static_cast<double>(ones), kTokens * 64.0, 3400.0);
}

}  // namespace
}  // namespace iob::server
