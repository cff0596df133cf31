// SelfTest: what this kernel really does, tried once at start.
//
// Nothing is claimed that was not seen to work here: rights levels, peer identity and wake-ups
// depend on kernel version, namespaces and security modules. The result is in the log, in GetLimits
// and in `iobctl health`.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace iob::server {

struct KernelFeature {
  std::string name;
  bool available = false;
  bool required = false;
  std::string effect;  // What it is for, and what happens without it.
  // Offered to who asks for it; nothing is wrong without it.
  bool optional = false;
};
using KernelFeatures = std::vector<KernelFeature>;

KernelFeatures ProbeKernel();

// FAILED_PRECONDITION names the required features that are missing, and the kernel version that has
// them.
absl::Status CheckRequired(const KernelFeatures& features);

}  // namespace iob::server
