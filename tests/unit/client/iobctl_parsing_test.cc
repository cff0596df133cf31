// What people type and read: sizes, times, regions, records, and text that cannot harm a terminal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <string>
#include <vector>

#include "client/iobctl/json.h"
#include "client/iobctl/record_format.h"
#include "client/iobctl/record_splitter.h"
#include "client/iobctl/region_spec.h"
#include "client/iobctl/signal_words.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "tests/support/shm_ring.h"
#include "tests/support/status_matchers.h"

namespace iob::ctl {
namespace {

using test::IsOk;
using test::StatusIs;
using ::testing::ElementsAre;
using namespace std::chrono_literals;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST(Units, ReadsSizes) {
  EXPECT_EQ(ParseBytes("0").value(), 0u);
  EXPECT_EQ(ParseBytes("4096").value(), 4096u);
  EXPECT_EQ(ParseBytes("64KiB").value(), 65536u);
  EXPECT_EQ(ParseBytes("64k").value(), 65536u);
  EXPECT_EQ(ParseBytes("1KB").value(), 1000u);
  EXPECT_EQ(ParseBytes("4MiB").value(), uint64_t{4} << 20);
  EXPECT_EQ(ParseBytes("2GiB").value(), uint64_t{2} << 30);
  EXPECT_EQ(ParseBytes("18446744073709551615").value(), UINT64_MAX);
}

TEST(Units, RefusesWhatIsNoSize) {
  for (const char* text : {"", "x", "MiB", "-1", "+1", " 1", "1 MiB", "1.5MiB", "1MiBs", "0x10"}) {
    EXPECT_THAT(ParseBytes(text), StatusIs(kInvalid)) << text;
  }
  EXPECT_THAT(ParseBytes("18446744073709551616"), StatusIs(kInvalid, "too large"));
  EXPECT_THAT(ParseBytes("17179869184GiB"), StatusIs(kInvalid, "too large"));
}

TEST(Units, ReadsTimes) {
  EXPECT_EQ(ParseDuration("250ms").value(), 250ms);
  EXPECT_EQ(ParseDuration("5s").value(), 5s);
  EXPECT_EQ(ParseDuration("5").value(), 5s);
  EXPECT_EQ(ParseDuration("2m").value(), 2min);
  EXPECT_EQ(ParseDuration("24h").value(), 24h);
  EXPECT_EQ(ParseDuration("0").value(), 0ms);
  EXPECT_THAT(ParseDuration("25h"), StatusIs(kInvalid));
  EXPECT_THAT(ParseDuration("1441m"), StatusIs(kInvalid, "day"));
}

TEST(Units, WritesForPeople) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1024), "1.0 KiB");
  EXPECT_EQ(FormatBytes(1048575), "1.0 MiB");
  EXPECT_EQ(FormatBytes(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatDuration(420us), "420 us");
  EXPECT_EQ(FormatDuration(125s), "2m 05s");
  EXPECT_EQ(FormatDuration(3599s), "59m 59s");
  EXPECT_EQ(FormatDuration(24h + 5min), "24h 05m");
}

TEST(RegionSpecs, RingHasADefault) {
  ASSERT_OK_AND_ASSIGN(const RegionSpec spec, ParseRegion("ring:1MiB"));
  EXPECT_EQ(spec.discipline, Discipline::kMediatedRing);
  EXPECT_EQ(spec.type, RegionType::kPrivate);
  EXPECT_EQ(spec.size_bytes, uint64_t{1} << 20);
  EXPECT_EQ(spec.access.bits(), 0x83u);
  EXPECT_EQ(spec.tag, 0u);
  EXPECT_EQ(spec.required_enforcement, Enforcement::kUnspecified);
}

TEST(RegionSpecs, OptionsChangeIt) {
  ASSERT_OK_AND_ASSIGN(const RegionSpec spec,
                       ParseRegion("none:64KiB:ep0=rw,ep1=rR,tag=77,require=dac"));
  EXPECT_EQ(spec.discipline, Discipline::kNone);
  EXPECT_EQ(spec.access.bits(), 0x53u);
  EXPECT_EQ(spec.tag, 77u);
  EXPECT_EQ(spec.required_enforcement, Enforcement::kDac);
  EXPECT_EQ(ParseRegion("none:4096:ep1=-")->access.bits(), 0x03u);
}

