// What iobctl prints of buffers, events and installations: all of it, aligned, and harmless to a
// terminal whoever chose the names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "client/iobctl/buffer_report.h"
#include "client/iobctl/diagnosis.h"
#include "client/iobctl/event_report.h"
#include "client/iobctl/json.h"
#include "client/iobctl/limits_report.h"
#include "client/iobctl/stat_follow.h"
#include "client/iobctl/stats_report.h"

namespace iob::ctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

using Kind = WatchedEvent::Kind;

// A daemon never sends such a name; one that was taken over might.
constexpr const char* kHostileName = "\x1b[2J\n\xe2\x80\xae";
constexpr const char* kHarmlessName = "\\x1b[2J\\n\\xe2\\x80\\xae";

// No byte that a terminal acts upon, but for the ends of lines.
void ExpectHarmless(const std::string& text) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    EXPECT_TRUE(byte == '\n' || (byte >= 0x20 && byte < 0x7f)) << int{byte} << " in " << text;
  }
}

// --- Events --------------------------------------------------------------------------------------

WatchedEvent EventOf(Kind kind) {
  return {.kind = kind,
          .resume_token = "abc",
          .time = std::chrono::system_clock::time_point(1'700'000'000'042ms),
          .buffer_koid = 4,
          .buffer_name = "logs",
          .endpoint = EndpointId::kEp1,
          .shared_region_koid = 0,
          .signals = UserSignal(1),
          .reason = {.kind = CloseKind::kKilled, .code = 9},
          .holder = {.uid = 5, .gid = 6, .pid = 7},
          .memory_bytes = 4096,
          .old_name = "old"};
}

// Without the time, which depends on where one is.
std::string LineOf(const WatchedEvent& event) {
  const std::string line = DescribeEvent(event);
  EXPECT_EQ(line.substr(19, 6), ".042  ");
  return line.substr(25);
}

TEST(Events, AreALineEach) {
  const std::string subject = "logs #4 ep1           ";
  const auto expect = [&subject](Kind kind, const std::string& name, const std::string& details) {
    std::string line = name + std::string(23 - name.size(), ' ') + subject + details;
    line.erase(line.find_last_not_of(' ') + 1);
    EXPECT_EQ(LineOf(EventOf(kind)), line);
  };
  expect(Kind::kStarted, "started", "signals user-1, the peer killed(9)");
  expect(Kind::kResyncRequired, "resync-required",
         "events are missing here: look at the state anew");
  expect(Kind::kBufferCreated, "buffer-created", "4.0 KiB by uid 5 gid 6 pid 7");
  expect(Kind::kBufferRenamed, "buffer-renamed", "was old");
  expect(Kind::kEndpointAttached, "endpoint-attached", "by uid 5 gid 6 pid 7");
  expect(Kind::kEndpointDetached, "endpoint-detached", "killed(9), was uid 5 gid 6 pid 7");
  expect(Kind::kEndpointClosed, "endpoint-closed", "killed(9)");
  expect(Kind::kBufferGone, "buffer-gone", "");
  expect(Kind::kSignalsChanged, "signals-changed", "user-1");
  expect(Kind::kSharedRegionUpdated, "shared-region-updated", "");
}

TEST(Events, NameWhatTheyAreAbout) {
  WatchedEvent event = EventOf(Kind::kBufferGone);
  event.endpoint.reset();
  event.buffer_name = "";
  EXPECT_EQ(LineOf(event), "buffer-gone            #4");
  event.buffer_koid = 0;
  event.shared_region_koid = 9;
  EXPECT_EQ(LineOf(event), "buffer-gone            region #9");
  event.kind = Kind::kBufferRenamed;
  event.old_name = "";
  EXPECT_THAT(LineOf(event), EndsWith("had no name"));
  event = EventOf(Kind::kStarted);
  event.buffer_koid = 0;
  event.endpoint.reset();
  EXPECT_EQ(LineOf(event), "started");
}

