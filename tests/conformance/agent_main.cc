// The process behind Agent: reads one order after the other, does it, says how it went.
//
//   agent GRPC-SOCKET ATTACH-SOCKET [UID]        orders on descriptor 3
//
// An answer is a line, empty when all went well, and bytes.
#include <fcntl.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include "shm/unique_fd.h"
#include "tests/conformance/outcome.h"
#include "tests/support/raw_client.h"

namespace iob::test {
namespace {

constexpr int kOrders = 3;
constexpr size_t kOrderBytesMax = 256 << 10;

struct Answer {
  std::string failure = {};
  std::string bytes = {};
};

Answer Failed(const std::string& what) { return {.failure = what + ": " + std::strerror(errno)}; }

struct Mapped {
  void* address = nullptr;
  size_t size_bytes = 0;
};

class Worker {
 public:
  Worker(const std::string& grpc_path, std::string attach_path)
      : attach_path_(std::move(attach_path)),
        stub_(grpc::CreateChannel("unix:" + grpc_path, grpc::InsecureChannelCredentials())) {}

  Answer Do(const std::string& order, const std::string& bytes) {
    std::istringstream words(order);
    std::string verb;
    words >> verb;
    if (verb == "call") {
      std::string method;
      words >> method;
      return CallBroker(method, bytes);
    }
    int numbers[4] = {0, 0, 0, 0};
    for (int& number : numbers) words >> number;
    return Do(verb, numbers, bytes);
  }

 private:
  Answer Do(const std::string& verb, const int (&n)[4], const std::string& bytes) {
    if (verb == "hello") return {};
    if (verb == "attach") return Attach(n[0], bytes);
    if (verb == "map") return Map(n[0], SectionFd(n[1], n[2], n[3]));
    if (verb == "unmap") return Unmap(n[0], 1);
    if (verb == "halve") return Unmap(n[0], 2);
    if (verb == "peek") return {.bytes = std::string(1, At(n[0], n[1]))};
    if (verb == "poke") {
      At(n[0], n[1]) = static_cast<char>(n[2]);
      return {};
    }
    if (verb == "close-fds") return With(n[0], [](RawClient& client) { client.CloseFds(); });
    if (verb == "close-socket") return With(n[0], [](RawClient& client) { client.CloseSocket(); });
    if (verb == "detach") {
      return With(n[0], [](RawClient& client) {
        client.SendDetach();
        client.CloseSocket();
      });
    }
    if (verb == "fly") return Fly(n[0], SectionFd(n[0], n[1], n[2]));
    if (verb == "land") return Land();
    if (verb == "drop") return Drop();
    if (verb == "fork") return Fork();
    if (verb == "join") return Join();
    if (verb == "reopen") return Reopen(SectionFd(n[0], n[1], n[2]));
    if (verb == "exit") ::_exit(n[0]);
    return {.failure = "no such order: " + verb};
  }

