// Control: the daemon's control plane, by gRPC or by libiob, in one form. What the one answers the
// other must answer too.
//
// Handles and tickets are their 16 bytes; what is learned about objects is in the words of
// iob/v1/types.proto on either road. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/types.h"
#include "iob/v1/broker.pb.h"
#include "tests/conformance/outcome.h"

namespace iob::test {

struct NewBuffer {
  v1::BufferInfo info;
  std::string ep0;  // Handles.
  std::string ep1;

  uint64_t koid() const { return info.koid(); }
};

struct NewRegion {
  v1::SharedRegionInfo info;
  std::string handle;
};

struct NewTicket {
  std::string bytes;
  EndpointId endpoint = EndpointId::kEp0;
};

class Control {
 public:
  virtual ~Control() = default;

  // Outputs are touched on success only.
  virtual Outcome CreateBuffer(const v1::CreateBufferRequest& request, NewBuffer* ret_buffer) = 0;
  virtual Outcome CreateSharedRegion(uint64_t size_bytes, NewRegion* ret_region) = 0;
  virtual Outcome GetBuffer(const std::string& handle, v1::GetBufferResponse* ret_view) = 0;
  virtual Outcome GetBuffer(uint64_t koid, v1::GetBufferResponse* ret_view) = 0;
  virtual Outcome GetSharedRegion(const std::string& handle, v1::SharedRegionInfo* ret_info) = 0;
  virtual Outcome GetHandleInfo(const std::string& handle, v1::HandleInfo* ret_info) = 0;
  virtual Outcome Duplicate(const std::string& handle, uint32_t rights, std::string* ret_handle,
                            std::optional<uint32_t> recipient_uid = std::nullopt) = 0;
  virtual Outcome Replace(const std::string& handle, uint32_t rights, std::string* ret_handle,
                          std::optional<uint32_t> recipient_uid = std::nullopt) = 0;
  virtual Outcome Close(const std::string& handle) = 0;
  virtual Outcome KeepAlive(const std::vector<std::string>& handles) = 0;
  virtual Outcome Attach(const std::string& handle, NewTicket* ret_ticket,
                         std::optional<uint32_t> recipient_uid = std::nullopt) = 0;
  virtual Outcome GetName(const std::string& handle, std::string* ret_name) = 0;
  virtual Outcome SetName(const std::string& handle, const std::string& name) = 0;
  virtual Outcome Signal(const std::string& handle, uint32_t clear, uint32_t set) = 0;
  virtual Outcome SignalPeer(const std::string& handle, uint32_t clear, uint32_t set) = 0;
  virtual Outcome Write(const std::string& handle, uint32_t region_index,
                        const std::vector<std::string>& parts) = 0;
  virtual Outcome AllocateId(const std::string& handle, uint32_t region_index,
                             const std::string& blob, uint32_t* ret_id) = 0;
  virtual Outcome DeleteBuffer(uint64_t koid, bool force) = 0;
};

std::unique_ptr<Control> GrpcControl(Stub& stub);
// nullptr after a failed expectation.
std::unique_ptr<Control> LibraryControl(const std::string& runtime_dir);

// The library's forms of 16 bytes.
Secret SecretOf(const std::string& bytes);
std::string BytesOf(const Secret& secret);

}  // namespace iob::test
