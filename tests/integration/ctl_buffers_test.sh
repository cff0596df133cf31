#!/usr/bin/env bash
# iobctl create, ls, stat, name, rm: every kind of region, leases, names, long lists.
source "$(dirname "$0")/ctl_lib.sh"
start_daemon

# --- create -----------------------------------------------------------------------------------------

# With a lease it is there after the command has ended, and gone when the time is over.
expect_line '^created logs \(koid [0-9]+, 1 region, 1\.0 MiB, stays for 10m 00s\)$' \
  "$IOBCTL" create logs --ring 1MiB --lease 10m
expect_line '^created brief .* stays for 300\.00 ms' "$IOBCTL" create brief --ring 64KiB --lease 300ms
eventually bash -c "! '$IOBCTL' stat brief"
ok "$IOBCTL" stat logs
expect_json 'd["lease_ms"] == 60000 and d["tickets"] == []' \
  "$IOBCTL" create day --ring 64KiB --lease 1m --json
# A lease of one endpoint, a ticket of the other.
expect_line '^ticket ep1 [0-9a-f]{32} ' "$IOBCTL" create mixed --ring 64KiB --lease 1m --ticket ep1
ok "$IOBCTL" stat mixed

expect_json 'd["regions"][0]["discipline"] == "id-allocator" and d["regions"][0]["ep0_rights"] == "r"
  and d["regions"][0]["ep1_rights"] == "W" and d["regions"][0]["ep0_enforcement"] == "sealed"
  and d["regions"][0]["id_allocator"]
    == {"next_id": 0, "free_bytes": 65528, "shared": False, "damaged": False}
  and d["regions"][1]["id_allocator"]["shared"] and "id_allocator" not in d["regions"][2]' \
  "$IOBCTL" --json create ids --region id:64KiB:intern=100 --region id:4096:ep0=rw,ep1=r \
  --region none:64KiB --lease 1m

expect_exit 2 "'0' would end before" "$IOBCTL" create x --ring 64KiB --lease 0
expect_exit 2 'more than a day' "$IOBCTL" create x --ring 64KiB --lease 25h
expect_exit 2 "'soon' is not a time like" "$IOBCTL" create x --ring 64KiB --lease soon
expect_exit 2 'excludes' "$IOBCTL" create x --ring 64KiB --lease 1m --hold
expect_exit 2 "'slots' is not a kind of region; use ring, reserve-ring, broadcast, slot, id or none" \
  "$IOBCTL" create x --region slots:4096
expect_exit 2 "'lanes=4' is for regions of kind reserve-ring only" "$IOBCTL" create x --ring 64KiB,lanes=4
expect_exit 2 "'lane=4' is not one of lanes=, clears, .* require=" \
  "$IOBCTL" create x --region reserve-ring:64KiB,lane=4
expect_exit 0 'lanes=N' "$IOBCTL" create --help
expect_exit 2 "'intern=5' is for regions of kind id only" "$IOBCTL" create x --region ring:64KiB:intern=5
expect_exit 2 "'many' is not a number" "$IOBCTL" create x --region id:64KiB:intern=many
expect_exit 1 'at most 4294963200' "$IOBCTL" create x --region id:8GiB
expect_exit 1 'at most 1048576 are allowed' "$IOBCTL" create x --region id:64KiB:intern=2000000
expect_exit 1 'cannot be told' "$IOBCTL" create x --region id:64KiB:ep0=rw,intern=2
expect_exit 1 '0 bytes' "$IOBCTL" create x --region id:0
expect_exit 0 'CreateSharedRegion' "$IOBCTL" create --help
expect_exit 1 'x.: no such buffer' "$IOBCTL" stat x

# --- placement --------------------------------------------------------------------------------------

ok "$IOBCTL" create keys --region none:2MiB:prefault,numa=0,charge=first-touch,sensitive,must=charge --lease 10m
expect_line '^region 0 memory: prefault,numa=0,charge=first-touch,sensitive$' "$IOBCTL" stat keys
ok "$IOBCTL" create far --region ring:64KiB:numa=1000 --lease 10m
expect_line '^region 0 fell short of numa: .*nodes with memory here: 0' "$IOBCTL" stat far
expect_json 'd["regions"][0]["placement"]["shortfalls"][0]["item"] == "numa"
  and d["regions"][0]["placement"]["charge"] == "broker"
  and "numa_node" not in d["regions"][0]["placement"]' "$IOBCTL" --json stat far
