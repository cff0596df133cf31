/*
 * A lane: one producer, one consumer, each asleep when the other has nothing for it.
 *
 *   LANE page (producer writes)        tail, want_room
 *   CONTROL page (consumer writes)     head, waiting
 *   data                               CELLS cells; a record takes one or two and may wrap
 *
 *     producer                                    consumer
 *       data, tail                                  signal, then tail; reads; head
 *       fence                                       fence
 *       waiting? -> wake the sleeper on tail        want_room, and enough? -> wake the one on head
 *
 *     want_room; fence; head again; sleep on head   waiting; fence; tail again; sleep on tail
 *
 * Models shm/reserve_lane_producer.h (Reserve, Submit, Publish, PrepareToWaitForRoom) and
 * shm/reserve_lane_consumer.h (Next, Release, PrepareToWait, ClearWaiting), with shm/waiter.h.
 *
 * Claims, by assertion: L1 every published record arrives once, in order, with its bytes intact,
 * also when its producer was killed (with -DKILL, at any step; or the consumer is). By the absence
 * of a state in which somebody cannot go on: L2 nobody sleeps for ever while there is work or room.
 * There are no deadlines here: what is shown does not lean on them.
 *
 *   CELLS, RECORDS   the scope
 *   POLICIES         each record but the last is submitted with default, none or force
 *   SOCKET           the consumer waits for a packet (kWaitingOnSocket) instead of a futex
 *   KILL             one process, whichever, dies at any step or not at all
 */
#ifndef CELLS
#define CELLS 2
#endif
#ifndef RECORDS
#define RECORDS 3
#endif

#define TAIL 0
#define WANT_ROOM 1
#define HEAD 2
#define WAITING 3
#define DATA 4
#define WORDS (DATA + CELLS)
#define PROCESSES 2
#define PRODUCER 0
#define CONSUMER 1
#define NOBODY 2
#include "tso.pml"

/* A cell of record r (from 1): its number and, in the first cell, how many cells it has. */
#define CELL(record, cells) ((record) * 4 + (cells))

byte published;          /* Ghost: records below the last tail that was stored. */
byte victim = NOBODY;
bool dead[PROCESSES];
bool packet;             /* SOCKET: readable until it is read. */

#ifdef SOCKET
#define WAKE_CONSUMER packet = true
#else
#define WAKE_CONSUMER FUTEX_WAKE(CONSUMER)
#endif

#ifdef NO_PRODUCER_FENCE
#define SUBMIT_FENCE skip
#else
#define SUBMIT_FENCE FENCE(PRODUCER)
#endif

/* Submit with Wake::kDefault, after the tail was stored; also pays what kNone left owing. */
#define LOOK_AND_WAKE                             \
  SUBMIT_FENCE;                                   \
  if                                              \
  :: LOAD(WAITING) != 0 -> WAKE_CONSUMER          \
  :: else -> skip                                 \
  fi;                                             \
  owed = false

#define STORE_TAIL                                \
  atomic { STORE(PRODUCER, TAIL, tail); published = record }

#define FITS (tail + cells - head <= CELLS)

proctype producer() {
  byte record = 1, tail, head, cells, i;
  bool owed, signal_seen;
  {
    do
    :: record > RECORDS -> break
    :: else ->
       if
       :: cells = 1
       :: cells = 2
       fi;
       do
       :: FITS -> break
       :: else ->
          head = LOAD(HEAD);                              /* Reserve: the cached one was too old. */
          if
          :: FITS -> break
          :: else -> skip
          fi;
          signal_seen = signal_word;
          if
          :: signal_seen -> goto consumer_is_gone
          :: else -> skip
          fi;
#ifndef OWED_FORGOTTEN
          if
          :: owed -> LOOK_AND_WAKE                        /* Who waits for room pays first. */
          :: else -> skip
          fi;
#endif
          STORE(PRODUCER, WANT_ROOM, cells);              /* PrepareToWaitForRoom */
#ifndef NO_WANT_ROOM_FENCE
          FENCE(PRODUCER);
#endif
          head = LOAD(HEAD);
          if
#ifndef NO_ROOM_RECHECK
          :: FITS -> skip
#endif
          :: else -> FUTEX_WAIT(PRODUCER, HEAD, head, signal_seen)
          fi;
          STORE(PRODUCER, WANT_ROOM, 0)                   /* ClearWantRoom */
       od;
#ifdef PUBLISH_BEFORE_PAYLOAD
       tail = tail + cells;
       STORE_TAIL;
       tail = tail - cells;
#endif
       STORE(PRODUCER, DATA + tail % CELLS, CELL(record, cells));
       if
       :: cells == 2 -> STORE(PRODUCER, DATA + (tail + 1) % CELLS, CELL(record, 0))
       :: else -> skip
       fi;
       tail = tail + cells;
       if
#ifdef POLICIES
       :: record < RECORDS -> STORE_TAIL; owed = true                        /* Wake::kNone */
#ifdef FORCE_UNFENCED
       :: STORE_TAIL; WAKE_CONSUMER; owed = false
#else
       /* Fenced as well: a sleeper that is woken too early looks, finds nothing and sleeps on. */
       :: STORE_TAIL; SUBMIT_FENCE; WAKE_CONSUMER; owed = false              /* Wake::kForce */
#endif
#endif
#ifdef WAKE_BEFORE_PUBLISH
       :: LOOK_AND_WAKE; STORE_TAIL
#else
       :: STORE_TAIL; LOOK_AND_WAKE                                          /* Wake::kDefault */
#endif
       fi;
       record++
    od;
consumer_is_gone:
    skip
  } unless { victim == PRODUCER -> dead[PRODUCER] = true }
}

