# Shared by the integration scripts: a daemon on a private directory, and checks that say what they saw.
set -euo pipefail

IOBD=$1
IOBCTL=$2
WORK=$(mktemp -d /tmp/iob-test-XXXXXX)
chmod 755 "$WORK"
export IOB_RUNTIME_DIR=$WORK/run
DAEMON_PID=

fail() {
  printf 'FAILED: %s\n' "$*" >&2
  [[ -s $WORK/iobd.log ]] && tail -n 20 "$WORK/iobd.log" >&2
  exit 1
}

# Waits until the command succeeds; 10 s at most.
eventually() {
  local deadline=$((SECONDS + 10))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || fail "never true: $*"
    sleep 0.02
  done
}

start_daemon() {
  "$IOBD" --runtime-dir "$IOB_RUNTIME_DIR" --admin-address 127.0.0.1:0 "$@" 2>"$WORK/iobd.log" &
  DAEMON_PID=$!
  eventually "$IOBCTL" health
}

stop_daemon() {
  local code=0
  kill -TERM "$DAEMON_PID"
  wait "$DAEMON_PID" || code=$?
  DAEMON_PID=
  ((code == 0)) || fail "iobd ended with $code after SIGTERM"
  [[ ! -e $IOB_RUNTIME_DIR ]] || fail "iobd left $(ls -A "$IOB_RUNTIME_DIR") behind"
}

cleanup() {
  local code=$?
  if [[ -n $DAEMON_PID ]]; then kill -KILL "$DAEMON_PID" 2>/dev/null || true; fi
  rm -rf "$WORK"
  exit "$code"
}
trap cleanup EXIT

# expect_exit CODE PATTERN COMMAND...: the exit code, and a line of output that matches.
expect_exit() {
  local want=$1 pattern=$2 code=0
  shift 2
  "$@" >"$WORK/out" 2>&1 || code=$?
  ((code == want)) || fail "exit $code instead of $want: $* said: $(cat "$WORK/out")"
  grep -Eq -- "$pattern" "$WORK/out" || fail "no line like \"$pattern\": $* said: $(cat "$WORK/out")"
}
