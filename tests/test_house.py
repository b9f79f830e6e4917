"""House rules that a reader feels: sizes, names, swallowed errors, docstrings, machine traces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FUNCTION = 60
MAX_FILE = 400
CODE = sorted(p for top in ("harness", "leaderboard") for p in (ROOT / top).rglob("*.py"))
FORBIDDEN_WORDS = {"utils", "util", "common", "manager", "helper", "helpers"}
FORBIDDEN_VERBS = ("process_", "handle_")

# Written in pieces, so that this file does not find itself.
_FOLDERS = "|".join(["work", "tmp", "root", "mnt", "opt", "home/[a-z]+", "Users/[A-Za-z]+"])
MACHINE_PATH = re.compile(rf"(?<![\w.$}}>)-])/(?:{_FOLDERS})(?:/|(?=[\"'`\s]|$))")
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "download." + "pytorch.org",
    "registry." + "npmjs",
    "deb." + "debian",
]
MAX_TEXT_BYTES = 2_000_000

Function = ast.FunctionDef | ast.AsyncFunctionDef


def ident(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (n for n in ast.walk(tree) if isinstance(n, Function))


@pytest.mark.parametrize("path", CODE, ids=ident)
def test_sizes(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE, f"{lines} lines, at most {MAX_FILE}"
    long = {
        f.name: n
        for f in functions(tree_of(path))
        if (n := (f.end_lineno or 0) - f.lineno + 1) > MAX_FUNCTION
    }
    assert not long, f"functions over {MAX_FUNCTION} lines: {long}"


@pytest.mark.parametrize("path", [p for p in CODE if "harness" in p.relative_to(ROOT).parts], ids=ident)
def test_names(path):
    tree = tree_of(path)
    named = [n for n in ast.walk(tree) if isinstance(n, Function | ast.ClassDef)]
    for name in [path.stem, *(n.name for n in named)]:
        words = set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))
        assert not words & FORBIDDEN_WORDS, f"{name}: say what it does"
        assert not name.lstrip("_").startswith(FORBIDDEN_VERBS), f"{name}: say what it does"


def _swallows(handler: ast.ExceptHandler) -> bool:
    caught = ast.unparse(handler.type) if handler.type else ""
    wide = handler.type is None or bool(re.search(r"\b(Base)?Exception\b(?!\w)", caught))
    if not wide:
        return False
    inner = [n for statement in handler.body for n in ast.walk(statement)]
    raises = any(isinstance(n, ast.Raise) for n in inner)
    uses = any(isinstance(n, ast.Name) and n.id in (handler.name, "traceback") for n in inner)
    return not raises and not uses


@pytest.mark.parametrize("path", [*CODE, *sorted((ROOT / "tasks").rglob("*.py"))], ids=ident)
def test_no_error_is_swallowed(path):
    handlers = [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.ExceptHandler)]
    assert not [h.lineno for h in handlers if _swallows(h)], (
        "a wide `except` must raise or use what it caught"
    )
    silent = [h.lineno for h in handlers if all(isinstance(s, ast.Pass) for s in h.body)]
    assert not silent, (
        "`except …: pass` hides what happened; use contextlib.suppress on the narrow error and say why"
    )


def _public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from _public(node.body, f"{node.name}.")


@pytest.mark.parametrize("path", CODE, ids=ident)
def test_public_names_have_docstrings(path):
    tree = tree_of(path)
    if tree.body:
        assert ast.get_docstring(tree), "the module has no docstring"
    bare = [name for name, node in _public(tree.body) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert not bare, f"no docstring: {bare}"


def test_no_machine_traces(tracked_files):
    found: list[str] = []
    for path in tracked_files:
        if path.stat().st_size > MAX_TEXT_BYTES or b"\0" in path.read_bytes()[:8192]:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line) or any(h in line for h in HOSTS):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "paths of one machine, or registry hosts:\n" + "\n".join(found[:30])


def test_rules_find_what_they_forbid():
    swallowed = ast.parse("try:\n    f()\nexcept Exception:\n    x = None\n").body[0]
    assert isinstance(swallowed, ast.Try)
    assert _swallows(swallowed.handlers[0])
    told = ast.parse("try:\n    f()\nexcept Exception as e:\n    log(e)\n").body[0]
    assert isinstance(told, ast.Try)
    assert not _swallows(told.handlers[0])
    for bad in ('open("/' + 'tmp/x")', "cd /" + "work/main", "see /" + "home/ann/notes"):
        assert MACHINE_PATH.search(bad), bad
    for good in (
        "https://example.org/work/paper",
        "a/tmp/b",
        ".venv/tmp",
        "$HOME/work",
        "/etc/passwd",
        "tmp/x",
    ):
        assert not MACHINE_PATH.search(good), good


def test_no_unowned_marks(tracked_files):
    mark = re.compile("TO" + r"DO\b|FIX" + r"ME\b|XX" + r"X\b")
    for path in tracked_files:
        if path.suffix in {".py", ".sh", ".toml"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            assert not [i for i, line in enumerate(lines, 1) if mark.search(line)], ident(path)
