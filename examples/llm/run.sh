#!/usr/bin/env bash
# Two agents with a language model share out a task: see converge.yaml.
#
# It needs Go, and no network: a server of this machine plays the model. With OPENAI_API_KEY or ANTHROPIC_API_KEY set, it
# asks that provider's model instead; MODEL names another one, and OFFLINE=1 keeps to the played one.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
pid=
cleanup() {
	status=$?
	trap - EXIT
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	[ "$status" -eq 0 ] || tail -n 20 "$work"/*.log >&2 || true
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail() { printf 'llm: %s\n' "$*" >&2; exit 1; }

go build -o "$work/converge" ./cmd/converge

# run NAME FLAG… runs the network, and shows and checks its report.
run() {
	local name=$1
	shift
	"$work/converge" run -c examples/llm/converge.yaml --exit-when-done "$@" >"$work/report" 2>"$work/$name.log" || fail "$name: the network has failed"
	cat "$work/report"
	grep -q '^tasks *1 submitted, 1 completed, 0 failed$' "$work/report" || fail "$name: the task was not completed"
	grep -q 'sea.txt.*wind.txt' "$work/report" || fail "$name: the result does not speak of both texts"
}

if [ -z "${OFFLINE:-}" ] && [ -n "${OPENAI_API_KEY:-}" ]; then
	echo "== asking ${MODEL:-gpt-5-mini} at OpenAI"
	run openai --var "model=${MODEL:-gpt-5-mini}"
	exit
fi
if [ -z "${OFFLINE:-}" ] && [ -n "${ANTHROPIC_API_KEY:-}" ]; then
	echo "== asking ${MODEL:-claude-haiku-5-5} at Anthropic"
	run anthropic --var provider=anthropic --var "model=${MODEL:-claude-haiku-5-5}" --var key=ANTHROPIC_API_KEY
	exit
fi

go build -o "$work/model" ./examples/llm/model
"$work/model" >"$work/address" 2>"$work/model.log" &
pid=$!
for _ in $(seq 100); do
	[ ! -s "$work/address" ] || break
	sleep 0.1
done
address=$(cat "$work/address")
[ -n "$address" ] || fail "the server that plays the model does not start"
export PLAYED_KEY=none
for format in openai anthropic; do
	echo "== a model that is played on this machine, in the format of $format"
	base=$address
	[ "$format" = anthropic ] || base=$address/v1
	run "$format" --var "provider=$format" --var "base_url=$base" --var key=PLAYED_KEY
	grep -q 'sea.txt (4 lines): The sea is calm in the morning; wind.txt (4 lines): The wind turns at night' "$work/report" ||
		fail "$format: the result is another one"
done
echo "== both formats came to the same result"
