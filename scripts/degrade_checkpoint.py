"""Write a damaged copy of a local checkpoint, to see whether `eyechart check` notices.

    python scripts/degrade_checkpoint.py harness/mini/weights/mini-resnet-siglip-s0.toml noise 0.1 --out DIR

What happens to checkpoints in real life: noise (a bad merge or cast), pruning, rounding to few bits, a layer
that was never loaded, mean and standard deviation swapped in the manifest.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

KINDS = ("noise", "prune", "bits", "zero-layer", "swap-input")


def damage(
    tensors: dict[str, np.ndarray], kind: str, size: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Tensors with the damage done; only matrices and kernels are touched, never norms or biases."""
    found = dict(tensors)
    weights = [name for name, t in tensors.items() if t.ndim >= 2]
    if kind == "zero-layer":
        name = weights[round(size * (len(weights) - 1))]
        print(f"zeroed {name}")
        found[name] = np.zeros_like(tensors[name])
        return found
    for name in weights:
        old = tensors[name].astype(np.float64)
        if kind == "noise":
            new = old + rng.normal(0, size * old.std(), old.shape)
        elif kind == "prune":
            new = np.where(np.abs(old) < np.quantile(np.abs(old), size), 0.0, old)
        else:
            step = np.abs(old).max() / (2 ** (size - 1) - 1)
            new = np.round(old / step) * step
        found[name] = new.astype(tensors[name].dtype)
    return found


def main() -> int:
    """Write the copy and print its manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "size",
        type=float,
        help="noise: share of each tensor's deviation; prune: share of weights; bits: number; "
        "zero-layer: place of the layer, 0 first, 1 last; swap-input: not used",
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    text = arguments.manifest.read_text(encoding="utf-8")
    name = f"{arguments.kind}-{arguments.size:g}".replace(".", "p")
    old_id = re.search(r'^id = "([^"]+)"', text, re.MULTILINE)[1]
    text = text.replace(f'id = "{old_id}"', f'id = "{old_id}-{name}"', 1)
    arguments.out.mkdir(parents=True)
    for path in re.findall(r'^path = "([^"]+)"', text, re.MULTILINE):
        source, target = arguments.manifest.parent / path, arguments.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".safetensors") and arguments.kind != "swap-input":
            before = hashlib.sha256(source.read_bytes()).hexdigest()
            rng = np.random.default_rng(0)
            changed = damage(load_file(source), arguments.kind, arguments.size, rng)
            save_file(changed, target, {"format": "pt"})
            text = text.replace(before, hashlib.sha256(target.read_bytes()).hexdigest())
        else:
            shutil.copyfile(source, target)
    if arguments.kind == "swap-input":
        mean, std = (re.search(rf"^{key} = (.*)$", text, re.MULTILINE)[1] for key in ("mean", "std"))
        text = text.replace(f"mean = {mean}", f"mean = {std}").replace(f"std = {std}", f"std = {mean}", 1)
        if mean != std and f"std = {mean}" not in text:
            sys.exit("mean and std were not swapped")
    (arguments.out / arguments.manifest.name).write_text(text, encoding="utf-8")
    print(arguments.out / arguments.manifest.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