TEST(RegionSpecs, IdAllocatorsMayIntern) {
  ASSERT_OK_AND_ASSIGN(const RegionSpec spec, ParseRegion("id:64KiB"));
  EXPECT_EQ(spec.discipline, Discipline::kIdAllocator);
  EXPECT_EQ(spec.size_bytes, 65536u);
  EXPECT_EQ(spec.access.bits(), 0x81u);
  EXPECT_EQ(spec.interned_blobs_max, 0u);
  ASSERT_OK_AND_ASSIGN(const RegionSpec more, ParseRegion("id:1MiB:ep0=rw,ep1=rw,intern=1000"));
  EXPECT_EQ(more.access.bits(), 0x33u);
  EXPECT_EQ(more.interned_blobs_max, 1000u);
  EXPECT_THAT(ParseRegion("ring:64KiB:intern=1"), StatusIs(kInvalid, "kind id only"));
  EXPECT_THAT(ParseRegion("none:64KiB:intern=1"), StatusIs(kInvalid, "kind id only"));
  EXPECT_THAT(ParseRegion("id:64KiB:intern=4294967296"), StatusIs(kInvalid, "'4294967296'"));
  EXPECT_THAT(ParseRegion("id:64KiB:intern="), StatusIs(kInvalid, "''"));
}

TEST(RegionSpecs, MediatedRingsHaveChoices) {
  ASSERT_OK_AND_ASSIGN(const RegionSpec spec,
                       ParseRegion("mediated-ring:1M,policy=overwrite,gaps,stamped,followers,"
                                   "writer-records=100,writer-bytes=64K,tag=7"));
  EXPECT_EQ(spec.discipline, Discipline::kMediatedRing);
  EXPECT_EQ(spec.size_bytes, uint64_t{1} << 20);
  EXPECT_EQ(spec.access.bits(), 0x83u);
  EXPECT_EQ(spec.tag, 7u);
  EXPECT_EQ(spec.mediated_ring, (MediatedRingOptions{.policy = RingPolicy::kOverwriteOldest,
                                                     .block = 0ms,
                                                     .gap_records = true,
                                                     .stamped = true,
                                                     .followers = true,
                                                     .writer_records_max = 100,
                                                     .writer_bytes_max = 65536}));
  EXPECT_EQ(ParseRegion("ring:1M:policy=drop-new")->mediated_ring, MediatedRingOptions());
  EXPECT_EQ(ParseRegion("ring:1M:policy=block")->mediated_ring.policy, RingPolicy::kBlock);
  // How long is enough.
  ASSERT_OK_AND_ASSIGN(const RegionSpec blocking, ParseRegion("ring:1M:block=250ms"));
  EXPECT_EQ(blocking.mediated_ring.policy, RingPolicy::kBlock);
  EXPECT_EQ(blocking.mediated_ring.block, 250ms);
  for (const auto& [flag, member] : {std::pair("gaps", &MediatedRingOptions::gap_records),
                                     std::pair("stamped", &MediatedRingOptions::stamped),
                                     std::pair("followers", &MediatedRingOptions::followers)}) {
    MediatedRingOptions only;
    only.*member = true;
    EXPECT_EQ(ParseRegion(std::string("ring:1M:") + flag)->mediated_ring, only) << flag;
  }
}

