#!/usr/bin/env bash
# Checks the Rust toolchain and installs the packages that a build, or the tests, lack.
# On Debian and Ubuntu by apt (with sudo when not root); on another system it names what is missing and stops.
#
# usage: setup.sh build|test
set -euo pipefail
goal=${1:?usage: setup.sh build|test}
here=$(cd "$(dirname "$0")/.." && pwd)

needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
command -v cargo >/dev/null || { echo "setup: no cargo in PATH: install Rust $needed or newer (rustup.rs)" >&2; exit 1; }
have=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n%s\n' "$needed" "$have" | sort -V | head -n 1)" != "$needed" ]; then
  echo "setup: rustc $have is too old: this project needs $needed (rustup update)" >&2
  exit 1
fi

missing=()
command -v g++ >/dev/null || missing+=(g++)
command -v ar >/dev/null || missing+=(binutils)
compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null ||
  compgen -G '/usr/lib64/libclang*.so*' >/dev/null || [ -n "${LIBCLANG_PATH:-}" ] || missing+=(libclang-dev)
if [ "$goal" = test ]; then
  ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || missing+=(postgresql)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "setup: missing: ${missing[*]} (Debian's names). Install them with this system's package manager and run again." >&2
  exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "setup: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q >&2
$sudo apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
