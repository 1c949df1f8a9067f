#!/usr/bin/env bash
# Prepares one of five Vulkan drivers that need no GPU, and prints the environment that selects it, to be evaluated:
#
#   eval "$(scripts/vulkan.sh swiftshader)" && cargo run --example selftest
#
#   lavapipe     Mesa's software driver, of this distribution; installed where it is missing
#   swiftshader  Google's software driver, out of Debian's package chromium-common
#   mesa-sid     lavapipe of Debian unstable: a newer Mesa, with a C library of its own that cargo's runner starts
#   radv         Mesa's driver for AMD's GPUs, of this distribution: it compiles for FAMILY and runs nothing; installed where it is missing
#   anv          Mesa's driver for Intel's GPUs, of this distribution, on a library in the place of Intel's kernel driver: it compiles for
#                FAMILY and runs nothing. The library is built from Debian's source of the same Mesa
#
# usage: scripts/vulkan.sh lavapipe|swiftshader|mesa-sid [FOLDER]
#        scripts/vulkan.sh radv [FAMILY]     polaris10, vega10, renoir, navi10, navi21 (without one), vangogh or gfx1100
#        scripts/vulkan.sh anv [FAMILY]      skl, icl, tgl, adl or dg2 (without one)
#
# swiftshader, mesa-sid and the library of anv are downloaded into FOLDER once (${XDG_CACHE_HOME:-~/.cache}/downhill/vulkan without one) and change
# nothing else. Exit code 3, and one sentence on stderr, where a driver cannot be had on this machine.
set -euo pipefail

name=${1:-}
family=${2:-}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/downhill/vulkan
case $name in
  radv | anv) ;;
  *) cache=$(realpath -m "${2:-$cache}") ;;
esac

. "$(dirname "$0")/have.sh"

# The first of the files that exists.
first() {
  local file
  for file in "$@"; do
    if [ -e "$file" ]; then
      echo "$file"
      return
    fi
  done
}
# The loader's variable, under its new and its old name; and what Mesa wants headless.
select_driver() {
  say VK_DRIVER_FILES "$1" VK_ICD_FILENAMES "$1"
  [ -n "${XDG_RUNTIME_DIR:-}" ] || say XDG_RUNTIME_DIR "${TMPDIR:-/tmp}"
}
# A folder for what is not whole yet; a driver then gets its place in one move.
work=
workshop() {
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/$name.XXXXXX")
  trap 'rm -rf "$work" 2>/dev/null || as_root rm -rf "$work"' EXIT
}

lavapipe() {
  local icd
  manifest() { first /usr/share/vulkan/icd.d/lvp_icd*.json /usr/local/share/vulkan/icd.d/lvp_icd*.json /etc/vulkan/icd.d/lvp_icd*.json; }
  icd=$(manifest)
  if [ -z "$icd" ]; then
    install mesa-vulkan-drivers libvulkan1
    icd=$(manifest)
  fi
  [ -n "$icd" ] || cannot 'the installed Mesa is without it'
  select_driver "$icd"
}

radv() {
  local icd library
  manifest() { first /usr/share/vulkan/icd.d/radeon_icd*.json /usr/local/share/vulkan/icd.d/radeon_icd*.json /etc/vulkan/icd.d/radeon_icd*.json; }
  icd=$(manifest)
  if [ -z "$icd" ]; then
    install mesa-vulkan-drivers libvulkan1
    icd=$(manifest)
  fi
  [ -n "$icd" ] || cannot 'the installed Mesa is without it'
  # Mesa of 2024 and later has no null hardware.
  library=$(sed -n 's/.*"library_path": *"\(.*\)".*/\1/p' "$icd")
  grep -q 'Null hardware' "$library" || cannot 'this Mesa compiles for hardware that is there, and for no other; Mesa 22.3, of Debian 12, does'
  select_driver "$icd"
  say RADV_FORCE_FAMILY "${family:-navi21}"
}