  Answer CallBroker(const std::string& method, const std::string& request_bytes) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const grpc::Slice slice(request_bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub_.UnaryCall(&context, "/iob.v1.BrokerService/" + method, grpc::StubOptions(), &request,
                    &response, [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const Outcome outcome = OutcomeOf(done.get_future().get());
    if (!outcome.ok()) {
      return {.failure = std::to_string(static_cast<int>(outcome.code)) + " " + outcome.reason};
    }
    std::vector<grpc::Slice> slices;
    Answer answer;
    if (!response.Dump(&slices).ok()) return {.failure = "no response"};
    for (const grpc::Slice& part : slices) {
      answer.bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return answer;
  }

  Answer Attach(int slot, const std::string& ticket) {
    auto client = std::make_unique<RawClient>(attach_path_);
    if (!client->valid()) return {.failure = "cannot connect"};
    Answer answer{.failure = client->Redeem(ticket)};
    if (!answer.failure.empty()) return answer;
    answer.bytes = client->grants().SerializeAsString();
    if (client->SendMapped() != 0) return Failed("send");
    clients_[slot] = std::move(client);
    return answer;
  }

  Answer With(int slot, const std::function<void(RawClient&)>& act) {
    const auto client = clients_.find(slot);
    if (client == clients_.end()) return {.failure = "no such slot"};
    act(*client->second);
    return {};
  }

  // -1 when there is none.
  int SectionFd(int slot, int region_index, int kind) {
    const auto client = clients_.find(slot);
    if (client == clients_.end()) return -1;
    const v1::GrantSet& grants = client->second->grants();
    if (kind == v1::SECTION_KIND_SIGNAL) return FdOf(*client->second, grants.signal());
    if (region_index >= grants.regions_size()) return -1;
    for (const v1::SectionGrant& section : grants.regions(region_index).sections()) {
      if (section.kind() == kind) return FdOf(*client->second, section);
    }
    return -1;
  }
  static int FdOf(const RawClient& client, const v1::SectionGrant& section) {
    return section.fd_index() < client.fds().size() ? client.fds()[section.fd_index()].get() : -1;
  }

  Answer Map(int id, int fd) {
    const off_t size = ::lseek(fd, 0, SEEK_END);
    if (size <= 0) return Failed("no such section");
    const bool writable = (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
    Mapped mapped{.address = nullptr, .size_bytes = static_cast<size_t>(size)};
    mapped.address = ::mmap(nullptr, mapped.size_bytes, PROT_READ | (writable ? PROT_WRITE : 0),
                            MAP_SHARED, fd, 0);
    if (mapped.address == MAP_FAILED) return Failed("mmap");
    mapped_[id] = mapped;
    return {};
  }

  // The first part of it, of so many.
  Answer Unmap(int id, size_t parts) {
    Mapped& mapped = mapped_[id];
    const size_t size_bytes = mapped.size_bytes / parts;
    if (::munmap(mapped.address, size_bytes) != 0) return Failed("munmap");
    mapped.address = static_cast<char*>(mapped.address) + size_bytes;
    mapped.size_bytes -= size_bytes;
    return {};
  }

  char& At(int id, int offset) { return static_cast<char*>(mapped_[id].address)[offset]; }

  Answer Fly(int slot, int fd) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) != 0) return Failed("socketpair");
    flight_out_ = shm::UniqueFd(ends[0]);
    flight_in_ = shm::UniqueFd(ends[1]);
    char byte = 0;
    iovec part = {.iov_base = &byte, .iov_len = 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
    if (::sendmsg(flight_out_.get(), &message, 0) < 0) return Failed("sendmsg");
    return With(slot, [](RawClient& client) { client.CloseFds(); });
  }

  Answer Land() {
    char byte = 0;
    iovec part = {.iov_base = &byte, .iov_len = 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    if (::recvmsg(flight_in_.get(), &message, MSG_CMSG_CLOEXEC) < 0) return Failed("recvmsg");
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
    landed_ = shm::UniqueFd(fd);
    return {};
  }

  Answer Drop() {
    flight_out_.Close();
    flight_in_.Close();
    landed_.Close();
    return {};
  }

  Answer Fork() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return Failed("pipe");
    const shm::UniqueFd wait(ends[0]);
    shm::UniqueFd release(ends[1]);
    child_ = ::fork();
    if (child_ < 0) return Failed("fork");
    if (child_ == 0) {
      release.Close();
      char byte = 0;
      // A byte: the end of it. None: the agent is dead, and the next order ends its child.
      if (::read(wait.get(), &byte, 1) == 0) (void)::recv(kOrders, &byte, 1, 0);
      ::_exit(0);
    }
    release_ = std::move(release);
    return {};
  }

  Answer Join() {
    if (::write(release_.get(), "x", 1) != 1) return Failed("write");
    return ::waitpid(child_, nullptr, 0) == child_ ? Answer() : Failed("waitpid");
  }

  static Answer Reopen(int fd) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const shm::UniqueFd reopened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!reopened.valid()) return {.failure = std::strerror(errno)};
    return {};
  }

  std::string attach_path_;
  grpc::GenericStub stub_;
  std::map<int, std::unique_ptr<RawClient>> clients_;
  std::map<int, Mapped> mapped_;
  shm::UniqueFd flight_out_;
  shm::UniqueFd flight_in_;
  shm::UniqueFd landed_;
  pid_t child_ = -1;
  shm::UniqueFd release_;
};

int Main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string uid = argv[3];
  if (!uid.empty()) {
    const auto number = static_cast<uid_t>(std::stoul(uid));
    if (::setgid(number) != 0 || ::setuid(number) != 0) return 2;
    // A change of uid clears it.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  }
  ::fcntl(kOrders, F_SETFD, FD_CLOEXEC);
  Worker worker(argv[1], argv[2]);
  std::string order(kOrderBytesMax, '\0');
  while (true) {
    const ssize_t size = ::recv(kOrders, order.data(), order.size(), 0);
    if (size <= 0) return 0;
    const std::string packet = order.substr(0, static_cast<size_t>(size));
    const size_t line = packet.find('\n');
    const Answer answer = worker.Do(packet.substr(0, line), packet.substr(line + 1));
    const std::string said = answer.failure + "\n" + answer.bytes;
    if (::send(kOrders, said.data(), said.size(), MSG_NOSIGNAL) < 0) return 1;
  }
}

}  // namespace
}  // namespace iob::test

int main(int argc, char** argv) { return iob::test::Main(argc, argv); }
