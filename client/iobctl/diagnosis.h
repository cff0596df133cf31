// Diagnosis: what is wrong with an installation, and how to mend it.
//
// Facts in, warnings out, so that each warning can be tested without the machine that has it.
// Thread-safe: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/broker.h"

namespace iob::ctl {

struct Facts {
  Health health;
  Limits limits;
  // Who runs the daemon, by its socket; unset when that cannot be seen.
  std::optional<uint32_t> daemon_uid;
  uint32_t own_uid = 0;
};

struct Warning {
  std::string about;  // For programs: "serving", "descriptors", "kernel", "uid", ...
  std::string what;
  std::string mend;
};

// In order of weight.
std::vector<Warning> Diagnose(const Facts& facts);

// How many buffers with one ring, both endpoints attached, that many descriptors are enough for.
uint64_t BuffersFor(uint64_t descriptors);

}  // namespace iob::ctl
