#!/usr/bin/env bash
# 200 tasks on SQLite. The process is killed with -9 again and again while it works, and started again, until it
# says that every task is completed.
#
# It needs Go, and no network. Everything is made in a temporary folder and removed again.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
pid=
cleanup() {
	status=$?
	trap - EXIT
	[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
	[ "$status" -eq 0 ] || tail -n 20 "$work/log" >&2 || true
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

go build -o "$work/converge" ./cmd/converge
kills=0 status=1
for run in $(seq 100); do
	"$work/converge" run -c examples/durable/converge.yaml --exit-when-done --var "data=$work/state" \
		>"$work/report" 2>"$work/log" &
	pid=$!
	if [ "$kills" -lt 8 ]; then
		sleep "0.$((RANDOM % 7 + 2))"
		kill -9 "$pid" 2>/dev/null && kills=$((kills + 1))
	fi
	status=0
	wait "$pid" 2>/dev/null || status=$?
	pid=
	[ "$status" -ne 0 ] || break
	[ "$status" -eq 137 ] || { echo "durable: run $run ended with status $status" >&2; exit 1; }
done
[ "$status" -eq 0 ] || { echo "durable: not done after 100 runs" >&2; exit 1; }
head -n 3 "$work/report"
echo "…"
tail -n 6 "$work/report"
grep -q '^tasks *200 submitted, 200 completed, 0 failed$' "$work/report"
ran=$(sed -n 's/^tools *\([0-9]*\) run.*/\1/p' "$work/report")
echo "== killed $kills times; the last run had $ran of the 200 tasks left to do"
