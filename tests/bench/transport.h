// The loops that all contenders share, so that they differ in their transport only.
//
// A transport is a class with these members; nothing is virtual on the way of a record:
//
//   static constexpr uint64_t kBatch            records per Flush while the rate is measured
//   absl::Status Setup()                        before the fork
//   class Sender    { static StatusOr<Sender> Open(Transport&);
//                     void Begin(const Round&);
//                     bool TrySend(span<const byte>);     false: no room at the moment
//                     void Flush(); }                     everything sent becomes visible
//   class Receiver  { static StatusOr<Receiver> Open(Transport&);
//                     void Begin(const Round&);
//                     size_t Poll(take);                  calls take(span<const byte>) per record
//                     void Sleep(); }                     until there may be more, at most 50 ms
//
// Where a second process passes records on (a client, a copier, the client again):
//
//   class Client    { Open, Begin, TrySend, Flush, Poll as above }
//   class Server    { Open, Begin; size_t Serve(); void Sleep(); }
//
// A transport that blocks in TrySend or Poll must come back within 50 ms: the loops look at the
// deadline of the round in between.
#pragma once

#include <sched.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shm/futex.h"
#include "shm/waiter.h"
#include "tests/bench/contender.h"
#include "tests/bench/payload.h"

namespace iob::bench {

// A pause in a spin, which now and then looks at the clock. On one processor it lets the others
// run: spinning against the process that one waits for would measure the scheduler's patience.
class Pause {
 public:
  Pause(const Round& round, RoundPage& page)
      : deadline_ns_(round.deadline_ns),
        page_(page),
        one_processor_(!shm::Waiter::SeveralProcessors()) {}

  // False when the round is lost.
  bool Take() {
    if (one_processor_) {
      ::sched_yield();
    } else {
      shm::CpuRelax();
    }
    if (++pauses_ % kPausesPerLook != 0) return true;
    return StillTime();
  }
  bool StillTime() {
    if (page_.given_up.load(std::memory_order_relaxed) != 0) return false;
    if (shm::MonotonicNs() < deadline_ns_) return true;
    page_.given_up.store(1, std::memory_order_relaxed);
    return false;
  }

 private:
  static constexpr uint32_t kPausesPerLook = 1024;
  int64_t deadline_ns_;
  RoundPage& page_;
  bool one_processor_;
  uint32_t pauses_ = 0;
};

inline absl::Status Lost() { return absl::DeadlineExceededError("the round did not end in time"); }

// Waits until the other side is in the same round. False when it does not come.
inline bool Meet(std::atomic<uint64_t>& mine, const std::atomic<uint64_t>& other, Pause& pause) {
  const uint64_t round = mine.load(std::memory_order_relaxed) + 1;
  mine.store(round, std::memory_order_release);
  while (other.load(std::memory_order_acquire) < round) {
    if (!pause.Take()) return false;
  }
  return true;
}

// Counts and checks what arrives. One per round.
class Arrivals {
 public:
  Arrivals(const Round& round, RoundPage& page, const TickClock& clock)
      : round_(round), page_(page), clock_(clock), check_(round.payload_bytes) {}

  void Take(std::span<const std::byte> bytes) {
    if (!check_.Matches(bytes, arrived_)) [[unlikely]]
      wrong_ += 1;
    if (round_.measure != Measure::kRate) {
      const uint64_t now = clock_.Now();
      if (arrived_ >= round_.warm_up_records)
        page_.received_ticks[arrived_ - round_.warm_up_records] = now;
      page_.received.store(arrived_ + 1, std::memory_order_release);
    } else if (arrived_ == round_.warm_up_records) [[unlikely]] {
      start_ticks_ = clock_.Now();
    }
    arrived_ += 1;
  }
  uint64_t arrived() const { return arrived_; }
  bool Done() const { return arrived_ >= round_.all_records(); }

  // Once all are there.
  absl::StatusOr<double> Result() const {
    if (wrong_ != 0) return absl::DataLossError("records came wrong or out of order");
    if (round_.measure != Measure::kRate) return 0;
    return clock_.ToNs(clock_.Now() - start_ticks_) / static_cast<double>(round_.records);
  }

