"""What the commands about a single checkpoint do: submit, fetch, convert, doctor, export."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.progress import Stage
from harness.tables import text_table

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def _print(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def submit(arguments: argparse.Namespace) -> int:
    """Write a checkpoint's manifest and say what is left to the person."""
    from harness.submit import Given, Origin, submit as draft_of

    given = Given(
        id=arguments.id,
        format=arguments.format,
        resolution=arguments.resolution,
        mean=tuple(arguments.mean) if arguments.mean else None,
        std=tuple(arguments.std) if arguments.std else None,
    )
    folder, origin = Path(arguments.checkpoint), None
    if not folder.is_dir() and _HUB_ID.fullmatch(arguments.checkpoint):
        folder, remote = _fetch_repo(arguments)
        origin = Origin(repo=remote.repo, revision=remote.revision, license=remote.license)
    elif arguments.revision or arguments.out:
        raise UsageError(
            "--revision and --out are for hub checkpoints", where=str(folder), fix="leave them out"
        )
    draft = draft_of(folder, given, origin)
    if arguments.json:
        found = [asdict(fact) for fact in draft.facts]
        _print({"manifest": str(draft.path), "found": found, "open": draft.open_fields})
        return 0
    print(text_table(["found", "value", "from"], [[f.what, f.value, f.origin] for f in draft.facts]))
    print(f"\nLeft to you in {draft.path}: {', '.join(draft.open_fields)}.")
    print(f"Then: eyechart doctor {draft.path}")
    return 0


def _fetch_repo(arguments: argparse.Namespace) -> tuple[Path, Any]:
    """A hub checkpoint, brought into a folder named after it."""
    from harness.fetch import fetch, look_up
    from harness.submit import MANIFEST

    repo = str(arguments.checkpoint)
    folder = arguments.out or Path(repo.rsplit("/", maxsplit=1)[-1])
    if (folder / MANIFEST).exists():
        raise UsageError("there is a manifest already", where=str(folder / MANIFEST), fix="move it away")
    remote = look_up(repo, arguments.revision or None)
    print(f"{repo} at revision {remote.revision}", file=sys.stderr)
    show = Stage("fetch", "bytes")
    fetch(remote, folder, show)
    show.close()
    return folder, remote


def fetch_manifest_files(arguments: argparse.Namespace) -> int:
    """Bring the files that a manifest names, at its pinned revision, beside it."""
    from harness.fetch import fetch_manifest
    from harness.submission import read_submission

    sub = read_submission(arguments.manifest)
    show = Stage("fetch", "bytes")
    paths = fetch_manifest(sub, arguments.manifest.absolute().parent, show)
    show.close()
    print(f"{len(paths)} files of {sub.source.name} at {sub.source.revision}, hashes as the manifest says.")
    return 0


def convert_checkpoint(arguments: argparse.Namespace) -> int:
    """Write a torch checkpoint's weights as safetensors."""
    from harness.convert import SANDBOX, Options, convert

    options = Options(
        key=arguments.key, strip=arguments.strip, drop=tuple(arguments.drop), config=arguments.config
    )
    show = Stage("convert", "bytes")
    made = convert(arguments.file, arguments.out, options, show)
    show.close()
    if arguments.json:
        _print({**asdict(made), "path": str(made.path)})
        return 0
    rows = [
        ["tensors", f"{made.num_tensors:,}"],
        ["values", f"{made.num_params:,}"],
        ["types", ", ".join(f"{name} {count:,}" for name, count in made.dtypes)],
        ["taken from", "the checkpoint itself" if made.key == "." else made.key],
        *([["names shortened by", ", ".join(made.stripped)]] if made.stripped else []),
        *([["left out", _some(made.dropped)]] if made.dropped else []),
        *([["not weights", _some(made.ignored)]] if made.ignored else []),
        *([["written twice", _some(made.tied)]] if made.tied else []),
        ["sha256", made.sha256],
        ["locked", f"level {made.sandbox}: {SANDBOX[made.sandbox]}"],
    ]
    print(text_table(["converted", str(made.path)], rows))
    configured = any((arguments.out / name).is_file() for name in ("config.json", "open_clip_config.json"))
    before = "" if configured else f"put the model's config.json into {arguments.out}, then "
    print(f"Next: {before}eyechart submit {arguments.out}")
    return 0


def _some(names: tuple[str, ...], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)}: {', '.join(names[:shown])}{more}"


