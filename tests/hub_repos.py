"""What the tests' model hub (hub_server.py) holds: contents, commits, and how a hub lists them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".parquet", ".arrow", ".zip", ".mp4", ".tar"}


@dataclass(frozen=True)
class Blob:
    """One file's content, in memory or on disk, with what a hub lists about it."""

    source: bytes | Path
    size: int
    sha256: str
    git_sha1: str

    @classmethod
    def of(cls, source: bytes | Path) -> Blob:
        """Hashes the content once."""
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        blob = cls(source, size, "", "")
        for begin in range(0, size, 1 << 24):
            data = blob.read(begin, 1 << 24)
            sha256.update(data)
            git.update(data)
        return cls(source, size, sha256.hexdigest(), git.hexdigest())

    def read(self, begin: int, num_bytes: int) -> bytes:
        """A part of the content."""
        if isinstance(self.source, bytes):
            return self.source[begin : begin + num_bytes]
        with self.source.open("rb") as file:
            file.seek(begin)
            return file.read(num_bytes)


@dataclass
class Repo:
    """One repository: its commits, and the names that point to them."""

    id: str
    kind: str
    gated: bool = False
    private: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the hub's answer: library_name, tags, cardData."""
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    """Commit -> path -> content as listed."""
    sent: dict[tuple[str, str], Blob] = field(default_factory=dict)
    """(commit, path) -> content that is sent instead of the listed one."""
    refs: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag, a whole sha, or 7 and more digits that only one sha begins with."""
        if revision in self.refs or revision in self.commits:
            return self.refs.get(revision, revision)
        close = [commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)]
        return close[0] if len(close) == 1 else None

    def lfs(self, path: str) -> bool:
        """Whether a file lies in large-file storage."""
        return Path(path).suffix in LFS_SUFFIXES

    def tree(self, commit: str) -> list[dict[str, Any]]:
        """Files and folders of a commit, as the hub lists them."""
        folders = {p.as_posix() for path in self.commits[commit] for p in list(Path(path).parents)[:-1]}
        rows: list[dict[str, Any]] = [
            {"type": "directory", "path": p, "size": 0, "oid": hashlib.sha1(p.encode()).hexdigest()}
            for p in sorted(folders)
        ]
        for path, blob in self.commits[commit].items():
            row: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git_sha1}
            if self.lfs(path):
                row["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 134}
            rows.append(row)
        return rows
