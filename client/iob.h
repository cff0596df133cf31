// libiob in one include: Broker makes and finds buffers and handles, EventWatch tells what happens
// to them, StatsWatch how much, Endpoint holds one end of a buffer, RingReader and RingWriter move
// records, IdAllocator turns blobs into numbers. ReserveRingWriter and ReserveRingReader,
// BroadcastWriter and BroadcastFollower, SlotWriter and SlotReader do so without the broker on the
// way. A Window reads and writes a region's bytes with every access checked, an AcquiredRange holds
// some of them alone, a Snapshot is a copy of a buffer that nobody can change. See each header.
#pragma once

#include "client/acquired_range.h"       // IWYU pragma: export
#include "client/broadcast.h"            // IWYU pragma: export
#include "client/broker.h"               // IWYU pragma: export
#include "client/endpoint.h"             // IWYU pragma: export
#include "client/endpoint_event.h"       // IWYU pragma: export
#include "client/error.h"                // IWYU pragma: export
#include "client/event_watch.h"          // IWYU pragma: export
#include "client/id_allocator.h"         // IWYU pragma: export
#include "client/immutable_mapping.h"    // IWYU pragma: export
#include "client/reserve_ring_reader.h"  // IWYU pragma: export
#include "client/reserve_ring_writer.h"  // IWYU pragma: export
#include "client/ring_follower.h"        // IWYU pragma: export
#include "client/ring_reader.h"          // IWYU pragma: export
#include "client/ring_writer.h"          // IWYU pragma: export
#include "client/slot.h"                 // IWYU pragma: export
#include "client/snapshot.h"             // IWYU pragma: export
#include "client/snapshot_records.h"     // IWYU pragma: export
#include "client/stats_watch.h"          // IWYU pragma: export
#include "client/types.h"                // IWYU pragma: export
#include "client/window.h"               // IWYU pragma: export
