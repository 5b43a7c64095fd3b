#!/bin/bash
# A Ray cluster of two one-CPU "nodes" on this machine; `start_ray.sh stop` stops it.
#   RAY: the `ray` to use. RAY_HOME: logs, sessions, pids. RAY_AUTH_TOKEN: token required to join.
set -euo pipefail
PORT=6379
export RAY_worker_niceness=0 # by default workers have low priority and starve on a busy machine
export RAY_USAGE_STATS_ENABLED=0 RAY_DISABLE_IMPORT_WARNING=1 RAY_AUTH_MODE=token
export RAY_agent_register_timeout_ms=600000 RAY_worker_register_timeout_seconds=600  # the machine may be busy
mkdir -p "$RAY_HOME"

if [[ ${1:-start} == stop ]]; then
  for signal in TERM KILL; do
    for file in "$RAY_HOME"/*.pid; do kill -$signal -- "-$(cat "$file")" 2>/dev/null || true; done
    sleep 3
  done
  exit
fi

start() { # NAME OPTION...
  setsid "$RAY" start "${@:2}" --node-ip-address=127.0.0.1 --num-cpus=1 --num-gpus=0 --object-store-memory=100000000 \
    --block >"$RAY_HOME/$1.log" 2>&1 &
  echo $! >"$RAY_HOME/$1.pid"
  for _ in {1..600}; do
    sleep 1
    grep -q 'Ray runtime started' "$RAY_HOME/$1.log" && return
    kill -0 $! 2>/dev/null || break
  done
  tail -5 "$RAY_HOME/$1.log"
  exit 1
}
start head --head --port=$PORT --temp-dir="$RAY_HOME" --include-dashboard=false
start node --address=127.0.0.1:$PORT
