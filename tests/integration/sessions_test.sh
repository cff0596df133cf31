#!/usr/bin/env bash
# The sessions of SESSIONS.md, word for word: each ```console block is typed into a fresh shell, and what
# comes back is what stands there. <name> stands for what varies; runs of blanks count as one, since
# columns move with what varies.
source "$(dirname "$0")/lib.sh"
DOCUMENT=$3

# A line of the document as a regular expression.
pattern_of() {
  local number='[0-9]+' moment='[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}(\.[0-9]{3})?'
  sed -E -e 's/[][\.*^$+?(){}|]/\\&/g' \
    -e "s/<(koid|uid|gid|pid)>/$number/g" -e 's/<token>/[0-9a-f]+/g' \
    -e "s/<time>/($moment|[0-9.]+ (us|ms|s))/g" \
    -e 's/<size>/[0-9.]+ (B|[KMG]iB)/g' -e 's!<rate>![0-9.]+ (B|[KMGT]iB)/s!g' <<<"$1"
}

# expect_output WHERE EXPECTED-FILE: the last command's output, in $WORK/said, line by line.
expect_output() {
  local line pattern said expected
  mapfile -t expected < <(sed -E 's/ +/ /g; s/ $//' "$2")
  mapfile -t said < <(sed -E 's/ +/ /g; s/ $//' "$WORK/said")
  for line in "${!expected[@]}"; do
    pattern=$(pattern_of "${expected[line]}")
    [[ ${said[line]-} =~ ^$pattern$ ]] ||
      fail "$1: line $((line + 1)) is not \"${expected[line]}\"; all of it: $(cat "$WORK/said")"
  done
  ((${#said[@]} == ${#expected[@]})) || fail "$1: more lines than expected: $(cat "$WORK/said")"
}

# run_session NAME FILE: `$ command` lines and what they print, in one shell from the first to the last.
run_session() {
  local name=$1 line command="" count=0
  coproc SHELL_ { PATH=$(dirname "$IOBCTL"):$PATH exec bash --norc --noprofile 2>&1; }
  : >"$WORK/expected"
  step() {
    [[ -n $command ]] || return 0
    # Its output goes to a file: the end of the command is the end of its output.
    printf '{ %s\n} >"%s" 2>&1 </dev/null; echo done\n' "$command" "$WORK/said" >&"${SHELL_[1]}"
    line=""
    read -r -t 30 line <&"${SHELL_[0]}" || true
    [[ $line == "done" ]] || fail "$name: '$command' hangs: $line"
    expect_output "$name: $command" "$WORK/expected"
    count=$((count + 1))
    : >"$WORK/expected"
  }
  local text
  while IFS= read -r text; do
    if [[ $text == '$ '* ]]; then
      step
      command=${text#\$ }
    else
      printf '%s\n' "$text" >>"$WORK/expected"
    fi
  done <"$2"
  step
  local input=${SHELL_[1]}
  exec {input}>&-
  wait "$SHELL__PID" 2>/dev/null || true
  ((count >= 5)) || fail "$name: only $count commands"
}

# The blocks, each in a file of its own.
awk -v to="$WORK/session-" '
  /^```console$/ { open = 1; number += 1; next }
  /^```$/ { open = 0 }
  open { print > (to number) }' "$DOCUMENT"
sessions=$(find "$WORK" -name 'session-*' | wc -l)
((sessions == 3)) || fail "$sessions sessions in $DOCUMENT instead of 3"

start_daemon
for number in 1 2 3; do run_session "session $number" "$WORK/session-$number"; done
expect_exit 0 '^KOID' "$IOBCTL" ls
[[ $("$IOBCTL" ls | wc -l) == 1 ]] || fail "the sessions left something behind"
stop_daemon
