#!/usr/bin/env bash
# iobctl peek, poke, map-dump, who: memory and its ranges, with the checks that the library makes.
source "$(dirname "$0")/ctl_lib.sh"
start_daemon
ok "$IOBCTL" create state --region none:16KiB:ep0=rw,ep1=r --region id:4096 \
  --region none:4096:ep0=rw --lease 5m
ok "$IOBCTL" create logs --ring 64KiB --lease 5m

# --- peek and poke ----------------------------------------------------------------------------------

expect_line '^0 0x0000000000000000$' "$IOBCTL" peek state 0 64
expect_line '^42 0x000000000000002a$' "$IOBCTL" poke state 0 64 42
expect_line '^42 0x000000000000002a$' "$IOBCTL" peek state 0 0x40
expect_line '^42 0x000000000000002a$' "$IOBCTL" peek state 0 64 --ep ep1
expect_line '^255 0xff$' "$IOBCTL" poke state 0 65 0xFF --size 1
expect_line '^65322 0xff2a$' "$IOBCTL" peek state 0 64 --size 2
expect_line '^18446744073709551615 0xffffffffffffffff$' "$IOBCTL" poke state 0 16376 18446744073709551615
expect_json 'd == {"offset": 64, "size": 4, "value": 65322, "hex": "0x0000ff2a"}' \
  "$IOBCTL" --json peek state 0 64 --size 4
# Other disciplines lie there, too: an id allocator's header, a ring's head.
expect_line '^[0-9]+ 0x' "$IOBCTL" peek state 1 0
expect_line '^0 0x' "$IOBCTL" peek logs 0 0

expect_exit 1 'a number of 8 bytes at offset 65: its address is 1 beyond .*\(INVALID_ARGUMENT\)' \
  "$IOBCTL" peek state 0 65
expect_exit 1 '8 bytes at offset 16377 leave the window of 16384' "$IOBCTL" peek state 0 16377
expect_exit 1 'leave the window' "$IOBCTL" poke state 0 18446744073709551615 1 --size 1
expect_exit 1 'ep1 may not map region 0 for writing \(needs rw\) \(ACCESS_DENIED\)' \
  "$IOBCTL" poke state 0 0 1 --ep ep1
expect_exit 1 'ep0 and ep1 may not map region 1 for writing' "$IOBCTL" poke state 1 0 1
expect_exit 1 'sealed.*\(ACCESS_DENIED\)' "$IOBCTL" poke logs 0 0 1
expect_error_json 1 OUT_OF_RANGE "$IOBCTL" --json peek state 9 0
expect_exit 1 'no region 9; state has regions 0 to 2' "$IOBCTL" poke state 9 0 1
expect_exit 1 "'nothing': no such buffer" "$IOBCTL" peek nothing 0 0
expect_exit 2 "OFFSET: '0xzz' is not a number" "$IOBCTL" peek state 0 0xzz
expect_exit 2 "OFFSET: '12k' is not a number" "$IOBCTL" peek state 0 12k
expect_exit 2 "VALUE: '256' is not a number from 0 to 255" "$IOBCTL" poke state 0 0 256 --size 1
expect_exit 2 "VALUE: '0x10000' is not a number from 0 to 65535" "$IOBCTL" poke state 0 0 0x10000 --size 2
expect_exit 2 "size: '3' is not 1, 2, 4 or 8" "$IOBCTL" peek state 0 0 --size 3
expect_exit 2 'VALUE is required' "$IOBCTL" poke state 0 0
expect_line '^0 0x00$' "$IOBCTL" peek state 0 0 --size 1

# --- map-dump ---------------------------------------------------------------------------------------

# "!iob" at 16, and what was poked.
ok "$IOBCTL" poke state 0 16 0x626f6921 --size 4
"$IOBCTL" map-dump state 0 >"$WORK/dump"
cat >"$WORK/want" <<'DUMP'
00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
00000010  21 69 6f 62 00 00 00 00  00 00 00 00 00 00 00 00  |!iob............|
00000020  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00000040  2a ff 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |*...............|
00000050  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00003ff0  00 00 00 00 00 00 00 00  ff ff ff ff ff ff ff ff  |................|
00004000
DUMP
cmp "$WORK/dump" "$WORK/want" || fail "map-dump: $(cat "$WORK/dump")"
expect_line '^00000011  69 6f 62 +\|iob\|$' "$IOBCTL" map-dump state 0 --offset 0x11 --length 3
"$IOBCTL" map-dump state 0 --raw --offset 16 --length 4 >"$WORK/raw"
[[ $(cat "$WORK/raw") == '!iob' ]] || fail "raw: $(od -c "$WORK/raw")"
(($("$IOBCTL" map-dump state 0 --raw | wc -c) == 16384)) || fail "all of it, raw"
expect_json 'd == {"offset": 16, "length": 4, "data": "!iob"}' \
  "$IOBCTL" --json map-dump state 0 --offset 16 --length 4
expect_line '^00010000$' "$IOBCTL" map-dump logs 0
expect_exit 1 '1 bytes at offset 16384 leave region 0 of 16384 \(OUT_OF_RANGE\)' \
  "$IOBCTL" map-dump state 0 --offset 16384
expect_exit 1 '2 bytes at offset 16383 leave' "$IOBCTL" map-dump state 0 --offset 16383 --length 2
expect_exit 1 'no bytes' "$IOBCTL" map-dump state 0 --length 0
expect_exit 2 "offset: 'x' is not a number" "$IOBCTL" map-dump state 0 --offset x
expect_exit 2 "length: '-1' is not a number" "$IOBCTL" map-dump state 0 --length=-1
unread "$IOBCTL" map-dump state 0 --raw

# --- who --------------------------------------------------------------------------------------------

expect_line '^nobody holds a range of state$' "$IOBCTL" who state
expect_json 'd == []' "$IOBCTL" --json who state 0
hold hold state
expect_line "^0 +0 +100 +exclusive +uid $(id -u) gid $(id -g) pid $MADE, at ep0$" "$IOBCTL" who state
expect_line "^0 +4096 +8 +shared +uid .* pid $MADE, at ep0$" "$IOBCTL" who state 0 --ep ep1
expect_json "len(d) == 2 and d[0]['mode'] == 'exclusive' and d[0]['claimed_pid'] == $MADE
  and d[0]['holder']['endpoint'] == 'ep0' and d[1]['offset'] == 4096 and d[1]['length'] == 8" \
  "$IOBCTL" --json who state
# It binds those who ask: poke does not.
expect_line '^7 0x07$' "$IOBCTL" poke state 0 5 7 --size 1
kill -KILL "$MADE"
release
expect_line '^nobody holds' "$IOBCTL" who state
expect_exit 1 'region 1 of state is of discipline id-allocator, which has no ranges' "$IOBCTL" who state 1
expect_exit 1 'no region 9; state has' "$IOBCTL" who state 9
expect_exit 1 'ep0 and ep1 may not map a region of discipline none \(needs r\)' "$IOBCTL" who logs
expect_exit 2 "REGION: 'x' is not a number" "$IOBCTL" who state x

# Nothing of ours stays behind.
eventually bash -c "'$IOBCTL' --json stat state | grep -q '\"attachments\":0'"
stop_daemon
