"""A language model's files: where they rest, which revision they are, and how they come from a hub.

Torch-free: planning and fetching need no model in memory. As for a checkpoint, nothing that is downloaded
is parsed here; which files are wanted is decided by their names, and weights are safetensors or nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
from harness.digest import digest_file, digest_tree
from harness.errors import IntegrityError, ResourceError, SubmissionError, UnsafeInputError, UsageError
from harness.fetch import MAX_FILE_BYTES, Progress, Remote, RemoteFile, fetch_files, look_up, wanted
from harness.files import read_json, write_json

LOCAL_LLMS = {"mini-llm": Path(harness.__file__).parent / "mini" / "weights" / "llm"}
"""Models that ship with Eyechart, by the name a protocol uses."""
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
OPTIONAL_FILES = ("chat_template.jinja",)
"""Some models keep their chat template in tokenizer_config.json."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
EXTRA_FILES = (*OPTIONAL_FILES, "generation_config.json", "special_tokens_map.json", "added_tokens.json")
"""Taken from a hub where it has them."""
FETCHED = "FETCHED.json"
"""Note of a fetched model: repository, revision, and the sha256 of each file."""
FETCH = "eyechart protocol fetch PROTOCOL"
MAX_TEXT_BYTES = 64 << 20
"""Of a file that is not weights; Qwen2.5's tokenizer.json has 7 MB."""


def locate_llm(name: str, llms: Path | None = None) -> Path:
    """Folder of a language model: one that ships with Eyechart, or one that was fetched.

    Args:
        name: as a protocol says it: `mini-llm`, or a hub id.
        llms: folder of fetched models (`Home.llms`), each in `<org>--<name>`.

    Raises:
        UsageError: it does not ship with this version, and was not fetched.
    """
    if name in LOCAL_LLMS:
        return LOCAL_LLMS[name]
    folder = llms / name.replace("/", "--") if llms else None
    if folder is None or not folder.is_dir():
        raise UsageError(
            "language model is not here",
            found=name,
            expected=f"{', '.join(sorted(LOCAL_LLMS))}, or the folder {folder}" if folder else "",
            fix=f"fetch it: {FETCH}" if folder else "",
        )
    return folder


def llm_revision(folder: Path) -> str:
    """What a protocol pins: the hub's revision where the model was fetched, else sha256 over its files.

    A fetched model has FETCHED.json with its revision and the sha256 of each file, which are checked here.

    Raises:
        IntegrityError: a file is missing, or is not the fetched one.
    """
    note = folder / FETCHED
    listed = read_json(note)["files"] if note.is_file() else {}
    present = [name for name in MODEL_FILES if (folder / name).is_file()]
    needed = listed or [name for name in MODEL_FILES if name not in OPTIONAL_FILES]
    if absent := [name for name in needed if not (folder / name).is_file()]:
        raise IntegrityError(
            "file of the language model is missing",
            where=f"{folder.name}/{absent[0]}",
            fix=f"remove the folder and fetch it again: {FETCH}" if listed else "restore the files from git",
        )
    if not listed:
        return digest_tree({name: folder / name for name in present})
    for name, recorded in listed.items():
        if (found := digest_file(folder / name)) != recorded:
            raise IntegrityError(
                "file of the language model has changed",
                where=f"{folder.name}/{name}",
                found=found[:16],
                expected=recorded[:16],
                fix=f"remove the folder and fetch it again: {FETCH}",
            )
    return str(read_json(note)["revision"])


def noted_revision(name: str, llms: Path) -> str:
    """The revision a fetched model's note claims, unchecked; "" where the model is not here or has none.

    Raises:
        IntegrityError: the note is unreadable.
    """
    note = llms / name.replace("/", "--") / FETCHED
    return str(read_json(note)["revision"]) if note.is_file() else ""


