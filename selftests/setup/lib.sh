# SPDX-License-Identifier: GPL-2.0 OR MIT
# Shared by the setup scripts: where things are, how they speak. Sourced, never run.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
setup=$project/selftests/setup
build=$project/build
cache=${XDG_CACHE_HOME:-$HOME/.cache}/usb4-rdma
started=$SECONDS

say() { printf '[setup %3ds] %s\n' "$((SECONDS - started))" "$*"; }
die() { printf '[setup] error: %s\n' "$*" >&2; exit 1; }

# hash_of FILE...: what a cached artefact depends on, as 12 hex digits. Reads standard input too.
hash_of() { { [ $# -eq 0 ] || cat "$@"; cat; } | sha256sum | cut -c1-12; }

# logged NAME CMD...: runs CMD with its output in a log; on failure shows the end of that log.
logged() {
	local log=$build/log/$1.log; shift
	mkdir -p "$build/log"
	if ! "$@" >"$log" 2>&1 </dev/null; then
		tail -n 30 "$log" >&2
		die "'$*' failed; the whole output is in ${log#"$project"/}"
	fi
}

# point NAME TARGET: build/NAME leads to the artefact TARGET in the cache.
point() { mkdir -p "$(dirname "$build/$1")"; ln -sfn "$2" "$build/$1"; }

in_root() { "$setup/in-root" "$@"; }
