#!/usr/bin/env bash
# iobctl doctor, health, --help: what is allowed, what is wrong, how to mend it.
source "$(dirname "$0")/ctl_lib.sh"

# doctor's exit code depends on the machine; what it says must agree with it.
doctor() {
  local code=0
  "$@" doctor >"$WORK/doctor" 2>&1 || code=$?
  if grep -q '^WARNING' "$WORK/doctor"; then
    ((code == 1)) || fail "exit $code with warnings"
    grep -Eq '^[0-9]+ warnings?$' "$WORK/doctor" || fail "no count: $(cat "$WORK/doctor")"
    (($(grep -c '^WARNING' "$WORK/doctor") == $(grep -c '^  mend:' "$WORK/doctor"))) || fail "not each has a mend"
  else
    ((code == 0)) || fail "exit $code without a warning: $(cat "$WORK/doctor")"
    grep -qx 'nothing is wrong' "$WORK/doctor" || fail "$(cat "$WORK/doctor")"
  fi
}

start_daemon
doctor "$IOBCTL"
for line in 'buffers +16,384' 'regions per buffer +64' 'record +65,519 B in 8 parts' 'page +4\.0 KiB' \
  'id allocator +4\.0 GiB' 'interned blobs +1,048,576' 'name +31 B' 'handles +65,536' 'lease +24h 00m' \
  'watchers +1,024' 'attachments +16,384' 'ticket lifetime +10\.00 s' 'memory per uid +[0-9.]+ .iB' \
  'descriptors +[0-9,]+, [0-9]+ in use' 'writer_seal +yes +level' 'size_seal +yes ' \
  'huge_pages +(yes|no) +placement huge=transparent' 'huge_pool_2m +(yes|no) ' 'huge_pool_1g +(yes|no) ' \
  'memory_lock +(yes|no) ' 'numa +(yes|no) .*nodes with memory here: 0'; do
  grep -Eq "^$line" "$WORK/doctor" || fail "no line \"$line\": $(cat "$WORK/doctor")"
done
# The daemon is ours here, and says so.
grep -Eq "^WARNING  iobd runs as uid $(id -u), as you do" "$WORK/doctor" || fail "$(cat "$WORK/doctor")"
expect_json 'd["serving"] and d["limits"]["lease_ms_max"] == 86400000
  and d["limits"]["id_blob_bytes_max"] == 65519 and d["limits"]["descriptors_open"] > 3
  and d["limits"]["descriptors_open"] < d["limits"]["descriptors_max"]
  and len(d["limits"]) == 21 and len(d["kernel_features"]) >= 9
  and d["daemon_uid"] == d["own_uid"] and "uid" in [w["about"] for w in d["warnings"]]
  and all(w["what"] and w["mend"] for w in d["warnings"])' "$IOBCTL" --json doctor
expect_exit 0 '^lease +24h 00m' "$IOBCTL" health --verbose
expect_json 'len(d["limits"]) == 21' "$IOBCTL" --json health -v
expect_exit 2 'not expected' "$IOBCTL" doctor now
expect_exit 69 'no daemon at /tmp/no-such-iob' "$IOBCTL" --runtime-dir /tmp/no-such-iob doctor
expect_error_json 69 DISCONNECTED "$IOBCTL" --json --runtime-dir /tmp/no-such-iob doctor

# Each command explains itself, with an example.
for command in create ls stat name rm write tail 'id put' 'id get' 'id find' 'id ls' id signal wait watch \
  health doctor; do
  # shellcheck disable=SC2086
  expect_exit 0 '^Example:' "$IOBCTL" $command --help
done
for group in Buffers Records Ids 'Signals and events' Daemon; do
  expect_exit 0 "^$group:$" "$IOBCTL" --help
done
stop_daemon

# Under another uid and with few descriptors: the one warning goes, the other comes.
if [[ $(id -u) == 0 ]] && command -v setpriv >/dev/null && command -v prlimit >/dev/null; then
  mkdir -m 777 "$WORK/theirs"
  export IOB_RUNTIME_DIR=$WORK/theirs/run
  prlimit --nofile=1024:1024 setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all \
    "$IOBD" --runtime-dir "$IOB_RUNTIME_DIR" --admin-address off 2>"$WORK/iobd.log" &
  DAEMON_PID=$!
  eventually "$IOBCTL" health
  as_user() { setpriv --reuid 65533 --regid 65533 --clear-groups "$@"; }
  doctor as_user "$IOBCTL"
  grep -q "^iobd's uid 65534, yours 65533$" "$WORK/doctor" || fail "$(cat "$WORK/doctor")"
  ! grep -q 'as you do' "$WORK/doctor" || fail "a warning about uids that differ: $(cat "$WORK/doctor")"
  grep -Eq '^WARNING  iobd may open 1,024 descriptors: enough for about 73 .* not for 10,000$' \
    "$WORK/doctor" || fail "$(cat "$WORK/doctor")"
  grep -Eq '^  mend:  raise RLIMIT_NOFILE .*74,096 would do$' "$WORK/doctor" || fail "$(cat "$WORK/doctor")"
  # Root is told why file modes do not help it.
  doctor "$IOBCTL"
  grep -q '^WARNING  you are root' "$WORK/doctor" || fail "$(cat "$WORK/doctor")"
  stop_daemon
fi