# The library is a small part of Mesa, so the compiler is enough to build it.
anv() {
  local icd dir=$cache/anv lists mesa
  manifest() { first /usr/share/vulkan/icd.d/intel_icd*.json /usr/local/share/vulkan/icd.d/intel_icd*.json /etc/vulkan/icd.d/intel_icd*.json; }
  icd=$(manifest)
  if [ -z "$icd" ]; then
    install mesa-vulkan-drivers libvulkan1
    icd=$(manifest)
  fi
  [ -n "$icd" ] || cannot 'the installed Mesa is without it'
  if [ ! -e "$dir/libintel_noop_drm_shim.so" ]; then
    command -v gcc >/dev/null && command -v dpkg >/dev/null || cannot 'it is built from a Debian source package, which needs gcc and dpkg'
    mesa=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)
    case $mesa in
      22.3.*) ;;
      *) cannot "the library is built for Mesa 22.3, of Debian 12; this is $mesa" ;;
    esac
    workshop
    cd "$work"
    lists=(-o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$work/lists" -o APT::Sandbox::User=)
    echo "deb-src $(debian_mirror) bookworm main" >sources.list
    mkdir -p lists/partial driver
    apt-get "${lists[@]}" update -q && apt-get "${lists[@]}" source -q --download-only mesa || cannot 'apt-get found no source of Mesa'
    apt-get download -q libdrm-dev || { update && apt-get download -q libdrm-dev; } || cannot 'apt-get found no package libdrm-dev'
    dpkg -x libdrm-dev*.deb drm
    mkdir mesa
    tar xf mesa_*.orig.tar.* --strip-components=1 -C mesa
    noop_shim mesa drm/usr/include driver/libintel_noop_drm_shim.so || cannot 'gcc could not build it'
    mv driver "$dir"
  fi
  select_driver "$icd"
  say LD_PRELOAD "$dir/libintel_noop_drm_shim.so" INTEL_STUB_GPU_PLATFORM "${family:-dg2}"
}
# noop_shim MESA LIBDRM OUTPUT
noop_shim() {
  local mesa=$1 has file files=()
  for has in PTHREAD STRUCT_TIMESPEC ENDIAN_H DLADDR DL_ITERATE_PHDR SECURE_GETENV LIBDRM MEMFD_CREATE RANDOM_R FLOCK MKOSTEMP TIMESPEC_GET \
    STRTOK_R GETRANDOM POSIX_MEMALIGN FUNC_ATTRIBUTE_PACKED FUNC_ATTRIBUTE_FORMAT FUNC_ATTRIBUTE_UNUSED __BUILTIN_CLZ __BUILTIN_CLZLL \
    __BUILTIN_FFS __BUILTIN_FFSLL __BUILTIN_POPCOUNT __BUILTIN_POPCOUNTLL __BUILTIN_EXPECT __BUILTIN_TYPES_COMPATIBLE_P __BUILTIN_UNREACHABLE; do
    files+=("-DHAVE_$has")
  done
  for file in intel/tools/intel_noop_drm_shim drm-shim/device drm-shim/drm_shim intel/dev/intel_device_info intel/dev/intel_hwconfig \
    intel/common/intel_gem intel/common/intel_engine c11/impl/threads_posix c11/impl/time util/{hash_table,set,vma,ralloc,rb_tree,log} \
    util/{u_debug,u_printf,u_call_once,os_misc,os_file,os_time,simple_mtx,memstream,fast_idiv_by_const,bitscan}; do
    files+=("$mesa/src/$file.c")
  done
  gcc -std=gnu11 -O1 -w -fPIC -shared -fvisibility=hidden -o "$3" -D_GNU_SOURCE -DNDEBUG -DUSE_GCC_ATOMIC_BUILTINS -DUTIL_ARCH_LITTLE_ENDIAN=1 \
    -DUTIL_ARCH_BIG_ENDIAN=0 -DMAJOR_IN_SYSMACROS -I"$mesa/include" -I"$mesa/src" -I"$mesa/src/intel" -I"$mesa/src/mapi" \
    -I"$mesa/src/gallium/include" -I"$mesa/src/gallium/auxiliary" -I"$2" -I"$2/libdrm" "${files[@]}" -ldl -lpthread -l:libdrm.so.2 -lm
}

