#!/usr/bin/env bash
# iobctl, as a person uses it: the main job from a shell.
source "$(dirname "$0")/lib.sh"
start_daemon

# Lines in, the same bytes out, and a clean end told as such.
seq 1 20000 >"$WORK/in"
"$IOBCTL" create logs --ring 1MiB >"$WORK/create.out" 2>&1 &
CREATE=$!
eventually "$IOBCTL" stat logs
"$IOBCTL" tail logs --follow --raw >"$WORK/out-raw" 2>"$WORK/tail.err" &
TAIL=$!
"$IOBCTL" write logs <"$WORK/in" >"$WORK/write.out" 2>&1 || fail "write: $(cat "$WORK/write.out")"
wait "$TAIL" || fail "tail --follow ended with $?: $(cat "$WORK/tail.err")"
wait "$CREATE" || fail "create ended with $?: $(cat "$WORK/create.out")"
tr -d '\n' <"$WORK/in" | cmp -s - <(tr -d '\n' <"$WORK/out-raw") || fail "what came out is not what went in"
eventually bash -c "! '$IOBCTL' stat logs"

# A writer that is killed is told as such, with an exit code to match.
"$IOBCTL" create kill --ring 1MiB >/dev/null 2>&1 &
eventually "$IOBCTL" stat kill
"$IOBCTL" tail kill --follow >"$WORK/tail.out" 2>"$WORK/tail.err" &
TAIL=$!
mkfifo "$WORK/fifo"
"$IOBCTL" write kill <"$WORK/fifo" &
WRITER=$!
exec 9>"$WORK/fifo"
echo hello >&9
# A line reaches the reader although the pipe stays open.
eventually grep -q hello "$WORK/tail.out"
kill -KILL "$WRITER"
code=0
wait "$TAIL" || code=$?
((code == 3)) || fail "tail --follow ended with $code after the writer was killed"
grep -q 'killed(9)' "$WORK/tail.err" || fail "tail did not say killed(9): $(cat "$WORK/tail.err")"
exec 9>&-

# Refusals are sentences, with an exit code.
expect_exit 1 'no such buffer' "$IOBCTL" stat nothing
expect_exit 2 '' "$IOBCTL" create
expect_exit 69 'iobctl:' "$IOBCTL" --runtime-dir /tmp/no-such-iob health
"$IOBCTL" create one --ring 64KiB >/dev/null 2>&1 &
HOLDER=$!
eventually "$IOBCTL" stat one
expect_exit 1 'taken' "$IOBCTL" create one --ring 64KiB
"$IOBCTL" --json ls | grep -q '"one"' || fail "ls --json does not list it"
"$IOBCTL" rm one || fail "rm"
expect_exit 1 'no such buffer' "$IOBCTL" stat one
kill "$HOLDER" 2>/dev/null || true
stop_daemon
