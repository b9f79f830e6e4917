"""Markdown as frozen records: what a template prints, tag by tag, with nothing of the source as markup.

The parser is markdown-it-py, with raw HTML switched off. What this module has no record for (quotations,
headings in a list …) is kept as the text it was written as; of a picture its description is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

from leaderboard.wording import web_link


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A run of text in one style."""

    text: str
    code: bool = False
    strong: bool = False
    emphasis: bool = False
    href: str = ""
    """Plain http(s) address, or empty: links of any other kind are text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """Running text."""

    spans: tuple[Span, ...]
    kind: Literal["paragraph"] = "paragraph"


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """A list; each item holds blocks, so lists nest."""

    items: tuple[tuple[Block, ...], ...]
    ordered: bool
    kind: Literal["items"] = "items"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table with one row of heads."""

    head: tuple[tuple[Span, ...], ...]
    rows: tuple[tuple[tuple[Span, ...], ...], ...]
    kind: Literal["grid"] = "grid"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verbatim:
    """A block of code, or whatever has no record of its own, as it was written."""

    text: str
    kind: Literal["verbatim"] = "verbatim"


Block = Paragraph | Items | Grid | Verbatim


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What stands under one heading, up to the next of any level."""

    level: int
    """1 to 6; 0 for what comes before the first heading."""
    title: str
    blocks: tuple[Block, ...]


def read_markdown(text: str) -> tuple[Part, ...]:
    """The headings of a document in order, each with its blocks."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens, lines = parser.parse(text), text.split("\n")
    parts, start, level, title = [], 0, 0, ""
    for i, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0:
            parts.append(Part(level=level, title=title, blocks=_blocks(tokens[start:i], lines)))
            level, title, start = int(token.tag[1]), plain(_spans(tokens[i + 1])), i + 3
    return (*parts, Part(level=level, title=title, blocks=_blocks(tokens[start:], lines)))


def plain(spans: Sequence[Span]) -> str:
    """The text alone."""
    return "".join(span.text for span in spans)


def plain_text(blocks: Sequence[Block]) -> str:
    """Blocks as plain lines: a line a paragraph and an item, cells of a table parted by bars."""
    lines = []
    for block in blocks:
        if isinstance(block, Paragraph):
            lines.append(plain(block.spans))
        elif isinstance(block, Items):
            lines += [plain_text(item) for item in block.items]
        elif isinstance(block, Grid):
            lines += [" | ".join(plain(cell) for cell in row) for row in (block.head, *block.rows)]
        else:
            lines.append(block.text)
    return "\n".join(line for line in lines if line)


def _blocks(tokens: Sequence[Token], lines: Sequence[str]) -> tuple[Block, ...]:
    found, i = [], 0
    while i < len(tokens):
        end = _end(tokens, i)
        found.append(_block(tokens[i : end + 1], lines))
        i = end + 1
    return tuple(found)


def _end(tokens: Sequence[Token], start: int) -> int:
    """Place of the token that closes the one at `start`; `start` itself where that opens nothing."""
    depth = 0
    for i in range(start, len(tokens)):
        depth += tokens[i].nesting
        if depth <= 0:
            return i
    return len(tokens) - 1


def _block(tokens: Sequence[Token], lines: Sequence[str]) -> Block:
    first = tokens[0]
    if first.type == "paragraph_open":
        return Paragraph(spans=_spans(tokens[1]))
    if first.type in {"bullet_list_open", "ordered_list_open"}:
        return Items(items=_items(tokens[1:-1], lines), ordered=first.type.startswith("ordered"))
    if first.type == "table_open":
        return _grid(tokens)
    if first.type in {"fence", "code_block"}:
        return Verbatim(text=first.content.rstrip("\n"))
    start, end = first.map or (0, 0)
    return Verbatim(text="\n".join(line.strip() for line in lines[start:end]).strip())


def _items(tokens: Sequence[Token], lines: Sequence[str]) -> tuple[tuple[Block, ...], ...]:
    found, i = [], 0
    while i < len(tokens):
        end = _end(tokens, i)
        found.append(_blocks(tokens[i + 1 : end], lines))
        i = end + 1
    return tuple(found)


def _grid(tokens: Sequence[Token]) -> Grid:
    rows: list[list[tuple[Span, ...]]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_spans(token))
    return Grid(head=tuple(rows[0]), rows=tuple(map(tuple, rows[1:])))


def _spans(inline: Token) -> tuple[Span, ...]:
    """Runs of text; a mark that is open when a run begins gives the run its style."""
    spans: list[Span] = []
    strong = emphasis = 0
    href = ""
    for token in inline.children or ():
        strong += token.nesting if token.type.startswith("strong") else 0
        emphasis += token.nesting if token.type.startswith("em_") else 0
        if token.type == "link_open":
            href = web_link(str(token.attrGet("href") or ""))
        elif token.type == "link_close":
            href = ""
        text = " " if token.type in {"softbreak", "hardbreak"} else token.content
        if not text:
            continue
        code = token.type == "code_inline"
        spans.append(Span(text=text, code=code, strong=strong > 0, emphasis=emphasis > 0, href=href))
    return tuple(spans)
