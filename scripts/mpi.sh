#!/usr/bin/env bash
# Makes an MPI library available, with its compiler and its launcher, which the feature `mpi` needs. Prints the environment for the next
# commands, to be evaluated:
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

case $name in
  openmpi) packages=(libopenmpi-dev openmpi-bin) ;;
  mpich) packages=(libmpich-dev mpich) ;;
  *) echo "usage: scripts/mpi.sh [openmpi|mpich]"; exit 2 ;;
esac
# Fedora keeps its libraries out of PATH.
for folder in "/usr/lib64/$name/bin"; do
  [ ! -d "$folder" ] || PATH=$PATH:$folder
done

# Elsewhere than on Debian the commands without a suffix may be those of the other library.
mine() { "$1" --version 2>&1 | grep -qi -e "$([ "$name" = openmpi ] && echo 'open *mpi\|open-mpi\|openrte' || echo 'hydra\|mpich')"; }
launcher() { local it; it=$(first "mpiexec.$name" mpiexec) && mine "$it" && echo "$it"; }
compiler() { first "mpicc.$name" mpicc; }

if ! { launcher && compiler; } >/dev/null; then
  command -v apt-get >/dev/null ||
    cannot 'install your packages of it; Fedora: openmpi-devel or mpich-devel; Arch: openmpi; macOS: brew install open-mpi'
  install "${packages[@]}"
fi

compiler=$(compiler) || cannot 'there is no mpicc'
launcher=$(launcher) || cannot 'there is no mpiexec of this library'
say MPICC "$compiler"
# The tests know the launcher of Open MPI: it refuses root, and more ranks than cores, without options.
if [ "$name" != openmpi ]; then
  say MPIRUN "$launcher"
elif ! mine mpirun; then
  say MPIRUN "$launcher --allow-run-as-root --oversubscribe"
fi
