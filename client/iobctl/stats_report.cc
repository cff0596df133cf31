#include "client/iobctl/stats_report.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/json.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"

namespace iob::ctl {
namespace {

int64_t UnixMs(std::chrono::system_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
}

// Records lost for one cause: in all, and per second.
struct Loss {
  std::string cause;
  uint64_t records = 0;
  double rate = 0;
};

// One ring between two beats, per second.
struct Rates {
  double attempted_records = 0;
  double stored_records = 0;
  double stored_bytes = 0;
  double consumed_records = 0;
  double lost_records = 0;
  std::vector<Loss> losses;  // Whatever was lost at any time, by cause.
};

uint64_t RecordsOf(const std::vector<LossCount>& losses, LossCause cause) {
  for (const LossCount& loss : losses) {
    if (loss.cause == cause) return loss.records;
  }
  return 0;
}

// Without `before`: totals, and rates of nothing.
Rates RatesOf(const RingStats* before, const RingStats& now, double seconds) {
  const auto rate = [before, seconds](uint64_t then, uint64_t current) {
    if (before == nullptr || current < then) return 0.0;
    return static_cast<double>(current - then) / seconds;
  };
  const RingStats& then = before != nullptr ? *before : now;
  Rates rates{.attempted_records = rate(then.attempted_records, now.attempted_records),
              .stored_records = rate(then.stored_records, now.stored_records),
              .stored_bytes = rate(then.stored_bytes, now.stored_bytes),
              .consumed_records = rate(then.consumed_records, now.consumed_records),
              .lost_records = 0,
              .losses = {}};
  const auto add = [&rates](std::string cause, uint64_t records, double per_second) {
    if (records == 0) return;
    rates.lost_records += per_second;
    rates.losses.push_back({.cause = std::move(cause), .records = records, .rate = per_second});
  };
  for (const LossCount& loss : now.rejected) {
    add(ToString(loss.cause), loss.records,
        rate(RecordsOf(then.rejected, loss.cause), loss.records));
  }
  add("overwritten", now.overwritten_records,
      rate(then.overwritten_records, now.overwritten_records));
  return rates;
}

// "full 12/s, 1,234 in all; overwritten 0/s, 7 in all".
std::string DescribeLosses(const Rates& rates, bool have_rates) {
  std::string text;
  for (const Loss& loss : rates.losses) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", loss.cause, " ",
                    have_rates ? absl::StrCat(FormatRate(loss.rate), "/s, ") : std::string(),
                    FormatCount(loss.records), " in all");
  }
  return text;
}

std::string DescribeContent(const RingStats& ring) {
  return absl::StrCat(FormatCount(ring.resident_records), ", ", FormatBytes(ring.resident_bytes),
                      " of ", FormatBytes(ring.capacity_bytes));
}

std::string BytesPerSecond(double rate) {
  return absl::StrCat(FormatBytes(static_cast<uint64_t>(std::llround(rate))), "/s");
}

}  // namespace

std::string FormatRate(double rate) {
  // Of what is rare, a tenth is worth showing.
  if (rate > 0 && rate < 9.95) return absl::StrFormat("%.1f", rate);
  return FormatCount(static_cast<uint64_t>(std::llround(rate)));
}

void StatsReport::Take(StatsBeat beat) {
  // The first one comes to take the place of nothing.
  if (now_.time != std::chrono::system_clock::time_point()) before_ = std::move(now_);
  now_ = std::move(beat);
  if (before_) elapsed_ = now_.time - before_->time;
}

const RingStats* StatsReport::Before(const RingStats& ring) const {
  if (!before_ || elapsed_.count() <= 0) return nullptr;
  const std::vector<RingStats>& rings = before_->stats.rings;
  const auto found = std::find_if(rings.begin(), rings.end(), [&ring](const RingStats& other) {
    return other.region_index == ring.region_index;
  });
  return found == rings.end() ? nullptr : &*found;
}

std::string StatsReport::Table() const {
  std::string text = absl::StrCat(Escape(name_), "  ", FormatTime(now_.time), "\n");
  if (now_.stats.rings.empty()) return absl::StrCat(text, "no rings\n");
  ctl::Table table({"RING", "DISCIPLINE", "RECORDS/S", "BYTES/S", "CONSUMED/S", "LOST/S",
                    "IN THE RING", "LOST BY CAUSE"});
  for (const RingStats& ring : now_.stats.rings) {
    const RingStats* const before = Before(ring);
    const Rates rates = RatesOf(before, ring, elapsed_.count());
    const auto show = [before](const std::string& rate) { return before != nullptr ? rate : "-"; };
    table.AddRow({absl::StrCat(ring.region_index), ToString(ring.discipline),
                  show(FormatRate(rates.stored_records)), show(BytesPerSecond(rates.stored_bytes)),
                  show(FormatRate(rates.consumed_records)), show(FormatRate(rates.lost_records)),
                  DescribeContent(ring), DescribeLosses(rates, before != nullptr)});
  }
  return text + table.Render();
}

std::string StatsReport::Lines() const {
  const std::string start =
      absl::StrFormat("%s.%03d  ", FormatTime(now_.time), (UnixMs(now_.time) % 1000 + 1000) % 1000);
  if (now_.stats.rings.empty()) return start + "no rings\n";
  std::string text;
  for (const RingStats& ring : now_.stats.rings) {
    const RingStats* const before = Before(ring);
    const Rates rates = RatesOf(before, ring, elapsed_.count());
    absl::StrAppend(&text, start, "ring ", ring.region_index, "  ");
    if (before != nullptr) {
      absl::StrAppend(&text, FormatRate(rates.stored_records), " records/s, ",
                      BytesPerSecond(rates.stored_bytes), ", consumed ",
                      FormatRate(rates.consumed_records), "/s, lost ",
                      FormatRate(rates.lost_records), "/s");
    } else {
      absl::StrAppend(&text, FormatCount(ring.stored_records), " records, ",
                      FormatBytes(ring.stored_bytes), " so far");
    }
    const std::string losses = DescribeLosses(rates, before != nullptr);
    absl::StrAppend(&text, "  in the ring ", DescribeContent(ring),
                    losses.empty() ? std::string() : absl::StrCat("  lost: ", losses), "\n");
  }
  return text;
}

std::string StatsReport::Json() const {
  JsonWriter json;
  json.BeginObject();
  json.Member("time_unix_ms", UnixMs(now_.time));
  json.Member("buffer_koid", now_.stats.buffer_koid);
  json.BeginArray("rings");
  for (const RingStats& ring : now_.stats.rings) {
    json.BeginObject();
    AddRing(ring, &json);
    if (const RingStats* const before = Before(ring)) {
      const Rates rates = RatesOf(before, ring, elapsed_.count());
      json.BeginObject("per_second");
      json.Member("attempted_records", rates.attempted_records);
      json.Member("stored_records", rates.stored_records);
      json.Member("stored_bytes", rates.stored_bytes);
      json.Member("consumed_records", rates.consumed_records);
      json.Member("lost_records", rates.lost_records);
      json.BeginObject("lost_by_cause");
      for (const Loss& loss : rates.losses) json.Member(loss.cause, loss.rate);
      json.EndObject();
      json.EndObject();
    }
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  return json.text();
}

}  // namespace iob::ctl
