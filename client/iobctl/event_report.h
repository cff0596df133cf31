// Events as lines for people and as JSON.
//
// Thread-safe: pure functions.
#pragma once

#include <string>

#include "client/event_watch.h"
#include "client/iobctl/json.h"

namespace iob::ctl {

// One line, without its end: when, what, of which object, and what there is to say about it. Names
// are escaped.
std::string DescribeEvent(const WatchedEvent& event);

// Members of one object: `event`, `time_unix_ms`, `resume_token`; what the event is about, if it is
// about something; and what belongs to its kind.
void AddEvent(const WatchedEvent& event, JsonWriter* json);

}  // namespace iob::ctl
