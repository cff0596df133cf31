#include "client/iobctl/progress.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

constexpr std::chrono::milliseconds kDrawEvery{100};
constexpr const char* kClearLine = "\r\033[K";

}  // namespace

Progress::Progress(bool wanted, uint64_t total_bytes)
    : enabled_(wanted && ::isatty(STDERR_FILENO) == 1),
      total_bytes_(total_bytes),
      start_(std::chrono::steady_clock::now()),
      next_(start_ + kDrawEvery) {}

Progress::~Progress() {
  if (drawn_) std::fputs(kClearLine, stderr);
}

void Progress::Update(uint64_t records, uint64_t bytes, uint64_t lost_records) {
  if (!enabled_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + kDrawEvery;
  std::string line = Throughput(records, bytes, now - start_);
  if (total_bytes_ != 0) absl::StrAppend(&line, ", ", bytes * 100 / total_bytes_, "%");
  if (lost_records != 0) absl::StrAppend(&line, ", lost ", FormatCount(lost_records));
  std::fprintf(stderr, "%s%s", kClearLine, line.c_str());
  drawn_ = true;
}

std::string Throughput(uint64_t records, uint64_t bytes, std::chrono::nanoseconds elapsed) {
  const double seconds = std::chrono::duration<double>(elapsed).count();
  std::string text = absl::StrCat(FormatCount(records), records == 1 ? " record, " : " records, ",
                                  FormatBytes(bytes), " in ", FormatDuration(elapsed));
  if (seconds > 0) {
    const auto rate = static_cast<uint64_t>(static_cast<double>(bytes) / seconds);
    absl::StrAppend(&text, ", ", FormatBytes(rate), "/s");
  }
  return text;
}

}  // namespace iob::ctl
