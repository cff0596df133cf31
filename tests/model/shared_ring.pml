/*
 * The shared reserve ring: several producers that may be killed anywhere, one consumer that sleeps.
 *
 *   CTL (producers, broker write)      tail, owed, ctl[GRANULES]: owner | cells | lap | state
 *   CONS page (consumer writes)        head, wait (the awaited position + 1; 0: awake)
 *   data                               GRANULES cells
 *
 *   reserve   p = tail; v = ctl[p]; v is of p's lap? -> swing tail for its owner, again
 *             tail still p? room? -> CAS v to BUSY (this is the claim) -> CAS tail beyond it
 *   submit    BUSY still there? -> store COMMIT or DISCARD; wait? -> wake the sleeper on ctl
 *   consumer  reads COMMITs at head; wait = head; fence in all processes; ctl again; sleep on its
 *             lap and state
 *   recover   owner proven dead: its BUSY words to DISCARD; then wake, whatever it looks like
 *   scrub     stamps of long ago are made younger, before their lap comes round again
 *
 * Models shm/reserve_shared_producer.h (Reserve, Help, LookForRoom, Submit, Discard, WakeConsumer,
 * PrepareToWaitForRoom), shm/reserve_shared_consumer.h (Next, Release, PrepareToWait, ClearWaiting)
 * and shm/reserve_shared_recovery.h (Recover, Scrub), with shm/light_fence.h. Of what producers and
 * the broker share all changes by locked instructions but the last word of a record, so the store
 * queue is the consumer's, and a producer has room for one late word. A kill is told apart only by
 * what the dead has written: so producers die after any shared write, or not at all.
 *
 * Claims, by assertion: M1 no cell belongs to two records; M2 what is delivered is what its
 * producer wrote, once, in each producer's order; M3 nobody but a proven dead owner loses a claim;
 * M4 all that was committed is delivered and nobody is left asleep or blocked, whoever was killed
 * wherever. M4 is asserted in the states in which nobody can take a step. By the absence of cycles:
 * M5 who retries does so because somebody else got on (lock-free).
 *
 *   PRODUCERS, RECORDS, GRANULES, CELLS_MAX   the scope; OTHERS: records of all but one
 *   KILLS        so many producers die, or fewer
 *   POLICIES     submits with default, none and force; a producer's last is default
 *   WAIT_ROOM    a producer that finds no room sleeps; else the record is dropped
 *   LAPS         laps come round after so many; the shipped number is 2^30
 *   SCRUB        the broker scrubs, at least once in three laps. Lengths then are 1 1 2 .. 2 1 1:
 *                the second granule starts no record for so long that its stamp's lap comes round.
 *                Nothing is discarded or released in batches, to keep the scope small
 */
#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef OTHERS
#define OTHERS RECORDS
#endif
#define RECORDS_OF(producer) (producer == 1 -> RECORDS : OTHERS)
#ifndef GRANULES
#define GRANULES 2
#endif
#ifndef CELLS_MAX
#define CELLS_MAX 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef LAPS
#define LAPS 16
#endif

#define HEAD 0
#define WAIT 1
#define WORDS 2
#define PROCESSES 1
#define CONSUMER 0
#define STORES_LATE_MAX 1
#include "tso.pml"

#define NEVER 0
#define BUSY 1
#define COMMIT 2
#define DISCARD 3
#define WORD(state, lap, cells, owner) ((state) + 4 * (lap) + 64 * (cells) + 256 * (owner))
#define STATE(word) ((word) & 3)
#define LAP_OF(word) (((word) >> 2) & 15)
#define CELLS(word) (((word) >> 6) & 3)
#define OWNER(word) ((word) >> 8)
#define LAP(position) (((position) / GRANULES + 1) % LAPS)
#define CLAIMS(word, position) (STATE(word) != NEVER && LAP_OF(word) == LAP(position))
#define SLOT(position) ((position) % GRANULES)
#ifdef LAP_NOT_IN_FUTEX_HALF
#define LOW(word) ((word) & ~60)
#else
#define LOW(word) ((word) & 63)
#endif

