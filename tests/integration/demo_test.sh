#!/usr/bin/env bash
# The demo is a test: it checks every figure it shows. Here with files that are hard to cut into records.
source "$(dirname "$0")/lib.sh"
DEMO=$3
run_demo() { expect_exit 0 'Everything held' "$DEMO" --iobd "$IOBD" --file "$1"; }

head -c 3000000 /dev/urandom >"$WORK/binary"
run_demo "$WORK/binary"
printf "\n%.0s" {1..100000} >"$WORK/empty-lines"
run_demo "$WORK/empty-lines"
printf 'x' >"$WORK/one-byte"
run_demo "$WORK/one-byte"
head -c 1000000 /dev/zero >"$WORK/no-newline"
run_demo "$WORK/no-newline"

expect_exit 1 'No such file' "$DEMO" --iobd "$IOBD" --file "$WORK/missing"
expect_exit 1 'regular file' "$DEMO" --iobd "$IOBD" --file /dev/null
