"""Talking to a model hub through its own client: patience, one clear line for each refusal, files made whole.

The client (huggingface_hub) is imported inside functions. Its messages are never passed on: they run over
several lines, and those of a malformed token quote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import quote

from harness.digest import digest_bytes, digest_file
from harness.errors import (
    EyechartError,
    IntegrityError,
    ResourceError,
    StoreBusyError,
    SubmissionError,
    UsageError,
)
from harness.files import sync_folder

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
PARTIAL_PREFIX = ".fetch-"
"""Leading characters of a file that is still coming; one that nobody continues is safe to delete."""
LOOK_UP_PATIENCE_S, DOWNLOAD_PATIENCE_S = 60.0, 300.0
"""Waiting for a hub that has answered before, in a download since the last byte that came."""
ASKED_PATIENCE_S = 330.0
"""Waiting because the hub asks for it: its rate limits count in windows of 300 s."""
FIRST_PATIENCE_S = 15.0
"""Waiting for a hub that has never answered: no network or a wrong address, which waiting seldom mends."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
TIMEOUT_S = 30.0
"""A connection that carries nothing for so long is taken for cut."""
LOG_IN = "log in with `hf auth login`"
_BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file as the hub lists it."""

    path: str
    size_bytes: int
    sha256: str
    """64 hex digits for files in large-file storage, "" for others."""
    git_sha1: str = ""
    """Git's name of the content, 40 hex digits, for files that git itself holds."""


class CutShortError(Exception):
    """A connection ended before what was asked for had come; asking again may mend it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is asked for."""

    endpoint: str
    repo: str
    revision: str
    """As asked for, "" for the default branch."""
    file: str = ""

    def page(self) -> str:
        """The repository's address, without a user name and password in it."""
        return f"{re.sub('//[^/]*@', '//', self.endpoint)}/{self.repo}"

    def line(self) -> str:
        """All of it, for messages."""
        at, colon = " at " if self.revision else "", ": " if self.file else ""
        return f"{self.page()}{at}{self.revision}{colon}{self.file}"


class Patience:
    """How long one call waits for a hub that is away.

    Args:
        limit_s: seconds, once the hub has answered; None for those of a look-up.
        heard: whether it has.
    """

    def __init__(self, limit_s: float | None = None, *, heard: bool = False) -> None:
        self.heard = heard
        self._limit_s = LOOK_UP_PATIENCE_S if limit_s is None else limit_s
        self._since, self._next_s = time.monotonic(), FIRST_WAIT_S

    def refill(self) -> None:
        """Begin anew: bytes have come that were not there before."""
        self.heard = True
        self._since, self._next_s = time.monotonic(), FIRST_WAIT_S

    def wait(self, asked_s: float, trouble: str, where: str) -> None:
        """Sleep before the next try, longer each time and at least as long as the hub asked.

        Raises:
            ResourceError: it would be used up before the next try.
        """
        wait_s = max(asked_s, self._next_s)
        limit_s = max(self._limit_s, ASKED_PATIENCE_S if asked_s else 0.0) if self.heard else FIRST_PATIENCE_S
        if time.monotonic() - self._since + wait_s > limit_s:
            found = f"{trouble}, and to wait {asked_s:.0f} s" if asked_s else trouble
            fix = "run the same command again later; what has come is kept"
            raise ResourceError("hub does not answer", where=where, found=found, fix=fix)
        time.sleep(wait_s)
        self._next_s = min(LONGEST_WAIT_S, 2 * self._next_s)


