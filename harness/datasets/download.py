"""Fetching a dataset's files from the hub, at one revision of its own repository and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.datasets.pins import COMMIT
from harness.datasets.specs import DatasetSpec
from harness.errors import DatasetError, ResourceError, SubmissionError, UnsafeInputError
from harness.fetch import Remote, RemoteFile, fetch_files
from harness.hub import TIMEOUT_S, Patience, Place, another_commit, client, persist

Progress = Callable[[int, int], None]


@contextmanager
def _as_dataset(spec: DatasetSpec) -> Iterator[None]:
    """The hub's refusals under the exit code of datasets, with the way in where one is gated."""
    try:
        yield
    except SubmissionError as error:
        fix = error.fix
        if spec.gated and "gated" in error.what:
            fix = f"{error.fix}; or import a copy you have with `eyechart data import {spec.name} FOLDER`"
        raise DatasetError(
            error.what, where=error.where, found=error.found, expected=error.expected, fix=fix
        ) from None


def _remote_file(sibling: Any) -> RemoteFile:
    digest = {"sha256": str(sibling.lfs.sha256)} if sibling.lfs else {"git_sha1": sibling.blob_id or ""}
    return RemoteFile(str(sibling.rfilename), int(sibling.size), **{"sha256": "", **digest})


def look_up_dataset(spec: DatasetSpec, revision: str | None, *, endpoint: str | None = None) -> Remote:
    """Ask the hub, once, which commit a revision stands for and which files it holds.

    Args:
        spec: names the repository, which is never another one.
        revision: 40 hex digits, or a branch; None for the default branch.
        endpoint: the hub's address; None for the client's own.

    Raises:
        DatasetError: gated, missing, renamed, or no such revision.
        IntegrityError: the hub answers about another commit.
        UnsafeInputError: the hub lists a path that leads out of the repository.
        ResourceError: the hub cannot be reached, or offline mode is on.
        UsageError: no client is installed, or the token is not well formed.
    """
    with client(endpoint) as (address, _), _as_dataset(spec):
        from huggingface_hub import HfApi

        place = Place(address, f"datasets/{spec.repo}", revision or "")
        ask = HfApi(endpoint=address, library_name="eyechart").dataset_info
        try:
            info = persist(
                lambda: ask(spec.repo, revision=revision, files_metadata=True, timeout=TIMEOUT_S),
                place,
                Patience(),
            )
            files = tuple(_remote_file(s) for s in info.siblings or ())
            found, commit, gated = str(info.id), str(info.sha), bool(info.gated)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            fix = "check the address in HF_ENDPOINT"
            raise ResourceError("answer is not a hub's", where=place.line(), fix=fix) from error
        if found != spec.repo:
            raise DatasetError(
                "repository was renamed",
                where=place.page(),
                found=found,
                expected=spec.repo,
                fix="nothing is substituted: change the repository in harness/datasets/specs.py in a review",
            )
        if not COMMIT.fullmatch(commit) or (revision and COMMIT.fullmatch(revision) and revision != commit):
            raise another_commit(place, commit)
    for file in files:
        parts = Path(file.path).parts
        if not parts or file.path.startswith("/") or ".." in parts or "\0" in file.path:
            raise UnsafeInputError(
                "hub lists a path that git cannot hold", where=place.line(), found=repr(file.path)
            )
    return Remote(f"datasets/{spec.repo}", commit, files, "", "", gated, address)


def wanted_files(spec: DatasetSpec, remote: Remote, splits: tuple[str, ...]) -> list[RemoteFile]:
    """The Parquet files of the splits that are taken from the hub, and the archives of clips.

    Raises:
        DatasetError: the repository holds none of a split's; the splits that are there are named.
    """
    there = [file for file in remote.files if file.path.startswith(f"{spec.prefix}/")]
    chosen: list[RemoteFile] = []
    for split in spec.splits:
        if split.derived_from or (
            split.name not in splits if splits else split.optional or split.hub_refusal
        ):
            continue
        files = [f for f in there if f.path.startswith(f"{spec.prefix}/{split.name}-")]
        files = [f for f in files if f.path.endswith(".parquet")]
        if not files:
            names = sorted({Path(f.path).name.split("-")[0] for f in there})
            raise DatasetError(
                "repository has no such split",
                where=f"{remote.repo} at {remote.revision}",
                found=", ".join(names) or f"no folder {spec.prefix}",
                expected=f"{spec.prefix}/{split.name}-*.parquet",
                fix="use the revision that is pinned; nothing else is taken in its place",
            )
        chosen += files
    if spec.archives:
        archives = [f for f in remote.files if f.path.endswith(spec.archives)]
        if not archives:
            raise DatasetError(
                "repository has no clips",
                where=f"{remote.repo} at {remote.revision}",
                expected=f"files that end in {spec.archives}",
            )
        chosen += archives
    return chosen


def download(
    spec: DatasetSpec, remote: Remote, splits: tuple[str, ...], folder: Path, progress: Progress
) -> Path:
    """Bring the wanted files into a folder; what is there is not asked for again.

    Raises:
        DatasetError: see `wanted_files`; or the hub refuses.
        IntegrityError: other bytes than the hub listed.
        ResourceError: too little disk space, or the hub went away; running again goes on.
    """
    with _as_dataset(spec):
        fetch_files(remote, wanted_files(spec, remote, splits), folder, progress)
    return folder
