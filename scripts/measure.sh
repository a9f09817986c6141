#!/usr/bin/env bash
# Scheduling throughput of this kernel and of PostgreSQL, interleaved in one run: medians with spread.
# A cluster of one node, one of three, and a private PostgreSQL: each runs in its own turns only, and is removed at the end.
#
# usage: measure.sh [ROUNDS] [DURATION]    the JSON lines go to standard output, the summary to standard error
set -euo pipefail
rounds=${1:-5}
duration=${2:-5s}
dbos=${DBOS:-target/release/dbos}
lines=$(mktemp)
export XDG_DATA_HOME
XDG_DATA_HOME=$(mktemp -d -p "${TMPDIR:-/tmp}" dbos-measure.XXXXXX)
trap '"$dbos" cluster destroy --all --yes >/dev/null; rm -rf "$XDG_DATA_HOME" "$lines"' EXIT

# turn LABEL ARGS...: one run, its JSON line kept with the label in front
turn() {
  label=$1; shift
  echo "  $label" >&2
  line=$("$dbos" bench sched --policy fifo --duration "$duration" --json "$@") || true
  echo "$line"
  printf '%s\t%s\n' "$label" "$line" >>"$lines"
}

# cluster_turn LABEL NAME NODES ARGS...: as turn, with that cluster up
cluster_turn() {
  label=$1; name=$2; nodes=$3; shift 3
  "$dbos" cluster up --name "$name" --nodes "$nodes" >/dev/null 2>&1
  turn "$label" --name "$name" "$@"
  "$dbos" cluster down --name "$name" >/dev/null 2>&1
}
for round in $(seq "$rounds"); do
  echo "round $round" >&2
  turn 'PostgreSQL, 64 in flight on 4 connections' --target local-postgres --in-flight 64
  turn 'PostgreSQL, one on each of 16 connections' --target local-postgres --connections 16 --in-flight 16
  cluster_turn 'one node' one 1 --in-flight 64
  cluster_turn 'three nodes, three replicas' three 3 --in-flight 64
done
# Half of what one node did, offered at a fixed rate.
half=$(grep "^one node" "$lines" | sed -n 's/.*"throughput_per_s":\([0-9]*\).*/\1/p' | sort -n | awk '{v[NR]=$1} END {print int(v[int((NR+1)/2)] / 2)}')
for round in $(seq "$rounds"); do
  cluster_turn "one node at half load, $half/s offered" one 1 --in-flight 256 --rate "$half"
done

summary() { # label, field: median, minimum and maximum over the rounds
  grep -F "$1	" "$lines" | sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p" | sort -n |
    awk '{v[NR]=$1} END {if (NR) printf "%.0f (%.0f to %.0f)", v[int((NR+1)/2)], v[1], v[NR]}'
}
cut -f1 "$lines" | awk '!seen[$0]++' | while read -r label; do
  echo "$label: $(summary "$label" throughput_per_s)/s, p50 µs $(summary "$label" p50), p99 µs $(summary "$label" p99), fdatasync p50 µs $(summary "$label" before)" >&2
done