@contextlib.contextmanager
def client(endpoint: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """The hub's address and the headers to send, the client's own warnings silenced meanwhile.

    Args:
        endpoint: address of the hub; None for the client's own, which it read from HF_ENDPOINT when imported.

    Raises:
        UsageError: no client installed, an address or a token that is not well formed.
        ResourceError: offline mode is on.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from huggingface_hub import constants
            from huggingface_hub.utils import logging as client_log
    except ModuleNotFoundError as error:
        raise UsageError(
            "fetching needs a package that is not installed",
            found=f"no module {error.name}",
            fix="install the extra `run`: pip install 'eyechart[run]'",
        ) from error
    if constants.is_offline_mode():
        on = [name for name in _OFFLINE_SWITCHES if os.environ.get(name)] or [_OFFLINE_SWITCHES[0]]
        raise ResourceError("offline mode is on", where=" and ".join(on), fix=f"unset {' and '.join(on)}")
    address = (endpoint or constants.ENDPOINT).rstrip("/")
    if not re.fullmatch(r"https?://[^\s?#]+", address):
        raise UsageError("not the address of a hub", where="HF_ENDPOINT", expected="https://…")
    before = client_log.get_verbosity()
    client_log.set_verbosity(logging.CRITICAL)
    try:
        yield address, _headers()
    finally:
        client_log.set_verbosity(before)


def _headers() -> dict[str, str]:
    from huggingface_hub.errors import DeviceCodeError, OIDCError
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # exported unsaid

    try:
        headers = build_hf_headers(library_name="eyechart")
    except (OSError, OIDCError, DeviceCodeError) as error:
        found = type(error).__name__
        raise UsageError("hub token cannot be read", found=found, fix=f"{LOG_IN} again") from error
    # Said here, since the errors of the layers below quote the header.
    if not re.fullmatch(r"Bearer [!-~]+", headers.get("authorization", "Bearer none")):
        raise UsageError(
            "hub token is not well formed", where="HF_TOKEN", fix=f"correct it, or {LOG_IN} again"
        )
    return headers


def persist(call: Callable[[], T], place: Place, patience: Patience) -> T:
    """The call's result, tried again while the hub is busy or away and the patience lasts.

    Raises:
        SubmissionError: gated, private or missing, no such revision; the line says which.
        IntegrityError: the hub does not have a file that it lists.
        ResourceError: the hub cannot be reached.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    while True:
        asked_s = 0.0
        try:
            return call()
        except HfHubHTTPError as error:
            patience.heard = True
            if error.response.status_code not in _BUSY_STATUS:
                raise refusal(error.response, place) from None
            trouble, asked_s = f"status {error.response.status_code}", _asked_s(error.response.headers)
        except httpx2.TimeoutException:
            trouble = f"nothing within {TIMEOUT_S:.0f} s"
        except httpx2.ConnectError:
            trouble = "no connection"
        except (httpx2.NetworkError, httpx2.RemoteProtocolError, CutShortError):
            trouble = "connection cut"
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            what = type(error).__name__
            raise ResourceError("hub cannot be asked", where=place.line(), found=what) from None
        patience.wait(asked_s, trouble, place.line())


def _asked_s(headers: Mapping[str, str]) -> float:
    """Seconds the hub asks to wait, 0 where it says nothing."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # as above

    if match := re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*", headers.get("retry-after", "")):
        return float(match[1])
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def refusal(response: httpx2.Response, place: Place) -> EyechartError:
    """What a status of failure means, in one line."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    page = place.page()
    if code == "GatedRepo":
        fix = f"accept its terms at {page}, then {LOG_IN}"
        return SubmissionError("repository is gated", where=page, fix=fix)
    if status == 401 and "invalid credentials" in response.headers.get("x-error-message", "").lower():
        return SubmissionError(
            "hub refuses the token", where=page, fix=f"correct HF_TOKEN, or {LOG_IN} again"
        )
    if code == "RevisionNotFound":
        fix = "give a branch, a tag or all 40 digits of a commit"
        return SubmissionError("no such revision", where=page, found=place.revision, fix=fix)
    if code == "EntryNotFound" or (place.file and status == 404 and code != "RepoNotFound"):
        return IntegrityError("hub lists a file that it does not have", where=place.line())
    if code == "RepoNotFound" or status in {401, 404}:
        what = "no such repository, or a private one (a hub does not tell)"
        return SubmissionError(what, where=page, fix=f"check the spelling; if it is private, {LOG_IN}")
    if status == 403:
        return SubmissionError("access refused", where=page, fix="use a token that may read this repository")
    return ResourceError("hub does not serve this", where=place.line(), found=f"status {status}")


@contextlib.contextmanager
def body(place: Place, headers: Mapping[str, str], begin: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """One request for a file's bytes.

    Args:
        place: the file, at a commit.
        headers: see `client`.
        begin: how many bytes are there already.

    Yields:
        Where the bytes that come begin, `begin` or 0, and the bytes. They end early only with an error.

    Raises:
        IntegrityError: the hub answers with another commit.
        HfHubHTTPError, HTTPError, CutShortError: for `persist`.
    """
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError

    # Not by the client's hf_hub_url, which begins with the address that HF_ENDPOINT had at its import.
    url = f"{place.endpoint}/{place.repo}/resolve/{place.revision}/{quote(place.file)}"
    # Compressed bytes could be neither counted nor continued.
    send = {**headers, "accept-encoding": "identity"} | ({"range": f"bytes={begin}-"} if begin else {})
    with get_session().stream("GET", url, headers=send, timeout=TIMEOUT_S) as response:
        if response.status_code == 416 and begin:  # more is here than the hub has
            with body(place, headers, 0) as whole:
                yield whole
            return
        if response.is_error:  # without the client's reading of the page, which may be anyone's
            raise HfHubHTTPError("refused", response=response)
        for answer in (*response.history, response):
            commit = answer.headers.get("x-repo-commit", place.revision)
            if commit != place.revision:
                raise another_commit(place, commit)
        start = begin if response.status_code == 206 else 0
        if start and not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
            raise CutShortError
        yield start, response.iter_bytes()


def partial_path(place: Place, file: RemoteFile, target: Path) -> Path:
    """Where a file's first bytes wait for the rest: under a name that only this content has."""
    content = f"{file.sha256 or file.git_sha1 or place.line()} {file.path}"
    return target.parent / f"{PARTIAL_PREFIX}{digest_bytes(content.encode())[:16]}"


def digests(path: Path, file: RemoteFile) -> tuple[str, str]:
    """A file's digest and the one it should have, of the kind the hub gave; both "" if it gave none."""
    if file.sha256:
        return digest_file(path), file.sha256
    if not file.git_sha1:
        return "", ""
    head = b"blob %d\0" % path.stat().st_size
    with open(path, "rb") as data:
        state = hashlib.file_digest(data, lambda: hashlib.sha1(head, usedforsecurity=False))
    return state.hexdigest(), file.git_sha1


def changed_bytes(where: str, found: str, expected: str) -> IntegrityError:
    """The error for a file whose digest is not the one it should have."""
    what, fix = "bytes changed under the same name", "ask the repository's owner what changed"
    return IntegrityError(what, where=where, found=found, expected=expected, fix=fix)


def another_commit(place: Place, found: str) -> IntegrityError:
    """The error for an answer that is not about the commit asked for."""
    what = "hub answers with another commit"
    return IntegrityError(what, where=place.line(), found=found, expected=place.revision)


class Downloads:
    """The files of one commit on their way into a folder.

    Args:
        place: the repository at a commit.
        headers: see `client`.
        progress: told the bytes that are there.
        done: bytes that are there before the first file.
    """

    def __init__(
        self, place: Place, headers: Mapping[str, str], progress: Callable[[int], None], done: int
    ) -> None:
        self._place, self._headers, self._progress, self._done = place, headers, progress, done
        self._patience = Patience(DOWNLOAD_PATIENCE_S)
        self._advance(0)

    def _advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._progress(self._done)

    def bring(self, file: RemoteFile, target: Path) -> None:
        """Download one file, or the rest of it, and give it its name once size and digest fit.

        Raises:
            IntegrityError: other bytes than listed; neither they nor a part of them stay.
            StoreBusyError: another process brings the same file.
            EyechartError: see `persist`; the bytes that came stay, for the next time.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_path(self._place, file, target)
        with open(partial, "ab") as out:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreBusyError("another process is fetching this file", where=str(target)) from error
            begun = out.tell()
            self._advance(begun)
            try:
                self._fill(out, file)
                if begun and len(set(digests(partial, file))) > 1:
                    # Bytes of an earlier time may be at fault, e.g. of a disk that was full.
                    self._cut(out)
                    self._fill(out, file)
                found, expected = digests(partial, file)
                if found != expected:
                    raise changed_bytes(f"{self._place.repo}: {file.path}", found, expected)
            except IntegrityError:
                partial.unlink()
                raise
            os.fsync(out.fileno())
            os.replace(partial, target)
        sync_folder(target.parent)

    def _cut(self, out: BinaryIO) -> None:
        self._advance(-out.tell())
        out.truncate(0)
        out.seek(0)

    def _fill(self, out: BinaryIO, file: RemoteFile) -> None:
        """Append what is missing, over as many connections as it takes."""
        place = replace(self._place, file=file.path)
        furthest = out.tell()
        self._patience = Patience(DOWNLOAD_PATIENCE_S, heard=self._patience.heard)

        def go_on() -> None:
            nonlocal furthest
            if out.tell() == file.size_bytes:
                return
            with body(place, self._headers, out.tell()) as (begin, chunks):
                if begin != out.tell():
                    self._cut(out)
                for chunk in chunks:
                    out.write(chunk)
                    out.flush()  # a process that is killed keeps what came
                    self._advance(len(chunk))
                    if out.tell() > furthest:
                        furthest = out.tell()
                        self._patience.refill()
                    if out.tell() > file.size_bytes:
                        break
            if out.tell() != file.size_bytes:
                what, found = "hub sends another size than it lists", f"{out.tell():,} bytes"
                raise IntegrityError(what, where=place.line(), found=found, expected=f"{file.size_bytes:,}")

        persist(go_on, place, self._patience)
