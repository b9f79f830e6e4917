"""social.png: the picture that a link to the site shows elsewhere. Drawn by Pillow with the font it brings.

The same bytes on one machine and version of Pillow; another version may smooth edges otherwise.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from leaderboard.kit import Kit
from leaderboard.sentences import headline
from leaderboard.wording import count_of

SOCIAL = "social.png"
SIZE = (1200, 630)
# As in static/site.css, light.
INK, SOFT, HAIR, PAPER, TINT = "#17191c", "#565c64", "#dcdfe3", "#ffffff", "#eef0f3"
WARN, WARN_PAPER, CLASSIFICATION, CONTRASTIVE = "#8a3b00", "#fff4e8", "#c24e00", "#0067a8"
_LEFT, _TEXT_WIDTH = 72, 740
_TOP, _TEXT_HEIGHT = 176, 300
_SIZES = (50, 46, 42, 38, 35, 32, 29, 26, 23)
"""Of the headline, the largest that fits."""
_LEADING = 1.32
_OPTOTYPE = ("#####", "#....", "#####", "#....", "#####")
_PLAIN = str.maketrans({"–": "-", "—": "-", "−": "-", "×": "x", "’": "'", "‘": "'", "“": '"', "”": '"'})

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def social_files(kit: Kit) -> dict[str, bytes]:
    """The picture of the first protocol's answer."""
    if not kit.compared:
        return {SOCIAL: draw_social("Nothing has been measured yet.", "", "")}
    first = kit.compared[0]
    suite = kit.facts.suites[first.protocol]
    notice = {
        "mini": "Demonstration on a toy world: no answer about real encoders",
        "rehearsal": "Rehearsal: no number of it is a result",
    }.get(suite, "")
    counts = f"{count_of(kit.site.num_encoders, 'encoder')} and floors, {count_of(kit.site.num_runs, 'run')}"
    return {SOCIAL: draw_social(headline(first)[0], notice, counts)}


def draw_social(text: str, notice: str, counts: str) -> bytes:
    """The picture as PNG, 1200 by 630.

    Args:
        text: the headline, wrapped and set as large as fits.
        notice: what a reader must know before believing it, or empty.
        counts: small print.
    """
    image = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    _chart(draw)
    _optotype(draw, _LEFT, 66, 11, INK)
    draw.text(
        (_LEFT + 78, 93), "Eyechart", font=_font(42), fill=INK, anchor="lm", stroke_width=1, stroke_fill=INK
    )
    font, lines = _fit(plain_text(text))
    step = font.size * _LEADING
    for number, line in enumerate(lines):
        draw.text((_LEFT, _TOP + number * step), line, font=font, fill=INK)
    _foot(draw, plain_text(notice), plain_text(counts))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def plain_text(text: str) -> str:
    """The text in the letters that the font has: ASCII, accents dropped, "?" for the rest.

    >>> plain_text("Über 0.5 − 1 λ")
    'Uber 0.5 - 1 ?'
    """
    bare = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    kept = "".join(c for c in bare if not unicodedata.combining(c))
    return " ".join(
        "".join(
            c if c.isascii() and c.isprintable() else "?" if c.isprintable() else " " for c in kept
        ).split()
    )


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines no wider than `width`; a word that is wider stands cut into pieces."""
    lines, line = [], ""
    for word in text.split():
        for piece in _pieces(word, font, width):
            longer = f"{line} {piece}" if line else piece
            if font.getlength(longer) <= width:
                line = longer
            else:
                lines.append(line)
                line = piece
    return [*lines, line] if line else lines


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _fit(text: str) -> tuple[ImageFont.FreeTypeFont, Sequence[str]]:
    """The largest font in which the text fits; in the smallest its end gives way to an ellipsis."""
    font, lines, room = _font(_SIZES[0]), [text], 0
    for size in _SIZES:
        font = _font(size)
        lines = wrap(text, font, _TEXT_WIDTH)
        room = int(_TEXT_HEIGHT // (size * _LEADING))
        if len(lines) <= room:
            return font, lines
    kept = lines[:room]
    while kept[-1] and font.getlength(f"{kept[-1]} ...") > _TEXT_WIDTH:
        kept[-1] = kept[-1].rpartition(" ")[0]
    return font, [*kept[:-1], f"{kept[-1]} ...".strip()]


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _foot(draw: ImageDraw.ImageDraw, notice: str, counts: str) -> None:
    """The notice, and what the two marks of the site mean."""
    small, y = _font(23), 548
    if notice:
        width = small.getlength(notice)
        draw.rounded_rectangle(
            (_LEFT - 2, y - 54, _LEFT + width + 30, y - 10), 8, fill=WARN_PAPER, outline=WARN
        )
        draw.text((_LEFT + 14, y - 32), notice, font=small, fill=WARN, anchor="lm")
    middle = y + 22
    draw.rectangle((_LEFT, middle - 8, _LEFT + 16, middle + 8), fill=CLASSIFICATION)
    draw.text((_LEFT + 28, middle), "classification", font=small, fill=SOFT, anchor="lm")
    at = _LEFT + 28 + small.getlength("classification") + 30
    _disc(draw, round(at), middle - 9, 18)
    draw.text((at + 30, middle), "contrastive", font=small, fill=SOFT, anchor="lm")
    at += 30 + small.getlength("contrastive") + 34
    draw.text((at, middle), counts, font=small, fill=SOFT, anchor="lm")


def _disc(draw: ImageDraw.ImageDraw, x: int, y: int, size: int) -> None:
    """A disc with smooth edges, which `ellipse` does not give."""
    large = Image.new("L", (8 * size, 8 * size))
    ImageDraw.Draw(large).ellipse((0, 0, 8 * size - 1, 8 * size - 1), fill=255)
    draw.bitmap((x, y), large.resize((size, size), Image.Resampling.BOX), fill=CONTRASTIVE)


def _chart(draw: ImageDraw.ImageDraw) -> None:
    """The eye chart at the right: rows of ever smaller optotypes, turned this way and that."""
    draw.rectangle((868, 0, *SIZE), fill=TINT)
    centre, y = (868 + SIZE[0]) / 2, 66
    for number, cell in enumerate((22, 13, 9, 6, 4, 3), 1):
        width, gap = 5 * cell, 3.2 * cell
        left = centre - (number * width + (number - 1) * gap) / 2
        for place in range(number):
            turn = (2 * number + 3 * place) % 4 if number > 1 else 0
            _optotype(draw, round(left + place * (width + gap)), y, cell, INK if number < 5 else SOFT, turn)
        y += width + 2 * max(cell, 9) + 14


def _optotype(draw: ImageDraw.ImageDraw, x: int, y: int, cell: int, fill: str, turn: int = 0) -> None:
    """The tumbling E on its grid of five by five; `turn` quarter turns to the left."""
    rows = [list(row) for row in _OPTOTYPE]
    for _ in range(turn):
        rows = [list(row) for row in zip(*rows, strict=True)][::-1]
    for i, row in enumerate(rows):
        for j, mark in enumerate(row):
            if mark == "#":
                draw.rectangle(
                    (x + j * cell, y + i * cell, x + (j + 1) * cell - 1, y + (i + 1) * cell - 1), fill=fill
                )
