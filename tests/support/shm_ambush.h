// Ambush: a test plays the peer between any two accesses of its victim to shared memory.
//
// For programs that are linked with iob_shm_hooked (shm/hostile.h). Of one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>

#include "shm/hostile.h"
#include "shm/mapping.h"

namespace iob::test {

// A word that the peer may write.
struct Target {
  const char* name;
  const shm::Mapping* section;
  uint64_t offset_bytes;
  size_t size_bytes;

  uint64_t Get() const {
    return size_bytes == 4 ? section->Word<uint32_t>(offset_bytes).LoadRelaxed().ForHintOnly()
                           : section->Word<uint64_t>(offset_bytes).LoadRelaxed().ForHintOnly();
  }
  void Set(uint64_t value) const {
    if (size_bytes == 4) {
      section->Word<uint32_t>(offset_bytes).StoreRelease(static_cast<uint32_t>(value));
    } else {
      section->Word<uint64_t>(offset_bytes).StoreRelease(value);
    }
  }
};

// While it lives: runs `strike` before each shared load (or store) of this thread, with the
// access's number.
class Ambush {
 public:
  using Strike = std::function<void(uint64_t access)>;
  enum class On { kLoad, kStore };

  explicit Ambush(Strike strike, On on = On::kLoad) : strike_(std::move(strike)) {
    const auto hook = [](void* self) { static_cast<Ambush*>(self)->OnAccess(); };
    if (on == On::kLoad) {
      shm::before_shared_load_context = this;
      shm::before_shared_load = hook;
    } else {
      shm::before_shared_store_context = this;
      shm::before_shared_store = hook;
    }
  }
  Ambush(const Ambush&) = delete;
  Ambush& operator=(const Ambush&) = delete;
  ~Ambush() {
    shm::before_shared_load = nullptr;
    shm::before_shared_store = nullptr;
  }

  uint64_t accesses() const { return accesses_; }

 private:
  void OnAccess() {
    // Its own looks at the memory are not the victim's.
    const auto load_hook = std::exchange(shm::before_shared_load, nullptr);
    const auto store_hook = std::exchange(shm::before_shared_store, nullptr);
    strike_(accesses_++);
    shm::before_shared_load = load_hook;
    shm::before_shared_store = store_hook;
  }

  Strike strike_;
  uint64_t accesses_ = 0;
};

// Only counts.
inline void Nobody(uint64_t /*access*/) {}

// Strikes before access number `first`, and the next ones, `times` times in all.
inline Ambush::Strike At(uint64_t first, std::function<void()> strike, uint64_t times = 1) {
  return [first, times, strike = std::move(strike)](uint64_t access) {
    if (access >= first && access - first < times) strike();
  };
}

}  // namespace iob::test
