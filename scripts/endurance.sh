#!/usr/bin/env bash
# Whether rates last: five minutes each of FIFO and least-loaded scheduling and of messages on one node with fsync, the
# fifth minute beside the first. Starts a cluster of its own and removes it.
#
# usage: endurance.sh [DURATION]    the JSON lines go to standard output, the summary to standard error
set -euo pipefail
duration=${1:-5m}
dbos=${DBOS:-target/release/dbos}
export XDG_DATA_HOME
XDG_DATA_HOME=$(mktemp -d -p "${TMPDIR:-/tmp}" dbos-endurance.XXXXXX)
trap '"$dbos" cluster destroy --all --yes >/dev/null; rm -rf "$XDG_DATA_HOME"' EXIT

"$dbos" cluster up --name endurance --nodes 1 >&2
for what in 'sched --policy fifo' 'sched --policy least-loaded' 'ipc --shape send-receive'; do
  # shellcheck disable=SC2086 # words of a command
  line=$("$dbos" bench $what --name endurance --in-flight 64 --duration "$duration" --json)
  echo "$line"
  rates=$(sed -n 's/.*"per_minute_per_s":\[\([0-9.,]*\)\].*/\1/p' <<<"$line")
  awk -v what="$what" -F, '{
    printf "%s: operations/s of each minute", what
    for (i = 1; i <= NF; i++) printf " %.0f", $i
    if (NF > 1) printf "; the last is %.0f %% of the first", 100 * $NF / $1
    print ""
  }' <<<"$rates" >&2
done
