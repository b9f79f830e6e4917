"""Encoders whose network is a person's own Python: only on their machine, only when they say so.

The manifest lists `encoder.py` and safetensors. The file defines `build()`, which returns a
`torch.nn.Module`; called with (B, 3, S, S) pixels, the module returns patch tokens (B, N, D) without prefix
tokens, row by row. It may have `stride`, pixels from one token to the next. Weights are loaded by us,
strictly. Such a row is badged and never an official one: nobody else can know what the code does.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.digest import digest_bytes
from harness.encoders.base import VIEW, FrozenEncoder, View
from harness.encoders.strict import hashes_of, load_strictly
from harness.errors import EyechartError, SubmissionError, UnsafeInputError
from harness.fields import cut
from harness.files import confine
from harness.records import Submission
from harness.submission import MAX_CONFIG_BYTES, MAX_SIDE

CODE = "encoder.py"


class _Source(importlib.abc.InspectLoader):
    """Code as it was read. The usual loader would rather run what __pycache__ holds, which no hash covers."""

    def __init__(self, code: bytes, path: Path) -> None:
        self._code, self._path = code, path

    def get_source(self, fullname: str) -> str:  # noqa: ARG002  (the interface of loaders)
        """The text of the file."""
        return importlib.util.decode_source(self._code)

    def get_code(self, fullname: str) -> Any:  # noqa: ARG002  (same)
        """What that text says, compiled."""
        return self.source_to_code(self._code, str(self._path))


class LocalCodeEncoder(FrozenEncoder):
    """A frozen network of a person's own.

    Args:
        submission: gives id, resolution, mean and std.
        module: the network with its weights.
        view: what is asked of it; its layer must be 0: what lies below the output is nobody's business here.
    """

    source = "python"

    def __init__(
        self,
        submission: Submission,
        module: nn.Module,
        view: View = VIEW,
    ) -> None:
        self._code = {f.path: f.sha256 for f in submission.source.files if f.path.endswith(".py")}
        if view.layer:
            raise SubmissionError(
                "network of your own has one layer to read", where=submission.id, found=f"layer {view.layer}"
            )
        stated = getattr(module, "stride", None)
        stride = stated if isinstance(stated, int) and 0 < stated <= MAX_SIDE else 1
        super().__init__(submission, module, view, stride=stride, cuts_patches=stride > 1)
        if stride == 1:
            self.stride = max(1, self.side // self.grid[0])

    def description(self) -> dict[str, Any]:
        """That it is code, and which."""
        return {"source": "python", "code": self._code, "layer": self.layer}

    def _features(self, pixels: Tensor) -> Tensor:
        try:
            found = self.module(pixels)
        except (RuntimeError, ValueError, AssertionError):
            raise  # told by `read`, with the size of the image
        except (Exception, SystemExit) as error:  # a person's own code may raise anything
            raise _failure("network fails", self.id, error) from error
        is_tokens = isinstance(found, Tensor) and found.ndim in {3, 4} and found.is_floating_point()
        if not is_tokens or len(found) != len(pixels):
            raise SubmissionError(
                "network does not return patch tokens",
                where=self.id,
                found=f"{type(found).__name__} {list(getattr(found, 'shape', ()))}",
                expected="a tensor (B, N, D), or a map (B, D, h, w)",
            )
        return cast("Tensor", found).to(torch.float32)


def open_local_code(
    submission: Submission, root: Path, view: View = VIEW, *, allow_code: bool
) -> LocalCodeEncoder:
    """The encoder of a submission with `source.kind = "python"`.

    Raises:
        UnsafeInputError: nobody allowed it to run.
        SubmissionError: no `encoder.py`, it fails, or its network does not fit the weights.
    """
    if not allow_code:
        raise UnsafeInputError(
            "submission brings its own code",
            where=f"{submission.id}: source.kind",
            found="python",
            expected="a checkpoint of transformers, timm or open_clip",
            fix="if the code is yours, repeat the command with --allow-local-code",
        )
    paths = [confine(root, file.path) for file in submission.source.files]
    sha256 = hashes_of(submission, root)
    codes = [path for path in paths if path.name == CODE]
    if len(codes) != 1:
        raise SubmissionError(
            f"manifest must list one {CODE}", where=f"{submission.id}: source.files", found=str(len(codes))
        )
    build = _load(codes[0], sha256[codes[0]])
    module = load_strictly(
        lambda meta: _built(build, codes[0], meta=meta),
        [path for path in paths if path.suffix == ".safetensors"],
        submission.id,
        "the tensors of the network that build() returns",
        sha256=sha256,
    )
    try:
        return LocalCodeEncoder(submission, module, view)
    except (Exception, SystemExit) as error:  # a person's own code may raise anything
        raise _failure("network fails", submission.id, error) from error


def _load(path: Path, sha256: str) -> Any:
    with open(path, "rb") as file:
        code = file.read(MAX_CONFIG_BYTES + 1)
    if len(code) > MAX_CONFIG_BYTES:
        raise SubmissionError(
            "code too large", where=str(path), expected=f"at most {MAX_CONFIG_BYTES:,} bytes"
        )
    if digest_bytes(code) != sha256:
        raise SubmissionError("hash differs from the manifest's", where=str(path), expected=sha256)
    loader = _Source(code, path)
    spec = importlib.util.spec_from_loader(f"eyechart_local_{path.parent.name}", loader, origin=str(path))
    module = importlib.util.module_from_spec(cast("Any", spec))
    module.__file__ = str(path)
    try:
        sys.modules[module.__name__] = module  # dataclasses look their module up there
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a person's own code may raise anything
        raise _failure("code fails", str(path), error) from error
    if not callable(getattr(module, "build", None)):
        raise SubmissionError("code defines no build()", where=str(path))
    return module.build


def _built(build: Any, path: Path, *, meta: bool) -> nn.Module:
    try:
        with torch.device("meta" if meta else "cpu"):
            network = build()
            network = network.float() if isinstance(network, nn.Module) else network
    except (Exception, SystemExit) as error:  # a person's own code may raise anything
        raise _failure("build() fails", str(path), error) from error
    if not isinstance(network, nn.Module):
        raise SubmissionError(
            "build() returns no network", where=str(path), found=type(network).__name__, expected="nn.Module"
        )
    return network


def _failure(what: str, where: str, error: BaseException) -> BaseException:
    """What a person is told; errors of ours, and a machine that is too small, stay what they are."""
    if isinstance(error, (EyechartError, MemoryError, torch.OutOfMemoryError)):
        return error
    found = cut(f"{type(error).__name__}: {error}", 200)
    return SubmissionError(what, where=where, found=found, fix="mend the code")
