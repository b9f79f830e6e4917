"""Every error a person can meet, and the exit code each one carries.

    EyechartError
    ├── UsageError            2   wrong arguments
    ├── SubmissionError       3   manifest or checkpoint is not valid
    ├── UnsafeInputError      4   input refused because reading it could harm
    ├── DatasetError          5   data missing, empty, corrupt or changed
    ├── ResourceError         6   memory, disk or device too small
    ├── StoreBusyError        7   another process writes the database
    ├── IntegrityError        8   bytes differ from what was recorded
    ├── IncompleteError       9   work is left; running again resumes it
    ├── InternalError        10   a fault of ours
    ├── InconclusiveError    11   too little evidence, under --strict
    ├── NotComparableError   12   two records were made under different rules
    └── InterruptedRunError 130   stopped by the user, state saved

Exit code 1 belongs to `eyechart check` alone and means a regression, so no class carries it.
"""

from __future__ import annotations


class EyechartError(Exception):
    """One clear line: what failed, where, found, expected, how to fix.

    Args:
        what: what failed, as a short clause.
        where: file, field or sample.
        found: what was there.
        expected: what should have been there.
        fix: what to do next, as an imperative.
    """

    exit_code = 10

    def __init__(
        self, what: str, *, where: str = "", found: str = "", expected: str = "", fix: str = ""
    ) -> None:
        self.what, self.where, self.found, self.expected, self.fix = what, where, found, expected, fix
        super().__init__(self.line())

    def line(self) -> str:
        """The whole message on one line, control characters made visible."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        details = [f"found {self.found}"] if self.found else []
        details += [f"expected {self.expected}"] if self.expected else []
        if details:
            text += ": " + ", ".join(details)
        if self.fix:
            text += f". {self.fix[0].upper()}{self.fix[1:]}"
        text = text if text.endswith((".", "`")) else text + "."
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UsageError(EyechartError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class SubmissionError(EyechartError):
    """The manifest, or the checkpoint it names, is not valid."""

    exit_code = 3


class UnsafeInputError(EyechartError):
    """The input was refused unread: pickle, path outside the folder, oversized header."""

    exit_code = 4


class DatasetError(EyechartError):
    """Evaluation or training data is missing, empty, corrupt or not the pinned one."""

    exit_code = 5


class ResourceError(EyechartError):
    """Memory, disk or device is too small for the work."""

    exit_code = 6


class StoreBusyError(EyechartError):
    """Another process holds the database for writing."""

    exit_code = 7


class IntegrityError(EyechartError):
    """Stored bytes differ from the hash recorded for them."""

    exit_code = 8


class IncompleteError(EyechartError):
    """Some units are not done; the same command resumes."""

    exit_code = 9


class InternalError(EyechartError):
    """A fault of Eyechart; the traceback is in a file."""

    exit_code = 10


class InconclusiveError(EyechartError):
    """The evidence settles nothing, and the caller asked for strictness."""

    exit_code = 11


class NotComparableError(EyechartError):
    """Two records were made under different recipes, data or prompts."""

    exit_code = 12


class InterruptedRunError(EyechartError):
    """Stopped by the user; finished units are kept."""

    exit_code = 130
