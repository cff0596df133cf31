#include "client/iobctl/diagnosis.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

// What a daemon should have room for, unless its operator allows fewer.
constexpr uint64_t kBuffersWanted = 10'000;
// Signal page, ring and its head; per attachment a socket and a pidfd.
constexpr uint64_t kDescriptorsPerBuffer = 3 + 2 * 2;
// Set aside for connections to the control socket, but never more than half.
constexpr uint64_t kConnectionDescriptors = 4096;
constexpr uint64_t kNearlyUsedUpPercent = 90;

uint64_t DescriptorsWanted(uint64_t buffers) {
  return buffers * kDescriptorsPerBuffer + kConnectionDescriptors;
}

void CheckDescriptors(const Limits& limits, std::vector<Warning>* warnings) {
  const uint64_t buffers = std::min(limits.buffers_max, kBuffersWanted);
  const char* const mend =
      "raise RLIMIT_NOFILE of iobd: LimitNOFILE= in its systemd unit, ulimits: nofile: in compose, "
      "or ulimit -Hn in the shell that starts it";
  if (BuffersFor(limits.descriptors_max) < buffers) {
    warnings->push_back(
        {.about = "descriptors",
         .what = absl::StrCat("iobd may open ", FormatCount(limits.descriptors_max),
                              " descriptors: enough for about ",
                              FormatCount(BuffersFor(limits.descriptors_max)),
                              " attached buffers with a ring, not for ", FormatCount(buffers)),
         .mend = absl::StrCat(mend, "; ", FormatCount(DescriptorsWanted(buffers)), " would do")});
  }
  if (limits.descriptors_open > limits.descriptors_max / 100 * kNearlyUsedUpPercent) {
    warnings->push_back({.about = "descriptors",
                         .what = absl::StrCat("iobd uses ", FormatCount(limits.descriptors_open),
                                              " of ", FormatCount(limits.descriptors_max),
                                              " descriptors: soon nobody can attach"),
                         .mend = absl::StrCat("remove buffers that nobody needs, or ", mend)});
  }
}

void CheckKernel(const Limits& limits, std::vector<Warning>* warnings) {
  for (const KernelFeature& feature : limits.kernel_features) {
    if (feature.available || feature.optional) continue;
    warnings->push_back({.about = "kernel",
                         .what = absl::StrCat("this kernel has no ", Escape(feature.name), ": ",
                                              Escape(feature.effect)),
                         .mend = "run a newer kernel, or one whose sandbox (seccomp, a container's "
                                 "runtime) lets iobd use it; see README, \"What it needs\""});
  }
}

void CheckUid(const Facts& facts, std::vector<Warning>* warnings) {
  if (facts.daemon_uid == facts.own_uid) {
    warnings->push_back(
        {.about = "uid",
         .what = absl::StrCat("iobd runs as uid ", facts.own_uid,
                              ", as you do: some rights can only be advisory for you (read-only "
                              "memory that another endpoint writes; file modes do not bind their "
                              "owner)"),
         .mend = "run iobd under a uid of its own, as deploy/systemd/iobd.service does"});
  } else if (facts.own_uid == 0) {
    warnings->push_back(
        {.about = "uid",
         .what = "you are root: some rights can only be advisory for you (read-only memory that "
                 "another endpoint writes; file modes do not bind root)",
         .mend = "use buffers under another uid"});
  }
}

}  // namespace

uint64_t BuffersFor(uint64_t descriptors) {
  const uint64_t for_connections = std::min(descriptors / 2, kConnectionDescriptors);
  return (descriptors - for_connections) / kDescriptorsPerBuffer;
}

std::vector<Warning> Diagnose(const Facts& facts) {
  std::vector<Warning> warnings;
  if (!facts.health.serving) {
    warnings.push_back({.about = "serving",
                        .what = "iobd answers, but does not serve: it is starting or stopping",
                        .mend = "look again in a moment, then at its log"});
  }
  CheckDescriptors(facts.limits, &warnings);
  CheckUid(facts, &warnings);
  CheckKernel(facts.limits, &warnings);
  return warnings;
}

}  // namespace iob::ctl
