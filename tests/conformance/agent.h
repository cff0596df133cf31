// Agent: a client in a process of its own, fresh by exec, with its own gRPC connection and raw
// attachments, that does what it is told, and can be killed or run as another uid.
//
// Orders are words; what follows a word in capitals is a number. A slot is an attachment, an id a
// mapping: the test numbers both.
//
//   attach SLOT (ticket)         redeems and says that it mapped, without mapping anything
//   map ID SLOT REGION KIND      one more mapping of a section
//   unmap ID | halve ID          all of it | its first half
//   peek ID OFFSET | poke ID OFFSET BYTE
//   close-fds SLOT | close-socket SLOT | detach SLOT
//   fly SLOT REGION KIND         sends a section's descriptor to itself, and closes it; unread
//   land | drop                  reads what flies, and keeps it | lets go of it
//   fork | join                  a child with copies of everything | its end; if the agent dies
//                                first, EndFork
//   reopen SLOT REGION KIND      opens a section for writing through /proc; error: errno in words
//   exit CODE
//
// One thread at a time.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "shm/unique_fd.h"
#include "tests/conformance/outcome.h"
#include "tests/support/daemon_fixture.h"

namespace iob::test {

class Agent {
 public:
  // Talks to `daemon`; as `uid` where one is given, which only root can do.
  explicit Agent(const TestDaemon& daemon, std::optional<uid_t> uid = std::nullopt);
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;
  // Kills and reaps what is left.
  ~Agent();

  pid_t pid() const { return pid_; }

  // An error text, empty when it was done.
  std::string Do(const std::string& order, const std::string& bytes = {},
                 std::string* ret_bytes = nullptr);

  // A call of BrokerService, by its name, from that process.
  template <typename Request, typename Response>
  Outcome Call(const std::string& method, const Request& request, Response* ret_response) {
    std::string bytes;
    const Outcome outcome = CallBytes(method, request.SerializeAsString(), &bytes);
    if (outcome.ok()) ret_response->ParseFromString(bytes);
    return outcome;
  }

  // Ends it and waits for that; the wait status.
  int Kill(int signal);
  int Exit(int code);
  // Ends the child of an agent that is dead.
  void EndFork();

 private:
  Outcome CallBytes(const std::string& method, const std::string& request,
                    std::string* ret_response);
  int Reap();

  pid_t pid_ = -1;
  shm::UniqueFd orders_;
};

}  // namespace iob::test