TEST(Events, AreHarmlessWhoeverChoseTheNames) {
  WatchedEvent event = EventOf(Kind::kBufferRenamed);
  event.buffer_name = kHostileName;
  event.old_name = kHostileName;
  const std::string line = DescribeEvent(event);
  EXPECT_THAT(line, AllOf(HasSubstr(std::string(kHarmlessName) + " #4"),
                          EndsWith(std::string("was ") + kHarmlessName), Not(HasSubstr("\n"))));
  ExpectHarmless(line);
}

std::string JsonOf(const WatchedEvent& event) {
  JsonWriter json;
  json.BeginObject();
  AddEvent(event, &json);
  json.EndObject();
  return json.text();
}

TEST(Events, AreAnObjectEachWithWhatBelongsToTheirKind) {
  const std::string head =
      ",\"time_unix_ms\":1700000000042,\"resume_token\":\"abc\",\"buffer_koid\":4,\"buffer_name\":"
      "\"logs\",\"endpoint\":\"ep1\"";
  const std::string holder = ",\"holder\":{\"uid\":5,\"gid\":6,\"pid\":7}";
  const std::string closed = ",\"closed\":{\"reason\":\"killed\",\"code\":9}";
  const std::string signals = ",\"signals\":[\"user-1\"]";
  const auto expect = [&head](Kind kind, const std::string& name, const std::string& rest) {
    EXPECT_EQ(JsonOf(EventOf(kind)), "{\"event\":\"" + name + "\"" + head + rest + "}");
  };
  expect(Kind::kStarted, "started", signals + closed);
  expect(Kind::kResyncRequired, "resync-required", signals);
  expect(Kind::kBufferCreated, "buffer-created", holder + ",\"memory_bytes\":4096");
  expect(Kind::kBufferRenamed, "buffer-renamed", ",\"old_name\":\"old\"");
  expect(Kind::kEndpointAttached, "endpoint-attached", holder);
  expect(Kind::kEndpointDetached, "endpoint-detached", holder + closed);
  expect(Kind::kEndpointClosed, "endpoint-closed", closed);
  expect(Kind::kBufferGone, "buffer-gone", "");
  expect(Kind::kSignalsChanged, "signals-changed", signals);
  expect(Kind::kSharedRegionUpdated, "shared-region-updated", "");
}

TEST(Events, LeaveOutOfJsonWhatTheyAreNotAbout) {
  WatchedEvent event = EventOf(Kind::kSharedRegionUpdated);
  event.buffer_koid = 0;
  event.endpoint.reset();
  event.shared_region_koid = 9;
  EXPECT_EQ(JsonOf(event),
            "{\"event\":\"shared-region-updated\",\"time_unix_ms\":1700000000042,"
            "\"resume_token\":\"abc\",\"shared_region_koid\":9}");
}

// --- Buffers -------------------------------------------------------------------------------------

std::vector<EndpointInfo> Endpoints() {
  EndpointInfo ep0;
  ep0.koid = 2;
  ep0.handles = 1;
  ep0.signals = kSignalPeerClosed | UserSignal(3);
  EndpointInfo ep1;
  ep1.endpoint = EndpointId::kEp1;
  ep1.koid = 3;
  ep1.closed = {.kind = CloseKind::kExited, .code = 2};
  ep1.holders = {{.uid = 8, .gid = 9, .pid = 10}, {.uid = 11, .gid = 12, .pid = 0}};
  return {ep0, ep1};
}

BufferReport ReportOf(const std::string& name) {
  BufferReport report;
  report.buffer.koid = 1;
  report.buffer.name = name;
  report.buffer.owner = {.uid = 5, .gid = 6, .pid = 0};
  report.buffer.regions = {
      {.index = 0,
       .discipline = Discipline::kIdAllocator,
       .size_bytes = 65536,
       .access = AccessBits(0x81),
       .koid = 4,
       .id_allocator =
           IdAllocatorInfo{.next_id = 1234, .free_bytes = 40000, .shared = true, .damaged = true}},
      {.index = 1,
       .type = RegionType::kShared,
       .discipline = Discipline::kMediatedRing,
       .size_bytes = 8192,
       .access = AccessBits(0x83),
       .koid = 99}};
  report.buffer.endpoints = Endpoints();
  report.buffer.memory_bytes = 81920;
  return report;
}

