#include "tests/chaos/journal.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "shm/check.h"

namespace iob::test {

JournalMapping::JournalMapping() : fd_(::memfd_create("iob-chaos-journal", MFD_CLOEXEC)) {
  IOB_CHECK(fd_.get() >= 0);
  IOB_CHECK(::ftruncate(fd_.get(), sizeof(Journal)) == 0);
  Map();
  Clear();
}

JournalMapping::JournalMapping(shm::UniqueFd fd) : fd_(std::move(fd)) { Map(); }

JournalMapping::~JournalMapping() { ::munmap(journal_, sizeof(Journal)); }

void JournalMapping::Map() {
  void* const memory =
      ::mmap(nullptr, sizeof(Journal), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  IOB_CHECK(memory != MAP_FAILED);
  journal_ = static_cast<Journal*>(memory);
}

void JournalMapping::Clear() { std::memset(static_cast<void*>(journal_), 0, sizeof(Journal)); }

}  // namespace iob::test
