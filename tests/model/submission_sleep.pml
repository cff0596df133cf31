/*
 * The submission queue: who sleeps when, and what a kill leaves.
 *
 *   SUBMIT page (client writes)        tail, waiting, SLOTS entries
 *   COMPLETE page (broker writes)      head, completion tail, need_wakeup
 *
 *     client                                        broker
 *       entry, tail                                   tail; copies entries; completions, head
 *       fence                                         fence
 *       need_wakeup? -> write the eventfd             waiting? -> wake the sleeper on head
 *
 *     waiting; fence; head again; sleep on head     need_wakeup; fence; tail again; epoll
 *
 *           served some               nothing there, twice
 *         +------------+   +--------------------------------------+
 *         v            |   |                                      v
 *       ACTIVE --------+---+    IDLE (need_wakeup) <--- 10 ms --- MUTED (need_wakeup, eventfd off)
 *         ^                       |      |                           ^
 *         +------- kick ----------+      +--- empty kicks in a row --+
 *
 * Models shm/submission_client.h (TryAdd, Publish, PrepareToWait, ClearWaiting),
 * shm/submission_server.h (Serve, BecomeIdle, Activate, FinishAll) and the lists of
 * server/queue_scheduler.h. Which queue is served next, and whether an event or a queue comes
 * first, is left open: what holds here holds for every order.
 *
 * Claims, by assertion: Q1 each entry is served once, in order, as it was written; Q2 a client that
 * sees head beyond an entry sees its completion; Q3 when a client has left, also by a kill at any
 * step, exactly what it published was served. By the absence of a state in which somebody cannot go
 * on: Q4 no published entry waits for a broker that sleeps, no served one for a client that does,
 * muted eventfds included. The only clock is the one that ends muting.
 *
 *   CLIENTS, ENTRIES, SLOTS   the scope
 *   CAP                       entries per round
 *   FLOOD                     kicks for nothing that each client may send on top
 *   EMPTY_KICKS_MAX           so many in a row mute the eventfd
 *   KILL                      one client dies at any step or not at all
 */
#ifndef CLIENTS
#define CLIENTS 1
#endif
#ifndef ENTRIES
#define ENTRIES 3
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef CAP
#define CAP 2
#endif
#ifndef FLOOD
#define FLOOD 0
#endif
#ifndef EMPTY_KICKS_MAX
#define EMPTY_KICKS_MAX 2
#endif

#define PER_QUEUE (5 + SLOTS)
#define TAIL(q) ((q) * PER_QUEUE)
#define WAITING(q) ((q) * PER_QUEUE + 1)
#define HEAD(q) ((q) * PER_QUEUE + 2)
#define COMPLETION_TAIL(q) ((q) * PER_QUEUE + 3)
#define NEED_WAKEUP(q) ((q) * PER_QUEUE + 4)
#define SLOT(q, index) ((q) * PER_QUEUE + 5 + (index) % SLOTS)
#define WORDS (CLIENTS * PER_QUEUE)
#define PROCESSES (CLIENTS + 1)
#define BROKER 0
#define CLIENT(q) ((q) + 1)
#define NOBODY 255
#include "tso.pml"

bool kick[CLIENTS];                       /* The eventfd: readable until it is read. */
bool left[CLIENTS];                       /* The pidfd: readable once the process is gone. */
byte victim = NOBODY;

/* Ghosts: the last tail that was stored; completions that belong below each entry. */
byte published[CLIENTS];
#define GHOST(q, index) ((q) * (ENTRIES + 1) + (index))
byte completions_below[CLIENTS * (ENTRIES + 1)];

#ifdef NO_PUBLISH_FENCE
#define PUBLISH_FENCE skip
#else
#define PUBLISH_FENCE FENCE(CLIENT(q))
#endif

#define KICK_IF_NEEDED                                       \
  PUBLISH_FENCE;                                             \
  if                                                         \
  :: LOAD(NEED_WAKEUP(q)) -> kick[q] = true                  \
  :: else -> skip                                            \
  fi

