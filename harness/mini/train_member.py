"""Train one member of the zoo in its own process: `python -m harness.mini.train_member NAME OUT POOL`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from harness.mini.members import MEMBERS
from harness.mini.pretrain import open_pool, train_arm


def main(name: str, out: Path, pool: Path) -> None:
    """Train until done; killed, it continues from its last checkpoint."""
    member = next(m for m in MEMBERS if m.name == name)
    torch.set_num_threads(1)
    folder = out / name
    train_arm(member.arch, member.objective, member.seed, open_pool(pool), folder)
    (folder / "training.safetensors").unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
