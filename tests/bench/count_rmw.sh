#!/bin/sh
# Fails when appending or reading a record takes an atomic read-modify-write, a fence, a system call
# or a call that nobody has allowed. usage: count_rmw.sh rmw_probe.o   (x86-64)
set -eu
object=$1

body() {
  objdump -dr -C --no-show-raw-insn "$object" | awk -v name="<$1>:" '
    index($0, name) { inside = 1; next }
    inside && /^$/ { exit }
    inside'
}
# lock prefixes, xchg with memory (locked without a prefix), fences, system calls.
atomics() { grep -E '[[:space:]](lock|mfence|sfence|lfence|syscall)|xchg.*\(' || true; }
calls() {
  grep -A1 -E "[[:space:]](call|jmp) " | grep -oE "R_X86_64_(PLT32|PC32|GOTPCRELX).*" || true
}

failed=0
for name in ProbeAppend ProbeNext; do
  code=$(body "$name")
  [ -n "$code" ] || { echo "$name is not in $object"; exit 1; }
  found=$(printf '%s\n' "$code" | atomics)
  strangers=$(printf '%s\n' "$code" | calls |
    grep -vE "memcpy|memset|MakeRoom|NextUnit|Poison|CheckFailed|\.text|\.cold|\.rodata" || true)
  if [ -n "$found$strangers" ]; then
    echo "$name: per record there must be none of:"
    printf '%s\n' "$found" "$strangers"
    failed=1
  else
    echo "$name: $(printf '%s\n' "$code" | wc -l) lines, no atomic read-modify-write"
  fi
done
# The shared ring's two: a claim and a swing to reserve; none to submit or to read. The lane's four
# take none, and no fence: publishing is free, because whoever sleeps fences for both sides.
for probe in ProbeSharedReserve=2 ProbeSharedSubmit=0 ProbeSharedNext=0 \
    ProbeLaneReserve=0 ProbeLaneSubmit=0 ProbeLaneNext=0 ProbeLaneRelease=0; do
  name=${probe%=*}
  allowed=${probe#*=}
  found=$(body "$name" | atomics | wc -l)
  [ -n "$(body "$name")" ] || { echo "$name is not in $object"; exit 1; }
  echo "$name: $found atomic read-modify-writes, $allowed expected"
  [ "$found" -eq "$allowed" ] || failed=1
done
if [ -z "$(body ProbePublish | atomics)" ]; then
  echo "the fence of Publish was not found: this check sees nothing"
  failed=1
fi
exit $failed
