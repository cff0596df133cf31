#include "server/handle_table.h"

#include "shm/check.h"

namespace iob::server {

const Handle* HandleTable::Find(const Token& token) const {
  const auto found = handles_.find(token);
  return found == handles_.end() ? nullptr : &found->second;
}

Token HandleTable::Add(const Handle& handle) {
  const Token token = Token::Random();
  handles_[token] = handle;
  handle.object.tokens().insert(token);
  if (handle.lease_ms != 0) {
    leases_.insert({handle.lease_expires_ns, token});
    return token;
  }
  auto& of_process = by_process_[handle.process];
  of_process.insert(token);
  if (of_process.size() == 1) on_process_holds_(handle.process, true);
  return token;
}

Handle HandleTable::Remove(const Token& token) {
  const auto found = handles_.find(token);
  IOB_CHECK(found != handles_.end());
  const Handle handle = found->second;
  handles_.erase(found);
  handle.object.tokens().erase(token);
  if (handle.lease_ms != 0) {
    leases_.erase({handle.lease_expires_ns, token});
    return handle;
  }
  const auto of_process = by_process_.find(handle.process);
  of_process->second.erase(token);
  if (of_process->second.empty()) {
    by_process_.erase(of_process);
    on_process_holds_(handle.process, false);
  }
  return handle;
}

std::vector<Token> HandleTable::OfProcess(ProcessId process) const {
  const auto found = by_process_.find(process);
  if (found == by_process_.end()) return {};
  return {found->second.begin(), found->second.end()};
}

std::vector<Token> HandleTable::ExpiredBy(int64_t now_ns) const {
  std::vector<Token> expired;
  for (const auto& [expires_ns, token] : leases_) {
    if (expires_ns > now_ns) break;
    expired.push_back(token);
  }
  return expired;
}

std::optional<int64_t> HandleTable::NextExpiryNs() const {
  if (leases_.empty()) return std::nullopt;
  return leases_.begin()->first;
}

void HandleTable::Renew(const Token& token, int64_t now_ns) {
  Handle& handle = handles_.at(token);
  if (handle.lease_ms == 0) return;
  leases_.erase({handle.lease_expires_ns, token});
  handle.lease_expires_ns = now_ns + int64_t{handle.lease_ms} * 1'000'000;
  leases_.insert({handle.lease_expires_ns, token});
}

void HandleTable::CheckInvariants() const {
  size_t listed = leases_.size();
  for (const auto& [process, tokens] : by_process_) {
    listed += tokens.size();
    for (const Token& token : tokens) IOB_CHECK(handles_.at(token).process == process);
  }
  IOB_CHECK(listed == handles_.size());
  for (const auto& [token, handle] : handles_) {
    IOB_CHECK(handle.object.tokens().contains(token));
    IOB_CHECK((handle.lease_ms != 0) == leases_.contains({handle.lease_expires_ns, token}));
  }
}

}  // namespace iob::server
