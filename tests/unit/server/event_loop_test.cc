// The event loop: timers by a clock that the test turns, descriptors that come and go inside
// callbacks, posted tasks and their bound.

#include "server/event_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/fake_clock.h"

namespace iob::server {
namespace {

using test::FakeClock;

class EventLoopTest : public ::testing::Test {
 protected:
  // Everything that can happen now, once.
  void Spin() {
    // Quit is final, so a pass is one Run of the loop that ends by a task of ours.
    ASSERT_TRUE(loop_->Post([this] { loop_->Quit(); }));
    loop_->Run();
  }
  static shm::UniqueFd ReadyFd() { return shm::UniqueFd(::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)); }

  FakeClock clock_;
  std::unique_ptr<EventLoop> loop_ = EventLoop::Create(clock_).value();
  std::string log_;
};

TEST_F(EventLoopTest, RunsTimersInTheOrderOfTheirDeadlines) {
  const Registration c = loop_->RunAfterMs(30, [this] { log_ += 'c'; });
  const Registration a = loop_->RunAfterMs(10, [this] { log_ += 'a'; });
  const Registration b = loop_->RunAfterMs(20, [this] { log_ += 'b'; });
  const Registration a2 = loop_->RunAfterMs(10, [this] { log_ += 'A'; });
  const Registration later = loop_->RunAfterMs(41, [this] { log_ += '!'; });
  clock_.AdvanceMs(40);
  Spin();
  EXPECT_EQ(log_, "aAbc");
}

TEST_F(EventLoopTest, RunsNoTimerBeforeItsDeadline) {
  const Registration timer = loop_->RunAfterMs(10, [this] { log_ += '!'; });
  clock_.AdvanceNs(9'999'999);
  Spin();
  EXPECT_EQ(log_, "");
}

TEST_F(EventLoopTest, ATimerThatArmsItselfAgainWaitsForTheNextPass) {
  Registration timer;
  int runs = 0;
  std::function<void()> arm = [&] {
    timer = loop_->RunAfterMs(0, [&] {
      if (++runs == 5) loop_->Quit();
      arm();
      log_ += 'a';
    });
  };
  arm();
  const Registration other = loop_->RunAfterMs(0, [this] { log_ += 'b'; });
  loop_->Run();
  EXPECT_EQ(log_.substr(0, 3), "aba");
  EXPECT_EQ(runs, 5);
}

TEST_F(EventLoopTest, AnEndedTimerDoesNotRun) {
  Registration victim = loop_->RunAfterMs(2, [this] { log_ += '!'; });
  const Registration killer = loop_->RunAfterMs(1, [&] { victim.End(); });
  clock_.AdvanceMs(5);
  Spin();
  EXPECT_EQ(log_, "");
  EXPECT_FALSE(victim.active());
}

TEST_F(EventLoopTest, ATimerMayEndItsOwnRegistrationAndReplaceIt) {
  Registration timer;
  timer = loop_->RunAfterMs(0, [&] {
    timer.End();
    timer = loop_->RunAfterMs(0, [this] {
      log_ += 'x';
      loop_->Quit();
    });
  });
  loop_->Run();
  EXPECT_EQ(log_, "x");
}

TEST_F(EventLoopTest, CallsBackWhileADescriptorIsReady) {
  const shm::UniqueFd fd = ReadyFd();
  int calls = 0;
  const auto watch = loop_->WatchFd(fd.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_EQ(events, static_cast<uint32_t>(EPOLLIN));
    if (++calls == 3) loop_->Quit();
  });
  ASSERT_TRUE(watch.ok());
  loop_->Run();
  EXPECT_EQ(calls, 3);
}

TEST_F(EventLoopTest, ACallbackMayEndItsOwnRegistration) {
  const shm::UniqueFd fd = ReadyFd();
  Registration watch;
  // Captured by value: it must stay readable after the registration is gone.
  const std::string text(100, 't');
  watch = loop_
              ->WatchFd(fd.get(), EPOLLIN,
                        [&, text](uint32_t) {
                          watch.End();
                          log_ += text;
                        })
              .value();
  Spin();
  EXPECT_EQ(log_, text);
}

TEST_F(EventLoopTest, ACallbackMayReplaceItsOwnRegistration) {
  const shm::UniqueFd fd = ReadyFd();
  Registration watch;
  watch = loop_
              ->WatchFd(fd.get(), EPOLLIN,
                        [&](uint32_t) {
                          watch.End();
                          log_ += '1';
                          watch = loop_
                                      ->WatchFd(fd.get(), EPOLLIN,
                                                [&](uint32_t) {
                                                  log_ += '2';
                                                  loop_->Quit();
                                                })
                                      .value();
                        })
              .value();
  loop_->Run();
  EXPECT_EQ(log_, "12");
}

