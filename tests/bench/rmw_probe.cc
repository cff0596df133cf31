// The hot paths of the mediated ring as functions of their own, for count_rmw.sh to disassemble.
#include <cstdint>
#include <span>

#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"

namespace iob::shm {

extern "C" {

AppendOutcome ProbeAppend(MediatedRingWriter& writer, Ledger& ledger, uint64_t tag,
                          const std::byte* payload, size_t payload_bytes) {
  const AppendOutcome outcome = writer.Append(tag, {payload, payload_bytes});
  if (outcome == AppendOutcome::kStored) ledger.CountStored(payload_bytes);
  return outcome;
}

ReadOutcome ProbeNext(MediatedRingReader& reader, RecordView* ret_record) {
  return reader.Next(ret_record);
}

// Has a full fence, so that the script proves that it would see one.
bool ProbePublish(MediatedRingWriter& writer, const Ledger& ledger) {
  return writer.Publish(ledger);
}

}  // extern "C"

}  // namespace iob::shm
