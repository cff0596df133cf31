// What can be learned about an object: koids (1.8), names (1.9, 2.7), and the info topics (1.12,
// 2.6).

#include <set>

#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

// --- 1.8 -----------------------------------------------------------------------------------------

class Koids_1_8 : public ByWay {
 protected:
  v1::HandleInfo InfoOf(const std::string& handle) {
    v1::HandleInfo info;
    EXPECT_EQ(control().GetHandleInfo(handle, &info), zx::kOk);
    return info;
  }
};
IOB_OVER_CONTROL_WAYS(Koids_1_8);

TEST_P(Koids_1_8, EachEndpointHasItsOwnAndNamesItsPeers) {
  const NewBuffer made = Make({PlainRegion()});
  const v1::HandleInfo ep0 = InfoOf(made.ep0);
  const v1::HandleInfo ep1 = InfoOf(made.ep1);
  EXPECT_EQ(ep0.type(), v1::OBJECT_TYPE_ENDPOINT);
  EXPECT_NE(ep0.koid(), ep1.koid());
  EXPECT_EQ(ep0.related_koid(), ep1.koid());
  EXPECT_EQ(ep1.related_koid(), ep0.koid());
  EXPECT_EQ(made.info.endpoints(0).koid(), ep0.koid());
  EXPECT_EQ(made.info.endpoints(1).koid(), ep1.koid());
  const auto attached = AttachRaw(Dup(made.ep1));
  EXPECT_EQ(attached->grants().endpoint_koid(), ep1.koid());
  EXPECT_EQ(attached->grants().peer_koid(), ep0.koid());
}

TEST_P(Koids_1_8, ThePeersStaysValidAfterThePeersEnd) {
  const NewBuffer made = Make({PlainRegion()});
  const uint64_t peer = InfoOf(made.ep1).koid();
  Close(made.ep1);
  ASSERT_TRUE(Eventually([&] { return LookAt(made.koid(), EndpointId::kEp1).has_closed(); }));
  EXPECT_EQ(InfoOf(made.ep0).related_koid(), peer);
}

TEST_P(Koids_1_8, APrivateRegionsIsFreshAndTheSameFromBothEndpoints) {
  const NewBuffer made = Make({PlainRegion(), PlainRegion(), RingRegion(), IdRegion()});
  const NewBuffer other = Make({PlainRegion()});
  v1::GetBufferResponse from_ep0;
  v1::GetBufferResponse from_ep1;
  ASSERT_EQ(control().GetBuffer(made.ep0, &from_ep0), zx::kOk);
  ASSERT_EQ(control().GetBuffer(made.ep1, &from_ep1), zx::kOk);
  std::set<uint64_t> koids = {made.koid(), made.info.endpoints(0).koid(),
                              made.info.endpoints(1).koid(), other.koid(),
                              other.info.regions(0).koid()};
  const auto attached = AttachRaw(Dup(made.ep1));
  for (int i = 0; i < 4; ++i) {
    const uint64_t koid = from_ep0.buffer().regions(i).koid();
    EXPECT_EQ(from_ep1.buffer().regions(i).koid(), koid);
    EXPECT_EQ(attached->grants().regions(i).koid(), koid);
    koids.insert(koid);
  }
  EXPECT_EQ(koids.size(), 9u) << "no two objects have one koid";
}

TEST_P(Koids_1_8, ASharedRegionsIsItsObjectsInEveryBuffer) {
  const NewRegion shared = MakeShared();
  const NewBuffer one = Make({SharedRegionOf(shared.handle)});
  const NewBuffer two = Make({PlainRegion(), SharedRegionOf(shared.handle)});
  const v1::HandleInfo info = InfoOf(shared.handle);
  EXPECT_EQ(info.type(), v1::OBJECT_TYPE_SHARED_REGION);
  EXPECT_EQ(info.related_koid(), 0u);
  EXPECT_EQ(one.info.regions(0).koid(), info.koid());
  EXPECT_EQ(two.info.regions(1).koid(), info.koid());
  EXPECT_NE(two.info.regions(0).koid(), info.koid());
  Close(shared.handle);
}

TEST_P(Koids_1_8, TheyAreNeverUsedAgain) {
  std::set<uint64_t> koids;
  for (int i = 0; i < 10; ++i) {
    const NewBuffer made = Make({PlainRegion()});
    EXPECT_TRUE(koids.insert(made.koid()).second);
    EXPECT_TRUE(koids.insert(made.info.regions(0).koid()).second);
    ASSERT_EQ(control().DeleteBuffer(made.koid(), true), zx::kOk);
  }
}

// --- 1.9 and 2.7 ---------------------------------------------------------------------------------

