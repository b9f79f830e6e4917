"""Fetching a checkpoint from a model hub: what is there is asked once, only what an encoder needs is taken.

The one stage that may use the network. It parses nothing it downloads: which files are wanted is decided by
their names, and each appears under its name only when its size and digest fit. docs/decisions/0006 tells why
the bytes are asked for here and not through the client's `hf_hub_download`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from harness.digest import digest_file
from harness.errors import ResourceError, SubmissionError, UnsafeInputError, UsageError
from harness.files import confine, require_free
from harness.hub import (
    TIMEOUT_S,
    Downloads,
    Patience,
    Place,
    RemoteFile,
    another_commit,
    changed_bytes,
    client,
    digests,
    partial_path,
    persist,
)
from harness.records import Submission
from harness.submission import MAX_CONFIG_BYTES, UNSAFE_WEIGHTS

__all__ = ["LIBRARIES", "Remote", "RemoteFile", "fetch", "fetch_files", "fetch_manifest", "look_up", "wanted"]

Progress = Callable[[int, int], None]
"""Told the bytes that are there and the bytes wanted; the first goes back when a file is begun anew."""

LIBRARIES = ("transformers", "timm", "open_clip")
CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
PREPROCESSOR, CARD = "preprocessor_config.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
MAX_FILE_BYTES = 16 << 30
"""As `encoders.safetensors_load` reads at most; a test holds the two together."""
MAX_CHECKPOINT_BYTES = 64 << 30
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
_SMALL = {".json", ".md"}


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository at one commit."""

    repo: str
    revision: str
    """The commit, 40 hex digits."""
    files: tuple[RemoteFile, ...]
    library: str
    """transformers, timm or open_clip."""
    license: str
    """As the model card names it, "" where it does not."""
    gated: bool
    """Whether its terms must be accepted before the files are given out."""
    endpoint: str
    """Address of the hub that answered."""


def look_up(repo_id: str, revision: str | None = None, *, endpoint: str | None = None) -> Remote:
    """Ask the hub, once, which commit a name stands for and which files it holds.

    Args:
        repo_id: org/name.
        revision: branch, tag or commit; None for the default branch.
        endpoint: the hub's address; None for the client's own, which HF_ENDPOINT sets.

    Raises:
        UsageError: the id, the revision, the address or the token is not well formed; no client installed.
        SubmissionError: gated, private or missing, renamed, or no such revision; the line says which.
        IntegrityError: the hub answers with another commit than the one asked for.
        UnsafeInputError: the hub lists a path that leads out of the repository.
        ResourceError: the hub cannot be reached, or offline mode is on.
    """
    if not _REPO.fullmatch(repo_id) or ".." in repo_id:
        raise UsageError("not the id of a repository", found=repr(repo_id), expected="organisation/name")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError("not a revision", found=repr(revision), expected="a branch, a tag or a commit")
    if revision is not None and _COMMIT.fullmatch(revision.lower()):
        revision = revision.lower()
    with client(endpoint) as (address, _):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError

        place = Place(address, repo_id, revision or "")
        ask = HfApi(endpoint=address, library_name="eyechart").model_info
        try:
            info = persist(
                lambda: ask(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S),
                place,
                Patience(),
            )
            remote = _remote(info, address)
        except HFValidationError as error:
            raise UsageError("not the id of a repository", found=repr(repo_id)) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            fix = "check the address in HF_ENDPOINT"
            raise ResourceError("answer is not a model hub's", where=place.line(), fix=fix) from error
    _check_answer(remote, place)
    return remote


def _remote(info: Any, endpoint: str) -> Remote:
    files = []
    for s in info.siblings:
        digest = {"sha256": str(s.lfs.sha256)} if s.lfs else {"sha256": "", "git_sha1": s.blob_id or ""}
        files.append(RemoteFile(path=str(s.rfilename), size_bytes=int(s.size), **digest))
    card, tags = info.card_data or {}, [str(tag) for tag in info.tags or ()]
    stated = [card.get("license"), *(t.removeprefix("license:") for t in tags if t.startswith("license:"))]
    named = [s for s in stated if isinstance(s, str) and re.fullmatch(r"[\w.+-]{1,100}", s)]
    if not _COMMIT.fullmatch(info.sha):
        raise ValueError(info.sha)
    names = {file.path for file in files}
    library = _library(names, [str(info.library_name), *tags])
    license_ = named[0] if named else ""
    return Remote(str(info.id), info.sha, tuple(files), library, license_, bool(info.gated), endpoint)