#ifdef NO_RELEASE_FENCE
#define RELEASE_FENCE skip
#else
#define RELEASE_FENCE FENCE(CONSUMER)
#endif

/* Release: the futex is woken only when the room is enough, by the tail as it is now. */
#define RELEASE                                                           \
  STORE(CONSUMER, HEAD, next);                                            \
  released = next;                                                        \
  RELEASE_FENCE;                                                          \
  wanted = LOAD(WANT_ROOM);                                               \
  if                                                                      \
  :: wanted != 0 && CELLS - (LOAD(TAIL) - next) >= wanted ->              \
     FUTEX_WAKE(PRODUCER)                                                 \
  :: else -> skip                                                         \
  fi;                                                                     \
  wanted = 0

proctype consumer() {
  byte next, released, tail, expected = 1, wanted, cells;
  bool signal_seen;
  {
    do
    :: expected > RECORDS -> break
    :: else ->
#ifdef SIGNAL_AFTER_TAIL
       tail = LOAD(TAIL);
       signal_seen = signal_word;
#else
       /* Signal before tail: whoever sees the death then sees the last tail as well. */
       signal_seen = signal_word;
       tail = LOAD(TAIL);
#endif
       if
       :: tail != next ->
          do
          :: next == tail -> break
          :: else ->
#ifdef RELEASE_BEFORE_READ
             next = next + LOAD(DATA + next % CELLS) % 4;
             RELEASE;
             next = next - LOAD(DATA + next % CELLS) % 4;
#endif
             cells = LOAD(DATA + next % CELLS) % 4;                          /* Next */
             assert(LOAD(DATA + next % CELLS) == CELL(expected, cells));
             assert(cells >= 1 && cells <= tail - next);
             if
             :: cells == 2 -> assert(LOAD(DATA + (next + 1) % CELLS) == CELL(expected, 0))
             :: else -> skip
             fi;
             next = next + cells;
             cells = 0;
             expected++;
             if
             :: RELEASE
             :: skip                                                         /* In batches. */
             fi
          od
       :: else ->
          if
#ifndef SLEEP_UNRELEASED
          :: released != next -> RELEASE
#endif
          :: else -> skip
          fi;
          if
          :: signal_seen -> assert(expected == published + 1); break
          :: else -> skip
          fi;
          STORE(CONSUMER, WAITING, 1);                                       /* PrepareToWait */
#ifndef NO_CONSUMER_FENCE
          FENCE(CONSUMER);
#endif
          tail = LOAD(TAIL);
          if
#ifndef NO_RECHECK
          :: tail != next -> skip
#endif
          :: else ->
#ifdef SOCKET
             atomic { (packet || signal_word != signal_seen) -> packet = false }
#else
             FUTEX_WAIT(CONSUMER, TAIL, tail, signal_seen)
#endif
          fi;
          STORE(CONSUMER, WAITING, 0)                                        /* ClearWaiting */
       fi
    od;
    if
    :: released != next -> RELEASE
    :: else -> skip
    fi
  } unless { victim == CONSUMER -> dead[CONSUMER] = true }
}

/* The kernel kills; the broker sees the pidfd, raises the signal word, wakes who sleeps on it. */
proctype broker() {
#ifdef KILL
  if
  :: victim = PRODUCER
  :: victim = CONSUMER
  :: goto nobody_dies
  fi;
end:
  dead[victim] && FENCE(victim);
  signal_word = true;
  FUTEX_WAKE(1 - victim);
nobody_dies:
#endif
  skip
}

init { atomic { run producer(); run consumer(); run broker() } }
