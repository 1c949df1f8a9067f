#!/usr/bin/env bash
# Checks that the library and its examples compile for other systems: Windows, macOS and WebAssembly. Nothing is linked or run.
# Usage: scripts/targets.sh [SECONDS]
#
# The standard library of a target comes from rustup, or from Debian's package where Debian's own Rust is used. A target without one, or
# without time, is reported as `not run`, with the reason: it does not count as passed, and does not fail the run. A target that does not
# compile fails the run.
set -uo pipefail
cd "$(dirname "$0")/.."
deadline=$((SECONDS + ${1:-300}))
export CARGO_TERM_COLOR=never
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed= not_run= failed=

# within COMMAND…: its output goes to the log; 124 where no time is left, or it took too long.
within() {
  local left=$((deadline - SECONDS))
  [ "$left" -gt 0 ] || return 124
  timeout "$left" "$@" </dev/null >"$log" 2>&1
}
# present TARGET
present() { compgen -G "$(rustc --print sysroot)/lib/rustlib/$1/lib/libstd-*.rlib" >/dev/null; }
# library TARGET PACKAGE: the standard library, if it can be had. Debian has none for macOS.
library() {
  present "$1" && return
  if command -v rustup >/dev/null; then
    within rustup target add "$1"
  elif [ -n "$2" ] && dpkg -S "$(command -v rustc)" >/dev/null 2>&1; then
    within apt-get install -y -q --no-install-recommends "$2"
  else
    echo 'there is no rustup' >"$log"
  fi
  present "$1"
}
skip() { echo "not run: $1: $2"; not_run="$not_run $1,"; }
# target NAME PACKAGE
target() {
  local start=$SECONDS
  library "$1" "$2" || { skip "$1" "its standard library cannot be had: $(tail -n 1 "$log" | cut -c 1-160)"; return; }
  within cargo check --package downhill --lib --examples --locked --target "$1"
  case $? in
    0) echo "$1: passed in $((SECONDS - start)) s"; passed="$passed $1," ;;
    124) skip "$1" 'no time was left for it' ;;
    *) cat "$log"; echo "$1: FAILED"; failed="$failed $1," ;;
  esac
}

printf '\n== Other systems\n'
target x86_64-pc-windows-gnu libstd-rust-dev-windows
target aarch64-apple-darwin ''
target wasm32-unknown-unknown libstd-rust-dev-wasm32
echo "passed:${passed:- none}"
[ -z "$not_run" ] || echo "not run:$not_run"
[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