 private:
  Round round_;
  RoundPage& page_;
  TickClock clock_;
  PayloadCheck check_;
  uint64_t arrived_ = 0;
  uint64_t wrong_ = 0;
  uint64_t start_ticks_ = 0;
};

// Sleeps for long pauses, spins for short ones: a sleep is never shorter than some 50 us.
inline void PauseBetweenRecords(int64_t pause_ns) {
  if (pause_ns == 0) return;
  const int64_t end_ns = shm::MonotonicNs() + pause_ns;
  while (shm::MonotonicNs() < end_ns) shm::CpuRelax();
}

template <typename Sender>
class SenderEnd final : public End {
 public:
  SenderEnd(Sender sender, uint64_t batch, const TickClock& clock)
      : sender_(std::move(sender)), batch_(batch), clock_(clock) {}

  absl::StatusOr<double> Run(const Round& round, RoundPage& page) override {
    Payload payload(round.payload_bytes);
    Pause pause(round, page);
    sender_.Begin(round);
    if (!Meet(page.sender_rounds, page.receiver_rounds, pause)) return Lost();
    const bool sent = round.measure == Measure::kRate ? SendAll(round, payload, pause)
                                                      : SendOneByOne(round, page, payload, pause);
    if (!sent) return Lost();
    return 0;
  }

 private:
  bool SendAll(const Round& round, Payload& payload, Pause& pause) {
    uint64_t unflushed = 0;
    for (uint64_t number = 0; number < round.all_records(); ++number) {
      const auto bytes = payload.Stamp(number);
      while (!sender_.TrySend(bytes)) [[unlikely]] {
          // What waits to be visible may be what the receiver must take before there is room.
          sender_.Flush();
          unflushed = 0;
          if (!pause.Take()) return false;
        }
      if (++unflushed >= batch_) {
        sender_.Flush();
        unflushed = 0;
      }
    }
    sender_.Flush();
    return true;
  }
  bool SendOneByOne(const Round& round, RoundPage& page, Payload& payload, Pause& pause) {
    for (uint64_t number = 0; number < round.all_records(); ++number) {
      PauseBetweenRecords(round.pause_ns);
      const auto bytes = payload.Stamp(number);
      const uint64_t now = clock_.Now();
      while (!sender_.TrySend(bytes)) {
        if (!pause.Take()) return false;
      }
      sender_.Flush();
      if (number >= round.warm_up_records) page.sent_ticks[number - round.warm_up_records] = now;
      while (page.received.load(std::memory_order_acquire) <= number) {
        if (!pause.Take()) return false;
      }
    }
    return true;
  }

  Sender sender_;
  uint64_t batch_;
  TickClock clock_;
};

template <typename Receiver>
class ReceiverEnd final : public End {
 public:
  ReceiverEnd(Receiver receiver, const TickClock& clock)
      : receiver_(std::move(receiver)), clock_(clock) {}

  absl::StatusOr<double> Run(const Round& round, RoundPage& page) override {
    Arrivals arrivals(round, page, clock_);
    Pause pause(round, page);
    page.received.store(0, std::memory_order_relaxed);
    receiver_.Begin(round);
    if (!Meet(page.receiver_rounds, page.sender_rounds, pause)) return Lost();
    while (!arrivals.Done()) {
      const size_t taken = receiver_.Poll([&](auto bytes) { arrivals.Take(bytes); });
      if (taken != 0) continue;
      if (round.waiting == Waiting::kSpin) {
        if (!pause.Take()) return Lost();
        continue;
      }
      receiver_.Sleep();
      if (!pause.StillTime()) return Lost();
    }
    return arrivals.Result();
  }

 private:
  Receiver receiver_;
  TickClock clock_;
};

template <typename Transport>
class OneWay final : public Contender {
 public:
  template <typename... Arguments>
  explicit OneWay(Traits traits, Arguments&&... arguments)
      : Contender(std::move(traits)), transport_(std::forward<Arguments>(arguments)...) {}

