#!/usr/bin/env bash
# iobctl id put, get, find, ls: blobs and ids, sealed and shared, full, spoiled, hostile to look at.
source "$(dirname "$0")/ctl_lib.sh"
start_daemon
ok "$IOBCTL" create names --region none:4096 --region id:64KiB --region id:64KiB:intern=100 --lease 5m
ok "$IOBCTL" create both --region id:4096:ep0=rw,ep1=r --lease 5m

same() { cmp -s "$1" "$2" || fail "$1 and $2 differ: $(head -c 300 "$1") / $(head -c 300 "$2")"; }

# --- put and get ------------------------------------------------------------------------------------

printf 'main\nexit\n\nmain\n' | "$IOBCTL" id put names 1 >"$WORK/ids" || fail "put"
same "$WORK/ids" <(printf '0\n1\n2\n3\n')
expect_line '^main$' "$IOBCTL" id get names 1 0
expect_line '^$' "$IOBCTL" id get names 1 2
expect_json 'd == {"id": 1, "length": 4, "data": "exit"}' "$IOBCTL" --json id get names 1 1
# Equal blobs get one id where that was asked for.
printf 'main\nexit\nmain\n' | "$IOBCTL" id put names 2 >"$WORK/ids" || fail "put, interned"
same "$WORK/ids" <(printf '0\n1\n0\n')
# The last line needs no end; no line is no blob; all of stdin may be one, an empty one too.
printf 'tail' | "$IOBCTL" id put names 2 >"$WORK/ids"
same "$WORK/ids" <(echo 2)
"$IOBCTL" id put names 2 </dev/null >"$WORK/ids"
same "$WORK/ids" /dev/null
"$IOBCTL" id put names 2 --whole </dev/null >"$WORK/ids"
same "$WORK/ids" <(echo 3)
head -c 20000 /dev/urandom >"$WORK/blob"
"$IOBCTL" id put names 1 --whole <"$WORK/blob" >"$WORK/ids"
same "$WORK/ids" <(echo 4)
"$IOBCTL" id get names 1 4 --raw >"$WORK/copy"
same "$WORK/copy" "$WORK/blob"
expect_json 'd["length"] == 20000 and "data_base64" in d and "data" not in d' \
  "$IOBCTL" --json id get names 1 4
expect_json '[l["id"] for l in d] == [5, 6] and d[0]["found"] and [l["length"] for l in d] == [1, 2]' \
  bash -c "printf 'a\nbb\n' | '$IOBCTL' --json id put names 1"

# What a blob holds cannot reach the terminal.
printf '\033[2J\007\xff' | "$IOBCTL" id put names 2 --whole >/dev/null
"$IOBCTL" id get names 2 4 >"$WORK/copy"
same "$WORK/copy" <(printf '%s\n' '\x1b[2J\x07\xff')
expect_line '^4 +6 +\\x1b\[2J\\x07\\xff$' "$IOBCTL" id ls names 2

# An endpoint that may write allocates by itself.
ok bash -c "echo direct | '$IOBCTL' id put both 0"
expect_line '^direct$' "$IOBCTL" id get both 0 0
expect_line '^direct$' "$IOBCTL" id get both 0 0 --ep ep1

# --- find and ls ------------------------------------------------------------------------------------

printf 'exit\nmain\n' | "$IOBCTL" id find names 1 >"$WORK/ids" || fail "find"
same "$WORK/ids" <(printf '1\n0\n')
expect_exit 1 '1 of 3 blobs have no id in region 1 of names \(NO_SUCH_ID\)' \
  bash -c "printf 'exit\nnope\nmain\n' | '$IOBCTL' id find names 1"
grep -qx -- - "$WORK/out" || fail "no - for what is not there"
expect_exit 0 '^4$' bash -c "'$IOBCTL' id find names 1 --whole <'$WORK/blob'"
expect_json 'd[0] == {"found": True, "id": 1, "length": 4} and d[1] == {"found": False, "length": 4}' \
  bash -c "printf 'exit\nnope\n' | '$IOBCTL' --json id find names 1"
expect_line '^1 +7 +[0-9,]+ of 65,536 B +the broker alone \(sealed\) +ok$' "$IOBCTL" id ls names
expect_json '[a["region_index"] for a in d] == [1, 2] and d[0]["next_id"] == 7 and not d[0]["shared"]
  and d[0]["size_bytes"] == 65536' "$IOBCTL" --json id ls names
