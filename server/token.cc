#include "server/token.h"

#include <sys/random.h>

#include "shm/check.h"

namespace iob::server {

Token Token::Random() {
  Token token;
  const ssize_t size = ::getrandom(token.bytes_.data(), kBytes, 0);
  IOB_CHECK(size == static_cast<ssize_t>(kBytes));
  return token;
}

std::optional<Token> Token::FromBytes(absl::string_view claimed_bytes) {
  if (claimed_bytes.size() != kBytes) return std::nullopt;
  Token token;
  std::memcpy(token.bytes_.data(), claimed_bytes.data(), kBytes);
  return token;
}

}  // namespace iob::server
