# The parts that scripts share which make a tool available, for `. scripts/have.sh`. `name` is the name of the tool.

# stdout is for the environment alone.
exec 3>&1 1>&2

# say NAME VALUE…: prints variables of the environment.
say() { printf 'export %s=%q\n' "$@" >&3; }
cannot() {
  echo "$name cannot be had here: $1"
  exit 3
}
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "this needs root or sudo: $*"
    return 1
  fi
}
updated=
update() {
  [ -n "$updated" ] || as_root apt-get update -q || true
  updated=yes
}
install() {
  command -v apt-get >/dev/null || cannot "$* is installed by apt-get only; use your distribution's package"
  update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" || cannot "apt-get could not install $*"
}
# Whether a file is the expected one, whose SHA-256 is `sum`.
good() { [ -e "$1" ] && echo "$sum  $1" | sha256sum --check --status; }