def _library(names: set[str], said: Sequence[str]) -> str:
    """The library the card names, if its files are there; else the one whose files are there."""
    plain = CONFIG in names and any(n in names for n in (WEIGHTS, INDEX))
    clip = OPEN_CLIP_CONFIG in names and any(n in names for n in OPEN_CLIP_WEIGHTS)
    whole = {"transformers": plain, "timm": plain, "open_clip": clip}
    order = [*(name for name in said if name in LIBRARIES), "transformers", "open_clip"]
    fallback = "open_clip" if CONFIG not in names and OPEN_CLIP_CONFIG in names else order[0]
    return next((name for name in order if whole[name]), fallback)


def _check_answer(remote: Remote, place: Place) -> None:
    if remote.repo != place.repo:
        raise SubmissionError(
            "repository was renamed",
            where=place.page(),
            found=remote.repo,
            fix=f"look at it, and write {remote.repo} if it is the one you mean",
        )
    asked = place.revision
    if _COMMIT.fullmatch(asked) and remote.revision != asked:
        raise another_commit(place, remote.revision)
    if re.fullmatch(r"[0-9a-f]{7,39}", asked) and not remote.revision.startswith(asked):
        raise SubmissionError(
            "revision is ambiguous",
            where=place.line(),
            found=f"a name for commit {remote.revision}",
            fix="give all 40 digits of the commit",
        )
    for file in remote.files:
        parts = PurePosixPath(file.path).parts
        if not parts or file.path.startswith("/") or ".." in parts or "\0" in file.path:
            raise UnsafeInputError(
                "hub lists a path that git cannot hold", where=place.line(), found=repr(file.path)
            )


def wanted(remote: Remote) -> tuple[RemoteFile, ...]:
    """The files an encoder needs, by their names: configuration, model card if small, safetensors.

    Raises:
        SubmissionError: no configuration or no weights, a shard is missing, or several weight files.
        UnsafeInputError: the only weights are of a format that can carry code.
    """
    there = {file.path: file for file in remote.files}
    where = f"{remote.repo} at {remote.revision}"
    config = OPEN_CLIP_CONFIG if remote.library == "open_clip" else CONFIG
    if config not in there:
        raise SubmissionError(
            f"no {config} in the repository", where=where, expected=f"a checkpoint of {remote.library}"
        )
    names = [
        config,
        *(name for name in (PREPROCESSOR, CARD) if name in there),
        *_weights(remote, set(there), where),
    ]
    return tuple(there[n] for n in names if n != CARD or there[n].size_bytes <= MAX_CONFIG_BYTES)


def _weights(remote: Remote, names: set[str], where: str) -> list[str]:
    single = OPEN_CLIP_WEIGHTS if remote.library == "open_clip" else (WEIGHTS,)
    shards = {m[0]: (int(m[1]), int(m[2])) for name in names if (m := _SHARD.fullmatch(name))}
    if INDEX in names and shards and remote.library != "open_clip":
        count = max(of for _, of in shards.values())
        if sorted(shards.values()) != [(i + 1, count) for i in range(count)]:
            raise SubmissionError(
                "shard of the weights is missing",
                where=where,
                found=f"{len(shards)} files",
                expected=f"{count} shards",
            )
        return [INDEX, *sorted(shards)]
    if found := [name for name in single if name in names]:
        return found[:1]
    tops = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if len(tops) == 1:
        return tops
    if tops:
        raise SubmissionError(
            "several weight files and no index", where=where, found=", ".join(tops[:3]), expected=single[0]
        )
    if unsafe := sorted(name for name in names if PurePosixPath(name).suffix in UNSAFE_WEIGHTS):
        raise UnsafeInputError(
            "weights are not safetensors, and other formats can carry code",
            where=where,
            found=unsafe[0],
            fix="ask the authors for safetensors, or download it yourself and run `eyechart convert` on it",
        )
    raise SubmissionError("no weights", where=where, expected=single[0])


def fetch(remote: Remote, folder: Path, progress: Progress) -> tuple[Path, ...]:
    """Download what `wanted` names into a folder; what is there, whole or in part, is not asked for again.

    Args:
        remote: what `look_up` found.
        folder: made if missing.
        progress: told the bytes that are there and the bytes wanted.

    Returns:
        The files, configuration first.

    Raises:
        UnsafeInputError: the weights or a configuration are larger than anything we read.
        SubmissionError: see `wanted`; or the hub refuses, see `look_up`.
        IntegrityError: other bytes than the hub listed.
        ResourceError: too little disk space, or the hub went away; running again goes on where it stopped.
        StoreBusyError: another process is fetching into the folder.
    """
    return _fetch_files(remote, wanted(remote), folder, progress)