expect_line '^4 +20,000 +.*\.\.\.$' "$IOBCTL" id ls names 1
expect_line '^2 +0$' "$IOBCTL" id ls names 1
expect_json '[l["id"] for l in d] == list(range(7)) and d[1]["data"] == "exit"' \
  "$IOBCTL" --json id ls names 1
# A long list comes in parts, all of it.
seq 1 2500 | "$IOBCTL" id put names 1 >/dev/null || fail "put of 2500"
(($("$IOBCTL" id ls names 1 | wc -l) == 2508)) || fail "ls of 2507 ids"
"$IOBCTL" id ls names 1 | awk 'NR > 8 {print $3}' | cmp -s - <(seq 1 2500) || fail "ls in order"
[[ $("$IOBCTL" id ls names 1 | head -n 1) == ID* ]] || fail "id ls | head"
unread "$IOBCTL" id ls names 1
unread "$IOBCTL" id ls names
unread "$IOBCTL" id get names 1 0

# --- What cannot be ---------------------------------------------------------------------------------

expect_exit 1 'id 99999 is not allocated \(NO_SUCH_ID\)' "$IOBCTL" id get names 1 99999
expect_error_json 1 NO_SUCH_ID "$IOBCTL" --json id get names 1 99999
expect_exit 2 "ID: '-1' is not a number from 0 to" "$IOBCTL" id get names 1 -1
expect_exit 2 "ID: 'x' is not a number" "$IOBCTL" id get names 1 x
expect_exit 2 "REGION: 'one' is not a number" "$IOBCTL" id put names one
expect_exit 2 'REGION is required' "$IOBCTL" id put names
expect_exit 2 'ID is required' "$IOBCTL" id get names 1
expect_exit 2 'subcommand is required' "$IOBCTL" id
expect_exit 1 'region 0 of names is of discipline none, not id-allocator' "$IOBCTL" id get names 0 0
expect_exit 1 'no region 3; names has regions 0 to 2' "$IOBCTL" id ls names 3
expect_exit 1 "'nothing': no such buffer" "$IOBCTL" id ls nothing
expect_exit 1 'ep0 may not allocate ids in region 1 \(needs W or w\)' \
  bash -c "echo x | '$IOBCTL' id put names 1 --ep ep0"
expect_exit 1 'ep1 may not read the ids of region 1 \(needs r\)' "$IOBCTL" id get names 1 0 --ep ep1
expect_exit 2 "'ep7' is not ep0 or ep1" "$IOBCTL" id get names 1 0 --ep ep7
ok "$IOBCTL" create ring --ring 64KiB --lease 5m
expect_exit 1 'ring has no region of discipline id-allocator' "$IOBCTL" id ls ring
expect_json 'd == []' "$IOBCTL" --json id ls ring
expect_exit 1 'longer than 65519 bytes' bash -c "head -c 70000 /dev/zero | '$IOBCTL' id put names 1 --whole"
expect_exit 1 'line 2 of the input.* for binary input use --whole' \
  bash -c "{ echo ok; head -c 70000 /dev/zero; } | '$IOBCTL' id put names 1"

# Full: the ids so far are told, and then which blob found no room.
ok "$IOBCTL" create small --region id:4096 --lease 5m
expect_exit 1 'blob 5 of the input: .*\(REGION_FULL\)' \
  bash -c "for i in 1 2 3 4 5 6; do printf '%01000d\n' \$i; done | '$IOBCTL' id put small 0"
for id in 0 1 2 3; do grep -qx $id "$WORK/out" || fail "id $id was not told: $(cat "$WORK/out")"; done
expect_json 'd[0]["next_id"] == 4' "$IOBCTL" --json id ls small

# Spoiled by whoever may write it: said everywhere, believed nowhere.
"$HELPER" damage both </dev/null >/dev/null || fail "helper"
expect_line '^0 +0 +.* +damaged: whoever may write it' "$IOBCTL" id ls both
expect_line 'damaged: whoever' "$IOBCTL" stat both
expect_json 'd["regions"][0]["id_allocator"]["damaged"]' "$IOBCTL" --json stat both
expect_exit 1 'INTEGRITY' "$IOBCTL" id get both 0 0
expect_exit 1 'INTEGRITY' "$IOBCTL" id ls both 0
expect_exit 1 'blob 1 of the input: .*INTEGRITY' bash -c "echo x | '$IOBCTL' id put both 0"
expect_exit 1 'INTEGRITY' bash -c "echo x | '$IOBCTL' id find both 0"

# Nothing of ours stays behind.
expect_json 'all(e["attachments"] == 0 and e["handles"] == 1 for e in d["endpoints"])' \
  "$IOBCTL" --json stat names
stop_daemon
