#!/usr/bin/env bash
# Makes an MPI library available, with its launcher and with libclang, which the feature `mpi` needs to be built. Prints the environment
# for the next commands, to be evaluated:
#
#   eval "$(scripts/mpi.sh)" && cargo test -p downhill-tests --features mpi --test mpi
#
# usage: scripts/mpi.sh [openmpi|mpich]
#
# On Debian and Ubuntu, missing packages are installed by apt-get. Elsewhere the packages of the distribution must be there. Exit code 3,
# and one sentence on stderr, where the library cannot be had.
set -euo pipefail

name=${1:-openmpi}
. "$(dirname "$0")/have.sh"

# first COMMAND…: the first command that is there. Debian adds the library's name to its commands.
first() {
  local command
  for command in "$@"; do
    if command -v "$command"; then
      return
    fi
  done
  return 1
}
# The folder of libclang: the one of llvm-config, or the newest one. A machine may have LLVM without libclang.
clang() {
  local folder
  for folder in "$(llvm-config --libdir 2>/dev/null)" $(compgen -G '/usr/lib/llvm-*/lib' | sort -rV); do
    # Without its own headers, libclang finds no stddef.h.
    if compgen -G "$folder/libclang[-.]*so*" | grep -q -v -- -cpp && compgen -G "$folder/clang/*/include/stddef.h" >/dev/null; then
      echo "$folder"
      return
    fi
  done
  return 1
}

case $name in
  openmpi) packages=(libopenmpi-dev openmpi-bin) ;;
  mpich) packages=(libmpich-dev mpich) ;;
  *) echo "usage: scripts/mpi.sh [openmpi|mpich]"; exit 2 ;;
esac
# Fedora keeps its libraries out of PATH.
for folder in "/usr/lib64/$name/bin"; do
  [ ! -d "$folder" ] || PATH=$PATH:$folder
done

missing=()
# Elsewhere than on Debian the commands without a suffix may be those of the other library.
mine() { "$1" --version 2>&1 | grep -qi -e "$([ "$name" = openmpi ] && echo 'open *mpi\|open-mpi\|openrte' || echo 'hydra\|mpich')"; }
launcher() { local it; it=$(first "mpiexec.$name" mpiexec) && mine "$it" && echo "$it"; }
compiler() { first "mpicc.$name" mpicc; }

{ launcher && compiler; } >/dev/null || missing+=("${packages[@]}")
if [ "$(uname)" = Linux ] && [ -z "${LIBCLANG_PATH:-}" ] && ! clang >/dev/null; then
  missing+=(clang)
fi
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null ||
    cannot 'install your packages of it and of libclang; Fedora: openmpi-devel or mpich-devel, clang-devel; Arch: openmpi, clang; macOS: brew install open-mpi llvm'
  update
  if [ "${missing[-1]}" = clang ]; then
    unset 'missing[-1]'
    # libclang-dev is of this release's version; its library and headers alone are a tenth of its size.
    version=$(apt-cache depends libclang-dev | grep -o 'libclang-[0-9]*-dev' | grep -o '[0-9]*' | head -n 1) || cannot 'apt-get knows no libclang'
    missing+=("libclang1-$version" "libclang-common-$version-dev")
  fi
  install "${missing[@]}"
fi

compiler=$(compiler) || cannot 'there is no mpicc'
launcher=$(launcher) || cannot 'there is no mpiexec of this library'
say MPICC "$compiler"
[ -n "${LIBCLANG_PATH:-}" ] || ! folder=$(clang) || say LIBCLANG_PATH "$folder"
# The tests know the launcher of Open MPI: it refuses root, and more ranks than cores, without options.
if [ "$name" != openmpi ]; then
  say MPIRUN "$launcher"
elif ! mine mpirun; then
  say MPIRUN "$launcher --allow-run-as-root --oversubscribe"
fi
