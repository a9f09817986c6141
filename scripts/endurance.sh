#!/usr/bin/env bash
# Whether rates and memory last: FIFO and least-loaded scheduling and messages, one after the other on one node with fsync, each
# minute's rate and the node's memory at its end. Starts a cluster of its own and removes it.
#
# usage: endurance.sh [DURATION]    the JSON lines go to standard output, the summary to standard error
set -euo pipefail
duration=${1:-5m}
dbos=${DBOS:-target/release/dbos}
export XDG_DATA_HOME
XDG_DATA_HOME=$(mktemp -d -p "${TMPDIR:-/tmp}" dbos-endurance.XXXXXX)
sampler=
trap 'kill $sampler 2>/dev/null || true; "$dbos" cluster destroy --all --yes >/dev/null; rm -rf "$XDG_DATA_HOME"' EXIT

# sample FILE: MiB of the node's memory, one line a minute
sample() {
  while sleep 60; do
    "$dbos" sql --name endurance --json -c 'SELECT memory_bytes FROM dbos.nodes' |
      awk -F'[^0-9]+' '{ for (i = 1; i <= NF; i++) if ($i > 1048576) printf "%.0f ", $i / 1048576 }' >>"$1"
  done
}

# run DURATION ARGS...
run() {
  time=$1; shift
  memory=$(mktemp -p "$XDG_DATA_HOME")
  sample "$memory" & sampler=$!
  line=$("$dbos" bench "$@" --name endurance --in-flight 64 --duration "$time" --json)
  kill $sampler && wait $sampler 2>/dev/null || true
  sampler=
  echo "$line"
  rates=$(sed -n 's/.*"per_minute_per_s":\[\([0-9.,]*\)\].*/\1/p' <<<"$line")
  awk -v what="$*" -F, '{
    printf "%s: operations/s of each minute", what
    for (i = 1; i <= NF; i++) printf " %.0f", $i
    if (NF > 4) printf "; the fifth is %.0f %% of the first", 100 * $5 / $1
    print ""
  }' <<<"$rates" >&2
  echo "  MiB of memory at the end of each: $(cat "$memory")" >&2
}

"$dbos" cluster up --name endurance --nodes 1 >&2
run "$duration" sched --policy fifo
run "$duration" sched --policy least-loaded
run "$duration" ipc --shape send-receive
