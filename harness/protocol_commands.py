"""The `eyechart protocol …` commands: list, show, pin, fetch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.data import read_note
from harness.digest import plain_json
from harness.errors import DatasetError, IncompleteError, IntegrityError, UsageError
from harness.files import write_atomic
from harness.home import Home, find_home
from harness.llm_files import LOCAL_LLMS, fetch_llm, llm_revision, look_up_llm, noted_revision
from harness.progress import Stage
from harness.protocol import (
    UNPINNED,
    find_protocol,
    known_protocols,
    read_protocol,
    replace_values,
    unpinned_fields,
)
from harness.records import Protocol
from harness.tables import text_table

REVISION, MIXTURE = "llm.revision", "adapter.mixture_digest"


def run_part(arguments: argparse.Namespace) -> int:
    """Carry out one part."""
    parts = {"list": _list, "show": _show, "pin": _pin, "fetch": _fetch}
    return parts[arguments.part](arguments)


def _print(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _facts(protocol: Protocol, path: Path, home: Home) -> dict[str, Any]:
    llm = protocol.llm
    return {
        "name": protocol.name,
        "version": protocol.version,
        "suite": protocol.suite,
        "llm": llm.name,
        "llm_revision": llm.revision,
        "llm_training": llm.training,
        "llm_here": _llm_state(protocol, home),
        "budget": protocol.tokens.budget,
        "seeds": list(protocol.seeds),
        "unpinned": list(unpinned_fields(protocol)),
        "file": str(path),
    }


def _llm_state(protocol: Protocol, home: Home) -> str:
    """Whether the language model is here, as far as its note says; `plan` and `fetch` look at the bytes."""
    if protocol.llm.name in LOCAL_LLMS:
        return "ships with Eyechart"
    try:
        found = noted_revision(protocol.llm.name, home.llms)
    except IntegrityError as error:
        return error.what
    if not found:
        there = (home.llms / protocol.llm.name.replace("/", "--")).is_dir()
        return "yes, not from a hub" if there else "no"
    return "yes" if protocol.llm.revision in {found, UNPINNED} else f"another revision, {found[:12]}"


def _list(arguments: argparse.Namespace) -> int:
    home = find_home(arguments.home)
    told = []
    for name in known_protocols(home.protocols):
        path = find_protocol(name, home.protocols)
        told.append(_facts(read_protocol(name, home.protocols), path, home))
    if arguments.json:
        _print(told)
        return 0
    rows = [
        [
            f"{f['name']} {f['version']}",
            f["suite"],
            f["llm"],
            str(f["budget"]),
            str(len(f["seeds"])),
            f"UNPINNED: {', '.join(f['unpinned'])}" if f["unpinned"] else "yes",
            f["llm_here"],
        ]
        for f in told
    ]
    head = ["protocol", "suite", "language model", "tokens", "seeds", "pinned", "model here"]
    print(text_table(head, rows, numbers=(3, 4)))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    """Print the file of a protocol and what is derived from it."""
    home = find_home(arguments.home)
    path = find_protocol(arguments.protocol, home.protocols)
    protocol = read_protocol(arguments.protocol, home.protocols)
    facts = _facts(protocol, path, home)
    if arguments.json:
        _print({**facts, "protocol": plain_json(protocol)})
        return 0
    print(path.read_text("utf-8-sig").rstrip())
    rows = [["file", str(path)], *([f"recipe {n}", d] for n, d in protocol.recipe_digests.items())]
    rows.append(["pinned", f"UNPINNED: {', '.join(facts['unpinned'])}" if facts["unpinned"] else "yes"])
    rows.append(["model here", facts["llm_here"]])
    print("\n" + text_table(["protocol", f"{protocol.name} {protocol.version}"], rows))
    return 0


def _pin(arguments: argparse.Namespace) -> int:
    """Write a copy of a protocol in which what can be known here is no longer UNPINNED."""
    home = find_home(arguments.home)
    path = find_protocol(arguments.protocol, home.protocols)
    protocol = read_protocol(arguments.protocol, home.protocols)
    loose = unpinned_fields(protocol)
    if not loose and not arguments.out:
        _check_mixture(protocol, home)
        print(f"{protocol.name} is pinned: {path}")
        return 0
    out = arguments.out or home.protocols / f"{protocol.name}.toml"
    if out.exists() and not out.samefile(path):
        raise UsageError("there is a file already", where=str(out), fix="move it away, or name another")
    swaps, left = {}, []
    if REVISION in loose:
        swaps[REVISION] = _pin_llm(protocol, arguments.revision)
    if MIXTURE in loose:
        found = _mixture_digest(protocol, home)
        swaps |= {MIXTURE: found} if found else {}
        left = [] if found else [MIXTURE]
    text = replace_values(
        path.read_text("utf-8-sig"), {key: json.dumps(value) for key, value in swaps.items()}
    )
    write_atomic(out, text.encode())
    for key, value in swaps.items():
        print(f"Pinned {key} = {value}")
    use = protocol.name if out.parent == home.protocols else str(out)
    print(f"in {out}. Use it with --protocol {use}")
    if left:
        raise IncompleteError(
            f"{MIXTURE} is still UNPINNED: the training mixture is not here",
            where=str(home.data(protocol.suite) / "mixture"),
            fix="bring it by `eyechart data fetch mixture --pin` and run the same command again",
        )
    return 0


def _pin_llm(protocol: Protocol, revision: str) -> str:
    """The commit that the hub names for the language model, or the one given once the hub has it."""
    if protocol.llm.name in LOCAL_LLMS:
        return llm_revision(LOCAL_LLMS[protocol.llm.name])
    return look_up_llm(protocol.llm.name, revision or None).revision


def _mixture_digest(protocol: Protocol, home: Home) -> str:
    """Digest of the prepared mixture, "" where there is none."""
    folder = home.data(protocol.suite) / "mixture"
    return str(read_note(folder)["digest"]) if folder.is_dir() else ""


def _check_mixture(protocol: Protocol, home: Home) -> None:
    found, pinned = _mixture_digest(protocol, home), protocol.adapter.mixture_digest
    if found not in {"", pinned}:
        raise DatasetError(
            "prepared mixture is not the pinned one",
            where=str(home.data(protocol.suite) / "mixture"),
            found=found[:16],
            expected=pinned[:16],
            fix="prepare it again from the revision it was pinned with: nothing is pinned twice",
        )


def _fetch(arguments: argparse.Namespace) -> int:
    """Bring the language model of a protocol at its pinned revision."""
    home = find_home(arguments.home)
    protocol = read_protocol(arguments.protocol, home.protocols)
    name, revision = protocol.llm.name, protocol.llm.revision
    if name in LOCAL_LLMS:
        print(f"{name} ships with Eyechart: nothing to fetch.")
        return 0
    if revision == UNPINNED:
        raise UsageError(
            f"the language model of {protocol.name} is UNPINNED: nobody has looked up its revision yet",
            where=name,
            fix=f"run `eyechart protocol pin {protocol.name}`",
        )
    stage = Stage(f"fetch {name}", "bytes")
    folder, fresh = fetch_llm(name, revision, home.llms, stage)
    stage.close()
    print(f"{name} at {revision} {'is' if fresh else 'was there already'} in {folder}")
    if loose := unpinned_fields(protocol):
        print(f"Still UNPINNED: {', '.join(loose)}. Next: eyechart protocol pin {protocol.name}")
    return 0
