#!/usr/bin/env bash
# Three processes, whose NATS servers are one cluster. It keeps tasks and pools in a key-value bucket on all three. One
# process is killed with -9 in the middle of the work. Every task is completed, once.
#
# It needs Go, and no network but loopback. Everything is made in a temporary folder and removed again.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
pids=()
cleanup() {
	status=$?
	trap - EXIT
	for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
	if [ "$status" -ne 0 ]; then for log in "$work"/*.log; do printf '\n%s\n' "$log" && tail -n 20 "$log"; done >&2; fi
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'cluster: %s\n' "$*" >&2; exit 1; }

# wait_for WHAT PID COMMAND… waits until the command succeeds, for two minutes at most, while the process lives.
wait_for() {
	local what=$1 pid=$2
	shift 2
	for _ in $(seq 1200); do
		"$@" && return
		kill -0 "$pid" 2>/dev/null || fail "$what: the process has ended"
		sleep 0.1
	done
	fail "$what: did not happen within two minutes"
}

# free_port prints a port that nobody listens on.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 20000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
	done
	echo "$port"
}

say "build"
go build -o "$work/converge" ./cmd/converge
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/token"
chmod 600 "$work/token"
one=127.0.0.1:$(free_port) two=127.0.0.1:$(free_port) three=127.0.0.1:$(free_port)

# start FILE NAME ADDRESS FLAG… starts a process.
start() {
	local file=$1 name=$2 address=$3
	shift 3
	: >"$work/$name.log"
	"$work/converge" run -c "examples/cluster/$file" --verbose --var "name=$name" --var "data=$work/$name" \
		--var "cluster=$address" --var "routes=$one" --var "second=$two" --var "third=$three" \
		--var "token=$work/token" "$@" >"$work/$name.report" 2>"$work/$name.log" &
	pids+=($!)
}

say "three processes, whose servers find each other: $one $two $three"
start coordinator.yaml one "$one" --exit-when-done
first=$!
start worker.yaml two "$two"
second=$!
start worker.yaml three "$three"
third=$!
has_worked() { [ "$(grep -c 'msg="tool has run"' "$work/$1.log")" -ge 20 ]; }
wait_for "the worker of the second process works" "$second" has_worked two
wait_for "the worker of the third process works" "$third" has_worked three

say "kill -9 of the third process, its server with it"
kill -0 "$first" 2>/dev/null || fail "the job was done before the third process could be killed"
kill -9 "$third"
wait "$third" 2>/dev/null || true

wait "$first" || fail "the job has failed"
say "the report of the first process"
head -n 3 "$work/one.report"
echo "…"
tail -n 8 "$work/one.report"
grep -q '^tasks *400 submitted, 400 completed, 0 failed$' "$work/one.report" || fail "not every task was completed"

say "the second process is told to stop, and reports"
kill "$second"
wait "$second" || fail "the second process has failed"
tail -n 8 "$work/two.report"
by_two=$(sed -n 's/^work .* \([0-9]*\) reported.*/\1/p' "$work/two.report")
by_one=$(grep -c 'worker-one$' "$work/one.report")
say "every task completed, although a third of the cluster was killed: $by_one by the first worker, $by_two by the second, $((400 - by_one - by_two)) by the one that was killed"
