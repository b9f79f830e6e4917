"""The command line: arguments in, one call, an exit code out."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from harness.arguments import build_parser
from harness.errors import EyechartError, InternalError, ResourceError

Command = Callable[[argparse.Namespace], int]


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "mini":
        from harness import mini_commands

        return mini_commands.run_part(arguments)
    if arguments.command == "data":
        from harness import data_commands

        return data_commands.run_part(arguments)
    if arguments.command == "protocol":
        from harness import protocol_commands

        return protocol_commands.run_part(arguments)
    if arguments.command == "export" and arguments.part == "board":
        from harness import index_commands

        return index_commands.write_board(arguments)
    if arguments.command == "rehearsal":
        from harness import rehearsal_commands

        return rehearsal_commands.rehearse(arguments)
    # One at a time: what a command does not need costs it seconds.
    if arguments.command in {"compare", "check", "baseline"}:
        from harness import check_commands, compare_commands

        gate = check_commands.COMMANDS | compare_commands.COMMANDS
        return gate[arguments.command](arguments)
    if arguments.command == "verify":
        from harness import verify_commands

        return verify_commands.COMMANDS[arguments.command](arguments)
    from harness import checkpoint_commands, commands, index_commands

    table: dict[str, Command] = {
        **index_commands.COMMANDS,
        "demo": commands.demo,
        "submit": checkpoint_commands.submit,
        "doctor": checkpoint_commands.doctor,
        "fetch": checkpoint_commands.fetch_manifest_files,
        "convert": checkpoint_commands.convert_checkpoint,
        "export": checkpoint_commands.export_model,
        "plan": commands.plan,
        "run": commands.run,
        "status": commands.status,
        "score": commands.score,
    }
    return table[arguments.command](arguments)


def _stop(number: int, _: object) -> NoReturn:
    # A second signal during the shutdown ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code (see harness/errors.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a sign must not end a run
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _dispatch(build_parser().parse_args(words))
    except InternalError as error:
        return _tell(f"{error.line()} {_keep_traceback()}", error.exit_code)
    except EyechartError as error:
        return _tell(error.line(), error.exit_code)
    except MemoryError:
        return _tell("memory is too small. Close programs or use a larger machine.", ResourceError.exit_code)
    except KeyboardInterrupt as error:
        command = shlex.join(["eyechart", *words])
        print(f"\neyechart: interrupted, state saved. Resume with: {command}", file=sys.stderr)
        return 143 if error.args == (signal.SIGTERM,) else 130
    except BrokenPipeError:
        # The reader of our output went away; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  (the last stop: one line for the person, the rest in a file)
        return _tell(f"internal bug ({type(error).__name__}). {_keep_traceback()}", InternalError.exit_code)


def _tell(line: str, code: int) -> int:
    """Print an error's one line, over a progress line that a stage left on a terminal."""
    # Exit code 1 means a regression and nothing else: not that nobody listens.
    with contextlib.suppress(OSError, AttributeError, ValueError):
        print("\r\x1b[2K" * sys.stderr.isatty() + f"eyechart: {line}", file=sys.stderr, flush=True)
    return code


def _keep_traceback() -> str:
    """Write the traceback of the error being handled to a file, and say where that is."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="eyechart-bug-", suffix=".txt", delete=False) as report:
            traceback.print_exc(file=report)
    except OSError as error:
        return f"The traceback could not be written: {error.strerror}."
    return f"The traceback is in {report.name}."


if __name__ == "__main__":
    sys.exit(main())
