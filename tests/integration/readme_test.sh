#!/usr/bin/env bash
# README's programs, compiled word for word, against a real daemon.
source "$(dirname "$0")/lib.sh"
start_daemon
expect_exit 0 '^hello$' "$3"
expect_exit 0 '^42$' "$4"
expect_exit 0 '^8 bytes at offset 4096 leave the window of 4096$' "$4"
expect_exit 0 '^RANGE_TAKEN$' "$5"
expect_exit 0 '^charge: broker, sensitive$' "$6"
expect_exit 0 '^hello$' "$7"
stop_daemon
