// SubmissionQueue: a queue that the broker made for this attachment, and the shelf for those that
// nobody uses just now.
//
// The broker lends an attachment a limited number of queues, and takes none back before the
// attachment ends. So a writer that is done leaves its queue here for the next one, which goes on
// where that ended.
//
// Internal to the library. Thread-compatible, together with their Connection.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "shm/submission_client.h"
#include "shm/unique_fd.h"

namespace iob {

struct SubmissionQueue {
  uint32_t region_index = 0;
  uint64_t capacity_bytes = 0;
  shm::SubmissionClient client;
  shm::UniqueFd kick;  // An eventfd that wakes the broker.
};

class QueueShelf {
 public:
  void Put(std::unique_ptr<SubmissionQueue> queue) { queues_.push_back(std::move(queue)); }

  // A queue like this in which everything is decided, so that whoever gets it can tell its own
  // records from those before; nullptr when there is none.
  std::unique_ptr<SubmissionQueue> Take(uint32_t region_index, uint64_t capacity_bytes) {
    for (auto& queue : queues_) {
      if (queue->region_index != region_index || queue->capacity_bytes != capacity_bytes) continue;
      if (queue->client.stats().pending_records != 0 || !queue->client.status().ok()) continue;
      std::unique_ptr<SubmissionQueue> taken = std::move(queue);
      queues_.erase(queues_.begin() + (&queue - queues_.data()));
      return taken;
    }
    return nullptr;
  }

  void Clear() { queues_.clear(); }

 private:
  std::vector<std::unique_ptr<SubmissionQueue>> queues_;
};

}  // namespace iob
