"""Members of the mini zoo and its floors: ids, files, manifests. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.digest import digest_file
from harness.errors import SubmissionError
from harness.records import FloorKind, InputSpec, Objective, PretrainStage, Source, Submission, WeightFile
from harness.submission import write_manifest

WEIGHTS = Path(__file__).parent / "weights"
ARCHS = {"resnet": "ResNet, 1.4 M parameters", "pvt": "PVT v2, 1.3 M parameters"}
MODEL_TYPE = {"resnet": "resnet", "pvt": "pvt_v2"}
ARMS: dict[str, Objective] = {
    "label": "label-classification",
    "words": "caption-word-classification",
    "siglip": "sigmoid-contrastive",
    "clip": "softmax-contrastive",
}
IMAGES_SEEN = 800 * 256
DEMO_BASE = "resnet-siglip-s0"
FLOORS: dict[str, tuple[FloorKind, str]] = {
    "floor-blind": ("blind", ""),
    "floor-pixel-patches": ("pixel-patches", ""),
    "floor-random-resnet": ("random-init", "resnet-siglip-s0"),
    "floor-random-pvt": ("random-init", "pvt-siglip-s0"),
    "floor-shuffled-resnet": ("shuffled-image", "resnet-siglip-s0"),
    "floor-shuffled-pvt": ("shuffled-image", "pvt-siglip-s0"),
}


@dataclass(frozen=True, slots=True)
class Member:
    """One encoder of the zoo; folder weights/<name>, submission mini-<name>."""

    arch: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Folder below weights/."""
        return f"{self.arch}-{self.arm}-s{self.seed}"

    @property
    def objective(self) -> Objective:
        """What it was trained for."""
        return ARMS[self.arm]


MEMBERS = tuple(
    Member(arch, arm, seed)
    for arch, seed in (("resnet", 0), ("pvt", 0), ("resnet", 1))
    for arm in ("siglip", "label", "words", "clip")
)


def _files(folder: str, names: tuple[str, ...]) -> tuple[WeightFile, ...]:
    for name in names:
        if not (WEIGHTS / folder / name).is_file():
            raise SubmissionError(
                "weights of a zoo member are missing",
                where=f"{folder}/{name}",
                fix="restore them from git, or train them with `eyechart mini train`",
            )
    return tuple(
        WeightFile(path=f"{folder}/{name}", sha256=digest_file(WEIGHTS / folder / name)) for name in names
    )


def _submission(
    id_: str, title: str, source: Source, member: Member | None, floor: tuple[FloorKind, str] | None = None
) -> Submission:
    stages: tuple[PretrainStage, ...] = ()
    if member is not None and floor is None:
        stages = (
            PretrainStage(
                objective=member.objective, data=f"mini world, seed {member.seed}", images_seen=IMAGES_SEEN
            ),
        )
    arch = member.arch if member else ""
    return Submission(
        id=id_,
        title=title,
        authors=("The Eyechart authors",),
        links=(),
        license="Apache-2.0",
        contamination="none: train and test scenes are disjoint by construction",
        source=source,
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=stages,
        architecture=ARCHS.get(arch, ""),
        floor=floor[0] if floor else None,
        base=f"mini-{floor[1]}" if floor and floor[1] else "",
    )


def _member_of(name: str) -> Member:
    return next(m for m in MEMBERS if m.name == name)


def submissions() -> Iterator[tuple[str, Submission]]:
    """(manifest name, submission) of every zoo member, floor, and the demo's example."""
    whole = ("config.json", "model.safetensors")
    for member in MEMBERS:
        source = Source(
            kind="local", name=MODEL_TYPE[member.arch], revision="local", files=_files(member.name, whole)
        )
        again = " (second pre-training)" if member.seed else ""
        title = f"Mini {ARCHS[member.arch].split(',')[0]}, {member.objective}{again}"
        yield f"mini-{member.name}", _submission(f"mini-{member.name}", title, source, member)
    for id_, (kind, base) in FLOORS.items():
        under = _member_of(base) if base else None
        names = whole if kind == "shuffled-image" else ("config.json",)
        source = Source(
            kind="floor", name=kind, revision="local", files=_files(under.name, names) if under else ()
        )
        title = f"Floor: {kind}" + (f" ({ARCHS[under.arch].split(',')[0]})" if under else "")
        yield id_, _submission(id_, title, source, under, (kind, base))
    member = _member_of(DEMO_BASE)
    source = Source(
        kind="local", name=MODEL_TYPE[member.arch], revision="local", files=_files(member.name, whole)
    )
    yield "demo", _submission("demo-encoder", "Demo: the example checkpoint", source, member)


def write_manifests() -> list[Path]:
    """Write weights/<id>.toml for all of them."""
    written = []
    for name, submission in submissions():
        path = WEIGHTS / f"{name}.toml"
        write_manifest(submission, path)
        written.append(path)
    return written
