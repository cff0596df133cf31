#!/usr/bin/env bash
# iobctl signal, wait, watch: signals by name, waits that end in every way, events and their order.
source "$(dirname "$0")/ctl_lib.sh"
start_daemon
ok "$IOBCTL" create logs --ring 64KiB --lease 5m

# --- signal -----------------------------------------------------------------------------------------

expect_line '^ep0 of logs has user-0,user-3,user-4$' "$IOBCTL" signal logs ep0 --set 0 --set 3,4
expect_line '^ep0 of logs has user-0,user-7$' "$IOBCTL" signal logs ep1 --peer --clear 3,4 --set USER_7
expect_line '^ep1 of logs has user-5$' "$IOBCTL" signal logs ep1 --set user-5
# Cleared first, then raised.
expect_line '^ep1 of logs has user-5$' "$IOBCTL" signal logs ep1 --set 5 --clear 5
expect_line '^ep1 of logs has none$' "$IOBCTL" signal logs ep1 --clear 0,1,2,3,4,5,6,7
expect_json 'd["endpoint"] == "ep0" and d["set"] == ["user-1"] and d["cleared"] == ["user-7"]
  and d["signals"] == ["user-0", "user-1"] and d["name"] == "logs" and d["buffer_koid"] > 0' \
  "$IOBCTL" --json signal logs ep1 --peer --set 1 --clear 7

expect_exit 2 'needs --set N or --clear N' "$IOBCTL" signal logs ep0
expect_exit 2 "'8' is not a user signal; use 0 to 7" "$IOBCTL" signal logs ep0 --set 8
expect_exit 2 "'-1' is not a user signal" "$IOBCTL" signal logs ep0 --set -1
expect_exit 2 "'peer-closed' is not a user signal" "$IOBCTL" signal logs ep0 --set peer-closed
expect_exit 2 "--clear: 'x' is not" "$IOBCTL" signal logs ep0 --clear x
expect_exit 2 "'' is not a user signal" "$IOBCTL" signal logs ep0 --set 0,,1
expect_exit 2 "'ep2' is not ep0 or ep1" "$IOBCTL" signal logs ep2 --set 0
expect_exit 2 'EP is required' "$IOBCTL" signal logs
expect_exit 1 "'nothing': no such buffer" "$IOBCTL" signal nothing ep0 --set 0
# A name that would clear the screen is shown as what it is.
expect_exit 1 "'\\\\x1b\[2J': no such buffer" "$IOBCTL" signal $'\e[2J' ep0 --set 0

# --- wait -------------------------------------------------------------------------------------------

expect_line '^ep0 of logs has user-0,user-1$' "$IOBCTL" wait logs ep0 --for 1 --timeout 5s
expect_json 'd["signals"] == ["user-0", "user-1"] and d["peer"]["closed"]["reason"] == "open"' \
  "$IOBCTL" --json wait logs ep0 --for USER_0,2
expect_exit 5 'user-2 was not raised on ep0 in time; it has user-0,user-1 \(TIMED_OUT\)' \
  "$IOBCTL" wait logs ep0 --for 2 --timeout 50ms
expect_exit 5 'none of peer-closed,user-2 was raised' \
  "$IOBCTL" wait logs ep0 --for peer-closed --for user-2 --timeout 0
expect_error_json 5 TIMED_OUT "$IOBCTL" --json wait logs ep0 --for 2 --timeout 50ms
# Somebody who waits already sees what is raised later, and is no user of the buffer.
"$IOBCTL" wait logs ep1 --for 6 --timeout 20s >"$WORK/waited" 2>&1 &
WAITER=$!
eventually bash -c "'$IOBCTL' --json stat logs | grep -q '\"endpoint\":\"ep1\",.*\"handles\":2,\"attachments\":0'"
ok "$IOBCTL" signal logs ep0 --peer --set 6
wait "$WAITER" || fail "wait ended with $?: $(cat "$WORK/waited")"
grep -qx 'ep1 of logs has user-6' "$WORK/waited" || fail "wait said: $(cat "$WORK/waited")"

expect_exit 2 "'user-8' is not a signal; use peer-closed, or user-0 to user-7" \
  "$IOBCTL" wait logs ep0 --for user-8