// A region object that `listed` of `user_count` regions refer to.
SharedRegionInfo RegionOf(uint32_t user_count, uint64_t listed, const std::string& name) {
  SharedRegionInfo region;
  region.koid = 99;
  region.size_bytes = 8192;
  region.handles = 2;
  region.memory_bytes = 12288;
  region.user_count = user_count;
  region.signals = UserSignal(0);
  for (uint64_t i = 0; i < listed; ++i)
    region.users.push_back({.buffer_koid = 1000 + i, .buffer_name = name, .region_index = 1});
  return region;
}

TEST(Stat, ShowsWhatThereIsOfRegionsEndpointsAndIds) {
  const std::string text = DescribeReport(ReportOf("logs"));
  EXPECT_THAT(text, HasSubstr("buffer 1 logs, created "));
  EXPECT_THAT(text, HasSubstr(" by uid 5 gid 6, 80.0 KiB of memory\n"));
  EXPECT_THAT(text, HasSubstr("\n0       4     private  id-allocator   64.0 KiB  r    W "));
  EXPECT_THAT(text, HasSubstr("\n1       99    shared   mediated-ring  8.0 KiB   rw   W "));
  EXPECT_THAT(text,
              HasSubstr("\nep0       2     3        open       1        0         no           "
                        "peer-closed,user-3  -\n"));
  EXPECT_THAT(text,
              HasSubstr("\nep1       3     2        exited(2)  0        0         no           "
                        "none                uid 8 gid 9 pid 10, uid 11 gid 12\n"));
  EXPECT_THAT(text, HasSubstr("\n0              1,234  40,000 of 65,536 B  endpoints too (shared)  "
                              "damaged: whoever may write it has spoiled its header\n"));
  EXPECT_THAT(text, HasSubstr("is for its owner and root to see"));
}

TEST(Stat, ShowsTheLedgersToWhoMaySeeThem) {
  BufferReport report = ReportOf("logs");
  report.stats = BufferStats{.buffer_koid = 1, .rings = std::vector<RingStats>(1)};
  const std::string text = DescribeReport(report);
  EXPECT_THAT(text, HasSubstr("RING 0"));
  EXPECT_THAT(text, Not(HasSubstr("is for its owner")));
}

TEST(Stat, SaysWhoUsesARegionObjectUpToALimit) {
  BufferReport report = ReportOf("logs");
  SharedRegionInfo region = RegionOf(1234, 1000, "b");
  region.users[1].buffer_name = "";
  report.shared_regions = {region};
  const std::string text = DescribeReport(report);
  EXPECT_THAT(text, HasSubstr("\nshared region 99, created "));
  EXPECT_THAT(text,
              HasSubstr("8.0 KiB, 12.0 KiB of memory\nhandles 2, signals user-0, regions that "
                        "refer to it 1234\nUSED BY  KOID  REGION\nb        1000  1\n"
                        "-        1001  1\n"));
  EXPECT_THAT(text, HasSubstr("\nb        1019  1\nand 1,214 more\n"));
  EXPECT_THAT(text, Not(HasSubstr("1020")));
}

TEST(Stat, IsHarmlessWhoeverChoseTheNames) {
  BufferReport report = ReportOf(kHostileName);
  report.shared_regions = {RegionOf(1, 1, kHostileName)};
  const std::string text = DescribeReport(report);
  ExpectHarmless(text);
  EXPECT_THAT(text, HasSubstr(std::string("buffer 1 ") + kHarmlessName + ", created"));
  EXPECT_THAT(text, HasSubstr(std::string("\n") + kHarmlessName));
}