short ctl[GRANULES];
byte tail, data[GRANULES];
bool owed;
byte asleep_on;                             /* The consumer's futex: slot + 1; 0: awake. */
bool room_sleeper[PRODUCERS + 1];           /* Asleep on head. */
bool wants_room[PRODUCERS + 1];
bool dead[PRODUCERS + 1], ended[PRODUCERS + 1];
byte kills;
/* The word that a submit has stored and that has not reached memory: its slot + 1; 0: none. Locked
   instructions of that producer wait for it, loads do not (T1). */
byte late_slot[PRODUCERS + 1];
short late_word[PRODUCERS + 1];
#define DRAINED(producer) (late_slot[producer] == 0)

/* Ghosts: whose each cell is (producer * 16 + record), and what has become of the records. */
#define ID(producer, record) ((producer) * 16 + (record))
byte cell_of[GRANULES];
byte committed, delivered, last_delivered[PRODUCERS + 1];
bool nobody_is_stuck = true;
#ifdef SCRUB
byte scrubbed_lap;                          /* Where the last scrub ended. */
#endif

/* FUTEX_WAKE of the word that `wait` names. */
#define WAKE(claimed_wait)                                                      \
  atomic {                                                                      \
    if                                                                          \
    :: asleep_on == SLOT(claimed_wait - 1) + 1 -> asleep_on = 0                 \
    :: else -> skip                                                             \
    fi                                                                          \
  }

/* The look at `wait` after a submit, and the second one of WakeConsumer, behind a fence. */
#ifdef WAKE_UNFENCED
#define LOOK wait = LOAD(WAIT)
#else
#define LOOK                                                                    \
  wait = LOAD(WAIT);                                                            \
  if                                                                            \
  :: wait != 0 -> DRAINED(me); wait = LOAD(WAIT)                                \
  :: else -> skip                                                               \
  fi
#endif

/* WakeConsumer for Wake::kDefault; the look at `wait` is separate from what follows from it. */
#define LOOK_AND_WAKE                                                           \
  LOOK;                                                                         \
  if                                                                            \
  :: wait == 0 -> skip                                                          \
  :: wait == p + 1 -> WAKE(wait)                                                \
  :: wait != 0 && wait != p + 1 ->                                              \
     if                                                                         \
     :: atomic { owed && DRAINED(me) -> owed = false; MAY_DIE }; WAKE(wait)     \
     :: !owed -> skip                                                           \
     fi                                                                         \
  fi;                                                                           \
  wait = 0

#if KILLS > 0
#define MAY_DIE                                                                 \
  if                                                                            \
  :: kills < KILLS -> kills++; goto died                                        \
  :: true                                                                       \
  fi
#else
#define MAY_DIE skip
#endif

#ifdef OWED_FORGOTTEN
#define OWE skip
#else
#define OWE owed = true
#endif

/* A look and a store; the claim of this record was a locked instruction, so nothing is late. */
#define FINISH(state)                                                           \
  atomic {                                                                      \
    assert(ctl[SLOT(p)] == WORD(BUSY, LAP(p), cells, me));                      \
    assert(DRAINED(me));                                                        \
    late_word[me] = WORD(state, LAP(p), cells, me);                             \
    late_slot[me] = SLOT(p) + 1;                                                \
    if                                                                          \
    :: state == COMMIT -> committed++                                           \
    :: else -> skip                                                             \
    fi;                                                                         \
    MAY_DIE                                                                     \
  }

#define FILL                                                                    \
  atomic {                                                                      \
    data[SLOT(p)] = ID(me, record);                                             \
    if                                                                          \
    :: cells == 2 -> data[SLOT(p + 1)] = ID(me, record)                         \
    :: else -> skip                                                             \
    fi                                                                          \
  }

