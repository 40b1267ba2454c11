#!/usr/bin/env bash
# The peers in a virtual environment: benchmarks/speed/install.sh FOLDER. Wants Python 3.11 and a C compiler.
# On a machine without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu brings PyTorch's small CPU build.
# What does not install is said, and is missing in the table.
set -euo pipefail
venv=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }

pip install -q ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
pip install -q -e '.[report]'
pip install -q -e '.[bench]' || for peer in higher==0.2.1 torchopt==0.7.3 parallel-metalearn==0.5.6 jax-meta==1.0.3; do
    pip install -q "$peer" || echo "benchmarks/speed/install.sh: $peer does not install here"
done

# learn2learn 0.2.0 ships C that Python 3.11 does not compile: make it anew. It imports gym and scipy at its start; what
# else it asks for (torchvision, gsutil, qpth) no MAML needs, see variants/learn2learn.py.
learn2learn() {
    work=$(mktemp -d)
    pip install -q 'cython<3' 'setuptools<81' wheel gym scipy requests &&
        pip download -q --no-deps --no-build-isolation --no-binary learn2learn learn2learn==0.2.0 -d "$work" &&
        tar -xf "$work"/learn2learn-0.2.0.tar.gz -C "$work" &&
        "$venv/bin/cython" -3 "$work"/learn2learn-0.2.0/learn2learn/data/*.pyx &&
        pip install -q --no-build-isolation --no-deps "$work"/learn2learn-0.2.0
    status=$?
    rm -rf "$work"
    return $status
}
learn2learn || echo "benchmarks/speed/install.sh: learn2learn does not install here"
pip install -q --no-deps qpth==0.0.18 || echo "benchmarks/speed/install.sh: qpth does not install here"
touch "$venv/installed"