TEST(Stat, HasAllOfItInJson) {
  BufferReport report = ReportOf("logs");
  report.shared_regions = {RegionOf(1, 1, "")};
  JsonWriter json;
  json.BeginObject();
  AddReport(report, &json);
  json.EndObject();
  EXPECT_THAT(json.text(), HasSubstr("\"id_allocator\":{\"next_id\":1234,\"free_bytes\":40000,"
                                     "\"shared\":true,\"damaged\":true},\"placement\":{"));
  EXPECT_THAT(json.text(), HasSubstr("\"koid\":2,\"related_koid\":3,"));
  EXPECT_THAT(json.text(), HasSubstr("\"koid\":3,\"related_koid\":2,"));
  EXPECT_THAT(json.text(), HasSubstr("\"signals\":[\"peer-closed\",\"user-3\"]"));
  EXPECT_THAT(json.text(), HasSubstr("\"shared_regions\":[{\"koid\":99,"));
  EXPECT_THAT(json.text(), HasSubstr("\"users\":[{\"buffer_koid\":1000,\"buffer_name\":\"\","
                                     "\"region_index\":1}]"));
  EXPECT_THAT(json.text(), Not(HasSubstr("\"rings\"")));
}

TEST(Stat, ShowsWhatRingsWereMadeWith) {
  BufferReport report = ReportOf("logs");
  report.buffer.regions[1].mediated_ring = {.policy = RingPolicy::kBlock, .block = 250ms};
  RegionInfo reserve{.index = 2, .discipline = Discipline::kReserveRing};
  reserve.reserve_ring = {.lanes = 4, .consumer_clears = true};
  RegionInfo slot{.index = 3, .discipline = Discipline::kSlot, .slot_value_bytes = 4096};
  report.buffer.regions.push_back(reserve);
  report.buffer.regions.push_back(slot);
  const std::string text = DescribeReport(report);
  EXPECT_THAT(text, HasSubstr("\nregion 1: block=250ms\nregion 2: lanes=4,clears\n"
                              "region 3: values of up to 4,096 B\n"));
  EXPECT_THAT(text, Not(HasSubstr("region 0:")));
  EXPECT_EQ(DisplayDisciplines(report.buffer.regions),
            "id-allocator, mediated-ring, reserve-ring, slot");
  report.buffer.regions.push_back(slot);
  EXPECT_THAT(DisplayDisciplines(report.buffer.regions), EndsWith(", 2 slot"));
  EXPECT_EQ(DisplayDisciplines({}), "-");
  JsonWriter json;
  json.BeginObject();
  AddReport(report, &json);
  json.EndObject();
  EXPECT_THAT(json.text(), HasSubstr("\"mediated_ring\":{\"policy\":\"block\",\"block_ms\":250,"
                                     "\"gap_records\":false,"));
  EXPECT_THAT(json.text(), HasSubstr("\"reserve_ring\":{\"mode\":\"lanes\",\"lanes\":4,"
                                     "\"granule_bytes\":0,\"consumer_clears\":true,"));
  EXPECT_THAT(json.text(), HasSubstr("\"slot_value_bytes\":4096,\"placement\":{"));
}

TEST(Stat, SaysWhoCountedWhatTheBrokerDidNot) {
  BufferReport report = ReportOf("logs");
  RingStats ring;
  ring.discipline = Discipline::kReserveRing;
  ring.claimed = true;
  ring.overwritten_records = 5;
  ring.overwritten_bytes = 2048;
  ring.writers = {{.endpoint = EndpointId::kEp1,
                   .tag = 3,
                   .attempted_records = 12,
                   .attempted_bytes = 120,
                   .stored_records = 10,
                   .stored_bytes = 100,
                   .rejected = {},
                   .seat = 2,
                   .discarded_records = 1234}};
  report.stats = BufferStats{.buffer_koid = 1, .rings = {ring}};
  const std::string text = DescribeReport(report);
  EXPECT_THAT(text, HasSubstr("by ep1 seat 2"));
  EXPECT_THAT(text, HasSubstr("120 B, stored 10, lost 0, discarded 1,234\n"));
  EXPECT_THAT(text, HasSubstr("2.0 KiB of the ring"));
  EXPECT_THAT(text, EndsWith("(as its producers and its consumer count)\n"));
  JsonWriter json;
  json.BeginObject();
  AddRing(ring, &json);
  json.EndObject();
  EXPECT_THAT(json.text(), HasSubstr("\"discipline\":\"reserve-ring\",\"claimed\":true,"));
  EXPECT_THAT(json.text(), HasSubstr("\"overwritten_bytes\":2048,"));
  EXPECT_THAT(json.text(), HasSubstr("\"seat\":2,\"discarded_records\":1234}"));
}

