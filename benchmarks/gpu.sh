#!/usr/bin/env bash
# Does the GPU do what the CPU does, and how fast? On any machine with a GPU, from a checkout:
#     benchmarks/gpu.sh [device]        (default cuda; `benchmarks/gpu.sh cpu` tries the script itself)
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD" CUBLAS_WORKSPACE_CONFIG=:4096:8
exec python3 benchmarks/gpu.py "${1:-cuda}"
