#include "shm/light_fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace iob::shm {
namespace {

bool Membarrier(int command) { return ::syscall(SYS_membarrier, command, 0, 0) == 0; }

}  // namespace

LightFence LightFence::ForThisProcess() {
  LightFence fence;
  if (kFenceAlways) return fence;
  fence.registered_ = Membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
  // A filter may let one command pass and not the other.
  if (!Membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED)) fence.ask_ = kFenceForMe;
  return fence;
}

void LightFence::FenceFully() { std::atomic_thread_fence(std::memory_order_seq_cst); }

bool LightFence::Heavy() {
  if (kFenceAlways || ask_ != 0) {
    FenceFully();
    return true;
  }
  if (Membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED)) return true;
  // A filter has come since the mapping.
  ask_ = kFenceForMe;
  return false;
}

}  // namespace iob::shm
