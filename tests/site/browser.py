"""Opens pages of a site from file:// in Chromium and takes down whatever a quiet page would not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""What distributions call it; scripts/setup-site.sh looks for the same."""
WIDTHS = (360, 768, 1440)
THEMES = ("light", "dark")
_TRAP = """
window.__violations = [];
document.addEventListener("securitypolicyviolation", function (event) {
  window.__violations.push(event.violatedDirective + " " + event.blockedURI);
});
"""


def find_browser() -> str:
    """Path of Chromium or Chrome."""
    found = [os.environ.get("EYECHART_BROWSER", ""), *(shutil.which(name) or "" for name in NAMES)]
    path = next((p for p in found if p), "")
    assert path, f"none of {', '.join(NAMES)} is on PATH. Run `make test-site`, which installs one."
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=find_browser(), args=["--hide-scrollbars", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Visitor:
    """One window on one site. `complaints` grows with every request out, message, error, dialog or block."""

    def __init__(self, context: Any, root: Path) -> None:
        self.root = root.resolve()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.here = ""
        context.add_init_script(_TRAP)
        self.page = context.new_page()
        self.page.on("request", self._requested)
        self.page.on("requestfailed", self._failed)
        self.page.on("console", lambda m: self._note("console", m.text))
        self.page.on("pageerror", lambda e: self._note("error", str(e)))
        self.page.on("popup", lambda _: self._note("window", "opened another"))
        self.page.on("dialog", self._asked)

    def _note(self, what: str, text: str) -> None:
        self.complaints.append(f"{self.here}: {what}: {text[:200]}")

    def _requested(self, request: Any) -> None:
        self.requests.append(request.url)
        if not request.url.startswith(self.root.as_uri() + "/"):
            self._note("request", request.url)

    def _failed(self, request: Any) -> None:
        # An icon still on its way when the next page is opened is given up, not missing.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"failed request, {request.failure}", request.url)

    def _asked(self, dialog: Any) -> None:
        self._note("dialog", dialog.message)
        dialog.dismiss()

    def open(self, name: str) -> Any:
        """The page `name` of the site, loaded."""
        self.here = name
        self.page.goto((self.root / name).as_uri())
        return self.page

    def listen(self) -> None:
        """Adds what the page itself knows: blocks by its policy, and whether a payload ran."""
        for violation in self.page.evaluate("window.__violations"):
            self._note("blocked", violation)
        if self.page.evaluate("window.__pwned !== undefined"):
            self._note("executed", "a stranger's text")

    def resize(self, width: int, height: int = 900) -> None:
        """Another size of window, in CSS pixels."""
        self.page.set_viewport_size({"width": width, "height": height})


@contextmanager
def visiting(browser: Any, root: Path, *, width: int = 1440, **options: Any) -> Iterator[Visitor]:
    """A fresh window, as playwright's `new_context` takes it; closed with the block."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    try:
        yield Visitor(context, root)
    finally:
        context.close()
