"""A small model hub on 127.0.0.1 that the real `huggingface_hub` client talks to, with faults on request.

By hand: `python tests/hub_server.py FOLDER…` serves local folders and prints the HF_ENDPOINT to set.
Small files are sent by the hub itself; large-file-storage ones by a second server of another port, as the
real hub's are by another host, so that what must not follow a redirect (the token) can be seen not to.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from hub_repos import Blob, Repo

BLOCK_BYTES = 64 * 1024
HOST = "127.0.0.1"
_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass
class Fault:
    """What goes wrong with requests whose address contains `path`; `times` None is for ever."""

    path: str
    times: int | None
    status: int = 0
    retry_after: float | None = None
    drop_after: int | None = None
    pause_s: float = 0.0


@dataclass
class Request:
    """One line of the log."""

    server: str
    """"hub" or "store"."""
    method: str
    path: str
    range: str
    authorization: str
    status: int = 0
    body_bytes: int = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer's own asks for this machine's full name, which the tests' guard refuses.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what is tested; anything else is a fault of this file."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class HubServer:
    """The hub, as a context manager; `endpoint` is what HF_ENDPOINT would be."""

    def __init__(self, tokens: tuple[str, ...] = (), port: int = 0) -> None:
        self.tokens = tokens
        self.requests: list[Request] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.renamed: dict[str, str] = {}
        self.misreported: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.ranges = True
        """Whether Range is understood; some proxies send the whole file instead."""
        self.shift = 0
        """Bytes by which an answer to Range begins too late."""
        self.lock = threading.Lock()
        self.hub, self.store = self._server("hub", port), self._server("store", 0)
        self.endpoint = f"http://{HOST}:{self.hub.server_port}"
        self.store_endpoint = f"http://{HOST}:{self.store.server_port}"

    def _server(self, name: str, port: int) -> _Server:
        return _Server((HOST, port), type("Bound", (_Handler,), {"hub": self, "name": name}))

    def __enter__(self) -> Self:
        for server in (self.hub, self.store):
            threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.hub, self.store):
            server.shutdown()
            server.server_close()

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path],
        kind: str = "model",
        commit: str | None = None,
        *,
        gated: bool = False,
        private: bool = False,
        branch: str = "main",
        **extra: Any,
    ) -> str:
        """A repository, or another commit of one that is there: the branch moves on, the old commit stays.

        `gated` and `private` ones are closed to clients without one of the server's tokens; `extra` are more
        fields of the hub's answer (library_name, tags, cardData). Returns the commit, 40 hex digits.
        """
        blobs = {path: Blob.of(content) for path, content in files.items()}
        listing = json.dumps([repo_id, {p: b.sha256 for p, b in blobs.items()}], sort_keys=True)
        commit = commit or hashlib.sha1(listing.encode()).hexdigest()
        repo = self.repos.setdefault((kind, repo_id), Repo(repo_id, kind, gated, private, extra))
        repo.commits[commit] = blobs
        repo.refs[branch] = commit
        return commit

    def change_bytes(self, repo_id: str, path: str, data: bytes, *, listed: bool = False) -> None:
        """Sends other bytes under the same name of every commit; `listed` changes what is listed too."""
        for repo in (r for r in self.repos.values() if r.id == repo_id):
            for commit, blobs in repo.commits.items():
                if listed:
                    blobs[path] = Blob.of(data)
                else:
                    repo.sent[commit, path] = Blob.of(data)

    def rename(self, old: str, new: str) -> None:
        """Moves a repository; its old address answers with a redirect."""
        for kind, repo_id in [key for key in self.repos if key[1] == old]:
            repo = self.repos.pop((kind, repo_id))
            repo.id = new
            self.repos[kind, new] = repo
        self.renamed[old] = new

    def misreport(self, repo_id: str, commit: str) -> None:
        """Claims that every answer is about this commit, whatever was asked for."""
        self.misreported[repo_id] = commit

    def fail(self, path: str, status: int, times: int | None = 1, retry_after: float | None = None) -> None:
        """Answers with a status of failure."""
        self.faults.append(Fault(path, times, status=status, retry_after=retry_after))

    def drop_after(self, path: str, num_bytes: int, times: int | None = 1) -> None:
        """Cuts the connection after so many bytes of a body."""
        self.faults.append(Fault(path, times, drop_after=num_bytes))

    def slow(self, path: str, seconds: float, times: int | None = None) -> None:
        """Pauses before each 64 KiB of a body."""
        self.faults.append(Fault(path, times, pause_s=seconds))

    def fault(self, path: str, *, body: bool) -> Fault | None:
        """The next fault for an address, used up by one."""
        with self.lock:
            for fault in self.faults:
                if fault.path in path and fault.times != 0 and body != bool(fault.status):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def bodies(self, path: str) -> list[Request]:
        """The log's lines that sent a part of a file."""
        return [r for r in self.requests if r.path.endswith(path) and r.status in {200, 206}]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    name: str

    def log_message(self, *_: Any) -> None:
        """The log is `HubServer.requests`."""

    def _begin(self) -> tuple[str, Request]:
        path = unquote(urlsplit(self.path).path)
        head = {name: self.headers.get(name, "") for name in ("Range", "Authorization")}
        entry = Request(self.name, self.command, path, head["Range"], head["Authorization"])
        self.hub.requests.append(entry)
        return path, entry

    def do_GET(self) -> None:
        path, entry = self._begin()
        if fault := self.hub.fault(path, body=False):
            wait = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            return self._answer(entry, fault.status, {"error": "as asked"}, wait)
        if self.name == "store":
            return self._store(path, entry)
        if match := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(.*))?", path):
            return self._api(entry, match[1], match[2], match[3] or "")
        if match := re.fullmatch(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind = {v: k for k, v in _PREFIX.items()}[match[1]]
            return self._resolve(entry, kind, match[2], match[3], match[4])
        return self._answer(entry, 404, {"error": "Not found"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Only paths-info: what the hub lists about some files."""
        path, entry = self._begin()
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        form = json.loads(text) if text.startswith("{") else parse_qs(text)
        match = re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)/paths-info/(.+)", path)
        repo = self._open(entry, match[1], match[2]) if match else None
        if repo and match and (commit := self._commit(entry, repo, match[3])):
            rows = [row for row in repo.tree(commit) if row["path"] in form.get("paths", [])]
            self._answer(entry, 200, rows)
        elif not entry.status:
            self._answer(entry, 404, {"error": "Not found"})

    def _trusted(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.tokens

    def _open(self, entry: Request, kind: str, repo_id: str) -> Repo | None:
        """The repository, once this client may see it; otherwise the refusal is sent."""
        repo = self.hub.repos.get((kind, repo_id))
        if repo is None and (new := self.hub.renamed.get(repo_id)):
            self._answer(entry, 307, {}, {"Location": self.path.replace(repo_id, new)})
        elif repo is None or (repo.private and not self._trusted()):
            # The real hub, too, gives 401 to strangers whether the repository is private or not there.
            status = 404 if self._trusted() else 401
            self._refuse(entry, status, "RepoNotFound", "Repository not found")
        else:
            return repo
        return None

    def _commit(self, entry: Request, repo: Repo, revision: str) -> str | None:
        commit = repo.resolve(revision)
        if commit is None:
            self._refuse(entry, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _api(self, entry: Request, kind: str, repo_id: str, rest: str) -> None:
        repo = self._open(entry, kind, repo_id)
        if repo is None:
            return None
        verb, _, revision = rest.partition("/")
        if verb == "refs":
            rows = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.refs.items()]
            return self._answer(entry, 200, {"branches": rows, "tags": [], "converts": []})
        if verb not in {"", "revision", "tree"}:
            return self._answer(entry, 404, {"error": "Not found"})
        revision, _, folder = revision.partition("/") if verb == "tree" else (revision, "", "")
        commit = self._commit(entry, repo, revision or "main")
        if commit is None:
            return None
        rows, query = repo.tree(commit), parse_qs(urlsplit(self.path).query)
        if verb == "tree":
            deep = query.get("recursive", ["false"])[0].lower() in {"true", "1"}
            inside = [r for r in rows if not folder or r["path"].startswith(f"{folder}/")]
            level = folder.count("/") + 1 if folder else 0
            rows = [r for r in inside if deep or r["path"].count("/") == level]
            return self._answer(entry, 200, rows) if rows else self._missing(entry)
        blobs, siblings = "blobs" in query, []
        for row in (r for r in rows if r["type"] == "file"):
            lfs = {"lfs": {**row["lfs"], "sha256": row["lfs"]["oid"]}} if "lfs" in row else {}
            more = {"size": row["size"], "blobId": row["oid"], **lfs} if blobs else {}
            siblings.append({"rfilename": row["path"], **more})
        sha = self.hub.misreported.get(repo.id, commit)
        about = {"id": repo.id, "sha": sha, "private": repo.private, "gated": "auto" if repo.gated else False}
        return self._answer(entry, 200, {**about, **repo.extra, "siblings": siblings})

    def _resolve(self, entry: Request, kind: str, repo_id: str, revision: str, path: str) -> None:
        repo = self._open(entry, kind, repo_id)
        if repo is None:
            return None
        if repo.gated and not self._trusted():
            status = 403 if self.headers.get("Authorization") else 401
            return self._refuse(entry, status, "GatedRepo", f"Access to {repo_id} is restricted")
        commit = self._commit(entry, repo, revision)
        if commit is None:
            return None
        blob = repo.commits[commit].get(path)
        if blob is None:
            return self._missing(entry)
        head = {"X-Repo-Commit": self.hub.misreported.get(repo.id, commit), "ETag": f'"{blob.git_sha1}"'}
        if repo.lfs(path):
            head |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
            head["Location"] = f"{self.hub.store_endpoint}/{kind}/{quote(f'{repo.id}/{commit}/{path}')}"
            return self._answer(entry, 302, {}, head)
        return self._send(entry, repo.sent.get((commit, path), blob), head)

    def _store(self, path: str, entry: Request) -> None:
        kind, org, name, commit, file = path.strip("/").split("/", 4)
        repo = self.hub.repos[kind, f"{org}/{name}"]
        blob = repo.sent.get((commit, file), repo.commits[commit][file])
        self._send(entry, blob, {"ETag": f'"{blob.sha256}"'})

    def _send(self, entry: Request, blob: Blob, head: dict[str, str]) -> None:
        """A file's bytes, or the range asked for, with what was ordered to go wrong."""
        begin, end, status = 0, blob.size, 200
        if self.hub.ranges and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", entry.range)):
            begin, end = (
                int(match[1]) + self.hub.shift,
                min(blob.size, int(match[2]) + 1 if match[2] else blob.size),
            )
            if begin >= blob.size:
                return self._answer(entry, 416, {}, {"Content-Range": f"bytes */{blob.size}"})
            status, head = 206, {**head, "Content-Range": f"bytes {begin}-{end - 1}/{blob.size}"}
        entry.status = status
        self.send_response(status)
        for name, value in {**head, "Accept-Ranges": "bytes", "Content-Length": str(end - begin)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        fault = self.hub.fault(entry.path, body=True) or Fault("", None)
        stop = end if fault.drop_after is None else min(end, begin + fault.drop_after)
        while begin < stop:
            time.sleep(fault.pause_s)
            data = blob.read(begin, min(BLOCK_BYTES, stop - begin))
            self.wfile.write(data)
            begin += len(data)
            entry.body_bytes += len(data)
        if stop < end:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return None

    def _missing(self, entry: Request) -> None:
        self._refuse(entry, 404, "EntryNotFound", "Entry not found")

    def _refuse(self, entry: Request, status: int, code: str, message: str) -> None:
        head = {"X-Error-Code": code, "X-Error-Message": message}
        self._answer(entry, status, {"error": message}, head)

    def _answer(self, entry: Request, status: int, value: Any, head: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        entry.status = status
        self.send_response(status)
        for name, text in {**(head or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(folder: Path) -> dict[str, bytes | Path]:
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _about(folder: Path) -> dict[str, Any]:
    """What the hub would read out of the model card: library and licence."""
    card = folder / "README.md"
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    keys = dict(
        re.findall(r"^(library_name|license):\s*([\w.+-]+)\s*$", head[1] if head else "", flags=re.MULTILINE)
    )
    return {"cardData": keys, "library_name": keys.get("library_name")}


def main() -> None:
    """Serves folders until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve local folders as repositories of a model hub.")
    parser.add_argument("folders", nargs="+", type=Path, help="served as local/<name of the folder>")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dataset", action="store_true", help="serve data sets instead of models")
    given = parser.parse_args()
    with HubServer(port=given.port) as hub:
        for folder in given.folders:
            repo_id = f"local/{folder.resolve().name}"
            kind = "dataset" if given.dataset else "model"
            commit = hub.add_repo(repo_id, _files(folder), kind, **_about(folder))
            sys.stdout.write(f"{repo_id}  {commit}\n")
        sys.stdout.write(f"export HF_ENDPOINT={hub.endpoint}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