expect_exit 2 'for is required' "$IOBCTL" wait logs ep0
expect_exit 2 "'soon' is not a time" "$IOBCTL" wait logs ep0 --for 0 --timeout soon
expect_exit 2 "'ep' is not ep0 or ep1" "$IOBCTL" wait logs ep --for 0
expect_exit 1 "'nothing': no such buffer" "$IOBCTL" wait nothing ep0 --for 0

# The end of the peer, with its reason.
"$IOBCTL" create dying --ring 64KiB --hold >/dev/null 2>&1 &
HOLDER=$!
eventually "$IOBCTL" stat dying
"$IOBCTL" wait dying ep0 --for PEER_CLOSED --timeout 20s >"$WORK/waited" 2>&1 &
WAITER=$!
eventually bash -c "'$IOBCTL' --json stat dying | grep -q '\"handles\":2'"
kill -KILL "$HOLDER"
wait "$WAITER" || fail "wait ended with $?: $(cat "$WORK/waited")"
grep -qx 'ep0 of dying has peer-closed; ep1: killed(9)' "$WORK/waited" || fail "$(cat "$WORK/waited")"
eventually bash -c "! '$IOBCTL' stat dying"

# A buffer that is taken away ends the wait; so does Ctrl-C.
ok "$IOBCTL" create taken --ring 64KiB --lease 5m
"$IOBCTL" wait taken ep0 --for 0 >"$WORK/waited" 2>&1 &
WAITER=$!
eventually bash -c "'$IOBCTL' --json stat taken | grep -q '\"handles\":2'"
ok "$IOBCTL" rm taken
code=0
wait "$WAITER" || code=$?
((code == 1)) || fail "wait ended with $code: $(cat "$WORK/waited")"
grep -q "'taken' was removed before user-0 was raised (NOT_FOUND)" "$WORK/waited" || fail "$(cat "$WORK/waited")"
ok "$IOBCTL" create taken --ring 64KiB --lease 5m
"$IOBCTL" wait taken ep0 --for 0 >"$WORK/waited" 2>&1 &
WAITER=$!
eventually bash -c "'$IOBCTL' --json stat taken | grep -q '\"handles\":2'"
kill -TERM "$WAITER"
code=0
wait "$WAITER" || code=$?
((code == 130)) || fail "wait ended with $code after SIGTERM: $(cat "$WORK/waited")"

# --- watch ------------------------------------------------------------------------------------------

token_of() { sed -n 's/^to go on from here: --resume //p' "$1"; }
TIME='[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\.[0-9]{3}'

"$IOBCTL" watch --count 1 >"$WORK/events" 2>"$WORK/end" || fail "watch"
grep -Eqx "$TIME  started" "$WORK/events" || fail "watch said: $(cat "$WORK/events")"
TOKEN=$(token_of "$WORK/end")
[[ $TOKEN =~ ^[0-9a-f]+$ ]] || fail "no token at the end: $(cat "$WORK/end")"

# What happened in between is told in order, from the token on, once.
ok "$IOBCTL" create life --ring 64KiB --lease 5m
echo record | "$IOBCTL" write life 2>/dev/null || fail "write"
ok "$IOBCTL" signal life ep0 --set 4
ok "$IOBCTL" name life afterlife
# The writer's end is noticed when its socket closes, a moment after it has exited.
eventually bash -c "'$IOBCTL' --json stat afterlife | grep -q '\"endpoint\":\"ep1\",.*\"attachments\":0'"
ok "$IOBCTL" rm afterlife
"$IOBCTL" watch --resume "$TOKEN" --count 9 >"$WORK/events" 2>"$WORK/end" || fail "watch --resume"
awk '{print $3}' "$WORK/events" | sort >"$WORK/kinds"
printf '%s\n' started buffer-created buffer-gone buffer-renamed endpoint-attached endpoint-closed \
  endpoint-closed endpoint-detached signals-changed | sort | cmp -s - "$WORK/kinds" ||
  fail "events: $(cat "$WORK/events")"