// --- Stat, followed ------------------------------------------------------------------------------

StatsBeat BeatAt(std::chrono::milliseconds time, uint64_t records) {
  RingStats ring;
  ring.region_index = 1;
  ring.attempted_records = 2 * records;
  ring.stored_records = records;
  ring.stored_bytes = 1024 * records;
  ring.consumed_records = records / 2;
  ring.overwritten_records = records / 10;
  ring.rejected = {{.cause = LossCause::kFull, .records = 4 * records, .bytes = 1}};
  ring.resident_records = 3;
  ring.resident_bytes = 300;
  ring.capacity_bytes = 4096;
  return {.time = std::chrono::system_clock::time_point(1'700'000'000'000ms + time),
          .stats = {.buffer_koid = 7, .rings = {ring}}};
}

TEST(Following, BeginsWithTotalsAndGoesOnWithRates) {
  StatsReport report("logs");
  report.Take(BeatAt(0ms, 1000));
  EXPECT_THAT(report.Lines(),
              EndsWith("  ring 1  1,000 records, 1000.0 KiB so far  in the ring 3, 300 B of 4.0 KiB"
                       "  lost: full 4,000 in all; overwritten 100 in all\n"));
  EXPECT_THAT(report.Table(), HasSubstr("\n1     mediated-ring  -          -"));
  EXPECT_THAT(report.Json(), Not(HasSubstr("per_second")));
  report.Take(BeatAt(500ms, 1500));
  EXPECT_THAT(report.Lines(),
              EndsWith(".500  ring 1  1,000 records/s, 1000.0 KiB/s, consumed 500/s, lost 4,100/s"
                       "  in the ring 3, 300 B of 4.0 KiB"
                       "  lost: full 4,000/s, 6,000 in all; overwritten 100/s, 150 in all\n"));
  EXPECT_THAT(report.Table(),
              HasSubstr("\n1     mediated-ring  1,000      1000.0 KiB/s  500         4,100   "
                        "3, 300 B of 4.0 KiB  full 4,000/s, 6,000 in all; overwritten 100/s, "
                        "150 in all\n"));
  EXPECT_THAT(report.Json(),
              HasSubstr("\"per_second\":{\"attempted_records\":2000.000,"
                        "\"stored_records\":1000.000,\"stored_bytes\":1024000.000,"
                        "\"consumed_records\":500.000,\"lost_records\":4100.000,"
                        "\"lost_by_cause\":{\"full\":4000.000,\"overwritten\":100.000}}}]}"));
  EXPECT_THAT(report.Json(), StartsWith("{\"time_unix_ms\":1700000000500,\"buffer_koid\":7,"));
}

TEST(Following, ComparesABeatWithTheOneBeforeIt) {
  StatsReport report("logs");
  report.Take(BeatAt(0ms, 0));
  report.Take(BeatAt(1000ms, 10));
  report.Take(BeatAt(2000ms, 30));
  EXPECT_THAT(report.Lines(), HasSubstr("ring 1  20 records/s, "));
}

