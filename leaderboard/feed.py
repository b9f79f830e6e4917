"""feed.atom: an entry for each board row and for each score that changed (RFC 4287).

Nothing here asks the clock. An entry's id is a hash of the evidence it tells of, so that a row with new runs
is a new entry and a rebuilt site repeats the old ones; its date is that of the last run, as recorded.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from harness.badge import xml_text
from harness.digest import digest_json
from harness.records import SELF_REPORTED
from leaderboard.badges import score_words
from leaderboard.changes import ScoreChange, scores_entries
from leaderboard.comparisons import Comparisons
from leaderboard.compose import encoder_name, task_names, task_title
from leaderboard.facts import RunFacts
from leaderboard.kit import Kit
from leaderboard.sentences import REHEARSAL
from leaderboard.wording import count_of

FEED = "feed.atom"
ATOM = "http://www.w3.org/2005/Atom"
CHANGES_PAGE = "changes.html"
"""Page of the changelog of scores, whose anchors the changes name."""
NO_DATE = "1970-01-01T00:00:00Z"
"""Of an entry whose records bear no date; the entry says so."""
MAX_ENTRIES = 500
"""The newest; a feed tells news, the board tells everything."""
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry; `href` is below the site's top, `evidence` is what its id is a hash of."""

    title: str
    href: str
    updated: str
    category: str
    summary: str
    evidence: tuple[str, ...]


def feed_files(kit: Kit) -> dict[str, bytes]:
    """The feed, from the rows and the changelog of scores."""
    return {FEED: feed(kit, scores_entries())}


def feed(kit: Kit, changes: Sequence[ScoreChange] = ()) -> bytes:
    """The feed as bytes of XML: newest entries first."""
    entries = [entry for c in kit.compared for entry in row_entries(c)]
    entries += [_change_entry(change) for change in changes]
    entries.sort(key=lambda e: e.evidence)
    entries.sort(key=lambda e: e.updated, reverse=True)
    kept = entries[:MAX_ENTRIES]
    root = ET.Element("feed", {"xmlns": ATOM, "xml:lang": "en"})
    _add(root, "title", "Eyechart")
    left_out = f" The newest {MAX_ENTRIES} of {len(entries):,}." if len(entries) > len(kept) else ""
    _add(root, "subtitle", f"New rows of the board and changes of published scores.{left_out}")
    _add(root, "id", _urn("feed", kit.url))
    _add(root, "updated", max((e.updated for e in entries), default=NO_DATE))
    ET.SubElement(root, "link", {"rel": "self", "type": "application/atom+xml", "href": f"{kit.url}{FEED}"})
    ET.SubElement(root, "link", {"rel": "alternate", "type": "text/html", "href": f"{kit.url}index.html"})
    _add(ET.SubElement(root, "author"), "name", "Eyechart")
    for entry in kept:
        _add_entry(root, entry, kit.url)
    ET.indent(root, " ")
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def row_entries(compared: Comparisons) -> list[Entry]:
    """An entry for each encoder and floor of a protocol; none of a rehearsal."""
    facts = compared.facts
    suite = facts.suites[compared.protocol]
    if suite == REHEARSAL:
        return []
    runs_of: dict[str, list[RunFacts]] = {encoder: [] for encoder in compared.encoders}
    for run in facts.runs:
        if run.protocol == compared.protocol:
            runs_of[run.encoder].append(run)
    made = []
    for encoder, runs in runs_of.items():
        name = encoder_name(facts, encoder)
        updated = last_end(runs)
        kind = "floor" if name.side == "floor" else name.family
        toy = " Mini suite: a demonstration, not an answer about real encoders." if suite == "mini" else ""
        undated = "" if updated else " The records of its runs bear no date."
        words = f"{kind}; {count_of(len(runs), 'run')}. {_cells(compared, encoder)}.{toy}{undated}"
        made.append(
            Entry(
                title=f"{name.title}, protocol {compared.protocol}",
                href=name.href,
                updated=updated or NO_DATE,
                category="row",
                summary=words,
                evidence=("row", compared.protocol, encoder, *sorted(r.bundle_digest for r in runs)),
            )
        )
    return made


def last_end(runs: Sequence[RunFacts]) -> str:
    """When the last of the runs was written, as RFC 3339 in UTC; empty where no record says so soundly."""
    found = [str(r.environment.get("written", "")) for r in runs]
    return max((text for text in found if _TIME.fullmatch(text) and _is_time(text)), default="")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _cells(compared: Comparisons, encoder: str) -> str:
    words = []
    for task in task_names(compared):
        metric = compared.metric(encoder, task)
        if metric is not None:
            score = "incomplete" if metric.value is None else score_words(metric)
            score += " (self-reported)" if metric.tier == SELF_REPORTED else ""
            words.append(f"{task_title(compared.facts, task)} {score}")
    return "; ".join(words)


def _change_entry(change: ScoreChange) -> Entry:
    date = str(change.date)
    day = f"{date}T00:00:00Z"
    dated = bool(_DAY.fullmatch(date)) and _is_time(day)
    return Entry(
        title=change.heading,
        href=f"{CHANGES_PAGE}#{change.anchor}",
        updated=day if dated else NO_DATE,
        category="score-change",
        summary=change.text if dated else f"{change.text} (The changelog gives no date.)",
        evidence=("score-change", change.heading, change.text),
    )


def _add_entry(root: ET.Element, entry: Entry, url: str) -> None:
    element = ET.SubElement(root, "entry")
    _add(element, "title", entry.title)
    _add(element, "id", _urn(*entry.evidence))
    _add(element, "updated", entry.updated)
    ET.SubElement(
        element, "link", {"rel": "alternate", "type": "text/html", "href": xml_text(f"{url}{entry.href}")}
    )
    ET.SubElement(element, "category", {"term": entry.category})
    _add(element, "summary", entry.summary)


def _add(parent: ET.Element, tag: str, text: str) -> None:
    ET.SubElement(parent, tag).text = xml_text(text)


def _urn(*evidence: str) -> str:
    return f"urn:eyechart:sha256:{digest_json([xml_text(part) for part in evidence])}"