expect_error_json 1 PLACEMENT "$IOBCTL" --json create x --region ring:64KiB:numa=1000,must=numa
expect_exit 1 'must be a multiple of 2097152' "$IOBCTL" create x --region none:64KiB:huge=2M
expect_exit 1 'TRANSPARENT works' "$IOBCTL" create x --region ring:2MiB:huge=2M
expect_exit 2 "'3M' is not one of none, transparent, 2M, 1G" "$IOBCTL" create x --region none:3M:huge=3M
expect_exit 0 'huge=transparent' "$IOBCTL" create --help
ok "$IOBCTL" create unseen --region ring:64KiB:sensitive --lease 10m
expect_exit 1 'region 0 is sensitive: its records are not printed' "$IOBCTL" tail unseen

# --- stat -------------------------------------------------------------------------------------------

ok "$IOBCTL" signal logs ep0 --set 0,7
expect_line '^ep0 +[0-9]+ +[0-9]+ +open +1 +0 +no +user-0,user-7 +-$' "$IOBCTL" stat logs
expect_line '^0 +[0-9]+ +private +mediated-ring +1\.0 MiB +rw +W +sealed +mediated' "$IOBCTL" stat logs
expect_line '^1 +0 +4,088 of 4,096 B +endpoints too \(shared\) +ok$' "$IOBCTL" stat ids
expect_json 'd["endpoints"][0]["related_koid"] == d["endpoints"][1]["koid"]
  and d["endpoints"][1]["related_koid"] == d["endpoints"][0]["koid"]
  and d["endpoints"][0]["signals"] == ["user-0", "user-7"] and d["endpoints"][1]["signals"] == []
  and d["owner"]["pid"] > 0 and d["rings"][0]["capacity_bytes"] == 1044480
  and d["shared_regions"] == []' "$IOBCTL" --json stat logs
# What one endpoint sees names both by their own names, and leaves its own look out of the count.
expect_json 'd["regions"][0]["ep0_rights"] == "rw" and d["regions"][0]["ep1_rights"] == "W"
  and d["endpoints"][1]["handles"] == 1' "$IOBCTL" --json stat logs --ep ep1
expect_exit 2 "'ep2' is not ep0 or ep1" "$IOBCTL" stat logs --ep ep2
expect_error_json 1 NOT_FOUND "$IOBCTL" --json stat nothing
expect_exit 1 "'#4711': no such buffer" "$IOBCTL" stat '#4711'
expect_exit 1 "no such buffer" "$IOBCTL" stat '#x'
expect_exit 2 'NAME is required' "$IOBCTL" stat

# A peer that is gone is a signal with a reason. The ticket was never used.
ok "$IOBCTL" create tickets --ring 64KiB --lease 1m --ticket ep1:12345
expect_json 'd["endpoints"][0]["signals"] == [] and d["endpoints"][1]["handles"] == 1' \
  "$IOBCTL" --json stat tickets

# --- Region objects ---------------------------------------------------------------------------------

hold shared
REGION=$MADE
expect_line "^1 +$REGION +shared +mediated-ring +1\.0 MiB" "$IOBCTL" stat one
expect_line "^shared region $REGION, created .* 1\.0 MiB" "$IOBCTL" stat one
expect_line '^handles 1, signals user-2, regions that refer to it 2$' "$IOBCTL" stat one
expect_line '^two +[0-9]+ +1$' "$IOBCTL" stat one
expect_line "^shared region $REGION, " "$IOBCTL" stat "#$REGION"
expect_json "d['regions'][1]['koid'] == $REGION and d['shared_regions'][0]['koid'] == $REGION
  and d['shared_regions'][0]['user_count'] == 2 and d['shared_regions'][0]['signals'] == ['user-2']
  and [u['buffer_name'] for u in d['shared_regions'][0]['users']] == ['one', 'two']
  and len(d['rings']) == 2" "$IOBCTL" --json stat two
expect_json "d['koid'] == $REGION and d['size_bytes'] == 1048576 and d['handles'] == 1" \
  "$IOBCTL" --json stat "#$REGION"
release
eventually bash -c "! '$IOBCTL' stat '#$REGION'"

# --- name -------------------------------------------------------------------------------------------

expect_line '^renamed logs to logs-old$' "$IOBCTL" name logs logs-old
ok "$IOBCTL" stat logs-old
expect_exit 1 "'logs': no such buffer" "$IOBCTL" name logs other
expect_json 'd["old_name"] == "logs-old" and d["name"] == "logs" and d["koid"] > 0' \
  "$IOBCTL" --json name logs-old logs
