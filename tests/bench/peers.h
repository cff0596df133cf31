// Peers: what others use to get records from one process to another, as contenders.
//
// Each is used the way its own documentation recommends for throughput, with bounded memory and
// without loss; what it cannot do (a size, a way of waiting) it does not take part in. A peer that
// cannot run here (no daemon, a limit of the kernel) says why and stays out.
#pragma once

#include "tests/bench/contender.h"

namespace iob::bench {

void AddKernelPeers(Contenders& contenders);  // Pipe, Unix sockets, POSIX message queue.
void AddBoost(Contenders& contenders);        // Boost.Interprocess message_queue.
void AddZeroMq(Contenders& contenders);       // PUSH and PULL over ipc.
void AddRedis(Contenders& contenders);        // Streams, over the Unix socket of its own server.
void AddGrpc(Contenders& contenders);         // Unary calls and a client stream, Unix socket.
void AddIceoryx(Contenders& contenders);      // Publisher and subscriber, with its own RouDi.

}  // namespace iob::bench
