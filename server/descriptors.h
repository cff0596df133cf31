// Descriptors: how many the daemon may have, and how many it has.
//
// Each section of each region is one descriptor, so this is what limits the number of buffers: one
// per region, one more per mediated ring, one for the signal page once somebody is attached. An
// attachment costs two more, its socket and its pidfd.
//
//   0            sections and attachments             max - 4096      gRPC's connections     max
//   |---- three quarters for sections ----|-- rest --|---------- (grpc_listener.h) ----------|
#pragma once

#include <cstdint>

namespace iob::server {

// First thing in main: the soft limit up to the hard one, and the hard one up to what the daemon
// can use, where it may.
void RaiseDescriptorLimit();

// RLIMIT_NOFILE.
uint64_t DescriptorsMax();

// First of the numbers that stand for gRPC connections.
uint64_t FirstConnectionNumber();

// What all sections together may take.
uint64_t DescriptorsForSections();

// Entries of /proc/self/fd.
uint64_t DescriptorsOpen();

}  // namespace iob::server
