// Rules of the public protocol, read from a compiled descriptor set with source info.
//
//   rpc       request and response types are named after the rpc and used by nothing else
//   service   names end in Service
//   enum      values carry the enum's name as a prefix, and 0 is ..._UNSPECIFIED
//   comment   every message, field, enum, enum value, service and rpc has one
//   package   is the folder
//   baseline  what once was published keeps its name, number and type, or is reserved
//
// google.rpc is a wire format we share, with names that are not ours to choose: only `comment`,
// `package` and `baseline` hold there. google.protobuf is not ours at all.
#pragma once

#include <google/protobuf/descriptor.pb.h>

#include <string>
#include <string_view>
#include <vector>

#include "tests/layering/source.h"

namespace iob::layering {

std::vector<Finding> LintProtos(const google::protobuf::FileDescriptorSet& set);

// One line per field, enum value and rpc, sorted: "full.name number type", for an rpc
// "full.name - request -> response".
std::vector<std::string> BaselineOf(const google::protobuf::FileDescriptorSet& set);

// `baseline`: lines as above; empty lines and those that start with '#' are skipped.
std::vector<Finding> CheckBaseline(const google::protobuf::FileDescriptorSet& set,
                                   std::string_view baseline);

}  // namespace iob::layering