grep -Eq "^$TIME  buffer-created +life #[0-9]+ +72\.0 KiB by uid [0-9]+ gid [0-9]+ pid [0-9]+$" "$WORK/events" || fail "created"
grep -Eq '  endpoint-attached +life #[0-9]+ ep1 +by uid [0-9]+ ' "$WORK/events" || fail "attached"
grep -Eq '  endpoint-detached +(after)?life #[0-9]+ ep1 +closed, was uid [0-9]+ ' "$WORK/events" || fail "detached"
grep -Eq '  signals-changed +life #[0-9]+ ep0 +user-4$' "$WORK/events" || fail "signals"
grep -Eq '  buffer-renamed +afterlife #[0-9]+ +was life$' "$WORK/events" || fail "renamed"
grep -Eq '  endpoint-closed +afterlife #[0-9]+ ep0 +revoked$' "$WORK/events" || fail "closed"
tail -n 1 "$WORK/events" | grep -Eq '  buffer-gone +afterlife #[0-9]+$' || fail "gone is not last"
# The token of a line goes on after that line.
expect_json '[e["event"] for e in d][:2] == ["started", "buffer-created"] and len(d) == 9
  and all(e["resume_token"] and e["time_unix_ms"] > 0 for e in d)
  and d[1]["memory_bytes"] == 73728 and d[1]["holder"]["pid"] > 0 and d[1]["buffer_name"] == "life"
  and [e["old_name"] for e in d if e["event"] == "buffer-renamed"] == ["life"]
  and [e["signals"] for e in d if e["event"] == "signals-changed"] == [["user-4"]]
  and [e["closed"]["reason"] for e in d if e["event"] == "endpoint-closed"] == ["revoked", "closed"]
  and d[8]["event"] == "buffer-gone"' "$IOBCTL" --json watch --resume "$TOKEN" --count 9
NEXT=$(sed -n 3p "$WORK/json" | grep -o '"resume_token":"[0-9a-f]*"' | cut -d '"' -f 4)
expect_json 'len(d) == 3 and d[0]["event"] == "started" and d[1]["event"] != "buffer-created"' \
  "$IOBCTL" --json watch --resume "$NEXT" --count 3

# One buffer: its state first, then what happens, until it is gone.
ok "$IOBCTL" signal logs ep0 --clear 0,1,2,3,4,5,6,7 --set 3
"$IOBCTL" watch logs ep0 >"$WORK/events" 2>"$WORK/end" &
WATCHER=$!
eventually grep -Eq '  started +logs #[0-9]+ ep0 +signals user-3$' "$WORK/events"
ok "$IOBCTL" signal logs ep0 --set 1
ok "$IOBCTL" signal logs ep1 --set 2
ok "$IOBCTL" rm logs
wait "$WATCHER" || fail "watch ended with $?: $(cat "$WORK/end")"
grep -Eq '  signals-changed +logs #[0-9]+ ep0 +user-1,user-3$' "$WORK/events" || fail "$(cat "$WORK/events")"
! grep -q 'user-2' "$WORK/events" || fail "the other endpoint's signals are not for this one to see"
grep -Eq '  buffer-gone ' "$WORK/events" || fail "$(cat "$WORK/events")"
[[ -n $(token_of "$WORK/end") ]] || fail "no token: $(cat "$WORK/end")"

# Ctrl-C is how a watch ends; a reader that is gone ends it too.
"$IOBCTL" watch >"$WORK/events" 2>"$WORK/end" &
WATCHER=$!
eventually grep -q started "$WORK/events"
kill -INT "$WATCHER" 2>/dev/null || true
kill -TERM "$WATCHER"
wait "$WATCHER" || fail "watch ended with $? after SIGTERM"
[[ -n $(token_of "$WORK/end") ]] || fail "no token after SIGTERM: $(cat "$WORK/end")"

# A token of an earlier daemon is told apart from one that is none.
expect_exit 0 'resync-required +events are missing' \
  "$IOBCTL" watch --resume 00000000000000000000000000000001 --count 2
expect_exit 1 'resume_token: not one of ours' "$IOBCTL" watch --resume $'x\e[2J'
expect_exit 1 "'nothing': no such buffer" "$IOBCTL" watch nothing
expect_exit 2 "'ep9' is not ep0 or ep1" "$IOBCTL" watch taken ep9
expect_exit 2 'count' "$IOBCTL" watch --count x

# A daemon that stops ends it, with the token to go on from.
"$IOBCTL" watch >"$WORK/events" 2>"$WORK/end" &
WATCHER=$!
eventually grep -q started "$WORK/events"
stop_daemon
code=0
wait "$WATCHER" || code=$?
((code == 1 || code == 69)) || fail "watch ended with $code when the daemon stopped: $(cat "$WORK/end")"
[[ -n $(token_of "$WORK/end") ]] || fail "no token when the daemon stopped: $(cat "$WORK/end")"