def doctor(arguments: argparse.Namespace) -> int:
    """Examine an encoder before any long run; exit code 3 when something is wrong."""
    from harness.doctor import examine
    from harness.home import find_home
    from harness.protocol import read_protocol
    from harness.submission import read_submission, verify_files

    sub = read_submission(arguments.manifest)
    root = arguments.manifest.absolute().parent
    verify_files(sub, root)
    protocol = read_protocol(arguments.protocol, find_home().protocols)
    report = examine(sub, root, protocol, allow_code=arguments.allow_local_code)
    code = 3 if report.findings else 0
    if arguments.json:
        _print(report.as_json())
        return code
    seen, rows = report.measured, [["looked at in", f"{report.seconds:.1f} s"]]
    if seen is None:
        rows.insert(0, ["measured", "nothing: it cannot be opened as it is"])
    else:
        cost, grid = seen.cost, seen.grid
        rows[:0] = [
            ["parameters", f"{cost.num_params:,}"],
            ["measured at", f"{seen.side} pixels, a token every {seen.stride}"],
            ["grid", f"{grid[0]} x {grid[1]}"],
            ["cost of an image", f"{cost.gmacs:.3g} GMACs, {1000 / cost.images_per_s:.1f} ms in fp32 here"],
        ]
    print(text_table(["doctor", f"{report.encoder}, protocol {report.protocol}"], rows))
    for note in report.notes:
        print(f"note: {note}.")
    for finding in report.findings:
        print(f"{finding.code}: {finding.seen}; expected {finding.expected}. Fix: {finding.fix}.")
    num = len(report.findings)
    print(f"Verdict: {num} finding{'s' * (num != 1)}." if num else "Verdict: sound.")
    return code


def export_model(arguments: argparse.Namespace) -> int:
    """Write encoder, trained adapter and language model as one LLaVA checkpoint."""
    from harness.export import export_llava, require_place
    from harness.home import find_home
    from harness.protocol import read_protocol, refuse_unpinned
    from harness.stages import Subject, load_adapter, open_subject
    from harness.submission import read_submission, verify_files

    home, seed = find_home(arguments.home), arguments.seed
    protocol = read_protocol(arguments.protocol, home.protocols)
    refuse_unpinned(protocol)
    if seed not in protocol.seeds:
        what, expected = f"the protocol {protocol.name} has no such seed", ", ".join(map(str, protocol.seeds))
        raise UsageError(what, where="--seed", found=str(seed), expected=expected)
    sub = read_submission(arguments.manifest)
    root = arguments.manifest.absolute().parent
    verify_files(sub, root)
    subject = Subject(sub, root, protocol, home)
    encoder = open_subject(subject)
    require_place(encoder, protocol)  # before anybody trains for it
    key = _trained_key(subject, encoder, seed, f"{arguments.manifest} --protocol {arguments.protocol}")
    adapter, llm = load_adapter(subject, encoder, seed, key)
    origin = {
        "submission": sub.id,
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "recipe": protocol.recipe_digests["adapter"],
        "seed": seed,
        "adapter": key,
        "encoder_weights": encoder.weight_digest(),
        "llm": protocol.llm.name,
        "llm_revision": protocol.llm.revision,
        "llm_training": protocol.llm.training,
    }
    folder = export_llava(encoder, adapter, llm, protocol, arguments.to, origin)
    if arguments.json:
        _print({"path": str(folder), **origin})
        return 0
    print(f"{sub.id} with its adapter of seed {seed} and {protocol.llm.name} in {folder}")
    print(f"Plain transformers loads it: LlavaForConditionalGeneration.from_pretrained({str(folder)!r})")
    return 0


def _trained_key(subject: Any, encoder: Any, seed: int, words: str) -> str:
    """Where the cache keeps a seed's adapter, whichever device trained it."""
    from harness.cache import ArrayCache
    from harness.errors import IncompleteError
    from harness.stages import adapter_key

    cache = ArrayCache(subject.home.adapters)
    for device in ("cpu", "cuda"):
        if cache.has(key := adapter_key(replace(subject, device=device), encoder, seed)):
            return key
    raise IncompleteError(
        f"no adapter of seed {seed} is trained yet",
        where=f"{subject.submission.id} under {subject.protocol.name}",
        fix=f"run `eyechart run {words}` and then this again",
    )
