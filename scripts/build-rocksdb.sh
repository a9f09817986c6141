#!/usr/bin/env bash
# Builds librocksdb.a from the sources that the crate librocksdb-sys ships, ten files to one
# compilation unit. Parsing headers is most of RocksDB's compile time, so this takes a third of what
# the crate's own build script needs and gives the same library. The crate links the result when
# ROCKSDB_LIB_DIR and ROCKSDB_STATIC are set (the Makefile sets them).
#
# usage: build-rocksdb.sh OUT_DIR
set -euo pipefail
out=${1:?usage: build-rocksdb.sh OUT_DIR}
here=$(cd "$(dirname "$0")/.." && pwd)
jobs=${JOBS:-$(nproc)}
files_per_unit=10

echo "rocksdb: fetching sources" >&2
cargo fetch --locked --manifest-path "$here/Cargo.toml" >&2
manifest=$(cargo metadata --format-version 1 --locked --offline --manifest-path "$here/Cargo.toml" |
  tr ',' '\n' | sed -n 's/^"manifest_path":"\(.*librocksdb-sys-[^"]*\/Cargo\.toml\)".*/\1/p' | head -n 1)
[ -n "$manifest" ] || { echo "rocksdb: librocksdb-sys is not in Cargo.lock" >&2; exit 1; }
src=$(dirname "$manifest")

flags=(-std=c++20 -O2 -fPIC -include cstdint -DNDEBUG -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
  -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
  -I"$src" -I"$src/rocksdb/include" -I"$src/rocksdb" -w)
case $(uname -m) in
  x86_64) flags+=(-march=x86-64-v2 -mpclmul) ;;
  aarch64) flags+=(-march=armv8-a+crc+crypto) ;;
esac

# The library depends on the crate's version, the flags and this script, and on nothing else.
stamp=$({ basename "$src"; printf '%s ' "${flags[@]//$src/}"; "${CXX:-g++}" -dumpfullversion; cat "$0"; } | sha256sum | cut -c1-32)
if [ -f "$out/librocksdb.a" ] && [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
  exit 0
fi

rm -rf "$out.tmp"
mkdir -p "$out.tmp"
{ grep -v '^util/build_version.cc$' "$src/rocksdb_lib_sources.txt" | sed "s#^#$src/rocksdb/#"; echo "$src/build_version.cc"; } |
  sed 's/.*/#include "&"/' | split -l "$files_per_unit" -d -a 3 --additional-suffix=.cc - "$out.tmp/unit"
units=$(ls "$out.tmp"/unit*.cc | wc -l)
echo "rocksdb: compiling $units units with $jobs jobs (once; 8 minutes or so on two cores)" >&2
export CXX=${CXX:-g++}
printf '%s\n' "${flags[@]}" > "$out.tmp/flags"
ls "$out.tmp"/unit*.cc | xargs -P "$jobs" -I{} sh -c \
  '"$CXX" @"$1/flags" -c "$2" -o "$2.o" && echo "rocksdb: $(ls "$1" | grep -c "\.o$") of '"$units"'" >&2' sh "$out.tmp" {}
ar crs "$out.tmp/librocksdb.a" "$out.tmp"/unit*.o
rm -f "$out.tmp"/unit*
echo "$stamp" > "$out.tmp/stamp"
rm -rf "$out"
mv "$out.tmp" "$out"