proctype producer(byte me) {
  byte record = 1, p, head, cells, wait;
  short v;
  do
  :: record > RECORDS_OF(me) -> break
  :: else ->
#ifdef SCRUB
     cells = (record <= 2 || record >= RECORDS - 1 -> 1 : 2);
#else
     if
     :: cells = 1
#if CELLS_MAX > 1
     :: cells = 2
#endif
     fi;
#endif
again:                                                                       /* Reserve */
     p = tail;
     atomic {
       v = ctl[SLOT(p)];
       if
       :: CLAIMS(v, p) -> v = CELLS(v)
       :: else -> goto unclaimed
       fi
     };
#ifndef NO_HELPING
     atomic {                                                              /* Help */
       DRAINED(me);
       if
       :: tail == p -> tail = p + v; MAY_DIE
       :: else -> skip
       fi;
       v = 0
     };
#endif
     goto again;
unclaimed:
#ifndef NO_TAIL_REREAD
     atomic {
       if
       :: tail != p -> v = 0; goto again
       :: else -> skip
       fi
     };
#endif
     if
     :: p + cells - head > GRANULES ->                                     /* LookForRoom */
        atomic {
          head = LOAD(HEAD);
          if
          :: head > p -> v = 0; goto again
          :: head <= p && p + cells - head > GRANULES -> v = 0; goto no_room
          :: else -> skip
          fi
        }
     :: else -> skip
     fi;
#ifdef SCRUB
     p / GRANULES <= scrubbed_lap + 2;    /* What the broker's schedule promises. */
#endif
     atomic {                                                              /* The claim. */
       DRAINED(me);
       if
       :: ctl[SLOT(p)] != v -> v = 0; goto again
       :: else ->
          ctl[SLOT(p)] = WORD(BUSY, LAP(p), cells, me);
          assert(cell_of[SLOT(p)] == 0);
          cell_of[SLOT(p)] = ID(me, record);
          if
          :: cells == 2 ->
             assert(cell_of[SLOT(p + 1)] == 0);
             cell_of[SLOT(p + 1)] = ID(me, record)
          :: else -> skip
          fi
       fi;
       v = 0;
       MAY_DIE
     };
     atomic {                                                              /* The swing. */
       if
       :: tail == p -> tail = p + cells; MAY_DIE
       :: else -> skip
       fi
     };
#ifndef SUBMIT_BEFORE_PAYLOAD
     FILL;
#endif
#ifdef WAKE_BEFORE_SUBMIT
     LOOK_AND_WAKE;
     FINISH(COMMIT);
#else
     if
#ifdef POLICIES
     :: record < RECORDS_OF(me) -> FINISH(COMMIT);                                /* Wake::kNone */
        LOOK;
        if
        :: wait == p + 1 -> OWE
        :: else -> skip
        fi;
        wait = 0
     :: FINISH(COMMIT); LOOK;                                              /* Wake::kForce */
        if
        :: wait != 0 -> WAKE(wait)
        :: else -> skip
        fi;
        wait = 0
#endif
     :: FINISH(COMMIT); LOOK_AND_WAKE                                      /* Wake::kDefault */
#ifndef SCRUB
     :: FINISH(DISCARD); LOOK_AND_WAKE
#endif
     fi;
#endif
#ifdef SUBMIT_BEFORE_PAYLOAD
     FILL;
#endif
     goto next;
no_room:
#ifdef WAIT_ROOM
#ifndef OWED_UNPAID_BEFORE_WAITING
     if                                   /* Who waits for room pays first. */
     :: atomic { owed && DRAINED(me) -> owed = false };
        wait = LOAD(WAIT);
        if
        :: wait != 0 -> WAKE(wait)
        :: else -> skip
        fi;
        wait = 0
     :: !owed -> skip
     fi;
#endif
     DRAINED(me);
     wants_room[me] = true;               /* PrepareToWaitForRoom: locked, so a fence. */
     head = LOAD(HEAD);
     if
#ifndef NO_ROOM_RECHECK
     :: head > p || p + cells - head <= GRANULES -> skip
#endif
     :: else ->
        atomic {
          if
          :: LOAD(HEAD) == head -> room_sleeper[me] = true
          :: else -> skip
          fi
        };
        !room_sleeper[me]
     fi;
     wants_room[me] = false;
     goto again;
#endif
next:
     record++;
     p = 0
  od;
  ended[me] = true;
  goto gone;
died:
  atomic { dead[me] = true; record = 0; p = 0; head = 0; cells = 0; wait = 0; v = 0 };
gone:
  skip
}

