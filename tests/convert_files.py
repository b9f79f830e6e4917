"""Checkpoints for the tests of `eyechart convert`, and the child's work without the child."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from harness.convert_read import Request
from harness.convert_tensors import rewrite
from harness.safetensors_header import read_safetensors_header

PLENTY = 1 << 30


class Call:
    """Pickles as a call: what loads it without care makes the call."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "module.conv.weight": torch.randn(4, 3, 2, 2, generator=generator),
        "module.norm.num_batches_tracked": torch.tensor(7),
        "module.head.bias": torch.zeros(5),
    }


def saved(path, obj, **how):
    torch.save(obj, path, **how)
    return path


def here(path, out=None, **said):
    """The work of the child, in this process."""
    out = out or path.with_suffix(".safetensors")
    request = Request(source=path.name, target=out.name, max_bytes=said.pop("max_bytes", PLENTY), **said)
    with open(path, "rb") as source, open(out, "wb") as target:
        done = rewrite(source, target, request)
    read_safetensors_header(out, out.name)
    return load_file(out), done


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))
