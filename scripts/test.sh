#!/usr/bin/env bash
# The test command: makes sure that there is a Vulkan adapter, then runs the format check, clippy, the documentation,
# all tests and the doctests. On Debian and Ubuntu it installs Mesa's software driver where no driver is found.
set -euo pipefail
cd "$(dirname "$0")/.."

heading() { printf '\n== %s\n' "$1"; }

# A driver is a manifest that the Vulkan loader finds.
has_driver() {
  [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return
  compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null && return
  compgen -G '/usr/local/share/vulkan/icd.d/*.json' >/dev/null && return
  compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null && return
  compgen -G "${XDG_DATA_HOME:-$HOME/.local/share}/vulkan/icd.d/*.json" >/dev/null
}

if [ "$(uname)" = Linux ] && ! has_driver; then
  heading 'No Vulkan driver found: installing the software driver'
  if ! scripts/vulkan.sh lavapipe >/dev/null; then
    echo 'Install a Vulkan driver of your distribution (for software rendering: lavapipe, in Mesa); without one the GPU tests are ignored.'
  fi
fi

# Headless, Mesa complains about a missing runtime folder and about devices it will not choose between.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"

heading 'Format'
cargo fmt --all --check
heading 'Clippy'
cargo clippy --workspace --all-targets -- -D warnings
heading 'Documentation'
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --quiet
heading 'Tests and doctests'
cargo test --workspace
heading 'All passed'
