#!/usr/bin/env bash
# Writes constraints-cuda.txt: what installs on a Linux x86-64 machine with Python 3.12 and CUDA, resolved by uv
# from the ordinary package index under constraints.txt. Nothing is installed but uv, in a folder that is thrown
# away, and no wheel of CUDA's is downloaded: their metadata is enough. Needs no GPU.
#   PYTHON   interpreter that makes the folder   (default: python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.13"
# --no-config and no PIP_* or UV_*: a machine's own index must not leak into the file.
env -i PATH="$PATH" HOME="$place" ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} \
    "$place/venv/bin/uv" pip compile pyproject.toml --extra run --extra dev --extra site --constraint constraints.txt \
    --python-version 3.12 --python-platform x86_64-manylinux_2_28 --no-python-downloads \
    --no-config --no-cache --no-header --no-annotate --quiet --output-file "$place/found.txt" >/dev/null
{
    echo "# The exact versions for CUDA: Linux x86-64, Python 3.12, with the CUDA libraries that torch asks for."
    echo "# scripts/setup.sh installs under these where there is a GPU; \`make pins-cuda\` resolves them anew."
    echo "# Every version of constraints.txt is in here unchanged. Resolved, not installed: nobody ran it here."
    LC_ALL=C sort -f "$place/found.txt"
} >constraints-cuda.txt.new
mv constraints-cuda.txt.new constraints-cuda.txt