TEST(RegionSpecs, ReserveRingsHaveLanesOrAreShared) {
  ASSERT_OK_AND_ASSIGN(const RegionSpec lanes,
                       ParseRegion("reserve-ring:1M,lanes=4,clears,stamped"));
  EXPECT_EQ(lanes.discipline, Discipline::kReserveRing);
  EXPECT_EQ(lanes.size_bytes, uint64_t{1} << 20);
  EXPECT_EQ(lanes.access.bits(), 0x31u);
  EXPECT_EQ(lanes.reserve_ring, (ReserveRingOptions{.mode = ReserveMode::kLanes,
                                                    .lanes = 4,
                                                    .granule_bytes = 0,
                                                    .consumer_clears = true,
                                                    .stamped = true,
                                                    .on_stall = StallPolicy::kWait,
                                                    .stall = 0ms}));
  ASSERT_OK_AND_ASSIGN(const RegionSpec shared,
                       ParseRegion("reserve-ring:1M,shared,granule=64,on-stall=kill,stall=1s"));
  EXPECT_EQ(shared.reserve_ring, (ReserveRingOptions{.mode = ReserveMode::kShared,
                                                     .lanes = 0,
                                                     .granule_bytes = 64,
                                                     .consumer_clears = false,
                                                     .stamped = false,
                                                     .on_stall = StallPolicy::kKill,
                                                     .stall = 1s}));
  EXPECT_EQ(ParseRegion("reserve-ring:64K")->reserve_ring, ReserveRingOptions());
  EXPECT_EQ(ParseRegion("reserve-ring:64K:clears")->reserve_ring,
            ReserveRingOptions{.consumer_clears = true});
  EXPECT_EQ(ParseRegion("reserve-ring:64K:stamped")->reserve_ring,
            ReserveRingOptions{.stamped = true});
}

TEST(RegionSpecs, BroadcastsAndSlots) {
  ASSERT_OK_AND_ASSIGN(const RegionSpec broadcast, ParseRegion("broadcast:1M"));
  EXPECT_EQ(broadcast.discipline, Discipline::kBroadcast);
  EXPECT_EQ(broadcast.size_bytes, uint64_t{1} << 20);
  EXPECT_EQ(broadcast.access.bits(), 0x31u);
  ASSERT_OK_AND_ASSIGN(const RegionSpec slot, ParseRegion("slot:4K,ep0=rw,ep1=r"));
  EXPECT_EQ(slot.discipline, Discipline::kSlot);
  EXPECT_EQ(slot.slot_value_bytes, 4096u);
  EXPECT_EQ(slot.size_bytes, 0u) << "the daemon knows what four of them take";
  EXPECT_EQ(slot.access.bits(), 0x13u);
}

TEST(RegionSpecs, OptionsOfAnotherKindSayWhose) {
  EXPECT_THAT(ParseRegion("ring:1M,lanes=4"),
              StatusIs(kInvalid, "'lanes=4' is for regions of kind reserve-ring only"));
  EXPECT_THAT(ParseRegion("reserve-ring:1M,gaps"),
              StatusIs(kInvalid, "'gaps' is for regions of kind ring only"));
  EXPECT_THAT(ParseRegion("slot:4K,stamped"),
              StatusIs(kInvalid, "'stamped' is for regions of kind ring, reserve-ring only"));
}

TEST(RegionSpecs, WrongOptionsSayWhatIsAllowed) {
  EXPECT_THAT(ParseRegion("reserve-ring:1M,lane=4"),
              StatusIs(kInvalid,
                       "'lane=4' is not one of lanes=, clears, stamped, shared, granule=, "
                       "on-stall=, stall=, ep0=, ep1=, tag=, require="));
  EXPECT_THAT(ParseRegion("broadcast:1M,x"),
              StatusIs(kInvalid, "'x' is not one of ep0=, ep1=, tag=, require="));
  EXPECT_THAT(ParseRegion("ring:1M,policy=drop"),
              StatusIs(kInvalid, "'drop' is not one of drop-new, overwrite, block"));
  EXPECT_THAT(ParseRegion("reserve-ring:1M,on-stall=die"),
              StatusIs(kInvalid, "'die' is not one of wait, kill, renew"));
  EXPECT_THAT(ParseRegion("reserve-ring:1M,lanes"), StatusIs(kInvalid, "'lanes' needs a value"));
  EXPECT_THAT(ParseRegion("reserve-ring:1M,clears=1"), StatusIs(kInvalid, "clears has no value"));
  EXPECT_THAT(ParseRegion("reserve-ring:1M,lanes=4294967296"),
              StatusIs(kInvalid, "'4294967296' is not a number"));
  EXPECT_THAT(ParseRegion("reserve-ring:1M,granule=4G"), StatusIs(kInvalid, "too large"));
  EXPECT_THAT(ParseRegion("ring:1M,writer-bytes=lots"), StatusIs(kInvalid, "'lots'"));
  EXPECT_THAT(ParseRegion("ring:1M,block=soon"), StatusIs(kInvalid, "'soon'"));
  EXPECT_THAT(ParseRegion("ring:1M,"), StatusIs(kInvalid, "''"));
}

