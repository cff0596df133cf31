#include "client/window.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/error.h"

namespace iob {
namespace {

absl::Status Invalid(const std::string& message) {
  return WithReason(absl::InvalidArgumentError(message), "INVALID_ARGUMENT");
}

absl::Status OutsideError(const shm::WindowBytes& bytes, uint64_t offset_bytes,
                          uint64_t length_bytes) {
  return Invalid(absl::StrCat(length_bytes, " bytes at offset ", offset_bytes,
                              " leave the window of ", bytes.size_bytes()));
}

Moved ToMoved(const shm::FallibleCopy& copy, uint64_t offset_bytes, uint64_t length_bytes) {
  Moved moved{.moved_bytes = copy.copied_bytes, .status = absl::OkStatus()};
  if (copy.error_number == 0) return moved;
  char buffer[128];
  moved.status = WithReason(
      absl::DataLossError(absl::StrCat("the memory at offset ", offset_bytes + copy.copied_bytes,
                                       " of the window is gone: ", copy.copied_bytes, " of ",
                                       length_bytes, " bytes were moved (",
                                       strerror_r(copy.error_number, buffer, sizeof(buffer)), ")")),
      kReasonFault);
  return moved;
}

}  // namespace

Window::Window(shm::AddressRange range, uint64_t offset_bytes, bool writable)
    : writable_(writable), offset_bytes_(offset_bytes) {
  memory_ = std::make_shared<const shm::AddressRange>(std::move(range));
  bytes_ = shm::WindowBytes(memory_->base(), memory_->size_bytes());
}

absl::StatusOr<Window> Window::Slice(uint64_t offset_bytes, uint64_t length_bytes) const {
  if (length_bytes == 0) return Invalid("a slice of no bytes");
  if (!bytes_.Contains(offset_bytes, length_bytes)) {
    return OutsideError(bytes_, offset_bytes, length_bytes);
  }
  Window slice = *this;
  slice.bytes_ = bytes_.Slice(offset_bytes, length_bytes);
  slice.offset_bytes_ += offset_bytes;
  return slice;
}

Window Window::ReadOnly() const {
  Window window = *this;
  window.writable_ = false;
  return window;
}

absl::Status Window::Read(uint64_t offset_bytes, std::span<std::byte> target) const {
  if (!bytes_.Contains(offset_bytes, target.size())) {
    return OutsideError(bytes_, offset_bytes, target.size());
  }
  bytes_.CopyOut(offset_bytes, target);
  return absl::OkStatus();
}

absl::Status Window::Write(uint64_t offset_bytes, std::span<const std::byte> source) const {
  if (!writable_) return ReadOnlyError();
  if (!bytes_.Contains(offset_bytes, source.size())) {
    return OutsideError(bytes_, offset_bytes, source.size());
  }
  bytes_.CopyIn(offset_bytes, source);
  return absl::OkStatus();
}

Moved Window::ReadFallible(uint64_t offset_bytes, std::span<std::byte> target) const {
  if (!bytes_.Contains(offset_bytes, target.size())) {
    return {.moved_bytes = 0, .status = OutsideError(bytes_, offset_bytes, target.size())};
  }
  return ToMoved(bytes_.CopyOutFallible(offset_bytes, target), offset_bytes, target.size());
}

Moved Window::WriteFallible(uint64_t offset_bytes, std::span<const std::byte> source) const {
  if (!writable_) return {.moved_bytes = 0, .status = ReadOnlyError()};
  if (!bytes_.Contains(offset_bytes, source.size())) {
    return {.moved_bytes = 0, .status = OutsideError(bytes_, offset_bytes, source.size())};
  }
  return ToMoved(bytes_.CopyInFallible(offset_bytes, source), offset_bytes, source.size());
}

Moved Window::FillZeros(uint64_t offset_bytes, uint64_t length_bytes) const {
  if (!writable_) return {.moved_bytes = 0, .status = ReadOnlyError()};
  if (length_bytes == 0) return {};
  const uint64_t inside_bytes = bytes_.Contains(offset_bytes, 0)
                                    ? std::min(length_bytes, bytes_.size_bytes() - offset_bytes)
                                    : 0;
  if (inside_bytes != 0) bytes_.FillZeros(offset_bytes, inside_bytes);
  Moved moved{.moved_bytes = inside_bytes, .status = absl::OkStatus()};
  if (inside_bytes < length_bytes) moved.status = OutsideError(bytes_, offset_bytes, length_bytes);
  return moved;
}

bool Window::HasWordAnywhere(std::byte* base, uint64_t size_bytes, uint64_t offset_bytes,
                             uint64_t word_bytes) {
  return shm::WindowBytes(base, size_bytes).HasWord(offset_bytes, word_bytes);
}

absl::Status Window::WordError(std::byte* base, uint64_t size_bytes, uint64_t offset_bytes,
                               uint64_t word_bytes) {
  const shm::WindowBytes bytes(base, size_bytes);
  if (!bytes.Contains(offset_bytes, word_bytes)) {
    return OutsideError(bytes, offset_bytes, word_bytes);
  }
  return Invalid(absl::StrCat("a number of ", word_bytes, " bytes at offset ", offset_bytes,
                              ": its address is ", bytes.Misalignment(offset_bytes, word_bytes),
                              " beyond a multiple of ", word_bytes));
}

absl::Status Window::ReadOnlyError() {
  return WithReason(absl::PermissionDeniedError("the window is for reading"), "ACCESS_DENIED");
}

}  // namespace iob
