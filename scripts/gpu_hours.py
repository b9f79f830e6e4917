"""Print the tables of docs/gpu.md: what a run of the main suite's protocols is predicted to take.

    python scripts/gpu_hours.py            the tables
    python scripts/gpu_hours.py --write    into docs/gpu.md, between its markers

Nothing is measured and no data is needed: operations are counted on the networks without weights, rows are
those that datasets publish (harness/datasets/specs.py), and speeds are harness/forecast.py's.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import harness.torchvision_shim  # noqa: F401

import timm
import torch
from doc_tables import print_or_write
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.datasets.specs import find_spec
from harness.forecast import GPUS, QWEN_SHAPES, Forecast, forecast
from harness.protocol import read_protocol
from harness.records import Protocol, Task
from harness.task import read_task
from harness.workload import EncoderFacts, count_work, disk_bytes

DOC = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
ENCODERS = {
    "ResNet-50": "resnet50",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-L/14": "vit_large_patch14_clip_224",
    "SO400M/14": "vit_so400m_patch14_siglip_224",
    "ViT-g/14": "vit_giant_patch14_dinov2",
}
"""A size -> the network of timm that stands for it; only its shape counts."""
PROTOCOLS = ("cheap", "main", "main-frozen")
DEVICES = ("H100", "A100", "RTX 4090")
IMAGES = {"eyechart_vqav2_val": 40_504}
"""Images of a split where a source says so; elsewhere every row counts as one, an upper bound."""


@lru_cache
def encoder_facts(name: str, side: int) -> EncoderFacts:
    """Shape and cost of a network at an input side, without its weights."""
    size = {} if name.startswith("resnet") else {"img_size": side}
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0, **size).eval()
        image = torch.zeros(1, 3, side, side)
    # As harness.encoders.cost counts: two operations a multiply-accumulate, attention unfused.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokens = network.forward_features(image)
    if tokens.ndim == 4:
        width, height = int(tokens.shape[1]), int(tokens.shape[2])
    else:
        width, height = int(tokens.shape[2]), side // network.patch_embed.patch_size[0]
    params = sum(p.numel() for p in network.parameters())
    gmacs = counter.get_total_flops() / 2e9
    return EncoderFacts(grid=(height, height), width=width, gmacs=gmacs, num_params=params)


def published_images(task: Task, protocol: Protocol) -> int:
    """Images or frames of a task, at most: those of its rows as published."""
    splits = {s.name: s.rows or 0 for s in find_spec(task.dataset).splits}
    if task.kind == "probe":
        return splits["train"] + splits[task.split]
    images = IMAGES.get(task.name, task.num_expected)
    return images * (protocol.video.frames if task.kind == "choice" else 1)


def predicted(protocol: Protocol, facts: EncoderFacts) -> Forecast:
    """The forecast of a run with a mixture that is streamed."""
    tasks = {name: read_task(name) for name in protocol.tasks}
    kept = {name: published_images(task, protocol) for name, task in tasks.items()}
    shape = QWEN_SHAPES[protocol.llm.name]
    load = count_work(protocol, tasks, kept, facts, streams=True)
    return forecast(protocol, shape, load, disk_bytes(protocol, tasks, kept, facts, shape))


def table(protocol: Protocol) -> str:
    """One protocol's table."""
    seeds = len(protocol.seeds)
    heads = [
        "encoder",
        "GMACs an image",
        *(f"{d}, hours" for d in DEVICES),
        "of it encoding",
        "memory",
        "disk",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for title, name in ENCODERS.items():
        facts = encoder_facts(name, protocol.image.resolution)
        wanted = predicted(protocol, facts)
        hours = []
        for device in (GPUS[d] for d in DEVICES):
            fits = wanted.needed_bytes(device) <= device.memory_bytes
            hours.append(f"{wanted.seconds(device, seeds) / 3600:.1f}" if fits else "too small")
        first = GPUS[DEVICES[0]]
        share = wanted.encode_ops / first.encode_speed / wanted.seconds(first, seeds)
        cells = [title, f"{facts.gmacs:.1f}", *hours, f"{share:.0%}"]
        cells += [f"{wanted.memory_bytes / 1e9:.0f} GB", f"{wanted.disk_bytes / 1e9:.0f} GB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tables() -> str:
    """All of them, each under the name of its protocol."""
    parts = []
    for name in PROTOCOLS:
        protocol = read_protocol(name)
        side, budget = protocol.image.resolution, protocol.tokens.budget
        parts.append(f"**{name}** — {protocol.llm.name}, {side} pixels, {budget} tokens\n\n{table(protocol)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    print_or_write(tables, DOC, BEGIN, END)