TEST(RegionSpecs, OptionsReadBack) {
  for (const std::string options :
       {"policy=overwrite,gaps,stamped,followers,writer-records=9,writer-bytes=64KiB",
        "block=250ms", "block=2s,writer-bytes=1000", ""}) {
    const auto spec = ParseRegion("ring:1M" + (options.empty() ? "" : ":" + options));
    ASSERT_THAT(spec, IsOk());
    EXPECT_EQ(FormatOptions({.mediated_ring = spec->mediated_ring}), options);
  }
  for (const std::string options : {"lanes=4,clears,stamped",
                                    "shared,granule=64,on-stall=kill,"
                                    "stall=1s"}) {
    const auto spec = ParseRegion("reserve-ring:1M:" + options);
    ASSERT_THAT(spec, IsOk());
    EXPECT_EQ(FormatOptions({.reserve_ring = spec->reserve_ring}), options);
  }
  EXPECT_EQ(FormatOptions({}), "");
}

TEST(RegionSpecs, QuoteWhatIsWrong) {
  EXPECT_THAT(ParseRegion(""), StatusIs(kInvalid));
  EXPECT_THAT(ParseRegion("ring"), StatusIs(kInvalid, "'ring'"));
  EXPECT_THAT(ParseRegion("slots:4096"), StatusIs(kInvalid,
                                                  "'slots' is not a kind of region; use ring, "
                                                  "reserve-ring, broadcast, slot, id or none"));
  EXPECT_THAT(ParseRegion("ring:x"), StatusIs(kInvalid, "'x'"));
  EXPECT_THAT(ParseRegion("ring:4096:ep0=q"), StatusIs(kInvalid, "'q'"));
  EXPECT_THAT(ParseRegion("ring:4096:ep0="), StatusIs(kInvalid));
  EXPECT_THAT(ParseRegion("ring:4096:"), StatusIs(kInvalid));
  EXPECT_THAT(ParseRegion("ring:4096:tag=-1"), StatusIs(kInvalid, "'-1'"));
  EXPECT_THAT(ParseRegion("ring:4096:require=lots"), StatusIs(kInvalid, "'lots'"));
  EXPECT_THAT(ParseRegion("ring:4096:a=b:c=d"), StatusIs(kInvalid));
}

TEST(RegionSpecs, EndpointsWithAndWithoutUids) {
  EXPECT_EQ(ParseEndpointAndUid("ep1:1000")->endpoint, EndpointId::kEp1);
  EXPECT_EQ(ParseEndpointAndUid("ep1:1000")->uid, 1000u);
  EXPECT_EQ(ParseEndpointAndUid("ep0")->uid, std::nullopt);
  for (const char* text : {"", "ep2", "ep0:", "ep0:-1", "ep0:4294967295", "1000", "EP0"}) {
    EXPECT_THAT(ParseEndpointAndUid(text), StatusIs(kInvalid)) << text;
  }
}

TEST(RegionSpecs, RightsReadBack) {
  EXPECT_EQ(FormatRights(RegionRights(0)), "-");
  EXPECT_EQ(FormatRights(RegionRights(0x3)), "rw");
  EXPECT_EQ(FormatRights(RegionRights(0xf)), "rwRW");
}

TEST(SignalWords, TakeNamesAndNumbersInEitherSpelling) {
  EXPECT_EQ(ParseSignals({"peer-closed"}).value(), kSignalPeerClosed);
  EXPECT_EQ(ParseSignals({"PEER_CLOSED,USER_0", "7"}).value(),
            kSignalPeerClosed | UserSignal(0) | UserSignal(7));
  EXPECT_EQ(ParseUserSignals({"1,user-2", "3"}).value(),
            UserSignal(1) | UserSignal(2) | UserSignal(3));
  EXPECT_EQ(ParseUserSignals({}).value(), 0u);
}

