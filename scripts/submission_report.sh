#!/usr/bin/env bash
# Judges a request that adds results, and builds what its review needs. The request is data: nothing of it is run.
#
#   submission_report.sh BASE REQUEST OUT
#
#   BASE     checkout of the target branch; its Eyechart is installed and does all the work
#   REQUEST  git repository whose HEAD is the request, with the history that it shares with BASE
#   OUT      new folder: results/ (the request's), comment.md (plain text), site/ (preview, where verified)
#
# $PYTHON is a Python in which the Eyechart of BASE is installed.
#
# Exit code: 0 verified; 8 refused, comment.md says why; anything else is a fault of the check itself.
set -euo pipefail
export LC_ALL=C.UTF-8

base=$(realpath "$1")
request=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
: "${PYTHON:=python3}"
max_files=20000
max_bytes=$((64 * 1024 * 1024))
shown=40
# -P: the folder worked in is full of a stranger's files and is no place to import from.
eyechart() { "$PYTHON" -P -m harness.cli "$@"; }
comment=$out/comment.md

# Of what a stranger wrote only printable characters reach the comment, and no line is endless.
plain() { tr -d '`' | tr -c '[:print:]\n' '?' | cut -c 1-600; }

# The log too: a line that begins with two colons would be a command to the runner.
log() { sed 's/^/| /' "$1"; }

refuse() {
    { echo "Refused: $1"; plain; } > "$comment"
    log "$comment"
    exit 8
}

# The stranger's repository brings no configuration, hooks or filters of its own: only plumbing reads it.
in_request() { git -C "$request" -c core.hooksPath=/dev/null -c core.quotePath=true "$@"; }

head=$(in_request rev-parse --verify HEAD^{commit})
tip=$(git -C "$base" rev-parse --verify HEAD^{commit})
fork=$(in_request merge-base "$tip" "$head") || refuse "the request shares no history with this repository." < /dev/null

# 1. A submission adds results. Code is reviewed by people, in a request of its own.
in_request diff-tree -r --no-renames --name-only "$fork" "$head" > "$out/changed"
if grep -v '^results/' "$out/changed" > "$out/outside"; then
    head -n "$shown" "$out/outside" | refuse "a submission changes nothing outside results/, and this one changes"
fi

# 2. Plain files with plain names, not too many and not too large.
in_request ls-tree -r -l "$head" -- results > "$out/tree"
if grep -vE '^100644 blob [0-9a-f]+ +[0-9]+'$'\t''results/[A-Za-z0-9._/-]+$' "$out/tree" > "$out/odd"; then
    head -n "$shown" "$out/odd" | refuse "links, programs, submodules or odd names among the results"
fi
awk -v most="$max_bytes" '$4 > most' "$out/tree" > "$out/large"
if [ -s "$out/large" ]; then
    head -n "$shown" "$out/large" | refuse "files of more than $max_bytes bytes"
fi
if [ "$(wc -l < "$out/tree")" -gt "$max_files" ]; then
    refuse "more than $max_files files of results." < /dev/null
fi

# 3. Copied blob by blob: `git archive` and `git checkout` would heed the request's .gitattributes.
while IFS=$'\t' read -r facts path; do
    read -r _ _ blob _ <<< "$facts"
    mkdir -p "$out/$(dirname "$path")"
    in_request cat-file blob "$blob" > "$out/$path"
done < "$out/tree"
mkdir -p "$out/results"
rm -f "$out/changed" "$out/outside" "$out/tree" "$out/odd" "$out/large"

# What the branch got since the request began belongs to both: a request is held against where it began.
mkdir -p "$out/.base"
git -C "$base" archive "$fork" results | tar -x -C "$out/.base"

# 4. Verified by the code of BASE.
cd "$out"
code=0
eyechart verify results --base .base/results --max-tier self-reported --home .home > verify.txt 2> verify.err || code=$?
if [ "$code" -ne 0 ]; then
    if [ "$code" -ne 8 ]; then log verify.err >&2; fi
    { head -n "$shown" verify.txt; tail -n 1 verify.err; } | refuse "eyechart verify, exit code $code"
fi

# 5. Index, preview and comparison with the board as it was.
for side in .base results; do
    folder=$side; [ "$side" = results ] || folder=.base/results
    eyechart ingest "$folder" --db "$side.duckdb" --home .home > /dev/null
done
pairs=(); [ ! -f results/pairs.toml ] || pairs=(--pairs results/pairs.toml)
eyechart publish --db results.duckdb --site site --home .home "${pairs[@]}" > /dev/null
{
    echo "Verified: $(tail -n 1 verify.txt)"
    echo "Tier of what is new: self-reported, until maintainers score or measure it again."
    echo
    "$PYTHON" -P "$base/scripts/submission_table.py" .base.duckdb results.duckdb
} | plain > "$comment"
rm -rf .base .home .base.duckdb* verify.err verify.txt
log "$comment"
