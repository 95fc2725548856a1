#!/usr/bin/env bash
# Stores files, kills one of three nodes with -9, reads and writes through the others, starts it again.
#
# usage: examples/survive-a-death.sh    (BIN, DIR and PORT as in three-nodes.sh)
set -euo pipefail
if ! declare -F start_node >/dev/null; then
  exec bash "$(dirname "$0")/three-nodes.sh" bash "$0"
fi

kepler() { "$BIN/kepler" --node "http://127.0.0.1:$((PORT + $1))" "${@:2}"; } # kepler 0|1|2 VERB...
file=$DIR/some-bytes
head -c 10000000 /dev/urandom >"$file"

echo "== 10 MB through node-a"
kepler 0 put "$file" before-the-death

echo "== node-b is killed with -9"
kill -9 "$(cat "$DIR/node-b.pid")"

echo "== read and written through node-a and node-c"
kepler 2 get before-the-death - | cmp - "$file"
kepler 0 get before-the-death - | cmp - "$file"
kepler 2 put "$file" after-the-death
kepler 0 get after-the-death - | cmp - "$file"
echo "both files are whole"

echo "== node-b is back"
start_node b
wait_ready b
kepler 1 get after-the-death - | cmp - "$file"
echo "it serves what was written while it was dead"

for _ in $(seq 300); do # its own copies are delivered in the background
  if kepler 0 --json locate after-the-death | python3 -c '
import json, sys
sys.exit(any("node-b" not in [h["node"] for h in chunk["holders"]] for chunk in json.load(sys.stdin)))'; then
    kepler 0 locate after-the-death
    exit
  fi
  sleep 0.2
done
echo "node-b still lacks chunks after a minute" >&2
exit 1
