#include "client/iobctl/signal_words.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/types.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// 0 for what is no signal.
uint32_t SignalOf(const std::string& word) {
  const std::string name = absl::StrReplaceAll(absl::AsciiStrToLower(word), {{"_", "-"}});
  if (name == SignalsToString(kSignalPeerClosed)) return kSignalPeerClosed;
  for (uint32_t number = 0; number < 8; ++number) {
    const uint32_t signal = UserSignal(number);
    if (name == absl::StrCat(number) || name == SignalsToString(signal)) return signal;
  }
  return 0;
}

absl::StatusOr<uint32_t> ParseWords(const std::vector<std::string>& words, uint32_t allowed,
                                    std::string_view allowed_text) {
  uint32_t signals = 0;
  for (const std::string& word : words) {
    for (const absl::string_view part : absl::StrSplit(word, ',')) {
      const uint32_t signal = SignalOf(std::string(part));
      if ((signal & allowed) == 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", part, "' is not ", std::string(allowed_text)));
      }
      signals |= signal;
    }
  }
  return signals;
}

}  // namespace

absl::StatusOr<uint32_t> ParseSignals(const std::vector<std::string>& words) {
  IOB_ASSIGN_OR_RETURN(const uint32_t signals,
                       ParseWords(words, kSignalPeerClosed | kUserSignals,
                                  "a signal; use peer-closed, or user-0 to user-7 (0 to 7)"));
  if (signals == 0) return absl::InvalidArgumentError("no signal was given");
  return signals;
}

absl::StatusOr<uint32_t> ParseUserSignals(const std::vector<std::string>& words) {
  return ParseWords(words, kUserSignals, "a user signal; use 0 to 7, or user-0 to user-7");
}

void AddSignals(std::string_view key, uint32_t signals, JsonWriter* json) {
  json->BeginArray(key);
  if (signals != 0) {
    for (const absl::string_view name : absl::StrSplit(SignalsToString(signals), ','))
      json->Value(std::string_view(name.data(), name.size()));
  }
  json->EndArray();
}

}  // namespace iob::ctl