class NameContract : public ByWay {
 protected:
  std::string NameOf(const std::string& handle) {
    std::string name = "unset";
    EXPECT_EQ(Contract::control().GetName(handle, &name), zx::kOk);
    return name;
  }
};

class Name_1_9 : public NameContract {};
IOB_OVER_ALL_WAYS(Name_1_9);

TEST_P(Name_1_9, SetThroughEitherEndpointItIsSeenFromBoth) {
  const NewBuffer made = Make({PlainRegion(), PlainRegion()});
  EXPECT_EQ(NameOf(made.ep0), "");
  ASSERT_EQ(Take(Dup(made.ep0))->SetName("by-ep0"), zx::kOk);
  EXPECT_EQ(NameOf(made.ep0), "by-ep0");
  EXPECT_EQ(NameOf(made.ep1), "by-ep0");
  ASSERT_EQ(Take(Dup(made.ep1))->SetName("by-ep1"), zx::kOk);
  EXPECT_EQ(NameOf(made.ep0), "by-ep1");
  EXPECT_EQ(AttachRaw(Dup(made.ep0))->grants().name(), "by-ep1");
}

TEST_P(Name_1_9, LongerOnesAreCutTo31) {
  const NewBuffer made = Make({PlainRegion()});
  const auto hand = Take(Dup(made.ep0));
  const std::string longest = "0123456789012345678901234567890";
  ASSERT_EQ(longest.size(), 31u);
  ASSERT_EQ(hand->SetName(longest), zx::kOk);
  EXPECT_EQ(NameOf(made.ep0), longest);
  ASSERT_EQ(hand->SetName("x" + longest), zx::kOk);
  EXPECT_EQ(NameOf(made.ep0), "x" + longest.substr(0, 30));
  ASSERT_EQ(hand->SetName(std::string(1000, 'y')), zx::kOk);
  EXPECT_EQ(NameOf(made.ep0), std::string(31, 'y'));
}

TEST_P(Name_1_9, TheEmptyNameIsAName) {
  const NewBuffer made = Make({PlainRegion()});
  const auto hand = Take(Dup(made.ep0));
  ASSERT_EQ(hand->SetName("something"), zx::kOk);
  ASSERT_EQ(hand->SetName(""), zx::kOk);
  EXPECT_EQ(NameOf(made.ep0), "");
  const NewBuffer other = Make({PlainRegion()});
  EXPECT_EQ(Take(Dup(other.ep0))->SetName(""), zx::kOk) << "any number of buffers have none";
}

// In Zircon the name is that of region 0's memory, and a shared one is skipped.
TEST_P(Name_1_9, ABufferOfSharedRegionsHasANameToo) {
  const NewRegion shared = MakeShared();
  const NewBuffer made = Make({SharedRegionOf(shared.handle)});
  ASSERT_EQ(Take(Dup(made.ep0))->SetName("shown"), zx::kOk);
  EXPECT_EQ(NameOf(made.ep1), "shown");
  Close(shared.handle);
}

// Names open buffers here: they must be unique, and print.
TEST_P(Name_1_9, TwoBuffersCannotHaveOneName) {
  const NewBuffer one = Make({PlainRegion()});
  const NewBuffer two = Make({PlainRegion()});
  ASSERT_EQ(Take(Dup(one.ep0))->SetName("mine"), zx::kOk);
  EXPECT_EQ(Take(Dup(two.ep0))->SetName("mine"), kNameTaken);
  EXPECT_EQ(NameOf(two.ep0), "") << "nothing changed";
  EXPECT_EQ(Take(Dup(one.ep1))->SetName("mine"), zx::kOk) << "its own name again";
}

TEST_P(Name_1_9, OnlyPrintableAsciiIsAName) {
  const NewBuffer made = Make({PlainRegion()});
  ASSERT_EQ(Take(Dup(made.ep0))->SetName("good"), zx::kOk);
  for (const std::string& name :
       {std::string("a\nb"), std::string("nul\0", 4), std::string("\x7f"), std::string("#7")}) {
    EXPECT_EQ(Take(Dup(made.ep0))->SetName(name), zx::kInvalidArgs) << name;
  }
  EXPECT_EQ(NameOf(made.ep0), "good");
}

class Name_2_7 : public NameContract {};
IOB_OVER_ALL_WAYS(Name_2_7);

