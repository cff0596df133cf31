#!/usr/bin/env bash
# iobctl snapshot and autopsy: files that hold what was there, reports, errors in words.
source "$(dirname "$0")/ctl_lib.sh"
start_daemon
ok "$IOBCTL" create logs --ring 64KiB --lease 5m
ok "$IOBCTL" create plain --region none:8192 --lease 5m

# --- snapshot ---------------------------------------------------------------------------------------

ok bash -c "printf 'one\ntwo\n' | '$IOBCTL' write logs"
expect_line 'consistent, 48 B of records' "$IOBCTL" snapshot logs --out "$WORK/copy"
[[ $(stat -c %s "$WORK/copy") == 65536 ]] || fail "the copy has $(stat -c %s "$WORK/copy") bytes"
grep -qa one "$WORK/copy" && grep -qa two "$WORK/copy" || fail "no records in the copy"
expect_json 'd["buffer_name"] == "logs" and not d["may_be_torn"] and d["regions"][0]["head"] == 48' \
  "$IOBCTL" --json snapshot logs --out "$WORK/copy"
"$IOBCTL" snapshot plain --out - >"$WORK/copy" || fail "to stdout"
[[ $(stat -c %s "$WORK/copy") == 8192 ]] || fail "$(stat -c %s "$WORK/copy") bytes on stdout"
expect_line 'may be torn' "$IOBCTL" snapshot plain --out "$WORK/copy"
expect_error_json 1 MAY_BE_TORN "$IOBCTL" --json snapshot plain --consistent --out "$WORK/copy"
expect_error_json 1 OUT_OF_RANGE "$IOBCTL" --json snapshot plain --region 7 --out "$WORK/copy"
expect_error_json 2 USAGE "$IOBCTL" --json snapshot plain --region x --out "$WORK/copy"
expect_error_json 1 NOT_FOUND "$IOBCTL" --json snapshot nobody --out "$WORK/copy"
expect_exit 1 'open /nowhere/copy' "$IOBCTL" snapshot logs --out /nowhere/copy

# --- autopsy ----------------------------------------------------------------------------------------

expect_error_json 1 NOT_FOUND "$IOBCTL" --json autopsy crash
expect_json 'd == []' "$IOBCTL" --json autopsy
# Soon nobody but the writer holds an end.
ok "$IOBCTL" create crash --ring 64KiB --lease 1s --snapshot-on-crash
ok bash -c "printf 'one\ntwo\n' | '$IOBCTL' write crash"
# A writer that holds its end, and is killed.
mkfifo "$WORK/words"
"$IOBCTL" write crash <"$WORK/words" >/dev/null 2>&1 &
WRITER=$!
exec 9>"$WORK/words"
printf 'last words\n' >&9
for _ in $(seq 200); do
  "$IOBCTL" --json stat crash | grep -q '"stored_records": *3' && break
  sleep 0.05
done
kill -9 "$WRITER"
wait "$WRITER" 2>/dev/null || true
exec 9>&-
for _ in $(seq 200); do
  "$IOBCTL" autopsy | grep -q 'killed(9)' && break
  sleep 0.05
done
expect_line '^1 .* crash +ep1 +killed\(9\) +64.0 KiB' "$IOBCTL" autopsy
expect_line 'crash: ep1 killed\(9\) at ' "$IOBCTL" autopsy crash
expect_line 'region 0: 3 records left' "$IOBCTL" autopsy crash
expect_line 'last words' "$IOBCTL" autopsy crash --records 1
expect_line '3 records left, the last 1$' "$IOBCTL" autopsy crash --records 1
expect_json 'd["reason"] == "killed(9)" and d["regions"][0]["rings"][0]["records"] == 3
  and d["regions"][0]["rings"][0]["last"][-1]["data"] == "last words"' "$IOBCTL" --json autopsy --id 1
ok "$IOBCTL" autopsy crash --out "$WORK/copy"
[[ $(stat -c %s "$WORK/copy") == 65536 ]] || fail "the kept state has $(stat -c %s "$WORK/copy") bytes"
stop_daemon