#define STORE_TAIL                                           \
  atomic { STORE(CLIENT(q), TAIL(q), tail); published[q] = tail }

#ifdef WAKE_BEFORE_PUBLISH
#define PUBLISH KICK_IF_NEEDED; STORE_TAIL; unpublished = false
#else
#define PUBLISH STORE_TAIL; KICK_IF_NEEDED; unpublished = false
#endif

/* One load of head; all it covers must be complete. */
#define REFRESH_HEAD                                                              \
  head = LOAD(HEAD(q));                                                           \
  assert(head <= tail);                                                           \
  assert(LOAD(COMPLETION_TAIL(q)) >= completions_below[GHOST(q, head)])

proctype client(byte q) {
  byte tail, head, seen, kicks_left = FLOOD;
  bool unpublished;
  {
    do
    :: tail == ENTRIES && head == tail -> break
    :: kicks_left > 0 -> kicks_left--; kick[q] = true
    :: tail < ENTRIES && tail - head < SLOTS ->                              /* TryAdd */
#ifdef PUBLISH_BEFORE_ENTRY
       tail++;
       STORE_TAIL;
       tail--;
#endif
       STORE(CLIENT(q), SLOT(q, tail), tail + 1);
       tail++;
       if
       :: PUBLISH
       :: unpublished = true                                                 /* In batches. */
       fi
    :: tail == ENTRIES && head != tail || tail - head == SLOTS ->
       seen = head;
       REFRESH_HEAD;
       if
       :: head != seen -> skip
       :: else ->
          if
#ifndef SLEEP_UNPUBLISHED
          :: unpublished -> PUBLISH
#endif
          :: else -> skip
          fi;
          STORE(CLIENT(q), WAITING(q), 1);                                   /* PrepareToWait */
#ifndef NO_WAITING_FENCE
          FENCE(CLIENT(q));
#endif
          REFRESH_HEAD;
          if
#ifndef NO_HEAD_RECHECK
          :: head != seen -> skip
#endif
          :: else -> FUTEX_WAIT(CLIENT(q), HEAD(q), head, false)
          fi;
          STORE(CLIENT(q), WAITING(q), 0)                                    /* ClearWaiting */
       fi;
       seen = 0
    od;
    assert(LOAD(COMPLETION_TAIL(q)) == completions_below[GHOST(q, ENTRIES)])
  } unless { victim == q -> skip };
  /* The kernel tells of the end when the last store has arrived. */
  FENCE(CLIENT(q));
  left[q] = true
}

#define SERVE_ONE                                                                         \
  assert(LOAD(SLOT(q, head[q])) == head[q] + 1);                                          \
  completions_below[GHOST(q, head[q] + 1)] = completions_below[GHOST(q, head[q])];        \
  if                                                                                      \
  :: completions_below[GHOST(q, head[q] + 1)]++                     /* Rejected: told. */ \
  :: skip                                                           /* Stored: implied. */ \
  fi;                                                                                     \
  head[q]++

#define STORE_HEAD STORE(BROKER, HEAD(q), head[q])
#define STORE_COMPLETIONS                                                                 \
  STORE(BROKER, COMPLETION_TAIL(q), completions_below[GHOST(q, head[q])])

#ifdef HEAD_BEFORE_COMPLETION
#define STORE_RESULTS STORE_HEAD; STORE_COMPLETIONS
#else
#define STORE_RESULTS STORE_COMPLETIONS; STORE_HEAD
#endif

#ifdef NO_SERVE_FENCE
#define SERVE_FENCE skip
#else
#define SERVE_FENCE FENCE(BROKER)
#endif

#define WAKE_CLIENT                                                                       \
  SERVE_FENCE;                                                                            \
  if                                                                                      \
  :: LOAD(WAITING(q)) -> FUTEX_WAKE(CLIENT(q))                                            \
  :: else -> skip                                                                         \
  fi