swiftshader() {
  local dir=$cache/swiftshader
  if [ -z "$(first "$dir"/*.json)" ]; then
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || cannot 'it is taken out of a Debian package, which needs apt-get and dpkg'
    workshop
    cd "$work"
    apt-get download -q chromium-common || { update && apt-get download -q chromium-common; } || cannot 'apt-get found no package chromium-common'
    dpkg -x chromium-common*.deb all
    mkdir driver
    find all \( -name 'libvk_swiftshader.so' -o -name 'vk_swiftshader_icd.json' \) -exec mv {} driver/ \;
    [ "$(find driver -type f | wc -l)" = 2 ] || cannot 'this chromium-common is without it'
    mv driver "$dir"
  fi
  # The system's loader opens it.
  /sbin/ldconfig -p | grep -q 'libvulkan\.so\.1' || install libvulkan1
  select_driver "$(first "$dir"/*.json)"
}

# The mirror that this system gets Debian from, whatever the format of its lists.
debian_mirror() {
  command -v apt-get >/dev/null || return 0
  apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "main" && $3 ~ /\/debian\/?$/ && !found { print $3; found = 1 }'
}

mesa_sid() {
  local dir=$cache/mesa-sid libs mirror deb loader
  libs=usr/lib/$(uname -m)-linux-gnu
  if [ ! -x "$dir/run" ]; then
    command -v dpkg >/dev/null || cannot 'it is put together from Debian packages, which needs dpkg'
    mirror=$(debian_mirror)
    if [ -z "$mirror" ]; then
      update
      mirror=$(debian_mirror)
    fi
    [ -n "$mirror" ] || cannot 'apt is not set up for a mirror of Debian'
    [ -x /usr/sbin/debootstrap ] || install debootstrap
    workshop
    # Downloaded and unpacked only: no program of it runs, so no chroot is needed.
    as_root /usr/sbin/debootstrap --download-only --variant=minbase --include=mesa-vulkan-drivers,libvulkan1 sid "$work/packages" "$mirror" ||
      cannot "debootstrap could not get Debian sid from $mirror"
    mkdir -p "$work/all" "$work/driver/usr/lib" "$work/driver/usr/share"
    for deb in "$work"/packages/var/cache/apt/archives/*.deb; do
      dpkg -x "$deb" "$work/all"
    done
    mv "$work/all/$libs" "$work/driver/usr/lib/"
    mv "$work/all/usr/share/vulkan" "$work/driver/usr/share/"
    loader=$(cd "$work/driver" && first "$libs"/ld-linux*.so.*)
    [ -n "$loader" ] || cannot 'its C library has no loader where one was expected'
    # Programs find its libraries, newer than the system's, only if its own loader starts them.
    printf '#!/bin/sh\nexec %q --library-path %q "$@"\n' "$dir/$loader" "$dir/$libs" >"$work/driver/run"
    chmod +x "$work/driver/run"
    mv "$work/driver" "$dir"
  fi
  select_driver "$(first "$dir"/usr/share/vulkan/icd.d/lvp_icd*.json)"
  say "CARGO_TARGET_$(uname -m | tr '[:lower:]' '[:upper:]')_UNKNOWN_LINUX_GNU_RUNNER" "$dir/run"
}

case $name in
  lavapipe) lavapipe ;;
  swiftshader) swiftshader ;;
  mesa-sid) mesa_sid ;;
  radv) radv ;;
  anv) anv ;;
  *)
    sed -n 's/^# usage: /usage: /p; s/^# \(       scripts\)/\1/p' "$0"
    exit 2
    ;;
esac