expect_exit 1 '"ids" is taken' "$IOBCTL" name logs ids
expect_exit 2 'is 32 bytes long; at most 31 are allowed' "$IOBCTL" name logs "$(printf 'n%.0s' {1..32})"
ok "$IOBCTL" name logs "$(printf 'n%.0s' {1..31})"
ok "$IOBCTL" name "$(printf 'n%.0s' {1..31})" logs
expect_exit 1 'is how ids are written' "$IOBCTL" name logs '#7'
expect_exit 1 'only printable ASCII' "$IOBCTL" name logs $'a\nb'
expect_exit 2 'NEW is required' "$IOBCTL" name logs
expect_exit 2 "'x' is not ep0 or ep1" "$IOBCTL" name logs logs2 --ep x
# By its id, as long as it has a name.
KOID=$("$IOBCTL" --json stat logs | grep -o '^{"koid":[0-9]*' | grep -o '[0-9]*')
expect_line '^renamed logs to logs2$' "$IOBCTL" name "#$KOID" logs2
expect_line "^renamed logs2 to #$KOID$" "$IOBCTL" name logs2 ''
expect_exit 1 'has no name' "$IOBCTL" name "#$KOID" logs
ok "$IOBCTL" stat "#$KOID"
ok "$IOBCTL" rm "#$KOID"
expect_exit 1 "'#$KOID': no such buffer" "$IOBCTL" rm "#$KOID"

# --- ls ---------------------------------------------------------------------------------------------

# More than one page, in order, in one table and in one array; the prefix counts.
hold many 450
((MADE == 450)) || fail "the helper made $MADE buffers"
"$IOBCTL" ls many- >"$WORK/list" || fail "ls"
(($(wc -l <"$WORK/list") == 451)) || fail "$(wc -l <"$WORK/list") lines instead of 451"
(($(grep -c KOID "$WORK/list") == 1)) || fail "the header more than once"
awk 'NR > 1 {print $2}' "$WORK/list" | cmp - <(printf 'many-%05d\n' {1..450}) || fail "not in order"
grep -Eq '^[0-9]+ +many-00201 +1 +4\.0 KiB +open +open +uid [0-9]+ ' "$WORK/list" || fail "a row"
expect_json '[b["name"] for b in d] == ["many-%05d" % i for i in range(1, 451)]' "$IOBCTL" --json ls many-
expect_json 'len(d) == 51' "$IOBCTL" --json ls many-004
expect_json 'd == []' "$IOBCTL" --json ls nothing-like-it
expect_line '^KOID  NAME' "$IOBCTL" ls nothing-like-it
# A reader that has seen enough is no error.
[[ $("$IOBCTL" ls | head -n 1) == KOID* ]] || fail "ls | head"
unread "$IOBCTL" ls
unread "$IOBCTL" ls --json
unread "$IOBCTL" stat many-00001
release

# --- stat --follow ----------------------------------------------------------------------------------

beats() { (($(wc -l <"$WORK/beats") >= $1)); }
# follow WHAT...: in the background, what it says in $WORK/beats; `followed`: it has ended, well.
follow() {
  "$IOBCTL" stat "$@" >"$WORK/beats" 2>"$WORK/beats.err" &
  FOLLOWER=$!
}
followed() {
  local code=0
  wait "$FOLLOWER" || code=$?
  ((code == 0)) || fail "stat --follow ended with $code: $(cat "$WORK/beats.err")"
}

ok "$IOBCTL" create flow --ring 64KiB --lease 5m
printf 'one\ntwo\n' | "$IOBCTL" write flow 2>/dev/null || fail "write"
MOMENT='[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\.[0-9]{3}'
REST='in the ring 2, 48 B of 60\.0 KiB'
follow flow --follow --interval 20ms
eventually beats 3
ok "$IOBCTL" rm flow
followed
head -n 1 "$WORK/beats" | grep -Eqx "$MOMENT  ring 0  2 records, 6 B so far  $REST" ||
  fail "the first beat: $(cat "$WORK/beats")"
tail -n +2 "$WORK/beats" |
  grep -Evx "$MOMENT  ring 0  0 records/s, 0 B/s, consumed 0/s, lost 0/s  $REST" &&
  fail "other beats: $(cat "$WORK/beats")"

