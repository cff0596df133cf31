// The attach protocol's small packets, and its errors as statuses.
//
// Internal to the library; includes generated code, so only .cc files include it. Thread-safe: pure
// functions.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "iob/v1/attach.pb.h"

namespace iob {

// The broker's last packet, as a status with its reason.
absl::Status ToStatus(const v1::AttachError& error);

// How a call ended: OK for code 0.
absl::Status ToStatus(const v1::CallResult& result);

// A result that stands for a failure whatever its code is.
absl::Status FailureOf(const v1::CallResult& result);

// A buffer's name as SetName sends it: its first 31 bytes, which is all that Zircon looks at too.
// INVALID_ARGUMENT for bytes that protobuf's strings cannot carry, as the broker would answer.
absl::StatusOr<std::string> NameToWire(const std::string& name);

// DATA_LOSS / PROTOCOL: the broker sent what it must not.
absl::Status ProtocolError(const std::string& what);

// UNAVAILABLE / DISCONNECTED.
absl::Status DisconnectedError(const std::string& what);

// The bytes of one packet. For packets that are sent once or rarely.
std::string Encode(const v1::ClientPacket& packet);

inline std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

}  // namespace iob
