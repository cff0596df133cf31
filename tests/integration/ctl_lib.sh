# What the scripts about iobctl's commands share, on top of lib.sh.
source "$(dirname "$0")/lib.sh"

# Behind the daemon's and iobctl's, where CMakeLists.txt names it.
HELPER=${3:-}

# In words instead of an exit code alone.
ok() { "$@" >"$WORK/out" 2>&1 || fail "exit $?: $* said: $(cat "$WORK/out")"; }

# expect_line PATTERN COMMAND...: it succeeds, and a line of its output matches.
expect_line() {
  local pattern=$1
  shift
  expect_exit 0 "$pattern" "$@"
}

# expect_json CONDITION COMMAND...: stdout is JSON of which the condition, in Python, is true; `d` is
# the value, or for one value per line the list of them. Without Python it only is not empty.
expect_json() {
  local condition=$1
  shift
  "$@" >"$WORK/json" 2>"$WORK/json.err" || true
  [[ -s $WORK/json ]] || fail "no JSON from: $*; it said: $(cat "$WORK/json.err")"
  command -v python3 >/dev/null || return 0
  python3 - "$WORK/json" "$condition" <<'PYTHON' || fail "not true of $*: $condition: $(head -c 2000 "$WORK/json")"
import json, sys
text = open(sys.argv[1]).read()
try:
    d = json.loads(text)
except json.JSONDecodeError:
    d = [json.loads(line) for line in text.splitlines()]
sys.exit(0 if eval("(" + sys.argv[2] + ")") else 1)
PYTHON
}

# unread COMMAND...: its stdout is a pipe that nobody reads any more: it ends, quietly.
unread() {
  [[ -p $WORK/fifo ]] || mkfifo "$WORK/fifo"
  local code=0 both output
  # Both ends open at once, so that opening one does not wait for the other.
  exec {both}<>"$WORK/fifo"
  exec {output}>"$WORK/fifo"
  exec {both}>&-
  timeout 20 "$@" >&"$output" 2>"$WORK/err" || code=$?
  exec {output}>&-
  ((code == 0)) || fail "exit $code without a reader: $* said: $(cat "$WORK/err")"
  [[ ! -s $WORK/err ]] || fail "without a reader $* said: $(cat "$WORK/err")"
}

# expect_error_json CODE REASON COMMAND...: the exit code, and an error object on stderr that agrees.
expect_error_json() {
  local want=$1 reason=$2 code=0
  shift 2
  "$@" >"$WORK/out" 2>"$WORK/err" || code=$?
  ((code == want)) || fail "exit $code instead of $want: $* said: $(cat "$WORK/err")"
  expect_json "d['error']['reason'] == '$reason' and d['error']['exit_code'] == $want" cat "$WORK/err"
}

# hold COMMAND...: runs the helper until `release`; its first line is in $MADE.
hold() {
  coproc HOLDER { "$HELPER" "$@" 2>"$WORK/helper.err"; }
  HOLDER_STDIN=${HOLDER[1]}
  read -r -t 60 MADE <&"${HOLDER[0]}" || fail "helper $*: $(cat "$WORK/helper.err")"
}
release() {
  exec {HOLDER_STDIN}>&-
  wait "$HOLDER_PID" 2>/dev/null || true
}
