// SIGINT and SIGTERM as a wish to stop, for commands that run until they are told.
//
// The first one is noted; the second one of its kind ends the process, as if none of this existed.
#pragma once

namespace iob::ctl {

void CatchStopSignals();
bool StopRequested();

}  // namespace iob::ctl
