"""Write an example checkpoint with random weights, as its own library saves it, to try the commands on.

    python scripts/example_checkpoints.py transformers|timm|open_clip|python|clip-vit-b-16 FOLDER

Such a checkpoint knows nothing. It shows that submit, doctor, run, ingest and publish work for its kind.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import checkpoints
import torch
from safetensors.torch import save_file

from harness.digest import digest_file
from harness.records import Source, WeightFile
from harness.submission import write_manifest

OWN_CODE = '''"""A patch embedding and one block of a person's own."""

import torch


class Encoder(torch.nn.Module):
    """Patches of 16 pixels, two layers."""

    stride = 16

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 32, 16, 16)
        self.mix = torch.nn.Linear(32, 32)

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return tokens + torch.tanh(self.mix(tokens))


def build():
    return Encoder()
'''
NAMES = {"transformers": "dinov2_with_registers", "timm": "vit_tiny_patch16_224", "open_clip": "vit"}


def write_own_code(folder: Path) -> None:
    """A submission with kind = "python", manifest included: `submit` reads formats of libraries only."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "encoder.py").write_text(OWN_CODE)
    space: dict[str, object] = {}
    exec(compile(OWN_CODE, "encoder.py", "exec"), space)  # noqa: S102  (the text above)
    torch.manual_seed(0)
    network = space["build"]()  # type: ignore[operator]
    save_file(network.state_dict(), folder / "model.safetensors")
    names = ("encoder.py", "model.safetensors")
    files = tuple(WeightFile(path=name, sha256=digest_file(folder / name)) for name in names)
    sub = checkpoints.submission(
        folder,
        64,
        id="own-code",
        title="A network of my own",
        license="Apache-2.0",
        architecture="one block of my own",
        source=Source(kind="python", name="own", revision="local", files=files),
    )
    write_manifest(sub, folder / "submission.toml")


def main(kind: str, folder: Path) -> None:
    """Write one example."""
    if kind == "python":
        write_own_code(folder)
    elif kind == "clip-vit-b-16":
        size = dict(image_size=224, hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
        checkpoints.save_transformers(folder, "clip_vision_model", intermediate_size=3072, **size)
    elif kind in NAMES:
        checkpoints.SAVE[kind](folder, NAMES[kind])
    else:
        raise SystemExit(__doc__)
    print(f"{kind}: {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
