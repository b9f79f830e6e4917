"""A preview of the site: served on this machine only, and built anew whenever the index changes."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO

from harness.errors import EyechartError, UsageError

HOST = "127.0.0.1"
POLL_S = 1.0
"""Seconds between looks at the index."""
_RELATIVE = re.compile(rb'(href|src)="(?![a-z]+:|[/#])')


class SiteHandler(http.server.SimpleHTTPRequestHandler):
    """Files of one folder, which a build may replace meanwhile; no listings, 404.html for what is missing."""

    extensions_map = {  # noqa: RUF012  (the base class declares it)
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".atom": "application/atom+xml",
        ".js": "text/javascript",
        ".parquet": "application/vnd.apache.parquet",
        ".html": "text/html; charset=utf-8",
        ".csv": "text/csv; charset=utf-8",
    }

    def end_headers(self) -> None:
        """Never cached: the next build may be a second away."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def list_directory(self, path: Any) -> None:  # type: ignore[override]  # noqa: ARG002  (the base class's)
        """No folder is listed, as hosts do it."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The site's own page for what is missing; its links are led from the top, as the address is any."""
        page = Path(self.directory) / "404.html"
        if code != HTTPStatus.NOT_FOUND or not page.is_file():
            super().send_error(code, message, explain)
            return
        body = _RELATIVE.sub(rb'\1="/', page.read_bytes())
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def copyfile(self, source: Any, outputfile: BinaryIO) -> None:  # type: ignore[override]
        """A browser that goes away is no news."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Requests are not news; builds are."""


@contextlib.contextmanager
def serving(site: Path, port: int) -> Iterator[str]:
    """Serve a folder in a thread while the block runs; yields its address.

    Raises:
        UsageError: the port is taken, or none.
    """
    handler = functools.partial(SiteHandler, directory=str(site))
    try:
        server = http.server.ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise UsageError(
            "cannot listen", where=f"{HOST}:{port}", found=str(error), fix="choose another --port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def serve_site(
    site: Path,
    database: Path,
    build: Callable[[], str],
    *,
    tell: Callable[[str], None],
    port: int,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Build, serve, and build again at each change of the index, until interrupted.

    Args:
        site: the folder that `build` writes.
        database: the index.
        build: makes the site; returns a line about it.
        tell: prints a line.
        port: of this machine; 0 for any.
        wait: sleeps that many seconds between looks; an exception from it ends the service.

    Raises:
        UsageError: the port is taken.
        EyechartError: the first build fails. A later one that fails is told, and the site stays as it was.
    """
    seen = _state(database)
    tell(build())
    with serving(site, port) as address:
        tell(f"{address} shows it; Ctrl-C ends.")
        while True:
            wait(POLL_S)
            now = _state(database)
            if now in {seen, None}:
                continue
            seen = now
            try:
                tell(build())
            except EyechartError as error:
                tell(f"not built: {error.line()}")


def _state(database: Path) -> tuple[int, int, int] | None:
    """What tells one index from the next; None while there is none."""
    try:
        found = database.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