TEST(SignalWords, QuoteWhatIsNone) {
  for (const char* word : {"", "8", "-1", "user-8", "user", "none", "0,", ",0", "0 1", "0x1"}) {
    EXPECT_THAT(ParseSignals({word}), StatusIs(kInvalid)) << word;
    EXPECT_THAT(ParseUserSignals({word}), StatusIs(kInvalid)) << word;
  }
  EXPECT_THAT(ParseSignals({}), StatusIs(kInvalid, "no signal was given"));
  EXPECT_THAT(ParseSignals({"0,x"}), StatusIs(kInvalid, "'x'"));
  EXPECT_THAT(ParseUserSignals({"peer-closed"}), StatusIs(kInvalid, "'peer-closed'"));
}

TEST(SignalWords, AreAListInJson) {
  JsonWriter json;
  json.BeginObject();
  AddSignals("all", kSignalPeerClosed | UserSignal(6), &json);
  AddSignals("none", 0, &json);
  json.EndObject();
  EXPECT_EQ(json.text(), "{\"all\":[\"peer-closed\",\"user-6\"],\"none\":[]}");
}

TEST(Text, EscapesWhatCouldHarmATerminal) {
  EXPECT_EQ(Escape("plain text"), "plain text");
  EXPECT_EQ(Escape("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"),
            "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(Escape("\x1b[2J"), "\\x1b[2J");
  EXPECT_EQ(Escape(std::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(Escape("a\nb\tc\r"), "a\\nb\\tc\\r");
  EXPECT_EQ(Escape("back\\slash"), "back\\\\slash");
  EXPECT_EQ(Escape("\x7f"), "\\x7f");
  EXPECT_EQ(Escape("\xc2\x9b"), "\\xc2\\x9b");           // CSI as one character.
  EXPECT_EQ(Escape("\xe2\x80\xae"), "\\xe2\\x80\\xae");  // Right-to-left override.
  EXPECT_EQ(Escape("\xff\xc3"), "\\xff\\xc3");
}

TEST(Text, KnowsUtf8) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8("\xf4\x8f\xbf\xbf"));
  for (const char* text :
       {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf0\x80\x80\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82"}) {
    EXPECT_FALSE(IsUtf8(text));
  }
}

TEST(Text, AlignsColumnsByCharacters) {
  Table table({"A", "B"});
  table.AddRow({"\xc3\xbc\xc3\xbc\xc3\xbc", "x"});
  table.AddRow({"1", ""});
  EXPECT_EQ(table.Render(), "A    B\n\xc3\xbc\xc3\xbc\xc3\xbc  x\n1\n");
}

TEST(Text, PrintsALongTableInPartsWhoseColumnsOnlyGrow) {
  Table table({"A", "B"});
  table.AddRow({"11", "x"});
  EXPECT_EQ(table.Render(), "A   B\n11  x\n");
  EXPECT_EQ(table.Render(), "");
  table.AddRow({"1", "y"});
  EXPECT_EQ(table.Render(), "1   y\n");
  table.AddRow({"1111", "z"});
  table.AddRow({"", ""});
  EXPECT_EQ(table.row_count(), 2u);
  EXPECT_EQ(table.Render(), "1111  z\n\n");
}

TEST(Json, NestsAndEscapes) {
  JsonWriter json;
  json.BeginObject();
  json.Member("text", "q\" b\\ n\n \x1b \xff");
  json.Member("big", std::numeric_limits<uint64_t>::max());
  json.Member("yes", true);
  json.BeginArray("list");
  json.Value(uint64_t{1});
  json.BeginObject();
  json.EndObject();
  json.Value("two");
  json.EndArray();
  json.Member("last", int64_t{-1});
  json.EndObject();
  EXPECT_EQ(json.text(),
            "{\"text\":\"q\\\" b\\\\ n\\u000a \\u001b \xef\xbf\xbd\",\"big\":18446744073709551615,"
            "\"yes\":true,\"list\":[1,{},\"two\"],\"last\":-1}");
}

// The records of `input`, fed in chunks of `chunk_bytes`.
absl::StatusOr<std::vector<std::string>> Split(RecordSplitter splitter, std::string_view input,
                                               size_t chunk_bytes) {
  std::vector<std::string> records;
  const auto emit = [&records](std::string_view record) {
    records.emplace_back(record);
    return absl::OkStatus();
  };
  while (!input.empty()) {
    const std::string_view chunk = input.substr(0, chunk_bytes);
    IOB_RETURN_IF_ERROR(splitter.Feed(chunk, emit));
    input.remove_prefix(chunk.size());
  }
  IOB_RETURN_IF_ERROR(splitter.End(emit));
  return records;
}

TEST(Splitter, CutsTheSameWayWhateverTheChunks) {
  const std::string prefixed("\3\0\0\0abc\0\0\0\0\1\0\0\0z", 16);
  for (const size_t chunk_bytes : {1u, 2u, 3u, 5u, 100u}) {
    EXPECT_THAT(*Split({Framing::kLines, 0}, "a\n\nbcd\nlast", chunk_bytes),
                ElementsAre("a", "", "bcd", "last"));
    EXPECT_THAT(*Split({Framing::kWholeLines, 0}, "a\n\nbcd\nlast", chunk_bytes),
                ElementsAre("a\n", "\n", "bcd\n", "last"));
    EXPECT_THAT(*Split({Framing::kFixed, 4}, "aaaabbbbcc", chunk_bytes),
                ElementsAre("aaaa", "bbbb", "cc"));
    EXPECT_THAT(*Split({Framing::kLengthPrefixed, 0}, prefixed, chunk_bytes),
                ElementsAre("abc", "", "z"));
  }
}

TEST(Splitter, NamesTheRecordThatIsTooLong) {
  const std::string longest(kRecordPayloadBytesMax, 'x');
  EXPECT_THAT(Split({Framing::kLines, 0}, longest + "\n" + longest, 4096), IsOk());
  EXPECT_THAT(Split({Framing::kLines, 0}, "ok\n" + longest + "x\n", 4096),
              StatusIs(kInvalid, "line 2 of the input, at byte 3"));
  EXPECT_THAT(Split({Framing::kLines, 0}, longest + "x", 4096), StatusIs(kInvalid, "record-bytes"));
  EXPECT_THAT(Split({Framing::kLines, 0, "--whole"}, longest + "x", 4096),
              StatusIs(kInvalid, "for binary input use --whole"));
  EXPECT_THAT(Split({Framing::kWholeLines, 0}, longest + "\n", 1 << 20),
              StatusIs(kInvalid, "line 1"));
  EXPECT_THAT(Split({Framing::kLengthPrefixed, 0}, "\xff\xff\xff\xff", 4),
              StatusIs(kInvalid, "record 1"));
}

TEST(Splitter, NoticesAnInputThatIsCutOff) {
  EXPECT_THAT(Split({Framing::kLengthPrefixed, 0}, std::string_view("\3\0\0\0ab", 6), 100),
              StatusIs(kInvalid, "cut off"));
  EXPECT_THAT(Split({Framing::kLengthPrefixed, 0}, std::string_view("\3\0", 2), 100),
              StatusIs(kInvalid, "cut off"));
}

std::string Format(RecordFormat format, const std::string& payload) {
  std::string text;
  RecordFormatter(format).Append({.tag = 9, .payload = test::BytesOf(payload)}, &text);
  return text;
}

TEST(Format, WritesEachKind) {
  EXPECT_EQ(Format(RecordFormat::kText, "a\x1b\n"), "a\\x1b\\n\n");
  EXPECT_EQ(Format(RecordFormat::kRaw, "a\n"), "a\n");
  EXPECT_EQ(Format(RecordFormat::kLengthPrefixed, "abc"), std::string("\3\0\0\0abc", 7));
  EXPECT_EQ(Format(RecordFormat::kJson, "abc"), "{\"tag\":9,\"length\":3,\"data\":\"abc\"}\n");
  EXPECT_EQ(Format(RecordFormat::kJson, "\xff"),
            "{\"tag\":9,\"length\":1,\"data_base64\":\"/w==\"}\n");
}

}  // namespace
}  // namespace iob::ctl
