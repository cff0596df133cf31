#include "tests/support/step_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "shm/check.h"
#include "shm/hostile.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace iob::test {
namespace {

constexpr size_t kStackBytes = size_t{128} << 10;
constexpr size_t kRolesMax = 4;

// Far beyond what any role does: more is going round in circles.
constexpr uint64_t kStepsMax = 10'000;

// Whose coroutine is about to run: makecontext hands on nothing but ints.
thread_local StepRun* entered = nullptr;

using FutexHalf = std::atomic<uint32_t>;

const FutexHalf& HalfAt(const void* address) { return *static_cast<const FutexHalf*>(address); }

// Whoever wakes has just changed the word and can do so again, while everybody else stands still:
// if the change shows at the other address, the two are one word.
bool OneWord(const void* waker_address, const void* waiter_address) {
  auto& waker_word = const_cast<FutexHalf&>(HalfAt(waker_address));
  const FutexHalf& waiter_word = HalfAt(waiter_address);
  const uint32_t value = waker_word.load();
  if (waiter_word.load() != value) return false;
  waker_word.store(~value);
  const bool one = waiter_word.load() == ~value;
  waker_word.store(value);
  return one;
}

}  // namespace

// ---- A run --------------------------------------------------------------------------------------

StepRun::~StepRun() { SetHooks(false); }

void StepRun::AddRole(const char* name, std::function<void()> role, Mortal mortal) {
  IOB_CHECK(roles_.size() < kRolesMax);
  roles_.emplace_back();
  roles_.back().name = name;
  roles_.back().function = std::move(role);
  roles_.back().mortal = mortal;
}

void StepRun::Enter() {
  StepRun& run = *entered;
  Role& role = run.roles_[run.running_];
  role.function();
  run.StepBefore(Access::kNone);
  role.state = State::kEnded;
  run.Leave();
}

void StepRun::SetHooks(bool on) {
  const auto load = [](void* run) { static_cast<StepRun*>(run)->StepBefore(Access::kLoad); };
  const auto store = [](void* run) { static_cast<StepRun*>(run)->StepBefore(Access::kStore); };
  shm::before_shared_load = on ? +load : nullptr;
  shm::before_shared_load_context = this;
  shm::before_shared_store = on ? +store : nullptr;
  shm::before_shared_store_context = this;
  shm::futex_hook = on ? this : nullptr;
}

bool StepRun::Go() {
  while (stacks_.size() < roles_.size()) stacks_.emplace_back(kStackBytes);
  for (size_t i = 0; i < roles_.size(); ++i) {
#if defined(__SANITIZE_ADDRESS__)
    // The frames of somebody who was killed on this stack are still marked on it.
    __asan_unpoison_memory_region(stacks_[i].data(), kStackBytes);
#endif
    ucontext_t& context = roles_[i].context;
    IOB_CHECK(::getcontext(&context) == 0);
    context.uc_stack.ss_sp = stacks_[i].data();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    ::makecontext(&context, &StepRun::Enter, 0);
  }
  SetHooks(true);
  while (failure_.empty()) {
    const size_t role = next_ != kNobody ? std::exchange(next_, kNobody) : PickNext();
    if (role == kNobody || !failure_.empty()) break;
    SwitchTo(role);
  }
  SetHooks(false);
  return failure_.empty();
}

void StepRun::SwitchTo(size_t role) {
  entered = this;
  running_ = last_ = role;
  roles_[role].state = State::kReady;
  if (tells_) std::cerr << "step " << steps_ + 1 << ": " << roles_[role].name << '\n';
  IOB_CHECK(::swapcontext(&searcher_, &roles_[role].context) == 0);
  running_ = kNobody;
}

// Back to Go. Who is at its end, is killed or has failed does not come back from here.
void StepRun::Leave() { IOB_CHECK(::swapcontext(&roles_[running_].context, &searcher_) == 0); }

bool StepRun::CanGo(const Role& role) const {
  switch (role.state) {
    case State::kReady:
      return true;
    case State::kOnFlag:
      return *role.flag;
    case State::kOnEnd:
      return AtEnd(roles_[role.awaited]);
    case State::kOnFutex:
    case State::kEnded:
    case State::kDead:
      return false;
  }
  return false;
}

void StepRun::Step() { StepBefore(Access::kStore); }

