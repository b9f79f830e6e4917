"""Which engine answers, by name; each engine's libraries are imported when it is opened."""

from __future__ import annotations

from importlib.util import find_spec

from harness.adapter.llm import LanguageModel
from harness.device import CPU
from harness.engines.base import Engine
from harness.errors import UsageError

AUTO = "auto"
REFERENCE = "hf"
"""The engine of the results of record."""
ENGINES = (REFERENCE, "vllm")


def resolve_engine(name: str, device: str) -> str:
    """The engine that `name` means here: `auto` is vLLM where it is installed and a card computes.

    Args:
        name: one of `ENGINES`, or `auto`.
        device: where the language model computes.

    Raises:
        UsageError: unknown name.
    """
    if name == AUTO:
        return "vllm" if device != CPU and _is_installed("vllm") else REFERENCE
    if name not in ENGINES:
        raise UsageError("unknown engine", found=name, expected=", ".join((AUTO, *ENGINES)))
    return name


def require_engine(name: str) -> None:
    """See to it that a run does not train for an hour and then find no engine.

    Raises:
        UsageError: the engine is not installed.
    """
    if name == "vllm" and not _is_installed("vllm"):
        raise UsageError("vLLM is not installed", where="--engine vllm", fix="run `make setup-vllm`")


def open_engine(name: str, llm: LanguageModel, batch: int = 128) -> Engine:
    """An engine that answers with `llm`; close it in the end.

    Args:
        name: one of `ENGINES`.
        llm: the language model, already trained along where the protocol says so.
        batch: questions decoded together; moves speed only.

    Raises:
        UsageError: the engine is not installed.
        ResourceError, IncompleteError: the engine did not start.
    """
    require_engine(name)
    if name == "vllm":
        from harness.engines.vllm import VLLMEngine

        return VLLMEngine(llm, batch)
    from harness.engines.hf import HFEngine

    return HFEngine(llm, batch)


def _is_installed(package: str) -> bool:
    return find_spec(package) is not None
