#!/usr/bin/env bash
# Runs the checks of one model, as listed in `checks`: those that must hold, or those in which a
# defect was put in and must be found.
#
# usage: run_model.sh MODEL holds|broken
#   IOB_MODEL_SCOPE=large      the large scopes as well
#   IOB_MODEL_MEMORY_MIB=N     what one search of them may use (default 12000)
#   IOB_MODEL_SECONDS_MAX=N    how long one search may take (default 1800)
#
# A check that must hold has no error and visited every state; one that must fail does so for the
# stated reason, because a model that fails for another one shows nothing. A defect whose macro the
# model does not know would change nothing, and so not fail. Exit 77 means that spin is missing.
set -euo pipefail

readonly MODEL=$1 GROUP=$2 SCOPE=${IOB_MODEL_SCOPE:-small}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE

if ! command -v spin >/dev/null || ! command -v cc >/dev/null; then
  echo "SKIPPED: spin or cc is not installed (apt-get install spin gcc); nothing was verified"
  exit 77
fi

# Bounds of one search. What does not fit is not a pass: the search must be exhaustive.
case $SCOPE in
  small) MEMORY_MIB_MAX=1400 ;;
  large) MEMORY_MIB_MAX=${IOB_MODEL_MEMORY_MIB:-12000} ;;
  *) echo "IOB_MODEL_SCOPE is '$SCOPE'; it must be small or large" && exit 2 ;;
esac
readonly MEMORY_MIB_MAX DEPTH_MAX=1000000

WORK=$(mktemp -d)
readonly WORK
trap 'rm -rf "$WORK"' EXIT

# What the verifier said, in one word; `incomplete` unless it visited every state it had to.
verdict() {
  local out=$1
  if grep -q "max search depth too small\|reached -DMEMLIM\|out of memory\|VECTORSZ" "$out"; then
    echo incomplete
  elif grep -qE "pan:1: (invalid end state|assertion violated .*nobody_is_stuck)" "$out"; then
    echo stuck
  elif grep -q "pan:1: assertion violated" "$out"; then
    echo wrong
  elif grep -q "pan:1: non-progress cycle" "$out"; then
    echo cycle
  elif grep -q "errors: 0" "$out" && ! grep -q "Search not completed" "$out"; then
    echo holds
  else
    echo incomplete
  fi
}

# search SAFETY-OR-CYCLES OPTIMIZATION DEFINES...: leaves what the verifier prints in $WORK/out.
search() {
  local kind=$1 optimization=$2 mode=-DSAFETY flags=()
  shift 2
  if [[ $kind == cycles ]]; then
    mode=-DNP
    flags=(-l)
  fi
  rm -f "$WORK"/pan* "$WORK"/*.trail
  (
    cd "$WORK"
    spin "$@" -a "$HERE/$MODEL.pml" >spin.log
    cc "$optimization" -w "$mode" -DVECTORSZ=2048 -DMEMLIM="$MEMORY_MIB_MAX" -o pan pan.c
    timeout "${IOB_MODEL_SECONDS_MAX:-1800}" ./pan "${flags[@]}" -m"$DEPTH_MAX" -w22 \
      >out 2>&1 || true
  )
}

failed=0
ran=0
while read -r model scope kind expected defines; do
  if [[ $model != "$MODEL" || ($scope == large && $SCOPE != large) ]]; then continue; fi
  if [[ $expected == holds ]]; then group=holds; else group=broken; fi
  if [[ $group != "$GROUP" ]]; then continue; fi
  read -ra macros <<<"$defines"
  # Defects are found among the first states: compiling well would take longer than it saves.
  if [[ $group == holds ]]; then optimization=-O2; else optimization=-O0; fi
  ran=$((ran + 1))
  search "$kind" "$optimization" "${macros[@]}"
  found=$(verdict "$WORK/out")
  states=$(awk '/states, stored/ { print $1; exit }' "$WORK/out")
  seconds=$(awk '/elapsed time/ { print $4; exit }' "$WORK/out")
  mib=$(awk '/total actual memory usage/ { print int($1); exit }' "$WORK/out")
  printf '%-10s %-6s %10s states %7s s %6s MiB  %s\n' "$found" "$kind" "${states:-?}" \
    "${seconds:-?}" "${mib:-?}" "$defines"
  if [[ $found != "$expected" ]]; then
    failed=$((failed + 1))
    if [[ $kind == cycles ]]; then how="-DNP" walk="-l"; else how="-DSAFETY" walk=""; fi
    echo "  expected: $expected. To see the run, in an empty directory:"
    echo "    spin $defines -a $HERE/$MODEL.pml"
    echo "    cc -O2 -w $how -o pan pan.c && ./pan $walk -m$DEPTH_MAX"
    echo "    spin $defines -t -p -g -k $MODEL.pml.trail $HERE/$MODEL.pml"
    grep -E "pan:|error|Warning" "$WORK/out" | sed 's/^/    /' || true
  fi
done < <(grep -vE '^#|^$' "$HERE/checks")

if ((ran == 0)); then
  echo "there is no check of '$MODEL' that $GROUP"
  exit 2
fi
echo "$((ran - failed)) of $ran as expected"
exit $((failed > 0))