void StepRun::StepBefore(Access access) {
  if (running_ == kNobody) return;
  if (++steps_ > kStepsMax) {
    Fail("does not come to an end");
    Leave();
  }
  Role& self = roles_[running_];
  const bool preempts = access != Access::kNone && preemptions_ < limits_.preemptions_max;
  const bool kills =
      access != Access::kLoad && self.mortal == Mortal::kYes && deaths_ < limits_.deaths_max;
  if (!preempts && !kills && !repeating_) return;
  std::array<Option, kRolesMax + 2> options;
  size_t count = 0;
  options[count++] = {.role = running_, .dies = false};
  for (size_t i = 0; i < roles_.size() && preempts; ++i) {
    if (i != running_ && CanGo(roles_[i])) options[count++] = {.role = i, .dies = false};
  }
  if (kills) options[count++] = {.role = running_, .dies = true};
  const Option option = Decide(std::span(options).first(count));
  if (option.dies) {
    deaths_ += 1;
    self.state = State::kDead;
    Leave();
  } else if (option.role != running_) {
    preemptions_ += 1;
    next_ = option.role;
    Leave();
  }
  if (!failure_.empty()) Leave();
}

StepRun::Option StepRun::Decide(std::span<const Option> options) {
  size_t taken = 0;
  if (repeating_) {
    for (const Deviation& deviation : to_repeat_) {
      for (size_t i = 0; i < options.size() && deviation.step == steps_; ++i) {
        const bool dies = deviation.option.dies;
        if (options[i].dies == dies && (dies || options[i].role == deviation.option.role))
          taken = i;
      }
    }
  } else if (options.size() > 1) {
    if (decided_ == decisions_.size()) {
      decisions_.push_back({.step = steps_, .options = options.size(), .taken = 0});
    }
    const Decision& decision = decisions_[decided_++];
    if (decision.step != steps_ || decision.options != options.size()) {
      Fail("goes another way than before");
      return options.front();
    }
    taken = decision.taken;
  }
  if (taken != 0) deviations_.push_back({.step = steps_, .option = options[taken]});
  return options[taken];
}

// After a sleep, an end or a death: anybody, for nothing.
size_t StepRun::PickNext() {
  steps_ += 1;
  std::array<Option, kRolesMax> options;
  size_t count = 0;
  bool all_at_end = true;
  for (size_t i = 0; i < roles_.size(); ++i) {
    const size_t role = (last_ + i) % roles_.size();
    all_at_end = all_at_end && AtEnd(roles_[role]);
    if (CanGo(roles_[role])) options[count++] = {.role = role, .dies = false};
  }
  if (count == 0 && !all_at_end) FailStuck();
  if (count == 0) return kNobody;
  return Decide(std::span(options).first(count)).role;
}

void StepRun::Sleep(State state) {
  slept_ = true;
  roles_[running_].state = state;
  Leave();
}

shm::FutexOutcome StepRun::WaitAny(std::span<const shm::FutexWord> words, int64_t /*deadline_ns*/) {
  IOB_CHECK(running_ != kNobody);
  Step();
  for (const shm::FutexWord& word : words) {
    if (HalfAt(word.address).load() != word.expected) return shm::FutexOutcome::kLook;
  }
  roles_[running_].words.assign(words.begin(), words.end());
  Sleep(State::kOnFutex);
  return shm::FutexOutcome::kLook;
}

void StepRun::WakeAll(const void* address) {
  Step();
  for (Role& role : roles_) {
    if (role.state != State::kOnFutex) continue;
    for (const shm::FutexWord& word : role.words) {
      if (OneWord(address, word.address)) role.state = State::kReady;
    }
  }
}

bool StepRun::AwaitEnd(size_t role) {
  Step();
  roles_[running_].awaited = role;
  if (!AtEnd(roles_[role])) Sleep(State::kOnEnd);
  return roles_[role].state == State::kDead;
}

void StepRun::AwaitFlag(const bool& flag) {
  roles_[running_].flag = &flag;
  if (!flag) Sleep(State::kOnFlag);
}

void StepRun::Expect(bool condition, const char* what) {
  if (condition) return;
  Fail(what);
  if (running_ != kNobody) Leave();
}

void StepRun::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

void StepRun::FailStuck() {
  std::string who;
  for (const Role& role : roles_) {
    if (!AtEnd(role)) who += std::string(who.empty() ? "" : " and ") + role.name;
  }
  Fail(who + " left asleep");
}

