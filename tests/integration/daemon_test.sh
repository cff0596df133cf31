#!/usr/bin/env bash
# The daemon as an operator meets it: starting, refusing to start, stopping, idling.
source "$(dirname "$0")/lib.sh"

start_daemon
# Its port and its directory are taken: a second one says so, and leaves the first alone.
PORT=$(grep -o '"admin":"[^"]*"' "$WORK/iobd.log" | cut -d '"' -f 4)
expect_exit 75 "belongs to a running iobd \(pid $DAEMON_PID\)" "$IOBD" --runtime-dir "$IOB_RUNTIME_DIR"
expect_exit 78 "$PORT cannot be bound" "$IOBD" --runtime-dir "$WORK/other" --admin-address "$PORT"
[[ ! -e $WORK/other ]] || fail "a daemon that did not start left its directory"
"$IOBCTL" health >/dev/null || fail "the first daemon suffered"

# Idle costs nothing, and little memory.
ticks() { awk '{print $14 + $15}' "/proc/$DAEMON_PID/stat"; }
resident_kib=$(awk '/VmRSS/ {print $2}' "/proc/$DAEMON_PID/status")
printf 'resident: %s KiB\n' "$resident_kib"
((resident_kib < 200 * 1024)) || fail "resident $resident_kib KiB"
expect_exit 0 '^ok$' curl -fsS "http://$PORT/healthz"
expect_exit 0 '^iob_buffers 0$' curl -fsS "http://$PORT/metrics"
expect_exit 22 '404' curl -fsS "http://$PORT/nothing"
stop_daemon

# A daemon that was killed leaves stale sockets and a lock file: the next one takes over.
start_daemon
kill -KILL "$DAEMON_PID"
wait "$DAEMON_PID" || true
[[ -S $IOB_RUNTIME_DIR/grpc.sock ]] || fail "expected a stale socket"
start_daemon
kill -TERM "$DAEMON_PID"
wait "$DAEMON_PID" || fail "exit code after a take-over"
DAEMON_PID=
rm -rf "$IOB_RUNTIME_DIR"

# Settings that cannot be.
expect_exit 2 'octal' "$IOBD" --socket-mode 0999
expect_exit 2 'frobnicate' "$IOBD" --frobnicate
expect_exit 78 'host:port' "$IOBD" --runtime-dir "$WORK/other" --admin-address nonsense
expect_exit 78 'a socket path allows' "$IOBD" --runtime-dir "/tmp/$(printf 'x%.0s' {1..120})"
expect_exit 78 'cannot be made' "$IOBD" --runtime-dir /proc/iob
expect_exit 0 '^iobd [0-9]' "$IOBD" --version
expect_exit 0 'Exit codes' "$IOBD" --help
if [[ $(id -u) == 0 ]]; then
  mkdir -m 755 "$WORK/roots"
  expect_exit 78 'Permission denied' setpriv --reuid 65534 --regid 65534 --clear-groups \
    "$IOBD" --runtime-dir "$WORK/roots/run"
fi
# A live socket of somebody else is left alone.
mkdir "$WORK/foreign"
touch "$WORK/foreign/grpc.sock"
expect_exit 78 'left alone' "$IOBD" --runtime-dir "$WORK/foreign" --admin-address off
[[ -e $WORK/foreign/grpc.sock ]] || fail "a foreign file was removed"
