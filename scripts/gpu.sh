#!/usr/bin/env bash
# Tests and measures downhill on the devices of this machine. All results go into one folder. Its page, index.html, shows them and
# needs no network.
#
# usage: scripts/gpu.sh [--quick] [FOLDER]
#
# The parts, in this order: the self-test of all devices, the tests that use a GPU, the benches with a row for each candidate, training by
# batch size, the profile of an MLP and a CNN, and PyTorch on the same GPU in turns, if $PYTHON (python3) has it. A part that fails or takes
# too long is reported, and the next part runs. --quick measures fewer and smaller rows.
# FOLDER is target/gpu/DATE without one. Exit code: 0 if every part passed, 1 if not.
set -uo pipefail
cd "$(dirname "$0")/.."

quick=
[ "${1:-}" != --quick ] || { quick=--quick; shift; }
case ${1:-} in
  -*)
    sed -n 's/^# usage: /usage: /p' "$0"
    exit 2
    ;;
esac
folder=${1:-target/gpu/$(date -u +%Y-%m-%d-%H%M%S)}
mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 2
# Rows are appended, so the files of an earlier run go first.
rm -f "$folder"/*.jsonl "$folder"/*.log "$folder"/parts.tsv "$folder"/selftest.json "$folder"/index.html

# Headless, Mesa complains about a missing runtime folder.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$(mktemp -d)}"
python=${PYTHON:-python3}
failed=

# part NAME SECONDS COMMAND…
part() {
  local name=$1 most=$2 began=$SECONDS code=0 result=passed
  shift 2
  printf '\n== %s\n' "$name"
  # Not every system has `timeout`. Without it, a part runs to its end.
  local limit=()
  ! command -v timeout >/dev/null || limit=(timeout "$most")
  ${limit[@]+"${limit[@]}"} "$@" </dev/null >"$folder/$name.log" 2>&1 || code=$?
  [ "$code" = 0 ] || result="failed, exit code $code"
  [ "$code" != 124 ] || result="stopped after $most s"
  [ "$code" = 0 ] || failed=yes
  [ "$code" = 0 ] || tail -n 5 "$folder/$name.log"
  echo "$result, $((SECONDS - began)) s"
  printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$result" "$((SECONDS - began))" "$name.log" "$*" >>"$folder/parts.tsv"
}
not_run() {
  printf '\n== %s\nnot run: %s\n' "$1" "$2"
  printf '%s\tnot run: %s\t0\t\t\n' "$1" "$2" >>"$folder/parts.tsv"
}

{
  date -u
  uname -srm
  rustc --version
  echo "downhill $(git describe --always --dirty 2>/dev/null || echo 'without git')"
} >"$folder/system.txt" 2>&1

part build 3600 cargo build --release --example selftest
part selftest 3600 cargo run --release --example selftest -- $quick --json "$folder/selftest.json"
# With CI=true a test that needs a GPU fails on a machine without one.
part tests 3600 env CI=true cargo test --release --test ops --test values --test graphs --test training --test accumulation --test tune
part benches 3600 cargo bench -- --candidates $quick --json "$folder/bench.jsonl"
part scaling 3600 cargo bench -- --filter scaling $quick --json "$folder/scaling.jsonl"
part profile 1800 cargo bench -- --filter profile $quick --json "$folder/profile.jsonl"

# PyTorch's name of the device, and the name of that device in Vulkan, Metal or DX12.
read -r torch_device name < <("$python" 2>/dev/null -c '
import torch
if torch.cuda.is_available(): print("cuda", torch.cuda.get_device_name(0))
elif hasattr(torch, "xpu") and torch.xpu.is_available(): print("xpu", torch.xpu.get_device_name(0))
elif torch.backends.mps.is_available(): print("mps", "Apple")
else: print("cpu", "cpu")')
if [ -n "${torch_device:-}" ]; then
  rounds=5
  [ -z "$quick" ] || rounds=1
  part peers 3600 "$python" scripts/peers.py --device "$name" --torch-device "$torch_device" --rounds "$rounds" --json "$folder/peers.jsonl"
else
  not_run peers "$python has no PyTorch"
fi

printf '\n== Page\n'
cargo bench --quiet -- --page "$folder" || failed=yes
[ -z "$failed" ]
