"""What every Python that vLLM starts does first: see to it that torchvision can load.

vLLM starts processes of its own (one inspects the model's class, one holds the engine, one computes), and
each imports torchvision long before vLLM looks for plugins. `harness/engines/vllm.py` puts this folder
on PYTHONPATH while they are born, so that Python itself imports this file. Nothing heavy happens here: the
shim runs at the moment something asks for torchvision.
"""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec


class ShimFirst:
    """A finder that finds nothing: it declares torchvision's operators when torchvision is looked for."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """None, always: the ordinary finders go on; at torchvision's name the shim runs before they do."""
        if name == "torchvision":
            sys.meta_path.remove(self)  # the shim itself looks for torchvision
            import harness.torchvision_shim  # noqa: F401
        return None


sys.meta_path.insert(0, ShimFirst())
# Says at every start that Triton is absent, which a CPU has no use for.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
