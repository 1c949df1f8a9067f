#!/usr/bin/env bash
# Prepares parts of Windows on Linux x86-64, and prints the environment that selects them, to be evaluated:
#
#   eval "$(scripts/dx12.sh fxc)" && cargo test -p downhill-backends --test shaders FXC
#   eval "$(scripts/dx12.sh run)" && cargo run --target x86_64-pc-windows-gnu --example selftest -- --device gpu
#
#   fxc  Microsoft's older compiler of DX12, in Wine. $FXC names a program that compiles texts: see scripts/fxc.c
#   run  a runner for programs of Windows: Wine, whose DX12 runs on Mesa's software driver, and whose compiler of shaders is FXC
#
# usage: scripts/dx12.sh fxc|run [FOLDER]
#
# Wine and a compiler for Windows are installed where they are missing (Debian 12). FXC is taken once out of PyPI's package kivy-deps.angle
# into FOLDER (${XDG_CACHE_HOME:-~/.cache}/downhill/dx12 without one). `run` needs root: each program gets the C library and the Mesa of
# `scripts/vulkan.sh mesa-sid` in a mount namespace of its own, because Wine's DX12 needs more than Debian 12's Mesa can do. Exit code 3,
# and one sentence on stderr, where a part cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

name=DX12
what=${1:-}
cache=$(realpath -m "${2:-${XDG_CACHE_HOME:-$HOME/.cache}/downhill/dx12}")
wine=/usr/lib/wine/wine64
wheel=kivy_deps_angle-0.5.0-cp311-cp311-win_amd64.whl
sum=c8e25abd3d45dfb55966a74613258c39b4a83ea2ac77f2f80903499f4d5c03f0
. scripts/have.sh

case $what in
  fxc | run) ;;
  *)
    sed -n 's/^# usage: /usage: /p' "$0"
    exit 2
    ;;
esac
[ "$(uname -sm)" = 'Linux x86_64' ] || cannot 'it is for Linux on x86-64'

# needs FILE PACKAGE: the package that has the file.
missing=()
needs() { [ -e "$1" ] || missing+=("$2"); }
needs $wine wine64
needs /usr/bin/x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
[ "$what" = fxc ] || needs /usr/bin/Xvfb xvfb
[ ${#missing[@]} = 0 ] || install "${missing[@]}"
[ -e $wine ] || cannot "there is no $wine"

mkdir -p "$cache"
if ! good "$cache/d3dcompiler_47.dll"; then
  work=$(mktemp -d "$cache/XXXXXX")
  trap 'rm -rf "$work"' EXIT
  timeout 300 python3 -m pip download --quiet --no-deps --only-binary :all: --platform win_amd64 --python-version 311 --implementation cp \
    --dest "$work" kivy-deps.angle==0.5.0 || cannot 'pip could not download FXC'
  python3 -m zipfile -e "$work/$wheel" "$work"
  find "$work" -name d3dcompiler_47.dll -exec mv {} "$work/" \;
  good "$work/d3dcompiler_47.dll" || cannot 'the library is not the one that was expected'
  mv "$work/d3dcompiler_47.dll" "$cache/"
fi
x86_64-w64-mingw32-gcc -O1 -o "$cache/fxc.exe" scripts/fxc.c || cannot 'scripts/fxc.c could not be built'

# Wine's settings are made once, before programs start at the same time.
export WINEPREFIX=$cache/wine WINEDEBUG=-all DISPLAY=
[ -e "$cache/wine/system.reg" ] || timeout 120 $wine wineboot --init || cannot 'Wine does not start'
# program FILE: a shell script, whose text is on stdin.
program() {
  { printf '#!/bin/bash\nexport WINEPREFIX=%q WINEDEBUG=-all\n' "$WINEPREFIX"; cat; } >"$1"
  chmod +x "$1"
}

if [ "$what" = fxc ]; then
  program "$cache/fxc" <<< "exec $wine $(printf '%q' "$cache/fxc.exe") $(printf '%q' "$cache/d3dcompiler_47.dll") 20"
  say FXC "$cache/fxc"
  exit
fi

[ "$(id -u)" = 0 ] || cannot 'a mount namespace needs root'
scripts/vulkan.sh mesa-sid >/dev/null || cannot 'its Vulkan driver is missing'
mesa=${XDG_CACHE_HOME:-$HOME/.cache}/downhill/vulkan/mesa-sid
libs=usr/lib/x86_64-linux-gnu
system=$WINEPREFIX/drive_c/windows/system32
rm -f "$system/d3dcompiler_47.dll"
cp "$cache/d3dcompiler_47.dll" "$system/"
# Rust's programs ask this library of Windows for random numbers. Wine 8 is without it.
x86_64-w64-mingw32-gcc -shared -o "$system/bcryptprimitives.dll" -xc - -ladvapi32 <<'C' || cannot 'a library could not be built'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(void *, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(BYTE *bytes, SIZE_T count) { return SystemFunction036(bytes, count); }
C
program "$cache/inside" <<SCRIPT
mount -t overlay overlay -o lowerdir=$(printf '%q' "$mesa/$libs"):/$libs /$libs || exit 3
icd=\$(ls $(printf '%q' "$mesa")/usr/share/vulkan/icd.d/lvp_icd*.json)
export VK_DRIVER_FILES=\$icd VK_ICD_FILENAMES=\$icd WGPU_BACKEND=dx12 WGPU_DX12_COMPILER=fxc
export WINEDLLOVERRIDES='d3dcompiler_47,bcryptprimitives=n'
exec xvfb-run -a $wine "\$@"
SCRIPT
program "$cache/run" <<< "exec unshare --mount $(printf '%q' "$cache/inside") \"\$@\""
say CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER "$cache/run"
