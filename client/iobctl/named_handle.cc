#include "client/iobctl/named_handle.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iobctl/region_spec.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// Buffers are opened by name only.
absl::StatusOr<std::string> NameOf(Broker* broker, const std::string& text) {
  const BufferKey key = KeyOf(text);
  if (std::holds_alternative<std::string>(key)) return text;
  IOB_ASSIGN_OR_RETURN(const BufferInfo buffer, broker->GetBuffer(key));
  if (!buffer.name.empty()) return buffer.name;
  return absl::FailedPreconditionError(absl::StrCat(
      "buffer ", text, " has no name, and only a buffer with a name can be opened this way"));
}

// The other endpoint may still do: it has rules and a life of its own.
bool IsOfOneEndpoint(const absl::Status& status) {
  const std::string_view reason = ReasonOf(status);
  return reason == "POLICY" || reason == "PEER_CLOSED";
}

}  // namespace

NamedHandle::NamedHandle(Broker* broker, const Handle& handle, BufferView view)
    : broker_(broker), handle_(handle), view_(std::move(view)) {}

NamedHandle::NamedHandle(NamedHandle&& other) noexcept
    : broker_(other.broker_),
      handle_(std::exchange(other.handle_, std::nullopt)),
      view_(std::move(other.view_)) {}

NamedHandle::~NamedHandle() {
  // Without an answer it goes with the process, a moment later.
  if (handle_) broker_->CloseHandle(*handle_).IgnoreError();
}

absl::StatusOr<NamedHandle> NamedHandle::Open(Broker* broker, const std::string& name,
                                              EndpointId endpoint) {
  const absl::StatusOr<std::string> found = NameOf(broker, name);
  if (!found.ok()) return OfBuffer(name, found.status());
  const absl::StatusOr<Handle> handle = broker->OpenHandle(*found, endpoint);
  if (!handle.ok()) return OfBuffer(name, handle.status());
  absl::StatusOr<BufferView> view = broker->GetBuffer(*handle);
  if (!view.ok()) {
    broker->CloseHandle(*handle).IgnoreError();
    return view.status();
  }
  return NamedHandle(broker, *handle, *std::move(view));
}

absl::StatusOr<Endpoint> NamedHandle::Attach(std::chrono::milliseconds timeout) && {
  IOB_ASSIGN_OR_RETURN(const Ticket ticket, broker_->Attach(*handle_));
  handle_.reset();
  return Endpoint::Attach(ticket, {.timeout = timeout});
}

void AddEndpointOption(CLI::App* command, const std::string& help, std::string* endpoint) {
  command->add_option("--ep,--endpoint", *endpoint, help)->type_name("EP");
}

absl::StatusOr<NamedHandle> OpenUsable(Broker* broker, const std::string& name,
                                       const std::string& endpoint, const Usable& usable,
                                       std::string_view do_what) {
  const std::string what(do_what);
  if (!endpoint.empty()) {
    const absl::StatusOr<EndpointId> chosen = ParseEndpoint(endpoint);
    if (!chosen.ok()) return UsageError("--ep", chosen.status());
    IOB_ASSIGN_OR_RETURN(NamedHandle opened, NamedHandle::Open(broker, name, *chosen));
    if (usable(opened)) return opened;
    return WithReason(absl::PermissionDeniedError(absl::StrCat(endpoint, " may not ", what)),
                      "ACCESS_DENIED");
  }
  absl::Status first_error;
  std::string tried;
  for (const EndpointId each : {EndpointId::kEp0, EndpointId::kEp1}) {
    absl::StatusOr<NamedHandle> opened = NamedHandle::Open(broker, name, each);
    if (opened.ok() && usable(*opened)) return opened;
    if (opened.ok()) {
      absl::StrAppend(&tried, tried.empty() ? "" : " and ", ToString(each));
    } else if (!IsOfOneEndpoint(opened.status())) {
      return opened.status();
    } else {
      first_error.Update(opened.status());
    }
  }
  if (tried.empty()) return first_error;
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat(
          tried, " may not ", what,
          first_error.ok() ? std::string() : absl::StrCat("; ", first_error.message()))),
      "ACCESS_DENIED");
}

}  // namespace iob::ctl
