#include "tests/bench/iob_contenders.h"

namespace iob::bench {

Contenders IobContenders() {
  Contenders all;
  AddMediatedRing(all);
  AddLanes(all);
  AddSharedRing(all);
  AddLatest(all);
  AddSubmissionQueue(all);
  return all;
}

}  // namespace iob::bench
