// Token: 128 random bits that stand for a handle or a ticket.
//
// Unguessable, so possession is the proof. Compared in constant time, never logged, prints as
// redacted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace iob::server {

class Token {
 public:
  static constexpr size_t kBytes = 16;

  // From the kernel's random source, which cannot fail once the machine has booted.
  static Token Random();

  // What a client sent; nullopt unless it is exactly 16 bytes.
  static std::optional<Token> FromBytes(absl::string_view claimed_bytes);

  std::string ToBytes() const { return {reinterpret_cast<const char*>(bytes_.data()), kBytes}; }

  friend bool operator==(const Token& a, const Token& b) {
    uint8_t difference = 0;
    for (size_t i = 0; i < kBytes; ++i)
      difference = static_cast<uint8_t>(difference | (a.bytes_[i] ^ b.bytes_[i]));
    return difference == 0;
  }
  // Any order, for sorted containers.
  friend bool operator<(const Token& a, const Token& b) { return a.bytes_ < b.bytes_; }
  template <typename H>
  friend H AbslHashValue(H state, const Token& token) {
    return H::combine(std::move(state), token.bytes_);
  }

 private:
  std::array<uint8_t, kBytes> bytes_ = {};
};

}  // namespace iob::server