TEST_F(EventLoopTest, AnEventPendingInTheSamePassIsDroppedWithItsRegistration) {
  const shm::UniqueFd fds[2] = {ReadyFd(), ReadyFd()};
  Registration watches[2];
  for (const int self : {0, 1}) {
    watches[self] = loop_
                        ->WatchFd(fds[self].get(), EPOLLIN,
                                  [&, self](uint32_t) {
                                    watches[1 - self].End();
                                    watches[self].End();
                                    log_ += 'x';
                                  })
                        .value();
  }
  Spin();
  EXPECT_EQ(log_, "x");
}

TEST_F(EventLoopTest, AReusedDescriptorNumberDoesNotReachTheOldCallback) {
  shm::UniqueFd fds[2] = {ReadyFd(), ReadyFd()};
  Registration watches[2];
  std::vector<shm::UniqueFd> fresh_fds;
  std::vector<Registration> fresh_watches;
  for (const int self : {0, 1}) {
    watches[self] = loop_
                        ->WatchFd(fds[self].get(), EPOLLIN,
                                  [&, self](uint32_t) {
                                    log_ += 'o';
                                    const int other = 1 - self;
                                    const int number = fds[other].get();
                                    watches[self].End();
                                    watches[other].End();
                                    fds[other].Close();
                                    // The number again, and ready: but the pending event was the
                                    // old one's.
                                    shm::UniqueFd fresh = ReadyFd();
                                    ASSERT_EQ(fresh.get(), number);
                                    fresh_watches.push_back(loop_
                                                                ->WatchFd(fresh.get(), EPOLLIN,
                                                                          [this](uint32_t) {
                                                                            log_ += 'n';
                                                                            loop_->Quit();
                                                                          })
                                                                .value());
                                    fresh_fds.push_back(std::move(fresh));
                                  })
                        .value();
  }
  loop_->Run();
  EXPECT_EQ(log_, "on");
}

TEST_F(EventLoopTest, ChangedEventsCount) {
  const shm::UniqueFd fd = ReadyFd();
  const auto watch = loop_->WatchFd(fd.get(), EPOLLIN, [this](uint32_t) { log_ += '!'; });
  ASSERT_TRUE(watch.ok());
  loop_->ChangeEvents(*watch, 0);
  Spin();
  EXPECT_EQ(log_, "");
}

TEST_F(EventLoopTest, ADescriptorThatCannotBeWatchedIsAnError) {
  EXPECT_FALSE(loop_->WatchFd(-1, EPOLLIN, [](uint32_t) {}).ok());
}

TEST_F(EventLoopTest, PostIsBounded) {
  size_t ran = 0;
  for (size_t i = 0; i < kPostedTasksMax - 1; ++i) ASSERT_TRUE(loop_->Post([&] { ++ran; }));
  ASSERT_TRUE(loop_->Post([this] { loop_->Quit(); }));
  EXPECT_FALSE(loop_->Post([&] { ++ran; }));
  EXPECT_FALSE(loop_->Post([&] { ++ran; }));
  EXPECT_EQ(loop_->posts_refused(), 2u);
  loop_->Run();
  EXPECT_EQ(ran, kPostedTasksMax - 1);
  EXPECT_TRUE(loop_->Post([] {}));
}

TEST_F(EventLoopTest, UrgentTasksAreTakenByAFullLoop) {
  for (size_t i = 0; i < kPostedTasksMax; ++i) ASSERT_TRUE(loop_->Post([] {}));
  EXPECT_FALSE(loop_->Post([] {}));
  loop_->PostUrgent([this] {
    log_ += 'u';
    loop_->Quit();
  });
  loop_->Run();
  EXPECT_EQ(log_, "u");
}

TEST_F(EventLoopTest, QuitRunsWhatWasPostedBeforeIt) {
  ASSERT_TRUE(loop_->Post([this] {
    ASSERT_TRUE(loop_->Post([this] { log_ += 'p'; }));
    loop_->Quit();
  }));
  loop_->Run();
  EXPECT_EQ(log_, "p");
}

TEST_F(EventLoopTest, PostWakesASleepingLoopFromAnyThread) {
  std::thread runner([this] { loop_->Run(); });
  std::vector<std::thread> posters;
  std::atomic<int> ran = 0;
  for (int i = 0; i < 4; ++i) {
    posters.emplace_back([&] {
      for (int k = 0; k < 1000;) {
        if (loop_->Post([&] { ran.fetch_add(1); })) {
          ++k;
        } else {
          std::this_thread::yield();
        }
      }
    });
  }
  for (std::thread& poster : posters) poster.join();
  loop_->Quit();
  runner.join();
  EXPECT_EQ(ran, 4000);
}

}  // namespace
}  // namespace iob::server
