#!/usr/bin/env bash
# Does the GPU do what the CPU does, how fast, and how exact? On any machine with a GPU, from a checkout:
#     benchmarks/gpu.sh [device]        (default cuda; `benchmarks/gpu.sh cpu` tries the script itself, in minutes)
# Tasks, gradients and resume; then each workload in each way; then the peers.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD" CUBLAS_WORKSPACE_CONFIG=:4096:8
device=${1:-cuda}
python3 benchmarks/gpu.py "$device"
if test "$device" = cpu; then
  python3 benchmarks/gpu_speed.py cpu --trial
else
  python3 benchmarks/gpu_speed.py "$device"
  if test -x benchmarks/speed/run.sh; then
    benchmarks/speed/run.sh --device cuda --sweeps none --out benchmarks/speed/gpu.json
  fi
fi
