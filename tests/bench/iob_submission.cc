// The way of a mediated write without a system call: a client adds to its submission queue, the
// broker's side copies from there into the mediated ring, and the client reads the ring.
#include <memory>
#include <optional>
#include <utility>

#include "shm/mediated_ring_reader.h"
#include "shm/mediated_ring_writer.h"
#include "shm/result.h"
#include "shm/submission_client.h"
#include "shm/submission_server.h"
#include "shm/waiter.h"
#include "tests/bench/iob_contenders.h"
#include "tests/bench/transport.h"

namespace iob::bench {
namespace {

constexpr uint64_t kCapacityBytes = 256 << 10;

class Submission {
 public:
  static constexpr uint64_t kBatch = 16;

  absl::Status Setup() {
    IOB_ASSIGN_OR_RETURN(const shm::SubmissionLayout queue_layout,
                         shm::SubmissionLayout::ForQueue(
                             {.capacity_bytes = kCapacityBytes,
                              .completions = shm::SubmissionLayout::kCompletionsDefault}));
    IOB_ASSIGN_OR_RETURN(shm::SubmissionServer server, shm::SubmissionServer::Create(queue_layout));
    IOB_ASSIGN_OR_RETURN(const shm::RingLayout ring_layout,
                         shm::RingLayout::ForRegion(kCapacityBytes + shm::PageBytes()));
    IOB_ASSIGN_OR_RETURN(shm::MediatedRingWriter writer,
                         shm::MediatedRingWriter::Create(ring_layout));
    server_.emplace(std::move(server));
    writer_.emplace(std::move(writer));
    return absl::OkStatus();
  }

  class Client {
   public:
    static absl::StatusOr<Client> Open(Submission& submission) {
      const shm::SubmissionServer& server = *submission.server_;
      const shm::MediatedRingWriter& writer = *submission.writer_;
      IOB_ASSIGN_OR_RETURN(shm::SubmissionClient queue,
                           shm::SubmissionClient::Map(server.layout(), server.submit_memfd(),
                                                      server.complete_memfd()));
      IOB_ASSIGN_OR_RETURN(
          shm::MediatedRingReader reader,
          shm::MediatedRingReader::Map(writer.layout(), writer.head_memfd(), writer.data_memfd()));
      return Client(std::move(queue), std::move(reader));
    }
    void Begin(const Round&) {}
    bool TrySend(std::span<const std::byte> payload) {
      return queue_.TryAdd(payload) == shm::AddOutcome::kAdded;
    }
    void Flush() { queue_.Publish(); }  // The server never idles here, so nobody needs a kick.
    template <typename Take>
    size_t Poll(Take take) {
      constexpr uint64_t kBytesPerLook = kCapacityBytes / 8;
      size_t taken = 0;
      uint64_t bytes = 0;
      shm::RecordView record;
      while (bytes < kBytesPerLook && reader_.Next(&record) == shm::ReadOutcome::kRecord) {
        take(record.payload);
        bytes += shm::RecordBytes(record.payload.size());
        taken += 1;
      }
      if (taken != 0) reader_.Release();
      return taken;
    }

   private:
    Client(shm::SubmissionClient queue, shm::MediatedRingReader reader)
        : queue_(std::move(queue)), reader_(std::move(reader)) {}
    shm::SubmissionClient queue_;
    shm::MediatedRingReader reader_;
  };

  class Server {
   public:
    static absl::StatusOr<Server> Open(Submission& submission) {
      submission.server_->Activate();
      return Server(*submission.server_, *submission.writer_);
    }
    void Begin(const Round&) {}
    void Sleep() {}
    size_t Serve() {
      const shm::ServeLimits limits{.entries_max = 32, .bytes_max = 64 << 10, .now_ns = 0};
      const shm::ServeResult result =
          server_->Serve(limits, [this](std::span<const std::byte> payload) {
            // The client reads the ring whenever it has added a batch: room comes soon.
            shm::AppendOutcome outcome = writer_->Append(1, payload);
            while (outcome == shm::AppendOutcome::kFull) {
              writer_->Publish(server_->totals());
              shm::CpuRelax();
              outcome = writer_->Append(1, payload);
            }
            return outcome;
          });
      if (result.entries != 0) writer_->Publish(server_->totals());
      return result.entries;
    }

   private:
    Server(shm::SubmissionServer& server, shm::MediatedRingWriter& writer)
        : server_(&server), writer_(&writer) {}
    shm::SubmissionServer* server_;
    shm::MediatedRingWriter* writer_;
  };

 private:
  std::optional<shm::SubmissionServer> server_;
  std::optional<shm::MediatedRingWriter> writer_;
};

}  // namespace

void AddSubmissionQueue(Contenders& contenders) {
  contenders.push_back(std::make_unique<ThereAndBack<Submission>>(
      Traits{.name = "submission queue to mediated ring",
             .meaning = "client queues, the broker's side copies into the ring, client reads there",
             .family = Family::kOurs,
             .read_only_consumer = true,
             .there_and_back = true,
             .can_spin = true,
             .can_sleep = false,
             .payload_bytes_max = shm::kRecordPayloadBytesMax}));
}

}  // namespace iob::bench
