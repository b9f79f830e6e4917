#!/usr/bin/env bash
# Writes constraints.txt from what .venv holds. Build flavours (+cpu, +cu130) and CUDA's own libraries
# are left out, so that one file serves both kinds of machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -f .venv/.eyechart-vllm-stamp ]]; then
    echo "pins: .venv holds vLLM too, which is no part of the pins. Run \`rm -rf .venv; make setup\` first." >&2
    exit 2
fi
if [[ ! -f .venv/.eyechart-site-stamp ]]; then
    echo "pins: .venv lacks what \`make test-site\` needs, which is part of the pins. Run \`make setup-site\` first." >&2
    exit 2
fi
{
    echo "# The exact versions that Eyechart was tested with (Python 3.11). scripts/setup.sh installs under these;"
    echo "# \`make pins\` writes the file anew from .venv. torch is the plain version: its CPU and CUDA builds share it."
    .venv/bin/python -m pip list --format=freeze --exclude-editable --disable-pip-version-check |
        grep -viE '^(pip|setuptools|wheel|eyechart|nvidia-.*|cuda-.*|triton)==' | sed -E 's/\+(cpu|cu[0-9]+)$//' | LC_ALL=C sort -f
} >constraints.txt.new
mv constraints.txt.new constraints.txt
