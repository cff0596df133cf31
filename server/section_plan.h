// SectionPlan: one descriptor that an attachment is to get.
#pragma once

#include <cstdint>

#include "iob/v1/types.pb.h"
#include "shm/memfd.h"

namespace iob::server {

struct SectionPlan {
  v1::SectionKind kind = v1::SECTION_KIND_UNSPECIFIED;
  const shm::SealedMemfd* memfd = nullptr;
  shm::FdMode mode = shm::FdMode::kReadOnly;
  uint32_t lane = 0;
};

}  // namespace iob::server
