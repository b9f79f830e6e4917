#!/usr/bin/env bash
# Byte-compiles a virtual environment where Python is told to keep nothing (PYTHONDONTWRITEBYTECODE).
#
# Else each of hundreds of processes would compile torch again, which takes seconds. Elsewhere Python keeps what
# it compiles on the way, and half a minute is saved. What is big and never imported here is left out.
#   $1    the environment's folder
set -euo pipefail
[[ -n ${PYTHONDONTWRITEBYTECODE:-} ]] || exit 0
printf 'setup: compiling, since PYTHONDONTWRITEBYTECODE is set\n'
models='transformers/models/(?!auto|clip|dinov2|llama|llava|qwen2|siglip|vit)[a-z]'
# A file that is written for another version of Python is no fault.
env -u PYTHONDONTWRITEBYTECODE "$1/bin/python" -m compileall -q -j 0 \
    -x "/(tests?|testing|yt_dlp|wandb|chardet|mypy|openai/types|$models)" "$1"/lib/python*/site-packages >/dev/null 2>&1 || true
