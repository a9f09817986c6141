#!/usr/bin/env bash
# Scheduling throughput of this kernel and of PostgreSQL, interleaved in one run: medians with spread.
# Starts a one-node and a three-node cluster (removed at the end), and a private PostgreSQL for each of its turns.
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

"$dbos" cluster up --name one --nodes 1 >&2
"$dbos" cluster up --name three --nodes 3 >&2
for round in $(seq "$rounds"); do
  for target in "--target local-postgres" "--name one" "--name three"; do
    echo "round $round: $target" >&2
    # shellcheck disable=SC2086
    "$dbos" bench sched $target --policy fifo --in-flight 64 --duration "$duration" --json | tee -a "$lines" || true
  done
done

field() { sed -n "s/.*\"$2\":\([0-9.]*\).*/\1/p" <<<"$1"; }
summary() { # name, field: median, minimum and maximum over the rounds
  values=$(grep "\"target\":\"$1\"" "$lines" | while read -r line; do field "$line" "$2"; done | sort -n)
  printf '%s' "$values" | awk '{v[NR]=$1} END {if (NR) printf "%.0f (%.0f to %.0f)", v[int((NR+1)/2)], v[1], v[NR]}'
}
for target in local-postgres one three; do
  echo "$target: throughput/s $(summary "$target" throughput_per_s), p50 µs $(summary "$target" p50), p99 µs $(summary "$target" p99), fdatasync p50 µs $(summary "$target" before)" >&2
done
