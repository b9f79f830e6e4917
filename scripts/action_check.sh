#!/usr/bin/env bash
# The one step of action.yml: runs the check, leaves every form of its report, and ends with its exit code.
set -uo pipefail
mkdir -p "$EYECHART_OUTPUT"
rm -f "$EYECHART_OUTPUT"/{report.json,junit.xml,comment.md,badge.svg} # an earlier use's is no verdict of this one
finish() { # verdict, exit code
    {
        echo "verdict=$1"
        echo "exit-code=$2"
    } >>"${GITHUB_OUTPUT:-/dev/null}"
    exit "$2"
}
# YAML and expressions write true in several ways; what is neither must not quietly mean "not strict".
strict=$(tr '[:upper:]' '[:lower:]' <<<"${EYECHART_STRICT-false}")
if [[ $strict != true && $strict != false ]]; then
    printf '::error title=Eyechart::input strict: found %q, expected true or false.\n' "$EYECHART_STRICT"
    finish error 2
fi
words=(check --baseline "$EYECHART_BASELINE" --candidate)
while IFS= read -r folder; do
    [[ -n $folder ]] && words+=("$folder")
done <<<"$EYECHART_CANDIDATE"
words+=(--github --json-file "$EYECHART_OUTPUT/report.json" --junit "$EYECHART_OUTPUT/junit.xml")
words+=(--markdown "$EYECHART_OUTPUT/comment.md" --badge "$EYECHART_OUTPUT/badge.svg")
[[ -n ${EYECHART_POLICY:-} ]] && words+=(--policy "$EYECHART_POLICY")
[[ $strict == true ]] && words+=(--strict)
eyechart "${words[@]}"
code=$?
verdict=error
[[ -f $EYECHART_OUTPUT/report.json ]] &&
    verdict=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["verdict"])' "$EYECHART_OUTPUT/report.json")
finish "$verdict" "$code"