  absl::Status Setup() override { return transport_.Setup(); }
  absl::StatusOr<std::unique_ptr<End>> Open(Role role, const TickClock& clock) override {
    if (role == Role::kSender) {
      auto sender = Transport::Sender::Open(transport_);
      if (!sender.ok()) return sender.status();
      return std::make_unique<SenderEnd<typename Transport::Sender>>(*std::move(sender),
                                                                     Transport::kBatch, clock);
    }
    auto receiver = Transport::Receiver::Open(transport_);
    if (!receiver.ok()) return receiver.status();
    return std::make_unique<ReceiverEnd<typename Transport::Receiver>>(*std::move(receiver), clock);
  }
  std::vector<pid_t> Services() const override {
    if constexpr (requires { transport_.Services(); }) return transport_.Services();
    return {};
  }
  bool CleansUpAtExit() const override {
    return requires { Transport::kCleansUpAtExit; };
  }

 private:
  Transport transport_;
};

// Both ends of the way: it sends a batch, then takes what came back. Two processors suffice.
template <typename Client>
class ClientEnd final : public End {
 public:
  ClientEnd(Client client, uint64_t batch, const TickClock& clock)
      : client_(std::move(client)), batch_(batch), clock_(clock) {}

  absl::StatusOr<double> Run(const Round& round, RoundPage& page) override {
    Payload payload(round.payload_bytes);
    Pause pause(round, page);
    Arrivals arrivals(round, page, clock_);
    page.received.store(0, std::memory_order_relaxed);
    client_.Begin(round);
    if (!Meet(page.sender_rounds, page.receiver_rounds, pause)) return Lost();
    const auto take = [&](auto bytes) { arrivals.Take(bytes); };
    const uint64_t batch = round.measure == Measure::kRate ? batch_ : 1;
    uint64_t sent = 0;
    while (!arrivals.Done()) {
      const bool in_turn = round.measure == Measure::kRate || arrivals.arrived() == sent;
      if (in_turn && sent < round.all_records()) {
        PauseBetweenRecords(round.pause_ns);
        const uint64_t now = clock_.Now();
        const uint64_t end = std::min(sent + batch, round.all_records());
        const uint64_t before = sent;
        while (sent < end && client_.TrySend(payload.Stamp(sent))) ++sent;
        client_.Flush();
        if (round.measure != Measure::kRate && sent > before && before >= round.warm_up_records)
          page.sent_ticks[before - round.warm_up_records] = now;
      }
      if (client_.Poll(take) == 0 && !pause.Take()) return Lost();
    }
    return arrivals.Result();
  }

 private:
  Client client_;
  uint64_t batch_;
  TickClock clock_;
};

template <typename Server>
class ServerEnd final : public End {
 public:
  explicit ServerEnd(Server server) : server_(std::move(server)) {}

  absl::StatusOr<double> Run(const Round& round, RoundPage& page) override {
    Pause pause(round, page);
    server_.Begin(round);
    if (!Meet(page.receiver_rounds, page.sender_rounds, pause)) return Lost();
    uint64_t served = 0;
    while (served < round.all_records()) {
      const size_t now = server_.Serve();
      served += now;
      if (now != 0) continue;
      if (round.waiting == Waiting::kSpin) {
        if (!pause.Take()) return Lost();
        continue;
      }
      server_.Sleep();
      if (!pause.StillTime()) return Lost();
    }
    return 0;
  }

 private:
  Server server_;
};

template <typename Transport>
class ThereAndBack final : public Contender {
 public:
  template <typename... Arguments>
  explicit ThereAndBack(Traits traits, Arguments&&... arguments)
      : Contender(std::move(traits)), transport_(std::forward<Arguments>(arguments)...) {}

  absl::Status Setup() override { return transport_.Setup(); }
  absl::StatusOr<std::unique_ptr<End>> Open(Role role, const TickClock& clock) override {
    if (role == Role::kSender) {
      auto client = Transport::Client::Open(transport_);
      if (!client.ok()) return client.status();
      return std::make_unique<ClientEnd<typename Transport::Client>>(*std::move(client),
                                                                     Transport::kBatch, clock);
    }
    auto server = Transport::Server::Open(transport_);
    if (!server.ok()) return server.status();
    return std::make_unique<ServerEnd<typename Transport::Server>>(*std::move(server));
  }

 private:
  Transport transport_;
};

}  // namespace iob::bench
