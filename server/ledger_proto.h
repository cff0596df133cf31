// A ledger in the words of the protocol: RingStats and WriterStats have the same fields for it.
#pragma once

#include <cstddef>

#include "iob/v1/types.pb.h"
#include "shm/ledger.h"

namespace iob::server {

template <typename Stats>
void FillLedger(const shm::Ledger& ledger, Stats& stats) {
  stats.set_attempted_records(ledger.attempted_records);
  stats.set_attempted_bytes(ledger.attempted_bytes);
  stats.set_stored_records(ledger.stored_records);
  stats.set_stored_bytes(ledger.stored_bytes);
  for (size_t cause = 1; cause < shm::kLossCauses; ++cause) {
    if (ledger.rejected_records[cause] == 0) continue;
    v1::LossCount& count = *stats.add_rejected();
    count.set_cause(static_cast<v1::LossCause>(cause));
    count.set_records(ledger.rejected_records[cause]);
    count.set_bytes(ledger.rejected_bytes[cause]);
  }
}

}  // namespace iob::server