@contextmanager
def _as_llm() -> Iterator[None]:
    """The hub's refusals under the exit code of a protocol that asks for what cannot be had."""
    try:
        yield
    except SubmissionError as error:
        raise UsageError(
            f"language model cannot be had: {error.what}",
            where=error.where,
            found=error.found,
            expected=error.expected,
            fix=error.fix,
        ) from None


def look_up_llm(name: str, revision: str | None = None, *, endpoint: str | None = None) -> Remote:
    """Ask the hub, once, which commit a revision stands for, and see that the model's files are there.

    Args:
        name: organisation/name, never another one.
        revision: a commit, a branch or a tag; None for the default branch.
        endpoint: the hub's address; None for the client's own.

    Raises:
        UsageError: gated, private, missing or renamed, no such revision, or not a language model's files.
        UnsafeInputError: its weights are no safetensors, or a file is larger than anything we read.
        IntegrityError: the hub answers about another commit.
        ResourceError: the hub cannot be reached, or offline mode is on.
    """
    with _as_llm():
        remote = look_up(name, revision, endpoint=endpoint)
        wanted_files(remote)
    return remote


def wanted_files(remote: Remote) -> tuple[RemoteFile, ...]:
    """Configuration, weights as safetensors, tokenizer, and what belongs to them.

    Raises:
        SubmissionError: a file is missing.
        UnsafeInputError: the weights are of a format that can carry code, or a file is too large.
    """
    there = {file.path: file for file in remote.files}
    where = f"{remote.repo} at {remote.revision}"
    weights = [file.path for file in wanted(remote) if file.path.startswith("model")]
    names = [MODEL_FILES[0], *weights, *TOKENIZER_FILES, *(n for n in EXTRA_FILES if n in there)]
    if missing := [name for name in names if name not in there]:
        raise SubmissionError(f"no {missing[0]} in the repository", where=where, expected="a language model")
    for name in names:
        limit = MAX_FILE_BYTES if name.endswith(".safetensors") else MAX_TEXT_BYTES
        if not 0 <= there[name].size_bytes <= limit:
            found, expected = f"{there[name].size_bytes:,} bytes", f"at most {limit:,}"
            raise UnsafeInputError("file too large", where=f"{where}: {name}", found=found, expected=expected)
    return tuple(there[name] for name in names)


def fetch_llm(
    name: str, revision: str, llms: Path, progress: Progress, *, endpoint: str | None = None
) -> tuple[Path, bool]:
    """Bring a model at one commit into `<llms>/<org>--<name>`; where it is there, the hub is not asked.

    The files come into a folder beside it, which gets its name once all of them are whole and noted: a model
    is there or it is not. What an interrupted call brought, the next one finds.

    Args:
        name: organisation/name.
        revision: the commit, 40 hex digits.
        llms: folder of fetched models.
        progress: told the bytes that are there and the bytes wanted.
        endpoint: the hub's address; None for the client's own.

    Returns:
        Its folder, and whether anything was fetched.

    Raises:
        UsageError: see `look_up_llm`; or a model of another revision is in its place.
        IntegrityError: other bytes than the hub listed, or files that are here have changed.
        ResourceError: too little disk space, or the hub went away; running again goes on.
        StoreBusyError: another process fetches it.
    """
    plain = name.replace("/", "--")
    folder, coming = llms / plain, llms / f".fetch-{plain}-{revision[:12]}"
    if folder.exists():
        if (found := llm_revision(folder)) != revision:
            raise UsageError(
                "another revision of the language model is in its place",
                where=str(folder),
                found=found[:16],
                expected=revision[:16],
                fix="move that folder away, and run the same command again",
            )
        return folder, False
    remote = look_up_llm(name, revision, endpoint=endpoint)
    files = wanted_files(remote)
    with _as_llm():
        fetch_files(remote, files, coming, progress)
    digests = {file.path: digest_file(coming / file.path) for file in files}
    write_json(coming / FETCHED, {"repo": name, "revision": revision, "files": digests})
    try:
        os.rename(coming, folder)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ResourceError(
            f"cannot put the language model in its place, {reason}", where=str(folder)
        ) from error
    return folder, True
