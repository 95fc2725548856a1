#!/usr/bin/env bash
# Starts three nodes on this machine and joins them: what `kepler dev` does, in the open.
#
# usage: examples/three-nodes.sh [COMMAND...]
#   without COMMAND: runs until Ctrl-C; with it: runs it with KEPLER_URL set, then stops the nodes
#
# BIN   where kepler-node and kepler are               (dist)
# DIR   data, logs and process ids of the nodes        (kepler-data/three-nodes)
# PORT  HTTP of the first node; gossip is 1000, transfer 2000 above   (3001)
set -euo pipefail
export BIN=${BIN:-dist} DIR=${DIR:-kepler-data/three-nodes} PORT=${PORT:-3001}
mkdir -p "$DIR"

start_node() { # start_node a|b|c: in the background; its process id is in $DIR/node-X.pid
  local index=$(($(printf '%d' "'$1") - 97)) seeds=()
  # The first founds the cluster, the others join through it. Afterwards it is a node like any other.
  [ "$1" = a ] || seeds=(SEEDS="127.0.0.1:$((PORT + 1000))")
  env NODE_ID="node-$1" DATA_DIR="$DIR/node-$1" HTTP_PORT=$((PORT + index)) \
    GOSSIP_PORT=$((PORT + 1000 + index)) TRANSFER_PORT=$((PORT + 2000 + index)) ${seeds[@]+"${seeds[@]}"} \
    "$BIN/kepler-node" >>"$DIR/node-$1.log" 2>&1 &
  echo $! >"$DIR/node-$1.pid"
}

# wait_ready a|b|c [ALIVE]: until the node is admitted, has caught up and sees so many members alive
wait_ready() {
  local url=http://127.0.0.1:$((PORT + $(printf '%d' "'$1") - 97)) alive
  for _ in $(seq 300); do
    if curl -sf -o /dev/null "$url/readyz"; then
      alive=$({ curl -s "$url/v1/cluster" | grep -o '"status":"alive"' || true; } | wc -l)
      if [ "$alive" -ge "${2:-3}" ]; then return; fi
    fi
    sleep 0.1
  done
  echo "node-$1 is not ready; see $DIR/node-$1.log" >&2
  return 1
}
export -f start_node wait_ready

stop_nodes() {
  local node
  for node in a b c; do
    kill "$(cat "$DIR/node-$node.pid")" 2>/dev/null || true
  done
  for node in a b c; do
    while kill -0 "$(cat "$DIR/node-$node.pid")" 2>/dev/null; do sleep 0.05; done
  done
}
trap stop_nodes EXIT
trap 'exit 130' INT TERM

for node in a b c; do start_node $node; done
for node in a b c; do wait_ready $node; done
export KEPLER_URL=http://127.0.0.1:$PORT

if [ $# -gt 0 ]; then
  "$@"
else
  "$BIN/kepler" cluster status
  echo "export KEPLER_URL=$KEPLER_URL    # Ctrl-C stops the nodes"
  wait
fi