TEST_P(Name_2_7, SettingNeedsSetProperty) {
  const NewBuffer made = Make({PlainRegion()});
  const uint32_t without = Rights::kEndpointDefault & ~Rights::kSetProperty;
  EXPECT_EQ(Take(Dup(made.ep0, without))->SetName("name"), zx::kAccessDenied);
  EXPECT_EQ(Take(Dup(made.ep0, without))->SetName("a\nb"), zx::kAccessDenied)
      << "before the name is looked at";
  EXPECT_EQ(Take(Dup(made.ep0, Rights::kSetProperty))->SetName("name"), zx::kOk);
}

class NameByHandle_2_7 : public NameContract {};
IOB_OVER_CONTROL_WAYS(NameByHandle_2_7);

TEST_P(NameByHandle_2_7, GettingNeedsGetProperty) {
  const NewBuffer made = Make({PlainRegion()});
  ASSERT_EQ(control().SetName(made.ep0, "name"), zx::kOk);
  std::string name;
  const uint32_t without = Rights::kEndpointDefault & ~Rights::kGetProperty;
  EXPECT_EQ(control().GetName(Dup(made.ep0, without), &name), zx::kAccessDenied);
  ASSERT_EQ(control().GetName(Dup(made.ep0, Rights::kGetProperty), &name), zx::kOk);
  EXPECT_EQ(name, "name");
}

TEST_P(NameByHandle_2_7, NoOtherRoadTellsItWithoutGetProperty) {
  const NewBuffer made = Make({PlainRegion()});
  ASSERT_EQ(control().SetName(made.ep0, "secret"), zx::kOk);
  const uint32_t without = Rights::kEndpointDefault & ~Rights::kGetProperty;
  v1::GetBufferResponse view;
  ASSERT_EQ(control().GetBuffer(Dup(made.ep0, without), &view), zx::kOk);
  EXPECT_EQ(view.buffer().name(), "");
  EXPECT_EQ(AttachRaw(Dup(made.ep0, without))->grants().name(), "");
}

TEST_P(NameByHandle_2_7, ASharedRegionHasNone) {
  const NewRegion shared = MakeShared();
  std::string name;
  EXPECT_EQ(control().GetName(shared.handle, &name), zx::kWrongObject);
  EXPECT_EQ(control().SetName(shared.handle, "name"), zx::kWrongObject);
  Close(shared.handle);
}

TEST_P(NameByHandle_2_7, AnUnknownHandleIsBad) {
  std::string name;
  EXPECT_EQ(control().GetName(std::string(16, '\0'), &name), zx::kBadHandle);
  EXPECT_EQ(control().SetName(std::string(16, '\0'), std::string(100, '\n')), zx::kBadHandle);
}

// SetName cuts as Zircon does; at creation nothing needs to be guessed.
TEST_P(NameByHandle_2_7, CreateBufferRefusesWhatSetNameCuts) {
  v1::CreateBufferRequest request = BufferOf({PlainRegion()});
  request.set_name(std::string(32, 'n'));
  NewBuffer made;
  EXPECT_EQ(control().CreateBuffer(request, &made), zx::kInvalidArgs);
  request.set_name(std::string(31, 'n'));
  EXPECT_EQ(control().CreateBuffer(request, &made), zx::kOk);
  EXPECT_EQ(control().CreateBuffer(request, &made), kNameTaken);
}

// --- 1.12 and 2.6 --------------------------------------------------------------------------------

class Info_1_12 : public ByWay {};
IOB_OVER_CONTROL_WAYS(Info_1_12);

TEST_P(Info_1_12, TheRegionsAreToldAsTheyAre) {
  const NewRegion shared = MakeShared(3 * kPage);
  v1::RegionSpec ring = RingRegion();
  ring.set_tag(77);
  const NewBuffer made =
      Make({PlainRegion(kPage + 1, kEp0Map | kEp1MapRead), ring, SharedRegionOf(shared.handle)});
  v1::GetBufferResponse view;
  ASSERT_EQ(control().GetBuffer(made.ep1, &view), zx::kOk);
  const v1::BufferInfo& info = view.buffer();
  ASSERT_EQ(info.regions_size(), 3);
  EXPECT_EQ(info.regions(0).type(), v1::REGION_TYPE_PRIVATE);
  EXPECT_EQ(info.regions(0).discipline(), v1::DISCIPLINE_NONE);
  EXPECT_EQ(info.regions(0).size_bytes(), 2 * kPage);
  EXPECT_EQ(info.regions(0).access_bits(), kEp0MapRead | kEp1Map) << "swapped for ep1";
  EXPECT_EQ(info.regions(1).discipline(), v1::DISCIPLINE_MEDIATED_RING);
  EXPECT_EQ(info.regions(1).tag(), 77u);
  EXPECT_EQ(info.regions(2).type(), v1::REGION_TYPE_SHARED);
  Close(shared.handle);
}

