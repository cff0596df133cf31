/*
 * The mediated ring's block policy: the broker waits for room, without blocking, while the consumer
 * may be asleep for want of records.
 *
 *   HEAD page                          head (broker), tail and waiting (consumer)
 *   ledger page (broker writes)        want_room
 *   DATA (broker writes)               CELLS cells; a record takes one or two and may wrap
 *
 *     broker                                       consumer
 *       records, head (per batch)                    head; reads; tail
 *       fence                                        fence
 *       waiting? -> futex or packet                  want_room, and enough? -> room_made
 *
 *     publish; want_room; fence; tail again        waiting; fence; head again
 *     epoll: room_made, deadline, death            sleep on head, or on the socket
 *
 * Models shm/mediated_ring_writer.h (Append, MakeRoom, RefreshTail, Publish, WantRoom),
 * shm/mediated_ring_reader.h (Next, Release, HasRoomFor, PrepareToWait, ClearWaiting) and
 * Mediator::Continue and GiveUp of server/mediator.cc. The two sleepers use different means: the
 * broker a packet, which nobody compares anything with, the consumer either.
 *
 * Claims, by assertion: B1 no byte of an unreleased record changes; B2 every record is stored or
 * rejected, never both; those stored arrive once, in order, intact; B3 in the end attempted =
 * stored + rejected, also when the consumer was killed at any step or deadlines passed, and what
 * was stored was consumed unless it was killed. By the absence of a state in which somebody cannot
 * go on: B4 without deadlines nobody sleeps for ever while there are records or is room.
 *
 *   CELLS, RECORDS   the scope; which records share a batch is left open
 *   SOCKET           the consumer waits for a packet (kWaitingOnSocket) instead of a futex
 *   DEADLINES        any wait for room may end by its deadline. They would hide a lost wake-up of
 *                    the broker, so B4 is shown without them
 *   KILL             the consumer dies at any step or not at all
 */
#ifndef CELLS
#define CELLS 2
#endif
#ifndef RECORDS
#define RECORDS 3
#endif

#define HEAD 0
#define WANT_ROOM 1
#define TAIL 2
#define WAITING 3
#define DATA 4
#define WORDS (DATA + CELLS)
#define PROCESSES 2
#define BROKER 0
#define CONSUMER 1
#include "tso.pml"

#define CELL(record, cells) ((record) * 4 + (cells))

bool room_made;              /* A packet of the consumer, until the broker reads it. */
bool packet;                 /* SOCKET: a packet of the broker, until the consumer reads it. */
bool kill_consumer, consumer_gone;

/* Ghosts. */
byte stored, rejected, consumed;
bool decided[RECORDS + 1], was_stored[RECORDS + 1];

#ifdef SOCKET
#define WAKE_CONSUMER packet = true
#else
#define WAKE_CONSUMER FUTEX_WAKE(CONSUMER)
#endif

#ifdef NO_PUBLISH_FENCE
#define PUBLISH_FENCE skip
#else
#define PUBLISH_FENCE FENCE(BROKER)
#endif

#define LOOK_AND_WAKE                                        \
  PUBLISH_FENCE;                                             \
  if                                                         \
  :: LOAD(WAITING) -> WAKE_CONSUMER                          \
  :: else -> skip                                            \
  fi

#ifdef WAKE_BEFORE_PUBLISH
#define PUBLISH LOOK_AND_WAKE; STORE(BROKER, HEAD, head)
#else
#define PUBLISH STORE(BROKER, HEAD, head); LOOK_AND_WAKE
#endif

#define REFRESH_TAIL                                         \
  tail = LOAD(TAIL);                                         \
  assert(tail <= head)

#define FITS (head + cells - tail <= CELLS)

#define DECIDE(record) assert(!decided[record]); decided[record] = true
#define REJECT d_step { DECIDE(record); rejected++ }

