// SectionKeeper: its maker's own mapping of a section that is locked, or wiped at the end.
//
//   K1  It is made before the section can be sealed against writers, so that the zeros at the end
//       always get through.
//   K2  It touches nothing until then (unless it locks): a sparse section stays sparse, and holes
//       are not filled to be wiped.
//   K3  It is in no core dump and in no forked child.
//
// A maker that is killed wipes nothing; then the kernel frees the pages, and gives nobody a page
// that was not zeroed. Owned by the section's SealedMemfd, whose descriptor it borrows.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "shm/mapping.h"

namespace iob::shm {

class SectionKeeper {
 public:
  struct Options {
    bool lock = false;
    bool wipe = false;
  };

  // About kLock (ItemError): RESOURCE_EXHAUSTED names RLIMIT_MEMLOCK.
  static absl::StatusOr<std::unique_ptr<SectionKeeper>> Create(const SealedMemfd& memfd,
                                                               Options options);
  SectionKeeper(const SectionKeeper&) = delete;
  SectionKeeper& operator=(const SectionKeeper&) = delete;
  ~SectionKeeper();

 private:
  SectionKeeper(int fd, AddressRange range, bool wipe)
      : fd_(fd), range_(std::move(range)), wipe_(wipe) {}
  int fd_;
  AddressRange range_;
  bool wipe_;
};

}  // namespace iob::shm
