// NamedHandle: a handle to an endpoint of a named buffer, for the time of one command.
//
//     IOB_ASSIGN_OR_RETURN(const NamedHandle opened, NamedHandle::Open(&broker, "logs", endpoint));
//     broker.Signal(opened.handle(), clear, set);
//
// It counts as a hold of the endpoint, as every handle does, but not as an attachment: `create`
// and `rm` do not take it for a user of the buffer. It is closed before the command ends, so that
// whoever looks next sees no trace of it.
//
// Thread-compatible. The broker outlives it.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/broker.h"
#include "client/iobctl/command.h"

namespace iob::ctl {

class NamedHandle {
 public:
  // `name` may be #KOID for a buffer of one's own that has a name.
  //   NOT_FOUND, PERMISSION_DENIED / POLICY, FAILED_PRECONDITION / PEER_CLOSED
  static absl::StatusOr<NamedHandle> Open(Broker* broker, const std::string& name,
                                          EndpointId endpoint);

  NamedHandle(NamedHandle&& other) noexcept;
  NamedHandle& operator=(NamedHandle&&) = delete;
  ~NamedHandle();

  const Handle& handle() const { return *handle_; }
  EndpointId endpoint() const { return view_.viewer; }
  // As it was when this was opened, and as the endpoint sees it.
  const BufferInfo& buffer() const { return view_.info; }
  // Of this endpoint.
  RegionRights RightsTo(const RegionInfo& region) const {
    return region.access.For(EndpointId::kEp0);
  }

  // Spends it.
  absl::StatusOr<Endpoint> Attach(std::chrono::milliseconds timeout) &&;

 private:
  NamedHandle(Broker* broker, const Handle& handle, BufferView view);
  Broker* broker_;
  std::optional<Handle> handle_;
  BufferView view_;
};

// --ep, which may be left out.
void AddEndpointOption(CLI::App* command, const std::string& help, std::string* endpoint);

// The endpoint that was asked for; else the first one that may be opened and that `usable` accepts.
// The errors of NamedHandle::Open for the first endpoint, or PERMISSION_DENIED / ACCESS_DENIED when
// neither may `do_what`.
using Usable = std::function<bool(const NamedHandle&)>;
absl::StatusOr<NamedHandle> OpenUsable(Broker* broker, const std::string& name,
                                       const std::string& endpoint, const Usable& usable,
                                       std::string_view do_what);

}  // namespace iob::ctl
