// Kills a process after exactly so many instructions of one operation.
//
//     tracer (the test)                    victim (a child)
//       KillAfter(n) --fork------------->  maps what it needs
//                    <--stop-------------  Operate(...)
//       step, step, ... (n times) ------>  n instructions of the operation
//       SIGKILL ------------------------>  dead between two instructions
//
//   K1  What is done before Operate is done: only the operation is cut short. A few instructions of
//       the way into it and of the way out to _exit are counted, too.
//   K2  Instructions of the kernel do not count: a system call happens as a whole or not at all.
//   K3  A victim that stops for anything but a step, or says itself that it failed, is a failure of
//       the test, and so is one that never ends.
//   K4  No victim outlives its tracer.
//
// One thread of a test, and no other thread in its process: the victim is a fork of it.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <functional>

namespace iob::test {

// No operation is that long; one that is does not end.
inline constexpr uint64_t kVictimInstructionsMax = 200'000;

enum class StepEnd : uint8_t {
  kKilled,  // After as many instructions as were asked for.
  kEnded,   // It was done before that.
  kFailed,  // Told to gtest already (K3).
};

struct StepRun {
  StepEnd end = StepEnd::kFailed;
  uint64_t instructions = 0;  // That were run.
};

// Why nothing can be killed in this way here; nullptr when it can.
const char* WhyNoSingleStep();

// Runs `body` in a child, which must come to Operate, and kills it `instructions` after that.
StepRun KillAfter(uint64_t instructions, const std::function<void()>& body);

// For Operate: stops until the tracer lets it go on.
void StopForTracer();

// In the victim: the operation, which returns whether it did what it should, and the end.
template <typename Operation>
[[noreturn]] void Operate(Operation operation) {
  StopForTracer();
  ::_exit(operation() ? 0 : 1);
}

}  // namespace iob::test
