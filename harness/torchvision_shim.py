"""Lets a CUDA build of torchvision load beside a CPU build of torch. Import before anything that needs it.

The package index offers one torchvision wheel, built for CUDA. Beside a CPU torch its compiled part
cannot load, and importing it then fails: it describes two operators to torch's tracing that nobody
has declared. transformers, timm, open_clip and lmms-eval all import torchvision when they see it.
Declaring the two schemas is enough for its transforms; the operators themselves stay absent and say
so when called. Where torchvision is absent, or healthy, nothing is done.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []
"""Torch drops a declaration when its handle dies, so the handle is kept here."""


def declare_missing_ops() -> bool:
    """Declare the two schemas if the installed torchvision needs it.

    Returns:
        True when they were declared, now or before.
    """
    if _declared:
        return True
    if "torchvision" in sys.modules:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations or importlib.util.find_spec("torch") is None:
        return False
    import torch

    if _compiled_part_loads(Path(next(iter(spec.submodule_search_locations))), torch):
        return False
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        library.define(name + _SIGNATURE)
    _declared.append(library)
    return True


def _compiled_part_loads(folder: Path, torch: Any) -> bool:
    for binary in sorted(folder.glob("_C.*")):
        try:
            torch.ops.load_library(str(binary))
        except OSError:
            # Built for another torch; torchvision itself goes on without its compiled part too.
            continue
        return True
    return False


declare_missing_ops()