#define RELEASE                                                                 \
  STORE(CONSUMER, HEAD, head);                                                  \
  released = head;                                                              \
  RELEASE_FENCE;                                                                \
  WAKE_THE_ROOM_SLEEPERS

#ifdef NO_RELEASE_FENCE
#define RELEASE_FENCE skip
#else
#define RELEASE_FENCE FENCE(CONSUMER)
#endif

#ifdef WAIT_ROOM
#define WAKE_IF_WANTED(i)                                                       \
  if                                                                            \
  :: wants_room[i] -> room_sleeper[i] = false                                   \
  :: else -> skip                                                               \
  fi
#if PRODUCERS > 1
#define WAKE_THE_ROOM_SLEEPERS WAKE_IF_WANTED(1); WAKE_IF_WANTED(2)
#else
#define WAKE_THE_ROOM_SLEEPERS WAKE_IF_WANTED(1)
#endif
#else
#define WAKE_THE_ROOM_SLEEPERS skip
#endif

/* LightFence::Heavy: a fence here, and one somewhere in whatever each producer is doing. */
#ifdef FENCE_HERE_ONLY
#define HEAVY_FENCE FENCE(CONSUMER)
#elif PRODUCERS > 1
#define HEAVY_FENCE FENCE(CONSUMER); DRAINED(1); DRAINED(2)
#else
#define HEAVY_FENCE FENCE(CONSUMER); DRAINED(1)
#endif

#define READY (CLAIMS(v, head) && STATE(v) != BUSY)

/* The bytes of a COMMIT are those of its owner, who gave them in order. */
#define CHECK_RECORD                                                            \
  assert(cell_of[SLOT(head)] / 16 == OWNER(v));                                 \
  assert(data[SLOT(head)] == cell_of[SLOT(head)]);                              \
  assert(CELLS(v) < 2 || data[SLOT(head + 1)] == cell_of[SLOT(head)]);          \
  assert(cell_of[SLOT(head)] % 16 > last_delivered[OWNER(v)]);                  \
  last_delivered[OWNER(v)] = cell_of[SLOT(head)] % 16;                          \
  delivered++

#define FREE_CELLS                                                              \
  assert(cell_of[SLOT(head)] != 0 && CELLS(v) != 0);                            \
  cell_of[SLOT(head)] = 0;                                                      \
  if                                                                            \
  :: CELLS(v) == 2 -> cell_of[SLOT(head + 1)] = 0                               \
  :: else -> skip                                                               \
  fi

proctype consumer() {
  byte head, released;
  short v;
  do
  :: v = ctl[SLOT(head)];                                                    /* Next */
     if
     :: READY ->
#ifdef RELEASE_BEFORE_READ
        STORE(CONSUMER, HEAD, head + CELLS(v));
        FENCE(CONSUMER);
#endif
        atomic {
          if
          :: STATE(v) == COMMIT -> CHECK_RECORD
          :: else -> skip
          fi;
          FREE_CELLS;
          head = head + CELLS(v);
          v = 0
        };
        if
        :: RELEASE
#ifndef SCRUB
        :: skip                                                              /* In batches. */
#endif
        fi
     :: else ->
        if
#ifndef SLEEP_UNRELEASED
        :: released != head -> RELEASE
#endif
        :: else -> skip
        fi;
        STORE(CONSUMER, WAIT, head + 1);                                     /* PrepareToWait */
#ifndef NO_CONSUMER_FENCE
        HEAVY_FENCE;
#endif
        v = ctl[SLOT(head)];
        if
#ifndef NO_RECHECK
        :: READY -> skip
#endif
        :: else ->
           KERNEL_FENCE(CONSUMER);
           atomic {
             if
             :: LOW(ctl[SLOT(head)]) == LOW(v) -> asleep_on = SLOT(head) + 1
             :: else -> skip
             fi
           };
end:       asleep_on == 0           /* May last for ever; the monitor says whether it may. */
        fi;
        STORE(CONSUMER, WAIT, 0)                                             /* ClearWaiting */
     fi
  od
}

