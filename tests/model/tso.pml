/*
 * Memory as x86 has it, for the models of this folder: a store goes into a queue of its processor
 * and reaches memory some time later, in order; a load does not wait for it.
 *
 *     process 0 --STORE--> sb[0] |v|v| --drain--> +------+
 *                                                 | mem  | --LOAD--> any process
 *     process 1 --STORE--> sb[1] |v|v| --drain--> +------+
 *
 *   T1  A fence waits until the own queue is empty. Nothing else does, except a locked instruction.
 *   T2  No process loads a word that it stores: positions are private, shared ones are mirrors
 *       (hostile.h). So there is no forwarding from the own queue.
 *   T3  A futex compares and falls asleep in one step, but is no fence for the caller's stores.
 *       Linux gives more (its futex_wait has a full barrier); the code does not build on it, and
 *       -DFUTEX_IS_FENCE shows what would be different.
 *   T4  What a killed process had stored still reaches memory, and before its death is told.
 *
 * The including model defines WORDS and PROCESSES. The queue holds two stores, one to be late and
 * one that is late behind it, unless the model says otherwise.
 */
#ifndef STORES_LATE_MAX
#define STORES_LATE_MAX 2
#endif

byte mem[WORDS];
chan sb[PROCESSES] = [STORES_LATE_MAX] of { byte, byte };
bool asleep[PROCESSES];

#define STORE(me, word, value) sb[me]!word,value
#define LOAD(word) mem[word]
#define FENCE(me) empty(sb[me])

/* A signal is raised by the broker, once, when a process has died; see waiter.h. */
bool signal_word;

#ifdef FUTEX_IS_FENCE
#define KERNEL_FENCE(me) FENCE(me)
#else
#define KERNEL_FENCE(me) skip
#endif

#define FUTEX_WAIT(me, word, expected, signal_expected)                                \
  KERNEL_FENCE(me);                                                                    \
  atomic {                                                                             \
    if                                                                                 \
    :: mem[word] == (expected) && signal_word == (signal_expected) -> asleep[me] = true     \
    :: else -> skip                                                                    \
    fi                                                                                 \
  };                                                                                   \
  !asleep[me]
#define FUTEX_WAKE(whom) asleep[whom] = false

/* Being unable to go on is fine for the memory alone; for everybody else it is a lost wake-up. */
active proctype memory() {
  byte word, value;
end:
  do
  :: d_step { nempty(sb[0]) -> sb[0]?word,value; mem[word] = value; word = 0; value = 0 }
#if PROCESSES > 1
  :: d_step { nempty(sb[1]) -> sb[1]?word,value; mem[word] = value; word = 0; value = 0 }
#endif
#if PROCESSES > 2
  :: d_step { nempty(sb[2]) -> sb[2]?word,value; mem[word] = value; word = 0; value = 0 }
#endif
  od
}
