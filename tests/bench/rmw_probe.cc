// The hot paths of the rings as functions of their own, for count_rmw.sh to disassemble.
#include <cstdint>
#include <span>

#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "shm/reserve_lane_consumer.h"
#include "shm/reserve_lane_producer.h"
#include "shm/reserve_shared_consumer.h"
#include "shm/reserve_shared_producer.h"

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

SharedReserveOutcome ProbeSharedReserve(SharedProducer& producer, uint64_t payload_bytes,
                                        SharedReservation* ret_reservation) {
  return producer.Reserve(payload_bytes, ret_reservation);
}

bool ProbeSharedSubmit(SharedProducer& producer, const SharedReservation& reservation) {
  return producer.Submit(reservation).done;
}

SharedReadOutcome ProbeSharedNext(SharedConsumer& consumer, SharedRecord* ret_record) {
  return consumer.Next(ret_record);
}

LaneReserveOutcome ProbeLaneReserve(LaneProducer& producer, uint64_t payload_bytes,
                                    LaneReservation* ret_reservation) {
  return producer.Reserve(payload_bytes, ret_reservation);
}

// With its publication.
bool ProbeLaneSubmit(LaneProducer& producer, const LaneReservation& reservation) {
  return producer.Submit(reservation);
}

LaneReadOutcome ProbeLaneNext(LaneConsumer& consumer, SharedRecord* ret_record) {
  return consumer.Next(ret_record);
}

void ProbeLaneRelease(LaneConsumer& consumer) { consumer.Release(); }

}  // extern "C"

}  // namespace iob::shm
