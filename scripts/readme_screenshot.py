"""`make screenshot`: takes docs/site.png, the picture of the site in the README, anew.

The site is built from results/ in a folder that is thrown away, and opened in the browser of
`make test-site`. Few colours, so that git keeps a small file.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "site")]

from browser import chromium, visiting
from PIL import Image

from harness.files import write_atomic
from harness.pairs import read_pairs
from harness.store import ingest
from leaderboard.build import build_site

WIDTH, HEIGHT = 1000, 1050
SCALE = 1.5
"""CSS pixels to a pixel of the picture: a window of 1500 x 1575."""
COLOURS = 128
MAX_BYTES = 150_000


def main() -> int:
    """Write docs/site.png and print its size."""
    pairs = ROOT / "results" / "pairs.toml"
    with tempfile.TemporaryDirectory() as folder:
        db, site = Path(folder) / "db.duckdb", Path(folder) / "site"
        ingest(db, ROOT / "results", pairs=read_pairs(pairs))
        build_site(db, site, pairs)
        options = {"color_scheme": "light", "device_scale_factor": 1 / SCALE}
        with chromium() as browser, visiting(browser, site, **options) as visitor:
            visitor.resize(round(WIDTH * SCALE), round(HEIGHT * SCALE))
            taken = visitor.open("index.html").screenshot()
            visitor.listen()
    assert not visitor.complaints, visitor.complaints
    small = io.BytesIO()
    with Image.open(io.BytesIO(taken)) as picture:
        # Markers are few pixels: only a palette by reach, not by number of pixels, keeps their colours.
        method = Image.Quantize.MAXCOVERAGE
        plain = picture.convert("RGB").quantize(COLOURS, method, dither=Image.Dither.NONE)
        plain.save(small, "PNG", optimize=True)
    assert len(small.getvalue()) <= MAX_BYTES, f"{len(small.getvalue()):,} bytes, at most {MAX_BYTES:,}"
    write_atomic(ROOT / "docs" / "site.png", small.getvalue())
    print(f"docs/site.png: {WIDTH} x {HEIGHT} pixels, {len(small.getvalue()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
