// The public headers bring in neither gRPC nor protobuf: a program that uses libiob compiles fast
// and links against what it likes.
#include "client/iob.h"

#if defined(GOOGLE_PROTOBUF_VERSION) || defined(PROTOBUF_VERSION) || defined(GRPC_GRPC_H) || \
    defined(GRPCPP_GRPCPP_H) || defined(GRPC_IMPL_CODEGEN_GRPC_TYPES_H)
#error "a public header of client/ includes gRPC or protobuf"
#endif

#include <gtest/gtest.h>

namespace iob::test {
namespace {

TEST(PublicHeaders, DescribeAMediatedRing) {
  const RegionSpec spec = MediatedRingSpec(1 << 20);
  EXPECT_EQ(spec.discipline, Discipline::kMediatedRing);
  EXPECT_TRUE(spec.access.For(EndpointId::kEp0).map_write());
  EXPECT_TRUE(spec.access.For(EndpointId::kEp1).mediated_write());
  EXPECT_FALSE(spec.access.For(EndpointId::kEp1).may_map());
}

}  // namespace
}  // namespace iob::test
