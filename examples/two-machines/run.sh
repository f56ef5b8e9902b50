#!/bin/sh
# One job, three processes: a coordinator and two workers that reach it over TCP. When worker-b has done some
# of the work, it is killed with -9. The job still ends, with every task completed.
#
# It needs Go, and no network but loopback. Everything else is made in a temporary folder and removed again.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/examples/two-machines
cd "$root"

work=$(mktemp -d)
pids=
cleanup() {
	status=$?
	trap - EXIT
	for pid in $pids; do kill -9 "$pid" 2>/dev/null || true; done
	for log in "$work"/*.log; do
		if [ "$status" -ne 0 ] && [ -f "$log" ]; then printf '\n%s\n' "$log" >&2 && tail -n 20 "$log" >&2; fi
	done
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'two-machines: %s\n' "$*" >&2; exit 1; }

# wait_for WHAT PID COMMAND… waits until the command succeeds, for 60 seconds at most, while the process lives.
wait_for() {
	what=$1 pid=$2
	shift 2
	tries=0
	until "$@"; do
		kill -0 "$pid" 2>/dev/null || fail "$what: the process has ended"
		tries=$((tries + 1))
		[ "$tries" -le 600 ] || fail "$what: did not happen within a minute"
		sleep 0.1
	done
}

command -v sha256sum >/dev/null || fail "sha256sum is not installed"

say "build"
go build -o "$work/converge" ./cmd/converge

say "a key for each agent; what goes from one machine to the other is the IDs"
keys=$work/keys
mkdir "$keys"
new_key() { "$work/converge" keys new "$keys/$1.pem" | sed -n 's/^id *//p'; }
host=$(new_key host)
coordinator=$(new_key coordinator)
worker_a=$(new_key worker-a)
worker_b=$(new_key worker-b)
printf '%-12s %s\n' host "$host" coordinator "$coordinator" worker-a "$worker_a" worker-b "$worker_b"

say "the first machine: coordinator and host, on a free port"
: >"$work/coordinator.log"
"$work/converge" run -c "$here/coordinator.yaml" --exit-when-done \
	--var listen=127.0.0.1:0 --var "keys=$keys" --var "worker_a=$worker_a" --var "worker_b=$worker_b" \
	>"$work/report" 2>"$work/coordinator.log" &
first=$!
pids="$pids $first"
listens() {
	address=$(sed -n 's/.*msg=listening .*address=\([^ ]*\).*/\1/p' "$work/coordinator.log")
	[ -n "$address" ]
}
wait_for "the coordinator listens" "$first" listens
echo "it listens on $address"

say "the other machines: a worker each"
worker() {
	: >"$work/$1.log"
	"$work/converge" run -c "$here/worker.yaml" --verbose --var "name=$1" --var "keys=$keys" \
		--var "address=$address" --var "host=$host" --var "coordinator=$coordinator" --var pause=0.02 \
		>"$work/$1.report" 2>"$work/$1.log" &
}
worker worker-a
a=$!
worker worker-b
b=$!
pids="$pids $a $b"
has_worked() { [ "$(grep -c 'msg="tool has run"' "$work/$1.log")" -ge 100 ]; }
wait_for "worker-a works" "$a" has_worked worker-a
wait_for "worker-b works" "$b" has_worked worker-b

say "kill -9 of worker-b, in the middle of its work"
kill -0 "$first" 2>/dev/null || fail "the job was done before worker-b could be killed"
kill -9 "$b"
wait "$b" 2>/dev/null || true

wait "$first" || fail "the job has failed"
say "the first machine's log of its peers"
grep -E 'msg="peer (connected|lost)"' "$work/coordinator.log" | sed 's/ id=[0-9a-f]*//'
say "its report"
head -n 4 "$work/report"
echo "…"
tail -n 8 "$work/report"

say "worker-a is told to stop, and reports"
kill "$a"
wait "$a" || fail "worker-a has failed"
cat "$work/worker-a.report"

by_b=$(grep -c 'worker-b' "$work/report") || true
sed -n 's/^tasks *\([0-9]*\) submitted, \([0-9]*\) completed, 0 failed$/\1 \2/p' "$work/report" | {
	read -r submitted completed && [ "$submitted" -gt 0 ] && [ "$submitted" = "$completed" ]
} || fail "not every task was completed"
say "every task completed, although worker-b was killed; it had a hand in $by_b files"
