#include "client/iobctl/event_report.h"

#include <chrono>
#include <cstdint>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/signal_words.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

using Kind = WatchedEvent::Kind;

// The longest kind, and what most names need: lines that are longer are still readable.
constexpr int kKindColumns = 21;
constexpr int kSubjectColumns = 20;

int64_t UnixMs(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

// "logs #4 ep0", "#4", "region #9".
std::string DescribeSubject(const WatchedEvent& event) {
  std::string text;
  if (event.shared_region_koid != 0) absl::StrAppend(&text, "region #", event.shared_region_koid);
  if (event.buffer_koid != 0) {
    if (!event.buffer_name.empty()) absl::StrAppend(&text, Escape(event.buffer_name), " ");
    absl::StrAppend(&text, "#", event.buffer_koid);
  }
  if (event.endpoint) absl::StrAppend(&text, " ", ToString(*event.endpoint));
  return text;
}

std::string DescribeDetails(const WatchedEvent& event) {
  switch (event.kind) {
    case Kind::kStarted: {
      // Without an object there are no signals to tell.
      if (event.buffer_koid == 0 && event.shared_region_koid == 0) return "";
      std::string text = absl::StrCat("signals ", SignalsToString(event.signals));
      if (event.reason.kind != CloseKind::kOpen)
        absl::StrAppend(&text, ", the peer ", ToString(event.reason));
      return text;
    }
    case Kind::kResyncRequired:
      return "events are missing here: look at the state anew";
    case Kind::kBufferCreated:
      return absl::StrCat(FormatBytes(event.memory_bytes), " by ", DisplayHolder(event.holder));
    case Kind::kBufferRenamed:
      return event.old_name.empty() ? "had no name" : absl::StrCat("was ", Escape(event.old_name));
    case Kind::kEndpointAttached:
      return absl::StrCat("by ", DisplayHolder(event.holder));
    case Kind::kEndpointDetached:
      return absl::StrCat(ToString(event.reason), ", was ", DisplayHolder(event.holder));
    case Kind::kEndpointClosed:
      return ToString(event.reason);
    case Kind::kSignalsChanged:
      return SignalsToString(event.signals);
    case Kind::kProducerStalled:
      return absl::StrCat("region ", event.region_index, " waits for ", DisplayHolder(event.holder),
                          event.killed    ? ", who was killed"
                          : event.renewed ? "; the ring was renewed"
                                          : "");
    case Kind::kBufferGone:
    case Kind::kSharedRegionUpdated:
      return "";
  }
  return "";
}

void AddWho(const Holder& holder, JsonWriter* json) {
  json->BeginObject("holder");
  AddHolder(holder, json);
  json->EndObject();
}

void AddDetails(const WatchedEvent& event, JsonWriter* json) {
  switch (event.kind) {
    case Kind::kStarted:
      AddSignals("signals", event.signals, json);
      AddCloseReason(event.reason, json);
      return;
    case Kind::kResyncRequired:
    case Kind::kSignalsChanged:
      AddSignals("signals", event.signals, json);
      return;
    case Kind::kBufferCreated:
      AddWho(event.holder, json);
      json->Member("memory_bytes", event.memory_bytes);
      return;
    case Kind::kBufferRenamed:
      json->Member("old_name", event.old_name);
      return;
    case Kind::kEndpointAttached:
      AddWho(event.holder, json);
      return;
    case Kind::kEndpointDetached:
      AddWho(event.holder, json);
      AddCloseReason(event.reason, json);
      return;
    case Kind::kEndpointClosed:
      AddCloseReason(event.reason, json);
      return;
    case Kind::kProducerStalled:
      AddWho(event.holder, json);
      json->Member("region_index", uint64_t{event.region_index});
      json->Member("killed", event.killed);
      json->Member("renewed", event.renewed);
      return;
    case Kind::kBufferGone:
    case Kind::kSharedRegionUpdated:
      return;
  }
}

}  // namespace

std::string DescribeEvent(const WatchedEvent& event) {
  std::string line = absl::StrFormat(
      "%s.%03d  %-*s  %-*s  %s", FormatTime(event.time), UnixMs(event.time) % 1000, kKindColumns,
      ToString(event.kind), kSubjectColumns, DescribeSubject(event), DescribeDetails(event));
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

void AddEvent(const WatchedEvent& event, JsonWriter* json) {
  json->Member("event", ToString(event.kind));
  json->Member("time_unix_ms", UnixMs(event.time));
  json->Member("resume_token", event.resume_token);
  if (event.buffer_koid != 0) {
    json->Member("buffer_koid", event.buffer_koid);
    json->Member("buffer_name", event.buffer_name);
  }
  if (event.endpoint) json->Member("endpoint", ToString(*event.endpoint));
  if (event.shared_region_koid != 0) json->Member("shared_region_koid", event.shared_region_koid);
  AddDetails(event, json);
}

}  // namespace iob::ctl