// ---- The search ---------------------------------------------------------------------------------

void StepRun::Begin() {
  roles_.clear();
  deviations_.clear();
  decided_ = 0;
  next_ = kNobody;
  last_ = 0;
  steps_ = 0;
  preemptions_ = deaths_ = 0;
  slept_ = false;
}

bool StepRun::Advance() {
  while (!decisions_.empty()) {
    Decision& last = decisions_.back();
    if (++last.taken < last.options) return true;
    decisions_.pop_back();
  }
  return false;
}

std::string StepRun::ScheduleText() const {
  std::string text;
  for (const Deviation& deviation : deviations_) {
    if (!text.empty()) text += ',';
    text += std::to_string(deviation.step);
    text += deviation.option.dies ? "!" : ">" + std::to_string(deviation.option.role);
  }
  return text;
}

bool StepRun::Repeat(const std::string& schedule, bool tells) {
  repeating_ = true;
  tells_ = tells;
  const char* const end = schedule.data() + schedule.size();
  for (const char* at = schedule.data(); at != end;) {
    Deviation deviation;
    const auto step = std::from_chars(at, end, deviation.step);
    if (step.ec != std::errc() || step.ptr == end) return false;
    at = step.ptr + 1;
    deviation.option.dies = *step.ptr == '!';
    if (!deviation.option.dies) {
      const auto role = std::from_chars(at, end, deviation.option.role);
      if (*step.ptr != '>' || role.ec != std::errc()) return false;
      at = role.ptr;
    }
    to_repeat_.push_back(deviation);
    if (at != end && *at++ != ',') return false;
  }
  return true;
}

class StepSearch {
 public:
  using Body = std::function<void(StepRun&)>;

  StepSearch(const StepLimits& limits, const Body& body) : run_(limits), body_(body) {}

  StepReport All() {
    do {
      Once();
    } while (report_.failure.empty() && run_.Advance());
    return report_;
  }

  StepReport Only(const std::string& schedule, bool tells) {
    if (run_.Repeat(schedule, tells)) {
      Once();
    } else {
      report_.failure = "not a schedule: " + schedule;
    }
    return report_;
  }

 private:
  void Once() {
    run_.Begin();
    body_(run_);
    report_.schedules += 1;
    report_.steps_max = std::max(report_.steps_max, run_.steps_);
    report_.with_sleep += run_.slept_ ? 1 : 0;
    report_.with_death += run_.deaths_ != 0 ? 1 : 0;
    report_.failure = run_.failure_;
    report_.schedule = run_.ScheduleText();
  }

  StepRun run_;
  const Body& body_;
  StepReport report_;
};

StepReport Explore(const StepLimits& limits, const std::function<void(StepRun&)>& body) {
  const char* const schedule = std::getenv("IOB_SCHEDULE");
  if (schedule != nullptr) return StepSearch(limits, body).Only(schedule, true);
  return StepSearch(limits, body).All();
}

void ExpectHolds(const StepLimits& limits, const std::function<void(StepRun&)>& body) {
  const StepReport report = Explore(limits, body);
  EXPECT_EQ(report.failure, "") << "IOB_SCHEDULE='" << report.schedule << "' repeats it";
  std::cout << report.schedules << " schedules of at most " << report.steps_max << " steps, "
            << report.with_sleep << " with a sleep, " << report.with_death << " with a death\n";
  if (!report.failure.empty() || std::getenv("IOB_SCHEDULE") != nullptr) return;
  EXPECT_GT(report.with_sleep, 0u);
  EXPECT_EQ(report.with_death != 0, limits.deaths_max != 0);
}

void ExpectFinds(const StepLimits& limits, const std::function<void(StepRun&)>& body,
                 const std::string& failure) {
  const StepReport report = Explore(limits, body);
  EXPECT_NE(report.failure, "");
  EXPECT_THAT(report.failure, testing::HasSubstr(failure));
  if (report.failure.empty() || std::getenv("IOB_SCHEDULE") != nullptr) return;
  std::cout << "found in schedule " << report.schedules << ": " << report.schedule << '\n';
  EXPECT_EQ(StepSearch(limits, body).Only(report.schedule, false).failure, report.failure);
}

}  // namespace iob::test
