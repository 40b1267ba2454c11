#!/usr/bin/env bash
# How fast is an outer step, here and in other programs? From a checkout, on a quiet machine, about 45 minutes:
#     benchmarks/speed/run.sh                       (interrupted: the same command goes on)
#     benchmarks/speed/run.sh --workloads w1,w3 --variants ours,learn2learn --budget 60
#     benchmarks/speed/run.sh --help
# The first call installs the peers in a virtual environment of their own, $SPEED_VENV or benchmarks/speed/.venv.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=${SPEED_VENV:-$PWD/benchmarks/speed/.venv}
test -f "$venv/installed" || benchmarks/speed/install.sh "$venv"
# This checkout, whatever metalearn may be installed.
PYTHONPATH="$PWD" exec "$venv/bin/python" -m benchmarks.speed "$@"
