#include "client/acquired_range.h"

namespace iob {

AcquiredRange::AcquiredRange(AcquiredRange&& other) noexcept
    : locks_(std::move(other.locks_)),
      range_(other.range_),
      mode_(other.mode_),
      window_(std::exchange(other.window_, Window())) {}

AcquiredRange& AcquiredRange::operator=(AcquiredRange&& other) noexcept {
  if (this != &other) {
    Release();
    locks_ = std::move(other.locks_);
    range_ = other.range_;
    mode_ = other.mode_;
    window_ = std::exchange(other.window_, Window());
  }
  return *this;
}

void AcquiredRange::Release() {
  if (locks_ == nullptr) return;
  // The window goes first: nobody writes through it once another may hold the bytes.
  window_ = Window();
  locks_->Unlock(range_, mode_);
  locks_.reset();
}

}  // namespace iob