def fetch_manifest(
    sub: Submission, folder: Path, progress: Progress, *, endpoint: str | None = None
) -> tuple[Path, ...]:
    """Download exactly the files of a manifest, at its revision, each against its recorded sha256.

    Where all of them are there and fit, the hub is not asked.

    Raises:
        SubmissionError: not a hub's checkpoint, no commit, or a file that the commit does not hold.
        IntegrityError: the hub lists or sends other bytes than the manifest records.
        EyechartError: see `look_up` and `fetch`.
    """
    source = sub.source
    where = f"{sub.id}: source"
    if source.kind not in LIBRARIES or not _COMMIT.fullmatch(source.revision):
        raise SubmissionError(
            "nothing to fetch",
            where=where,
            found=f"{source.kind} at {source.revision}",
            expected="a hub's commit",
        )
    if not _REPO.fullmatch(source.name) or ".." in source.name:
        raise SubmissionError("not the id of a repository", where=f"{where}.name", found=repr(source.name))
    recorded = [(confine(folder, file.path), file.sha256) for file in source.files]
    with _disk(folder):
        if all(path.is_file() and digest_file(path) == sha256 for path, sha256 in recorded):
            return tuple(path for path, _ in recorded)  # no hub needed
    remote = look_up(source.name, source.revision, endpoint=endpoint)
    there = {file.path: file for file in remote.files}
    files = []
    for file in source.files:
        if file.path not in there:
            raise SubmissionError(
                f"{source.name} at {source.revision} has no such file", where=where, found=file.path
            )
        listed = there[file.path]
        if listed.sha256 not in {"", file.sha256}:
            raise changed_bytes(f"{source.name}: {file.path}", listed.sha256, file.sha256)
        files.append(replace(listed, sha256=file.sha256))
    return _fetch_files(remote, files, folder, progress)


def _fetch_files(
    remote: Remote, files: Sequence[RemoteFile], folder: Path, progress: Progress
) -> tuple[Path, ...]:
    _check_sizes(files, f"{remote.repo} at {remote.revision}")
    return fetch_files(remote, files, folder, progress)


def fetch_files(
    remote: Remote, files: Sequence[RemoteFile], folder: Path, progress: Progress
) -> tuple[Path, ...]:
    """Download files of a commit, of any size; see `fetch` for what is raised."""
    targets = {file.path: confine(folder, file.path) for file in files}
    place = Place(remote.endpoint, remote.repo, remote.revision)
    with _disk(folder):
        missing = [file for file in files if not _is_whole(targets[file.path], file)]
        begun = [_size(partial_path(place, file, targets[file.path])) for file in missing]
        left = sum(max(0, file.size_bytes - have) for file, have in zip(missing, begun, strict=True))
        require_free(folder, left, remote.repo)
        total = sum(file.size_bytes for file in files)
        done = total - sum(file.size_bytes for file in missing)
        with client(remote.endpoint) as (_, headers):
            for file in missing:
                # A folder must not hold this commit's configuration beside another's weights.
                targets[file.path].unlink(missing_ok=True)
            downloads = Downloads(place, headers, lambda num_bytes: progress(num_bytes, total), done)
            # Small files first: what is wrong shows before the gigabytes.
            for file in sorted(missing, key=lambda file: file.size_bytes):
                downloads.bring(file, targets[file.path])
    return tuple(targets.values())


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Errors of the operating system, in one line."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        fix = "free some space or choose another folder, and run the same command again"
        raise ResourceError(f"cannot fetch, {reason}", where=str(folder), fix=fix) from error


def _check_sizes(files: Sequence[RemoteFile], where: str) -> None:
    for file in files:
        limit = MAX_CONFIG_BYTES if PurePosixPath(file.path).suffix in _SMALL else MAX_FILE_BYTES
        if not 0 <= file.size_bytes <= limit:
            found, expected = f"{file.size_bytes:,} bytes", f"at most {limit:,}"
            raise UnsafeInputError(
                "file too large", where=f"{where}: {file.path}", found=found, expected=expected
            )
    total = sum(file.size_bytes for file in files)
    if total > MAX_CHECKPOINT_BYTES:
        found, expected = f"{total:,} bytes", f"at most {MAX_CHECKPOINT_BYTES:,}"
        raise UnsafeInputError("checkpoint too large", where=where, found=found, expected=expected)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _is_whole(path: Path, file: RemoteFile) -> bool:
    """Whether a file is there already; without a digest to compare it is not believed to be."""
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    found, expected = digests(path, file)
    return bool(expected) and found == expected