// Zircon answers 0, as it was passed.
TEST_P(Info_1_12, ASharedRegionShowsItsRealSize) {
  const NewRegion shared = MakeShared(3 * kPage);
  const NewBuffer made = Make({SharedRegionOf(shared.handle)});
  EXPECT_EQ(made.info.regions(0).size_bytes(), 3 * kPage);
  EXPECT_EQ(AttachRaw(Dup(made.ep0))->grants().regions(0).size_bytes(), 3 * kPage);
  Close(shared.handle);
}

TEST_P(Info_1_12, AnAttachmentIsToldTheSameGeometry) {
  const NewBuffer made = Make({PlainRegion(3 * kPage, kEp0Map | kEp1MapRead), RingRegion()});
  const auto attached = AttachRaw(Dup(made.ep1));
  const Endpoint endpoint = AttachLibrary(Dup(made.ep1));
  v1::GetBufferResponse view;
  ASSERT_EQ(control().GetBuffer(made.ep1, &view), zx::kOk);
  ASSERT_EQ(attached->grants().regions_size(), 2);
  ASSERT_EQ(endpoint.info().regions.size(), 2u);
  for (int i = 0; i < 2; ++i) {
    const v1::RegionInfo& info = view.buffer().regions(i);
    const v1::RegionGrant& grant = attached->grants().regions(i);
    const AttachedRegion& region = endpoint.info().regions[static_cast<size_t>(i)];
    EXPECT_EQ(grant.size_bytes(), info.size_bytes());
    EXPECT_EQ(grant.access_bits(), info.access_bits());
    EXPECT_EQ(grant.discipline(), info.discipline());
    EXPECT_EQ(region.size_bytes, info.size_bytes());
    EXPECT_EQ(region.access.bits(), info.access_bits());
    EXPECT_EQ(region.koid, info.koid());
  }
}

class Info_2_6 : public ByWay {};
IOB_OVER_CONTROL_WAYS(Info_2_6);

TEST_P(Info_2_6, NeedsInspect) {
  const NewBuffer made = Make({PlainRegion()});
  const NewRegion shared = MakeShared();
  v1::GetBufferResponse view;
  v1::SharedRegionInfo info;
  const uint32_t without = ~uint32_t{Rights::kInspect};
  EXPECT_EQ(control().GetBuffer(Dup(made.ep0, Rights::kEndpointDefault & without), &view),
            zx::kAccessDenied);
  EXPECT_EQ(control().GetBuffer(Dup(made.ep0, Rights::kInspect), &view), zx::kOk);
  const std::string blind = Dup(shared.handle, Rights::kSharedRegionDefault & without);
  EXPECT_EQ(control().GetSharedRegion(blind, &info), zx::kAccessDenied);
  EXPECT_EQ(control().GetSharedRegion(shared.handle, &info), zx::kOk);
  EXPECT_EQ(info.size_bytes(), kSmallRing);
  Close(blind);
  Close(shared.handle);
}

TEST_P(Info_2_6, OfAnotherObjectIsOfTheWrongType) {
  const NewBuffer made = Make({PlainRegion()});
  const NewRegion shared = MakeShared();
  v1::GetBufferResponse view;
  v1::SharedRegionInfo info;
  EXPECT_EQ(control().GetBuffer(shared.handle, &view), zx::kWrongObject);
  EXPECT_EQ(control().GetSharedRegion(made.ep0, &info), zx::kWrongObject);
  const std::string blind = Dup(shared.handle, 0);
  EXPECT_EQ(control().GetBuffer(blind, &view), zx::kWrongObject) << "before the right";
  Close(blind);
  Close(shared.handle);
}

TEST_P(Info_2_6, OfAnUnknownHandleIsBad) {
  v1::GetBufferResponse view;
  v1::SharedRegionInfo info;
  v1::HandleInfo handle;
  EXPECT_EQ(control().GetBuffer(std::string(16, '\0'), &view), zx::kBadHandle);
  EXPECT_EQ(control().GetSharedRegion(std::string(16, '\0'), &info), zx::kBadHandle);
  EXPECT_EQ(control().GetHandleInfo(std::string(16, '\0'), &handle), zx::kBadHandle);
}

TEST_P(Info_2_6, AHandleWithoutAnyRightKnowsWhatItIs) {
  const NewBuffer made = Make({PlainRegion()});
  v1::HandleInfo info;
  ASSERT_EQ(control().GetHandleInfo(Dup(made.ep0, 0), &info), zx::kOk);
  EXPECT_EQ(info.koid(), made.info.endpoints(0).koid());
  EXPECT_EQ(info.rights(), 0u);
}

}  // namespace
}  // namespace iob::test
