#!/usr/bin/env bash
# Makes Microsoft's HLSL compiler DXC available on Linux x86-64, and prints the environment that names its library, to be evaluated:
#
#   eval "$(scripts/dxc.sh)" && cargo test -p downhill-backends
#
# usage: scripts/dxc.sh [FOLDER]
#
# Where $DXC names a library already, that one is used. Otherwise the library is taken once out of the source archive of PyPI's
# package compushady into FOLDER (${XDG_CACHE_HOME:-~/.cache}/downhill/dxc without one). Exit code 3, and one sentence on stderr, where it
# cannot be had.
set -euo pipefail

name=DXC
file=libdxcompiler_x86_64.so.3.7
sum=fb549976da7abff1ee56bdfa4f5ab156b95e971d4270b5b4447b61682d105809
cache=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/downhill/dxc}")
. "$(dirname "$0")/have.sh"

if [ -z "${DXC:-}" ]; then
  [ "$(uname -sm)" = 'Linux x86_64' ] || cannot 'the library is for Linux on x86-64'
  DXC=$cache/$file
  if ! good "$DXC"; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/XXXXXX")
    trap 'rm -rf "$work"' EXIT
    timeout 300 python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$work" compushady==0.17.5 || cannot 'pip could not download it'
    tar -xzf "$work/compushady-0.17.5.tar.gz" -C "$work" --strip-components=3 "compushady-0.17.5/compushady/backends/$file"
    good "$work/$file" || cannot 'the library is not the one that was expected'
    mv "$work/$file" "$DXC"
  fi
fi
[ -e "$DXC" ] || cannot "there is no $DXC"
say DXC "$DXC"