proctype broker() {
  byte record = 1, head, tail, cells;
  do
  :: record > RECORDS -> break
  :: else ->
     if
     :: cells = 1
     :: cells = 2
     fi;
     if
     :: !FITS -> REFRESH_TAIL                                                /* MakeRoom */
     :: else -> skip
     fi;
     do
     :: FITS ->                                                              /* Append */
        d_step { DECIDE(record); was_stored[record] = true; stored++ };
#ifdef PUBLISH_BEFORE_RECORD
        STORE(BROKER, HEAD, head + cells);
#endif
        STORE(BROKER, DATA + head % CELLS, CELL(record, cells));
        if
        :: cells == 2 -> STORE(BROKER, DATA + (head + 1) % CELLS, CELL(record, 0))
        :: else -> skip
        fi;
        head = head + cells;
        break
     :: else ->
#ifndef PARK_UNPUBLISHED
        PUBLISH;                                   /* Else it could not make the room we want. */
#endif
#ifdef WANT_ROOM_AFTER_LOOK
        REFRESH_TAIL;
        STORE(BROKER, WANT_ROOM, cells);                                     /* WantRoom */
        FENCE(BROKER);
#else
        STORE(BROKER, WANT_ROOM, cells);                                     /* WantRoom */
#ifndef NO_WANT_ROOM_FENCE
        FENCE(BROKER);
#endif
#ifndef NO_ROOM_RECHECK
        REFRESH_TAIL;
#endif
#endif
        if
        :: FITS -> STORE(BROKER, WANT_ROOM, 0)                               /* EndWant */
        :: else ->
           if                                                                /* epoll_wait */
           :: room_made ->
              room_made = false;
              STORE(BROKER, WANT_ROOM, 0);
              REFRESH_TAIL
           :: consumer_gone ->                                               /* GiveUp */
              STORE(BROKER, WANT_ROOM, 0);
              REFRESH_TAIL;
              if
              :: FITS -> skip
              :: else -> REJECT; break
              fi
#ifdef DEADLINES
           :: true ->                                                        /* GiveUp */
              STORE(BROKER, WANT_ROOM, 0);
#ifdef DEADLINE_THEN_STORED
              REJECT;
              REFRESH_TAIL;
              if
              :: FITS -> skip
              :: else -> break
              fi
#else
              REJECT;
              break
#endif
#endif
           fi
        fi
     od;
     record++;
     if
     :: PUBLISH
     :: skip                                                                 /* In batches. */
     fi
  od;
  PUBLISH;
  assert(stored + rejected == RECORDS);
  /* The consumer may go now: it is told as by PEER_CLOSED, with the signal word. */
  FENCE(BROKER);
  signal_word = true;
  FUTEX_WAKE(CONSUMER);
}

#ifdef NO_RELEASE_FENCE
#define RELEASE_FENCE skip
#else
#define RELEASE_FENCE FENCE(CONSUMER)
#endif

/* Release, with HasRoomFor: a fresh head, as what was added meanwhile counts against the room. */
#define RELEASE                                                           \
  STORE(CONSUMER, TAIL, next);                                            \
  released = next;                                                        \
  RELEASE_FENCE;                                                          \
  wanted = LOAD(WANT_ROOM);                                               \
  if                                                                      \
  :: wanted != 0 && CELLS - (LOAD(HEAD) - next) >= wanted ->              \
     room_made = true                                                     \
  :: else -> skip                                                         \
  fi;                                                                     \
  wanted = 0

proctype consumer() {
  byte next, released, head, expected = 1, wanted, cells;
  bool signal_seen;
  {
    do
    :: signal_seen = signal_word;                              /* Before head, as in lane_sleep. */
       head = LOAD(HEAD);
       if
       :: head != next ->
          do
          :: next == head -> break
          :: else ->
#ifdef RELEASE_BEFORE_READ
             next = next + LOAD(DATA + next % CELLS) % 4;
             RELEASE;
             next = next - LOAD(DATA + next % CELLS) % 4;
#endif
             do                                        /* Rejected records leave no trace here. */
             :: expected <= RECORDS && decided[expected] && !was_stored[expected] -> expected++
             :: else -> break
             od;
             cells = LOAD(DATA + next % CELLS) % 4;                          /* Next */
             assert(LOAD(DATA + next % CELLS) == CELL(expected, cells));
             assert(cells >= 1 && cells <= head - next);
             if
             :: cells == 2 -> assert(LOAD(DATA + (next + 1) % CELLS) == CELL(expected, 0))
             :: else -> skip
             fi;
             next = next + cells;
             cells = 0;
             expected++;
             consumed++;
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
          :: signal_seen -> assert(consumed == stored); break
          :: else -> skip
          fi;
          STORE(CONSUMER, WAITING, 1);                                       /* PrepareToWait */
#ifndef NO_CONSUMER_FENCE
          FENCE(CONSUMER);
#endif
          head = LOAD(HEAD);
          if
#ifndef NO_RECHECK
          :: head != next -> skip
#endif
          :: else ->
#ifdef SOCKET
             atomic { (packet || signal_word != signal_seen) -> packet = false }
#else
             FUTEX_WAIT(CONSUMER, HEAD, head, signal_seen)
#endif
          fi;
          STORE(CONSUMER, WAITING, 0)                                        /* ClearWaiting */
       fi
    od
  } unless { kill_consumer -> FENCE(CONSUMER); consumer_gone = true }
}

init {
  atomic { run broker(); run consumer() };
#ifdef KILL
end:
  if
  :: kill_consumer = true
  :: skip
  fi
#endif
}