# What happens between two beats is a rate in the second one.
ok "$IOBCTL" create flow --ring 64KiB --region none:4096 --ring 8KiB --lease 5m
follow flow --follow --interval 10ms --json
eventually beats 2
seq 1 1000 | "$IOBCTL" write flow 2>/dev/null || fail "write"
eventually grep -q '"stored_records":1000,' "$WORK/beats"
ok "$IOBCTL" rm flow
followed
expect_json 'len(d) >= 3 and len({b["buffer_koid"] for b in d}) == 1
  and all([r["region_index"] for r in b["rings"]] == [0, 1] for b in d)
  and all(b["rings"][0]["discipline"] == "mediated-ring" for b in d)
  and all(d[i]["time_unix_ms"] <= d[i + 1]["time_unix_ms"] for i in range(len(d) - 1))
  and "per_second" not in d[0]["rings"][0] and all("per_second" in b["rings"][0] for b in d[1:])
  and d[-1]["rings"][0]["stored_records"] == 1000
  and max(b["rings"][0]["per_second"]["stored_records"] for b in d[1:]) > 0
  and max(b["rings"][1]["per_second"]["stored_records"] for b in d[1:]) == 0' cat "$WORK/beats"

# On a terminal: one table, drawn over itself.
ok "$IOBCTL" create flow --ring 64KiB --lease 5m
if command -v python3 >/dev/null; then
  python3 -c 'import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)' \
    "$IOBCTL" stat flow --follow --interval 20ms >"$WORK/beats" 2>"$WORK/beats.err" </dev/null &
  FOLLOWER=$!
  eventually grep -q $'\e\\[3A' "$WORK/beats"
  ok "$IOBCTL" rm flow
  followed
  grep -q 'RING  DISCIPLINE     RECORDS/S' "$WORK/beats" || fail "no table: $(cat "$WORK/beats")"
  ok "$IOBCTL" create flow --ring 64KiB --lease 5m
fi

# Ctrl-C is how it ends (a job of a script does not hear SIGINT); a reader that is gone ends it too.
follow flow --follow --interval 10ms
eventually beats 2
kill -TERM "$FOLLOWER"
followed
[[ ! -s $WORK/beats.err ]] || fail "stat --follow said $(cat "$WORK/beats.err")"
unread "$IOBCTL" stat flow --follow --interval 10ms
KOID=$("$IOBCTL" --json stat flow | grep -o '^{"koid":[0-9]*' | grep -o '[0-9]*')
follow "#$KOID" --follow --interval 10ms
eventually beats 2
ok "$IOBCTL" rm flow
followed

expect_exit 1 "'nothing': no such buffer" "$IOBCTL" stat nothing --follow
expect_exit 2 "'9ms' is not from 10ms to 1h" "$IOBCTL" stat ids --follow --interval 9ms
expect_exit 2 'interval requires' "$IOBCTL" stat ids --interval 1s
expect_exit 2 'an endpoint is not told' "$IOBCTL" stat ids --follow --ep ep0
# A buffer without rings has nothing to tell, again and again.
follow ids --follow --interval 10ms
eventually beats 2
ok "$IOBCTL" rm ids
followed
grep -Eqx "$MOMENT  no rings" "$WORK/beats" || fail "no rings: $(cat "$WORK/beats")"

# --- Others -----------------------------------------------------------------------------------------

if [[ $(id -u) == 0 ]] && command -v setpriv >/dev/null; then
  as_other() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
  ok "$IOBCTL" create theirs --ring 64KiB --allow-uid ep1:65534 --lease 1m
  ok "$IOBCTL" create secret --ring 64KiB --lease 1m
  # Who may open one end sees the buffer through it, but not what is the owner's to see.
  expect_line 'is for its owner and root to see' as_other "$IOBCTL" stat theirs
  expect_json '"rings" not in d and d["name"] == "theirs" and d["regions"][0]["ep0_rights"] == "rw"' \
    as_other "$IOBCTL" --json stat theirs
  expect_exit 1 'does not let uid 65534 open ep0' as_other "$IOBCTL" stat theirs --ep ep0
  expect_exit 1 'no such buffer' as_other "$IOBCTL" stat secret
  expect_exit 1 "'theirs': no such buffer" as_other "$IOBCTL" stat theirs --follow
  expect_exit 1 'no such buffer' as_other "$IOBCTL" name secret mine
  expect_exit 1 'no such buffer' as_other "$IOBCTL" rm theirs
  expect_json 'd == []' as_other "$IOBCTL" --json ls
fi

# A daemon that stops ends it, and that is no success.
ok "$IOBCTL" create last --ring 64KiB --lease 5m
follow last --follow --interval 10ms
eventually beats 2
stop_daemon
code=0
wait "$FOLLOWER" || code=$?
((code == 1 || code == 69)) || fail "stat --follow ended with $code when the daemon stopped"
