// libiob in one include: Broker makes and finds buffers, Endpoint holds one end of one, RingReader
// and RingWriter move records. See each header.
#pragma once

#include "client/broker.h"       // IWYU pragma: export
#include "client/endpoint.h"     // IWYU pragma: export
#include "client/error.h"        // IWYU pragma: export
#include "client/ring_reader.h"  // IWYU pragma: export
#include "client/ring_writer.h"  // IWYU pragma: export
#include "client/types.h"        // IWYU pragma: export