/* Late words arrive. By then nobody else has touched them (M5 of the code). */
#define ARRIVE(producer)                                                        \
  d_step {                                                                      \
    !DRAINED(producer) ->                                                       \
    assert(ctl[late_slot[producer] - 1] == ((late_word[producer] & ~3) | BUSY));\
    ctl[late_slot[producer] - 1] = late_word[producer];                         \
    late_slot[producer] = 0;                                                    \
    late_word[producer] = 0                                                     \
  }

active proctype late_words() {
end:
  do
  :: ARRIVE(1)
#if PRODUCERS > 1
  :: ARRIVE(2)
#endif
  od
}

/* The broker: Recover for each producer whose pidfd says that it is gone: then what it stored has
   arrived (T4). */
proctype recovery() {
  byte owner = 1, i, wait;
end:
  do
  :: owner > PRODUCERS -> break
#ifdef HANGUP_TAKEN_AS_DEATH
  :: owner <= PRODUCERS ->
#else
  :: owner <= PRODUCERS && ended[owner] -> owner++
  :: owner <= PRODUCERS && dead[owner] && DRAINED(owner) ->
#endif
     do
     :: i == GRANULES -> break
     :: else ->
        atomic {
          if
          :: STATE(ctl[i]) == BUSY && OWNER(ctl[i]) == owner -> ctl[i] = ctl[i] | DISCARD
          :: else -> skip
          fi;
          i++
        }
     od;
     i = 0;
#ifndef NO_RECOVERY_WAKE
     wait = LOAD(WAIT);
     if
     :: wait != 0 -> WAKE(wait)
     :: else -> skip
     fi;
     wait = 0;
#endif
     owner++
  od
}

#ifdef SCRUB
/* The stamps that Scrub looks for, and what it makes of them: as in reserve_shared_recovery.cc. */
#define AGE_MAX 4
#define SCRUBBED_AGE 3
#define AGE(word, position) ((LAP(position) + LAPS - LAP_OF(word)) % LAPS)
#define YOUNGER(position) WORD(DISCARD, (LAP(position) + LAPS - SCRUBBED_AGE) % LAPS, 0, 0)

proctype scrubber() {
  byte i, at;
  short v;
end:
  do
  :: tail / GRANULES > scrubbed_lap ->
#ifdef SCRUB_BY_AN_OLD_TAIL
     at = tail;
#endif
     do
     :: i == GRANULES -> break
     :: else ->
        v = ctl[i];
#ifndef SCRUB_BY_AN_OLD_TAIL
        /* After the word: so the word cannot be of a lap that the tail is not in yet. */
        at = tail;
#endif
        atomic {
          if
          :: STATE(v) > BUSY && AGE(v, at) > AGE_MAX && ctl[i] == v ->
#ifndef LAPS_WITHOUT_SCRUB
             ctl[i] = YOUNGER(at)
#else
             skip
#endif
          :: else -> skip
          fi;
          i++;
          v = 0
        }
     od;
     i = 0;
     scrubbed_lap = at / GRANULES;
     at = 0
  od
}
#endif

/* M4. `timeout` holds when nobody else can take a step. */
proctype monitor() {
  byte i = 1;
end:
  timeout;
  do
  :: i > PRODUCERS -> break
  :: else -> nobody_is_stuck = nobody_is_stuck && (ended[i] || dead[i]); i++
  od;
  nobody_is_stuck = nobody_is_stuck && committed == delivered;
  for (i : 0 .. GRANULES - 1) {
    nobody_is_stuck = nobody_is_stuck && cell_of[i] == 0
  }
  assert(nobody_is_stuck)
}

init {
  byte i;
  atomic {
    for (i : 1 .. PRODUCERS) { run producer(i) };
    run consumer();
    run recovery();
    run monitor();
#ifdef SCRUB
    run scrubber();
#endif
    i = 0
  }
}
