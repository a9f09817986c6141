#!/usr/bin/env bash
# Fetches the peers of `dbos bench` that are servers of their own (Redis, NATS, etcd, Slurm, bindfs) from Debian packages and
# unpacks them in a folder: nothing is installed, no root is needed. Use it with DBOS_PEERS=FOLDER. On other systems install
# redis-server, nats-server, etcd, slurm and bindfs as usual; what is missing is reported as "not installed", and so is bindfs
# where it cannot mount: without /dev/fuse, or for a user other than root without fusermount (Debian: fuse3, installed by root).
#
# usage: peers.sh FOLDER
set -euo pipefail
out=${1:?usage: peers.sh FOLDER}
packages=(redis-server redis-tools libjemalloc2 liblzf1 libatomic1 nats-server etcd-server
  slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 bindfs libfuse2)
# A folder made for an earlier list is not whole any more.
[ "$(cat "$out/complete" 2>/dev/null)" != "${packages[*]}" ] || exit 0
rm -f "$out/complete"
command -v apt-get >/dev/null && command -v dpkg >/dev/null || { echo "peers: not fetched: this is no Debian" >&2; exit 0; }
mkdir -p "$out/packages"
missing=0
for package in "${packages[@]}"; do
  (cd "$out/packages" && apt-get download -qq "$package" 2>/dev/null) ||
    { echo "peers: $package cannot be fetched" >&2; missing=$((missing + 1)); }
done
for package in "$out"/packages/*.deb; do
  [ ! -f "$package" ] || dpkg -x "$package" "$out"
done
rm -rf "$out/packages"
# Only a whole folder is promised to be one: with DBOS_PEERS set, a missing program is an error.
[ "$missing" -gt 0 ] || echo "${packages[*]}" > "$out/complete"
