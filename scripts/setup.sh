#!/usr/bin/env bash
# Makes .venv in the repository with everything that `make demo` and `make test` need.
#
# Idempotent: a stamp in .venv hashes what the result depends on, and a second run ends at once.
#   PYTHON                 interpreter to use                       (default: python3)
#   EYECHART_DEVICE        cpu | cuda | auto                        (default: auto, asks nvidia-smi)
#   EYECHART_TORCH_INDEX   package index holding CPU builds of torch; needed only where the ordinary
#                          index has none and CUDA wheels (gigabytes) are not wanted
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH=2.13.0 TORCHVISION=0.28.0
readonly VENV=.venv STAMP=.venv/.eyechart-stamp LOG=.venv/setup.log
started=$SECONDS

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || die "no $python found. Install Python 3.11 or newer, or name one with PYTHON=…"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$python is Python $version, expected 3.11 or newer. Name another with PYTHON=…"

device=${EYECHART_DEVICE:-auto}
if [[ $device == auto ]]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then device=cuda; else device=cpu; fi
fi
[[ $device == cpu || $device == cuda ]] || die "EYECHART_DEVICE is \"$device\", expected cpu, cuda or auto."

# CUDA's own libraries have versions too; their wheels are for Linux on x86-64 only.
pins=constraints.txt
if [[ $device == cuda && $(uname -s) == Linux && $(uname -m) == x86_64 ]]; then pins=constraints-cuda.txt; fi

# Python does the hashing: sha256sum is missing on some machines, Python is not.
inputs=$("$python" - "$version" "$device" "$PWD" pyproject.toml "$pins" scripts/setup.sh <<'PY'
import hashlib, pathlib, sys
digest = hashlib.sha256(repr(sys.argv[1:4]).encode())
for name in sys.argv[4:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PY
)
if [[ -f $STAMP && $(<"$STAMP") == "$inputs" && -x $VENV/bin/python ]]; then
    say "$VENV is ready (nothing to do)"
    exit 0
fi

# A wheel of torch and two of CUDA's libraries do not fit on a full disk: say so before, not half-way.
need_gb=$([[ $device == cuda ]] && echo 12 || echo 5)
free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1048576))
((free_gb >= need_gb)) || [[ -x $VENV/bin/python ]] ||
    die "$free_gb GB free on this disk, expected $need_gb GB for the $device environment. Free some space and run again."

if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null; then
    say "making $VENV with Python $version"
    "$python" -m venv --clear "$VENV" 2>/dev/null ||
        die "$python cannot make a virtual environment. Install its venv and ensurepip modules (Debian: python3-venv)."
fi
rm -f "$STAMP"
: >"$LOG"

# --no-compile: byte-compiling 150 packages costs half a minute, and most of them are never imported. Python keeps
# what it compiles on the way, and where it is told not to, what is imported often is compiled below.
install() {
    "$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-compile \
        --no-warn-script-location "$@" >"$LOG" 2>&1
}
stop() {
    local reason
    reason=$(grep -m 1 -E '^ *(ERROR|error)' "$LOG" | cut -c 1-200 || true)
    reason=${reason:-pip said nothing}
    die "$1 could not be installed: ${reason%.}. See $LOG, then run the same command again."
}

has_torch() {
    "$VENV/bin/python" -c "
from importlib.metadata import version
import sys
sys.exit(version('torch').split('+')[0] != '$TORCH' or version('torchvision').split('+')[0] != '$TORCHVISION')
" 2>/dev/null
}
install_torch_cpu() {
    # --no-deps here: the next step resolves what torch needs from the ordinary index, under our pins.
    # torchvision is needed for its Python code only (timm and open_clip import it).
    if [[ -n ${EYECHART_TORCH_INDEX:-} ]]; then
        install --no-deps --index-url "$EYECHART_TORCH_INDEX" "torch==$TORCH" "torchvision==$TORCHVISION"
    elif install --no-deps "torch==$TORCH+cpu"; then
        install --no-deps "torchvision==$TORCHVISION"
    elif [[ $(uname -s) == Linux && $(uname -m) == x86_64 ]]; then
        say "no CPU build of torch in this package index: taking the ordinary one, some gigabytes larger"
        say "(set EYECHART_TORCH_INDEX to an index of CPU builds to avoid that)"
        install "torch==$TORCH" "torchvision==$TORCHVISION"
    else
        install "torch==$TORCH" "torchvision==$TORCHVISION"
    fi
}

if ! has_torch; then
    say "installing torch $TORCH for $device"
    if [[ $device == cpu ]]; then
        install_torch_cpu || stop "torch $TORCH"
    else
        install -c "$pins" "torch==$TORCH" "torchvision==$TORCHVISION" || stop "torch $TORCH"
    fi
fi
say "installing Eyechart and what it runs with ($(grep -c == "$pins") pinned packages)"
install -c "$pins" -e '.[run,dev]' || stop "Eyechart"

bash scripts/compile.sh "$VENV"
say "checking that it imports"
"$VENV/bin/python" -c 'import duckdb, harness, pyarrow, torch, transformers' 2>>"$LOG" ||
    die "the new environment does not import: $(tail -n 1 "$LOG" | cut -c 1-200). Remove $VENV and run again."

if [[ $device == cuda ]] && ! "$VENV/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    say "note: torch sees no GPU here although nvidia-smi does; work will run on the CPU"
fi

echo "$inputs" >"$STAMP"
say "$VENV is ready in $((SECONDS - started)) s ($device)"
