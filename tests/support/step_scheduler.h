// Runs the roles of a ring (producer, consumer, ...) one step at a time, in every order that there
// is: the code itself, not a model of it.
//
// A step is one access to a shared word and what follows up to the next one. Before each access a
// decision is made: who makes the next step, and whether the role that is about to make it dies
// instead. One run of all roles to their ends is a schedule; Explore goes through all schedules
// with at most so many pre-emptions and deaths, depth first. (Nobody dies before a load: to all
// others it is the same as before the store that follows, or at the end.)
//
//   producer  --1--2--3           6--7--8--|end
//                     \ pre-empted\ wakes
//   consumer           4--5--|sleeps       9--10--|end           schedule: 4>1
//
// Written down is only what is not the rule. The rule: a role goes on until it sleeps or ends,
// then the next one in order that can. `4>1`: before step 4 role 1 was let go; `4!`: the role that
// would have made it was killed there. IOB_SCHEDULE repeats one, and tells whose turn it is:
//
//     IOB_SCHEDULE='4>1' schedule_lane_test --gtest_filter=ScheduleLane.RecordsArrive
//
//   X1  The orders are those of a sequentially consistent machine. What a store that is still
//       under way can do is the part of the models (tests/model/*.pml): no fence is missed here.
//   X2  Nothing has a deadline. Sleeping is waiting for FutexWakeAll on a word, for a StepEvent or
//       for the end of a role; when nobody can go on and somebody has not ended, a wake was lost.
//   X3  A futex compares and sleeps in one step. Two addresses are one futex if they are one word,
//       whatever the mappings.
//   X4  A run is a function of its schedule: no clock, no randomness, no system call whose result
//       matters. A run that goes another way than before is a failure.
//   X5  Who is killed or left asleep never runs again, its destructors included: roles keep on
//       their stacks nothing that owns anything.
//
// Roles are coroutines of one thread. Not for ThreadSanitizer, which does not follow them.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "shm/futex.h"

namespace iob::test {

struct StepLimits {
  int preemptions_max = 2;  // Switches away from a role that could have gone on.
  int deaths_max = 0;       // Of roles that are mortal.
};

struct StepReport {
  uint64_t schedules = 0;
  uint64_t steps_max = 0;  // Of the longest one.
  // Schedules in which somebody slept, and in which somebody was killed: a test that has none did
  // not test what it is about.
  uint64_t with_sleep = 0;
  uint64_t with_death = 0;
  std::string failure;   // What went wrong in the last schedule; empty when all were right.
  std::string schedule;  // The last one.
};

// One run. Made anew by its body for each schedule: the state, the roles, Go, the checks.
class StepRun : private shm::FutexHook {
 public:
  enum class Mortal : bool { kNo, kYes };

  ~StepRun() override;
  StepRun(const StepRun&) = delete;
  StepRun& operator=(const StepRun&) = delete;

  // Roles are numbered in this order, from 0.
  void AddRole(const char* name, std::function<void()> role, Mortal mortal = Mortal::kNo);
  // All roles, each to its end or death. False when the run has failed.
  bool Go();

  // In roles and after Go: what must hold. A role does not return from a failure.
  void Expect(bool condition, const char* what);
  // In roles: a step of its own, for what is shared and not a SharedAtomic. Counts as a store.
  void Step();
  // In roles: sleeps until that role is at its end. True when it was killed.
  bool AwaitEnd(size_t role);
  // In roles: sleeps until `flag` is set.
  void AwaitFlag(const bool& flag);

 private:
  friend class StepSearch;
  static constexpr size_t kNobody = SIZE_MAX;

  enum class Access : uint8_t { kLoad, kStore, kNone };
  enum class State : uint8_t { kReady, kOnFutex, kOnFlag, kOnEnd, kEnded, kDead };
  struct Role {
    const char* name = nullptr;
    std::function<void()> function;
    Mortal mortal = Mortal::kNo;
    State state = State::kReady;
    std::vector<shm::FutexWord> words;  // kOnFutex.
    const bool* flag = nullptr;         // kOnFlag.
    size_t awaited = kNobody;           // kOnEnd.
    ucontext_t context = {};
  };
  // What can be decided before a step; the first of several options is the rule.
  struct Option {
    size_t role = kNobody;  // Makes the step.
    bool dies = false;      // Dies instead.
  };
  struct Decision {
    uint64_t step = 0;
    size_t options = 0;
    size_t taken = 0;
  };
  struct Deviation {
    uint64_t step = 0;
    Option option;
  };

  explicit StepRun(const StepLimits& limits) : limits_(limits) {}

  // For the search. Begin forgets the last run but not its decisions; Advance changes the last one
  // that can be changed. False when there is none.
  void Begin();
  bool Advance();
  bool Repeat(const std::string& schedule, bool tells);
  std::string ScheduleText() const;

  shm::FutexOutcome WaitAny(std::span<const shm::FutexWord> words, int64_t deadline_ns) override;
  void WakeAll(const void* address) override;

  static void Enter();
  void StepBefore(Access access);
  void SetHooks(bool on);
  bool CanGo(const Role& role) const;
  bool AtEnd(const Role& role) const {
    return role.state == State::kEnded || role.state == State::kDead;
  }
  Option Decide(std::span<const Option> options);
  size_t PickNext();
  void SwitchTo(size_t role);
  void Leave();
  void Sleep(State state);
  void FailStuck();
  void Fail(const std::string& what);

  StepLimits limits_;
  std::vector<Decision> decisions_;    // Of the schedule under way, and where the next one differs.
  std::vector<Deviation> to_repeat_;   // Instead of decisions_, when one schedule is repeated.
  std::vector<Deviation> deviations_;  // As made so far.
  bool repeating_ = false;
  bool tells_ = false;  // Whose turn it is, to stderr.
  size_t decided_ = 0;  // Of decisions_.
  std::vector<Role> roles_;
  std::vector<std::vector<std::byte>> stacks_;
  ucontext_t searcher_ = {};
  size_t running_ = kNobody;
  size_t next_ = kNobody;  // Chosen by a pre-emption.
  size_t last_ = 0;
  uint64_t steps_ = 0;
  int preemptions_ = 0;
  int deaths_ = 0;
  bool slept_ = false;
  std::string failure_;
};

// What an eventfd or a packet on a socket is: set by one role, taken by another.
class StepEvent {
 public:
  explicit StepEvent(StepRun& run) : run_(run) {}
  void Set() {
    run_.Step();
    set_ = true;
  }
  // Sleeps until it is set.
  void Take() {
    run_.Step();
    while (!set_) run_.AwaitFlag(set_);
    set_ = false;
  }

 private:
  StepRun& run_;
  bool set_ = false;
};

// Calls `body` once per schedule, until one fails or there are no more.
StepReport Explore(const StepLimits& limits, const std::function<void(StepRun&)>& body);

// For tests: all schedules held, and in some of them somebody slept; in some, somebody died if
// anybody may. Tells how many there were.
void ExpectHolds(const StepLimits& limits, const std::function<void(StepRun&)>& body);
// A schedule was found in which something went wrong in this way, and it can be repeated.
void ExpectFinds(const StepLimits& limits, const std::function<void(StepRun&)>& body,
                 const std::string& failure);

}  // namespace iob::test
