"""The command line is an interface: commands and options change only on purpose (`make golden`)."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HAS_CLI = (ROOT / "harness" / "cli.py").exists()
needs_cli = pytest.mark.skipif(not HAS_CLI, reason="harness/cli.py does not exist yet")


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def option_of(action: argparse.Action) -> dict[str, object]:
    shown: dict[str, object] = {"flags": sorted(action.option_strings), "kind": type(action).__name__}
    if action.nargs is not None:
        shown["nargs"] = action.nargs
    if action.choices is not None:
        shown["choices"] = [str(c) for c in action.choices]
    if action.option_strings and action.required:
        shown["required"] = True
    return shown


def surface_of(parser: argparse.ArgumentParser) -> dict[str, object]:
    actions = [
        a for a in parser._actions if not isinstance(a, argparse._SubParsersAction | argparse._HelpAction)
    ]
    surface: dict[str, object] = {"options": {a.dest: option_of(a) for a in actions}}
    nested = commands_of(parser)
    if nested:
        surface["commands"] = {name: surface_of(sub) for name, sub in sorted(nested.items())}
    return surface


def build_parser() -> argparse.ArgumentParser:
    from harness.cli import build_parser as build

    return build()


@needs_cli
@pytest.mark.golden
def test_surface_is_frozen(golden):
    golden("cli.json", surface_of(build_parser()))


@needs_cli
def test_every_command_and_option_has_help():
    def walk(parser, path):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                described = {c.dest for c in action._choices_actions if c.help}
                missing = {n for n in action.choices if n not in described}
                assert not missing, f"{path}: commands without help: {sorted(missing)}"
            else:
                assert action.help, f"{path}: {action.dest} has no help"
        for name, sub in commands_of(parser).items():
            walk(sub, f"{path} {name}")

    walk(build_parser(), "eyechart")


@needs_cli
def test_console_script_points_at_main():
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"eyechart": "harness.cli:main"}
    assert importlib.util.find_spec("harness.cli") is not None


def test_surface_sees_what_a_user_would_notice():
    def parser(**changes):
        top = argparse.ArgumentParser("x")
        sub = top.add_subparsers(dest="command", required=True)
        run = sub.add_parser("run", help="h")
        run.add_argument("manifest", help="h")
        run.add_argument("--device", **({"choices": ["cpu", "cuda"], "help": "h"} | changes))
        return surface_of(top)

    assert parser() == parser(help="other words")
    assert parser() != parser(choices=["cpu"])
    assert parser() != parser(required=True)
    assert parser()["commands"]["run"]["options"]["manifest"]["flags"] == []