TEST(Following, IsNotConfusedByFiguresAndClocksThatGoBack) {
  StatsReport report("logs");
  report.Take(BeatAt(0ms, 1000));
  report.Take(BeatAt(1000ms, 10));
  EXPECT_THAT(report.Lines(), HasSubstr("ring 1  0 records/s, 0 B/s, consumed 0/s, lost 0/s"));
  for (const std::chrono::milliseconds time : {1000ms, 500ms}) {
    report.Take(BeatAt(time, 2000));
    EXPECT_THAT(report.Lines(), HasSubstr(" so far")) << "a rate of no time";
  }
  StatsBeat other = BeatAt(2000ms, 3000);
  other.stats.rings[0].region_index = 2;
  report.Take(other);
  EXPECT_THAT(report.Lines(), HasSubstr("ring 2  3,000 records, "));
}

TEST(Following, IsHarmlessAndSaysThatThereIsNothing) {
  StatsReport report(kHostileName);
  report.Take({.time = std::chrono::system_clock::time_point(1ms), .stats = {}});
  ExpectHarmless(report.Table());
  EXPECT_THAT(report.Table(), EndsWith("\nno rings\n"));
  EXPECT_THAT(report.Lines(), EndsWith("  no rings\n"));
}

TEST(Following, ShowsATenthOfWhatIsRare) {
  EXPECT_EQ(FormatRate(0), "0");
  EXPECT_EQ(FormatRate(0.52), "0.5");
  EXPECT_EQ(FormatRate(9.94), "9.9");
  EXPECT_EQ(FormatRate(9.96), "10");
  EXPECT_EQ(FormatRate(1234.5), "1,235");
}

TEST(Following, DrawsOverWhatItDrew) {
  Redrawing redrawing;
  EXPECT_EQ(redrawing.Draw("a\nb\n", 24), "\r\033[J\033[?7la\nb\n\033[?7h");
  EXPECT_EQ(redrawing.Draw("c\n", 24), "\033[2A\r\033[J\033[?7lc\n\033[?7h");
  EXPECT_EQ(redrawing.Draw("d\n", 0), "\033[1A\r\033[J\033[?7ld\n\033[?7h");
}

TEST(Following, LeavesOutWhatTheScreenHasNoRoomFor) {
  Redrawing redrawing;
  // One line is the cursor's.
  EXPECT_THAT(redrawing.Draw("1\n2\n3\n", 4), HasSubstr("1\n2\n3\n"));
  EXPECT_THAT(redrawing.Draw("1\n2\n3\n4\n", 4), HasSubstr("l1\n2\n... and 2 lines more\n"));
  EXPECT_THAT(redrawing.Draw("1\n", 4), StartsWith("\033[3A"));
}

TEST(Following, IntervalsHaveBounds) {
  EXPECT_EQ(ParseInterval("10ms").value(), 10ms);
  EXPECT_EQ(ParseInterval("1h").value(), 1h);
  EXPECT_EQ(ParseInterval("2").value(), 2s);
  for (const char* text : {"0", "9ms", "61m", "often", ""}) {
    EXPECT_FALSE(ParseInterval(text).ok()) << text;
  }
}

// --- Doctor --------------------------------------------------------------------------------------

Facts Healthy() {
  Facts facts;
  facts.health = {.serving = true, .round_trip = 1ms};
  facts.limits.buffers_max = 16384;
  facts.limits.descriptors_max = 1 << 18;
  facts.limits.descriptors_open = 30;
  facts.limits.kernel_features = {{.name = "pidfd", .available = true, .effect = "ends are known"}};
  facts.daemon_uid = 100;
  facts.own_uid = 1000;
  return facts;
}

std::vector<std::string> Complaints(const Facts& facts) {
  std::vector<std::string> about;
  for (const Warning& warning : Diagnose(facts)) {
    EXPECT_FALSE(warning.what.empty());
    EXPECT_FALSE(warning.mend.empty());
    about.push_back(warning.about);
  }
  return about;
}

TEST(Doctor, HasNothingToSayWhenNothingIsWrong) {
  EXPECT_THAT(Complaints(Healthy()), IsEmpty());
  Facts facts = Healthy();
  // Who runs the daemon cannot always be seen.
  facts.daemon_uid.reset();
  EXPECT_THAT(Complaints(facts), IsEmpty());
}

