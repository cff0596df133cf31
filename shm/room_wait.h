// What a producer is told before it sleeps until there is room.
//
// Room comes from a consumer that is awake. A producer that has published without waking it must
// therefore wake it first, and may be the only one who knows that this is still to be done: hence
// the answer has two parts, and the second one holds whatever the first one says.
#pragma once

namespace iob::shm {

struct [[nodiscard]] RoomWait {
  bool sleep = false;        // There is no room: sleeping on RoomWord is right.
  bool tell_socket = false;  // The consumer sleeps on its socket and is owed a packet: send it now.
};

}  // namespace iob::shm