/* Serve: at most CAP entries of those that one load of tail covers. */
#define SERVE                                                                             \
  end_of_round = (tail - head[q] > CAP -> head[q] + CAP : tail);                          \
  do                                                                                      \
  :: head[q] == end_of_round -> break                                                     \
  :: else -> SERVE_ONE                                                                    \
  od;                                                                                     \
  STORE_RESULTS;                                                                          \
  WAKE_CLIENT

proctype broker() {
  byte head[CLIENTS], empty_kicks[CLIENTS];
  bool idle[CLIENTS], kicked[CLIENTS], muted[CLIENTS], finished[CLIENTS];
  byte q, tail, end_of_round, finished_count;
  do
  :: finished_count == CLIENTS -> break
  :: else ->
     /* Which queue has something to do; with none active this is epoll_wait. */
     if
     :: !idle[0] || left[0] && !finished[0] || kick[0] && !muted[0] && !finished[0] || muted[0] ->
        q = 0
#if CLIENTS > 1
     :: !idle[1] || left[1] && !finished[1] || kick[1] && !muted[1] && !finished[1] || muted[1] ->
        q = 1
#endif
     fi;
     if
#ifdef HANGUP_TAKEN_AS_DEATH
     :: !finished[q] ->
#else
     :: left[q] && !finished[q] ->                                           /* FinishAll */
#endif
        tail = LOAD(TAIL(q));
        do
        :: head[q] == tail -> break
        :: else -> SERVE
        od;
#ifndef HANGUP_TAKEN_AS_DEATH
        assert(head[q] == published[q]);
#endif
        idle[q] = true;
        muted[q] = false;
        finished[q] = true;
        finished_count++
     :: !idle[q] ->
        tail = LOAD(TAIL(q));
        if
        :: tail != head[q] ->
           kicked[q] = false;
           empty_kicks[q] = 0;
           SERVE
        :: else ->                                                           /* BecomeIdle */
#ifdef NEED_WAKEUP_AFTER_LOOK
           tail = LOAD(TAIL(q));
           STORE(BROKER, NEED_WAKEUP(q), 1);
           FENCE(BROKER);
#else
           STORE(BROKER, NEED_WAKEUP(q), 1);
#ifndef NO_IDLE_FENCE
           FENCE(BROKER);
#endif
#ifndef NO_IDLE_RECHECK
           tail = LOAD(TAIL(q));
#endif
#endif
           if
           :: tail != head[q] -> STORE(BROKER, NEED_WAKEUP(q), 0)
           :: else ->
              idle[q] = true;
              if
              :: kicked[q] ->
                 kicked[q] = false;
                 empty_kicks[q]++;
                 if
                 :: empty_kicks[q] == EMPTY_KICKS_MAX ->
                    empty_kicks[q] = 0;
                    muted[q] = true
#ifdef MUTED_IS_NOT_TOLD
                    ; STORE(BROKER, NEED_WAKEUP(q), 0)
#endif
                 :: else -> skip
                 fi
              :: else -> skip
              fi
           fi
        fi
     :: kick[q] && idle[q] && !muted[q] && !finished[q] ->                /* Activate */
        kick[q] = false;
        kicked[q] = true;
        STORE(BROKER, NEED_WAKEUP(q), 0);
        idle[q] = false
     :: kick[q] && !idle[q] && !muted[q] && !finished[q] -> kick[q] = false
     :: muted[q] ->                                                          /* 10 ms are over. */
#ifdef MUTING_EATS_KICKS
        kick[q] = false;
#endif
        muted[q] = false
     fi;
     tail = 0;
     end_of_round = 0;
     q = 0
  od
}

/* A queue starts ACTIVE. */
init {
  atomic {
    run broker();
    run client(0);
#if CLIENTS > 1
    run client(1);
#endif
    skip
  };
#ifdef KILL
end:
  if
  :: victim = 0
#if CLIENTS > 1
  :: victim = 1
#endif
  :: skip
  fi
#endif
}