TEST(Doctor, CountsWhatDescriptorsAreEnoughFor) {
  Facts facts = Healthy();
  facts.limits.descriptors_max = 74'096;
  EXPECT_EQ(BuffersFor(74'096), 10'000u);
  EXPECT_THAT(Complaints(facts), IsEmpty());
  facts.limits.descriptors_max = 74'000;
  ASSERT_THAT(Complaints(facts), ElementsAre("descriptors"));
  EXPECT_THAT(Diagnose(facts)[0].what, AllOf(HasSubstr("may open 74,000 descriptors"),
                                             HasSubstr("about 9,986"), HasSubstr("for 10,000")));
  EXPECT_THAT(Diagnose(facts)[0].mend, HasSubstr("74,096 would do"));
  // An operator who allows few buffers needs few descriptors.
  facts.limits.buffers_max = 100;
  EXPECT_THAT(Complaints(facts), IsEmpty());
  facts.limits.descriptors_max = 1024;
  EXPECT_THAT(Complaints(facts), ElementsAre("descriptors"));
  EXPECT_EQ(BuffersFor(0), 0u);
}

TEST(Doctor, NoticesThatTheyAreNearlyUsedUp) {
  Facts facts = Healthy();
  facts.limits.descriptors_open = facts.limits.descriptors_max * 8 / 10;
  EXPECT_THAT(Complaints(facts), IsEmpty());
  facts.limits.descriptors_open = facts.limits.descriptors_max * 95 / 100;
  EXPECT_THAT(Complaints(facts), ElementsAre("descriptors"));
}

TEST(Doctor, SaysWhatTheKernelLacksAndWhatFor) {
  Facts facts = Healthy();
  facts.limits.kernel_features.push_back(
      {.name = "new\x1bthing", .available = false, .effect = "it would be better"});
  ASSERT_THAT(Complaints(facts), ElementsAre("kernel"));
  EXPECT_EQ(Diagnose(facts)[0].what, "this kernel has no new\\x1bthing: it would be better");
}

TEST(Doctor, TellsForWhomFileModesDoNotCount) {
  Facts facts = Healthy();
  facts.own_uid = 100;
  ASSERT_THAT(Complaints(facts), ElementsAre("uid"));
  EXPECT_THAT(Diagnose(facts)[0].what, HasSubstr("runs as uid 100, as you do"));
  facts.own_uid = 0;
  ASSERT_THAT(Complaints(facts), ElementsAre("uid"));
  EXPECT_THAT(Diagnose(facts)[0].what, HasSubstr("you are root"));
  facts.daemon_uid = 0;
  ASSERT_THAT(Complaints(facts), ElementsAre("uid"));
  EXPECT_THAT(Diagnose(facts)[0].what, HasSubstr("runs as uid 0, as you do"));
}

TEST(Doctor, PutsTheHeaviestFirst) {
  Facts facts = Healthy();
  facts.health.serving = false;
  facts.limits.descriptors_max = 100;
  facts.own_uid = 100;
  facts.limits.kernel_features[0].available = false;
  EXPECT_THAT(Complaints(facts), ElementsAre("serving", "descriptors", "uid", "kernel"));
}

TEST(Doctor, ShowsLimitsInUnitsOfPeopleAndFeaturesWithoutHarm) {
  Limits limits = Healthy().limits;
  limits.memory_bytes_max = uint64_t{8} << 30;
  limits.lease_max = 24h;
  limits.kernel_features[0].effect = kHostileName;
  EXPECT_THAT(DescribeLimits(limits), HasSubstr("\nmemory              8.0 GiB\n"));
  EXPECT_THAT(DescribeLimits(limits), HasSubstr("\nlease               24h 00m\n"));
  EXPECT_THAT(DescribeLimits(limits), HasSubstr("\ndescriptors         262,144, 30 in use\n"));
  EXPECT_THAT(DescribeFeatures(limits), HasSubstr(std::string("yes   ") + kHarmlessName));
  ExpectHarmless(DescribeFeatures(limits));
}

}  // namespace
}  // namespace iob::ctl
