// What the tests of the contract share: one iobd per test program, buffers of every kind, hands on
// their endpoints, and the check after each test that the daemon has nothing left.
//
// A test is named after its rule in README.md: TEST_F(Write_2_4, R9_...) is rule 9 of section 2.4.
// README.md in this folder lists the rules and their tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/broker.h"
#include "client/endpoint.h"
#include "tests/conformance/control.h"
#include "tests/conformance/hand.h"
#include "tests/conformance/outcome.h"
#include "tests/support/daemon_fixture.h"
#include "tests/support/leak_check.h"
#include "tests/support/raw_client.h"
#include "tests/support/status_matchers.h"

namespace iob::test {

inline constexpr uint64_t kPage = 4096;
// A head page and one page of records.
inline constexpr uint64_t kSmallRing = 2 * kPage;
inline constexpr uint32_t kNobodyUid = 65534;

// Access bits (README.md, 3.1).
inline constexpr uint32_t kEp0MapRead = 0x01;
inline constexpr uint32_t kEp0MapWrite = 0x02;
inline constexpr uint32_t kEp0MediatedRead = 0x04;
inline constexpr uint32_t kEp0MediatedWrite = 0x08;
inline constexpr uint32_t kEp1MapRead = 0x10;
inline constexpr uint32_t kEp1MapWrite = 0x20;
inline constexpr uint32_t kEp1MediatedRead = 0x40;
inline constexpr uint32_t kEp1MediatedWrite = 0x80;
inline constexpr uint32_t kEp0Map = kEp0MapRead | kEp0MapWrite;
inline constexpr uint32_t kEp1Map = kEp1MapRead | kEp1MapWrite;
inline constexpr uint32_t kBothMap = kEp0Map | kEp1Map;
// ep0 consumes, ep1 writes through the broker.
inline constexpr uint32_t kRingAccess = kEp0Map | kEp1MediatedWrite;

// Signals (README.md, 1.10).
inline constexpr uint32_t kPeerClosedSignal = 1u << 2;
inline constexpr uint32_t kUserSignal0 = 1u << 24;

using Rights = HandleRights;

v1::RegionSpec PlainRegion(uint64_t size_bytes = kPage, uint32_t access = kBothMap);
v1::RegionSpec RingRegion(uint64_t size_bytes = kSmallRing, uint32_t access = kRingAccess);
v1::RegionSpec IdRegion(uint64_t size_bytes = kPage,
                        uint32_t access = kEp0MapRead | kEp1MediatedWrite);
v1::RegionSpec SharedRegionOf(const std::string& handle, uint64_t tag = 0,
                              uint32_t access = kRingAccess);
v1::CreateBufferRequest BufferOf(const std::vector<v1::RegionSpec>& regions);

// A record of a ring as it lies in memory.
struct RingRecord {
  uint64_t tag = 0;
  std::string payload;

  friend bool operator==(const RingRecord&, const RingRecord&) = default;
};

class Contract : public ::testing::Test {
 protected:
  void SetUp() override;
  // Deletes what is left and expects the daemon to be as it was.
  void TearDown() override;

  static TestDaemon& daemon();
  static Stub& stub() { return daemon().stub(); }
  // kGrpc or kLibrary.
  static Control& control(Way way = Way::kGrpc);
  static Broker& broker();

  // With handles to both endpoints. Empty after a failed expectation.
  static NewBuffer Make(const std::vector<v1::RegionSpec>& regions);
  static NewRegion MakeShared(uint64_t size_bytes = kSmallRing);

  // Another handle to the same object.
  static std::string Dup(const std::string& handle, uint32_t rights = Rights::kSameRights);
  static void Close(const std::string& handle);

  // The handle is spent by the attached ways, and stays the caller's in the others.
  static std::unique_ptr<Hand> Take(Way way, const std::string& handle);
  static std::unique_ptr<RawClient> AttachRaw(const std::string& handle);
  static Endpoint AttachLibrary(const std::string& handle);

  static v1::BufferInfo Look(uint64_t koid);
  static v1::EndpointInfo LookAt(uint64_t koid, EndpointId endpoint);
  static v1::RingStats Stats(uint64_t koid, int ring = 0);
  // The sum of a metric's samples, whatever their labels.
  static double Metric(const std::string& name);

  // All that is in the ring now, from the tail on; it is released.
  static std::vector<RingRecord> ReadRing(RawClient& consumer, uint32_t region_index = 0);
};

// The same test over gRPC and the library, or over all four ways.
class ByWay : public Contract, public ::testing::WithParamInterface<Way> {
 protected:
  Control& control() { return Contract::control(GetParam()); }
  std::unique_ptr<Hand> Take(const std::string& handle) {
    return Contract::Take(GetParam(), handle);
  }
};

#define IOB_OVER_CONTROL_WAYS(suite)                                                  \
  INSTANTIATE_TEST_SUITE_P(By, suite, ::testing::ValuesIn(::iob::test::kControlWays), \
                           ::iob::test::WayName)
#define IOB_OVER_ALL_WAYS(suite)                                                  \
  INSTANTIATE_TEST_SUITE_P(By, suite, ::testing::ValuesIn(::iob::test::kAllWays), \
                           ::iob::test::WayName)

}  // namespace iob::test
