#!/usr/bin/env bash
# Adds what `make test-site` needs: Playwright and axe-core to .venv, under our pins, and a browser to the machine.
#
# The browser is the distribution's Chromium, installed with apt where neither it nor Chrome is on PATH;
# Playwright drives that one and downloads none of its own. Idempotent: a stamp in .venv hashes what the result
# depends on.
#   EYECHART_BROWSER   path of the Chromium or Chrome to use   (default: the first on PATH)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv STAMP=.venv/.eyechart-site-stamp LOG=.venv/setup-site.log
readonly NAMES=(chromium chromium-browser google-chrome)
started=$SECONDS

say() { printf 'setup-site: %s\n' "$*"; }
die() {
    printf 'setup-site: %s\n' "$*" >&2
    exit 1
}
[[ -x $VENV/bin/python ]] || die "no $VENV here. Run \`make setup\` first."

find_browser() {
    if [[ -n ${EYECHART_BROWSER:-} ]]; then
        command -v "$EYECHART_BROWSER"
        return
    fi
    local name
    for name in "${NAMES[@]}"; do command -v "$name" && return; done
    return 1
}
install_browser() {
    local root=()
    [[ -z ${EYECHART_BROWSER:-} ]] || die "EYECHART_BROWSER is \"$EYECHART_BROWSER\", which is no program here."
    command -v apt-get >/dev/null || die "no ${NAMES[*]} on PATH. Install Chromium with your system's packages and run again."
    if [[ $(id -u) -ne 0 ]]; then
        command -v sudo >/dev/null || die "no ${NAMES[*]} on PATH. As root: apt-get install chromium fonts-dejavu-core. Then run again."
        root=(sudo -n)
    fi
    say "installing Chromium with apt"
    {
        "${root[@]}" apt-get update -qq &&
            "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
                chromium fonts-dejavu-core
    } >>"$LOG" 2>&1 || die "Chromium could not be installed: $(tail -n 1 "$LOG" | cut -c 1-200). See $LOG."
}

inputs=$("$VENV/bin/python" - "$PWD" pyproject.toml constraints.txt scripts/setup-site.sh <<'PY'
import hashlib, pathlib, sys
digest = hashlib.sha256(sys.argv[1].encode())
for name in sys.argv[2:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PY
)
packages_there() { "$VENV/bin/python" -c 'import axe_playwright_python, playwright' 2>/dev/null; }
if [[ -f $STAMP && $(<"$STAMP") == "$inputs" ]] && packages_there && browser=$(find_browser); then
    say "$VENV and $browser are ready (nothing to do)"
    exit 0
fi
rm -f "$STAMP"
: >"$LOG"

browser=$(find_browser) || install_browser
browser=$(find_browser) || die "apt installed Chromium and still no ${NAMES[*]} is on PATH. See $LOG."

mapfile -t packages < <("$VENV/bin/python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["site"], sep="\n")
')
say "installing ${packages[*]}, under our pins"
"$VENV/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-compile \
    --no-warn-script-location -c constraints.txt "${packages[@]}" >>"$LOG" 2>&1 ||
    die "not installed: $(grep -m 1 -E '^ *(ERROR|error)' "$LOG" | cut -c 1-200). See $LOG, then run the same command again."
packages_there || die "Playwright does not import. See $LOG."

echo "$inputs" >"$STAMP"
say "$VENV and $browser are ready after $((SECONDS - started)) s"
