#!/usr/bin/env bash
# Agents read files by an MCP server, and do not get what they may not have: a file outside of its folder, a change that
# nobody has approved, and a tool that is not on the allowlist.
#
# It needs Go, Node and npm, and the network once, to install the server at its locked version. All else is made in a
# temporary folder and removed again.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
cleanup() {
	status=$?
	trap - EXIT
	[ "$status" -eq 0 ] || tail -n 20 "$work"/*.log >&2 || true
	rm -rf "$work"
	exit "$status"
}
trap cleanup EXIT

for program in node npm; do
	command -v "$program" >/dev/null || { echo "mcp: $program is not installed" >&2; exit 1; }
done
[ -d examples/mcp/node_modules ] || (cd examples/mcp && npm ci --ignore-scripts --no-audit --no-fund)
go build -o "$work/converge" ./cmd/converge
converge="$work/converge"
mkdir "$work/files"
printf 'The first line of one.\nMore.\n' >"$work/files/one.txt"
printf 'The first line of two.\nMore.\n' >"$work/files/two.txt"
echo "not for agents" >"$work/outside.txt"

echo "== what the server says, and what is pinned"
"$converge" mcp inspect -c examples/mcp/converge.yaml --var "dir=$work/files" --var "state=$work/state" >"$work/offers"
grep -A 2 '^  read_text_file: ' "$work/offers"
grep -q '^  read_text_file: as it is pinned in the file$' "$work/offers"
grep -q '^  write_file: not named in the file$' "$work/offers"

echo "== agents that read"
"$converge" run -c examples/mcp/converge.yaml --exit-when-done --var "dir=$work/files" --var "state=$work/state" \
	2>"$work/read.log" | tee "$work/read"
grep -q 'one\.txt.*The first line of one\.' "$work/read"
grep -q 'two\.txt.*The first line of two\.' "$work/read"

echo "== what they do not get"
status=0
"$converge" run -c examples/mcp/refused.yaml --exit-when-done --var "dir=$work/files" --var "outside=$work/outside.txt" \
	>"$work/refused" 2>"$work/refused.log" || status=$?
grep '^converge: ' "$work/refused.log"
[ "$status" -eq 1 ]
grep -q '^converge: task failed: read_outside: .*Access denied' "$work/refused.log"
grep -q '^converge: task failed: write: tool fs.write_file: not approved' "$work/refused.log"
if grep 'not for agents' "$work/refused" >&2; then exit 1; fi
[ ! -e "$work/files/written.txt" ]

status=0
"$converge" run -c examples/mcp/denied.yaml 2>"$work/denied.log" || status=$?
cat "$work/denied.log"
[ "$status" -eq 1 ]
grep -q 'tool "fs.write_file" is not on this agent.s allowlist' "$work/denied.log"
