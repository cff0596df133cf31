#!/usr/bin/env bash
# README's ten-line program, compiled word for word, against a real daemon.
source "$(dirname "$0")/lib.sh"
start_daemon
expect_exit 0 '^hello$' "$3"
stop_daemon
