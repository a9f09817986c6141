#!/usr/bin/env bash
# Criterion micro-benchmarks of another revision and of the working tree, one after the other on this machine. Both are built in
# the same target folder, so that dependencies are compiled once.
#
# usage: bench-compare.sh REVISION [FILTER]    FILTER: a part of the benchmarks' names
set -euo pipefail
base=${1:?usage: bench-compare.sh REVISION [FILTER]}
filter=${2:-}
here=$(cd "$(dirname "$0")/.." && pwd)
: "${CARGO_TARGET_DIR:=$here/target}"
export CARGO_TARGET_DIR
commit=$(git -C "$here" rev-parse --verify "$base^{commit}")
other=$(mktemp -d "${TMPDIR:-/tmp}/dbos-bench-compare.XXXXXX")
trap 'git -C "$here" worktree remove --force "$other/tree" >/dev/null 2>&1 || true; rm -rf "$other"' EXIT
git -C "$here" worktree add --quiet --detach "$other/tree" "$commit"

# Those that criterion drives.
benches() {
  for file in "$1"/kernel-db/benches/*.rs "$1"/services/client/benches/*.rs; do
    if grep -qs criterion_main "$file"; then printf -- '--bench %s ' "$(basename "$file" .rs)"; fi
  done
}
measure() { # folder, criterion's flags
  folder=$1
  shift
  read -ra chosen <<<"$(benches "$folder")"
  [ ${#chosen[@]} -gt 0 ] || { echo "bench-compare: no criterion benchmarks in $folder" >&2; exit 1; }
  (cd "$folder" && cargo bench --locked -p kernel-db -p dbos-client "${chosen[@]}" -- "$@" ${filter:+"$filter"})
}
echo "bench-compare: $base ($commit)" >&2
measure "$other/tree" --save-baseline compared
echo "bench-compare: the working tree, against it" >&2
# A benchmark that the other revision does not have is measured alone.
measure "$here" --baseline-lenient compared
