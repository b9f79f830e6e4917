"""What every Python that vLLM starts does first: torchvision can load, and it ends with its parent.

vLLM starts processes of its own (one inspects the model's class, one holds the engine, one computes), and
each imports torchvision long before vLLM looks for plugins. `harness/engines/vllm.py` puts this folder
on PYTHONPATH while they are born, so that Python itself imports this file. Nothing heavy happens here: the
shim runs at the moment something asks for torchvision.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from importlib.machinery import ModuleSpec


class ShimFirst:
    """A finder that finds nothing: it declares torchvision's operators when torchvision is looked for."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """None, always: the ordinary finders go on; at torchvision's name the shim runs before they do."""
        if name == "torchvision":
            sys.meta_path.remove(self)  # the shim itself looks for torchvision
            import harness.torchvision_shim  # noqa: F401
        return None


def end_with_parent() -> None:
    """End this process once the one that started it is gone.

    A worker that is stopped while vLLM starts cannot stop what vLLM has started: the engine would go on
    loading, and then wait for ever with its memory taken.
    """
    parent = os.getppid()
    if parent == 1:  # gone already: none of these processes is started by the first of the machine
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def leave_group() -> None:
    """Out of the reach of a terminal's Ctrl-C, which is the command's to answer.

    vLLM's processes would answer it too, each with a traceback after the command's last line.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)


sys.meta_path.insert(0, ShimFirst())
# multiprocessing's tracker ends by itself, after it has cleared up what others left.
if not any("resource_tracker" in word for word in sys.orig_argv):
    end_with_parent()
    leave_group()
# Says at every start that Triton is absent, which a CPU has no use for.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
