// Ours: each discipline as a contender, from process to process, as an application would use it.
#pragma once

#include "tests/bench/contender.h"

namespace iob::bench {

// The mediated ring alone: one process writes it as the mediator does, another one reads.
void AddMediatedRing(Contenders& contenders);
// The reserve ring of one producer, whose consumer only reads or clears.
void AddLanes(Contenders& contenders);
// The reserve ring of many producers.
void AddSharedRing(Contenders& contenders);
// Broadcast and slot.
void AddLatest(Contenders& contenders);
// A mediated write from end to end, without the daemon around it.
void AddSubmissionQueue(Contenders& contenders);

// All of the above.
Contenders IobContenders();

}  // namespace iob::bench
