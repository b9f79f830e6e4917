"""ImageNet from what people have: folders of classes, ILSVRC's own layout, or its tars, which stay packed.

    train/n01440764/*.JPEG, val/n01440764/*.JPEG      folders of classes
    ILSVRC/Data/CLS-LOC/val/*.JPEG + LOC_val_solution.csv   validation as Kaggle gives it out
    ILSVRC2012_img_train.tar                          a tar of 1,000 tars
    train/n01440764.tar, ILSVRC2012_img_val.tar       tars of images
    ILSVRC2012_devkit_t12.tar.gz                      what the validation images are, see `import_devkit`

The label is the index of the class's synset among all, sorted: the order that everyone uses. Its digest is
pinned below, and checked whenever all 1,000 are there.
"""

from __future__ import annotations

import csv
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.datasets.import_devkit import DEVKIT, devkit_solution
from harness.datasets.prepare import Draft, Item, Medium, safe_name
from harness.datasets.rows import NUM_CLASSES
from harness.datasets.sources import MAX_IMAGE_BYTES
from harness.datasets.walk import files_below, is_file, named
from harness.digest import digest_bytes
from harness.errors import DatasetError, UnsafeInputError

LABEL_ORDER = "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"
"""sha256 of the 1,000 synset names, sorted, each ended by a line break. Computed from timm's list."""
_SYNSET = re.compile(r"n\d{8}")
_IN_NAME = re.compile(r".*_(n\d{8})")
_IMAGES = {".jpeg", ".jpg", ".png"}
_SOLUTION, _MAX_SOLUTION_BYTES = "LOC_val_solution.csv", 64 * 2**20
_ALIASES = {"train": ("train",), "validation": ("val", "validation")}


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a source; there are over a million, so no more than it takes."""

    synset: str
    file: str
    link: str
    """The file's name below the dataset."""
    member: str = ""
    """Name inside a tar, "" for a file."""
    begin: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.file}: {self.member}" if self.member else self.file

    @property
    def reference(self) -> str:
        """As the rows name it."""
        return f"{self.link}#{self.begin}+{self.size}" if self.member else self.link

    @property
    def order(self) -> tuple[str, str]:
        """By class, then by the image's own name, wherever it lies."""
        return self.synset, (self.member or self.file).rsplit("/", 1)[-1]

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DatasetError: missing, or the tar is cut short.
            UnsafeInputError: far larger than an image.
        """
        if self.size > MAX_IMAGE_BYTES:
            raise self._too_large(self.size)
        try:
            with open(self.file, "rb") as file:
                file.seek(self.begin)
                data = file.read(self.size if self.member else MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise DatasetError("image cannot be read", where=self.name, found=str(error.strerror)) from error
        if self.member and len(data) != self.size:
            found = f"{self.size - len(data):,} bytes less"
            raise DatasetError("tar is cut short", where=self.name, found=found, fix="fetch it again")
        if len(data) > MAX_IMAGE_BYTES:
            raise self._too_large(Path(self.file).stat().st_size)
        return data

    def _too_large(self, size: int) -> UnsafeInputError:
        expected = f"{MAX_IMAGE_BYTES:,} at most"
        return UnsafeInputError(
            "image file is too large", where=self.name, found=f"{size:,} bytes", expected=expected
        )


def check_label_order(synsets: list[str], where: str) -> str:
    """Digest of the label order; another set of 1,000 classes is refused.

    Raises:
        DatasetError: 1,000 classes, but not ILSVRC2012's.
    """
    digest = digest_bytes("".join(f"{name}\n" for name in synsets).encode())
    if len(synsets) == NUM_CLASSES and digest != LABEL_ORDER:
        raise DatasetError(
            "labels are in another order than ImageNet-1k's",
            where=f"{where}, field label",
            found=f"sha256 {digest[:16]} over the synsets",
            expected=LABEL_ORDER[:16],
        )
    return digest


def find_pictures(place: Path, split: str) -> list[Picture]:
    """Every image of a split below a folder, sorted by class and name; [] where there is none.

    Raises:
        DatasetError: images whose class no folder, file name or solution tells; a damaged tar.
    """
    names = _ALIASES[split]
    for folder in sorted(p for n in names for p in (place / n, *place.glob(f"**/CLS-LOC/{n}"))):
        if folder.is_dir() and (found := _in_folder(folder, place, split)):
            return found
    for name in names:
        if is_file(tar := place / f"ILSVRC2012_img_{name}.tar"):
            return sorted(_in_tar(tar, split, place), key=lambda p: p.order)
    return []


def _in_folder(folder: Path, place: Path, split: str) -> list[Picture]:
    found: list[Picture] = []
    solution = _solution(place) if split == "validation" else {}
    for path in files_below(folder):
        relative = path.relative_to(folder)
        if path.suffix == ".tar" and _SYNSET.fullmatch(path.stem):
            found += _in_tar(path, split, place)
        elif path.suffix.lower() in _IMAGES:
            synset = relative.parts[0] if len(relative.parts) > 1 else _told(path.stem, solution)
            if not _SYNSET.fullmatch(synset):
                raise _classless(path)
            found.append(
                Picture(synset, str(path), f"images/{split}/{synset}/{safe_name(path.name, str(path))}")
            )
    return sorted(found, key=lambda p: p.order)


def _told(stem: str, solution: dict[str, str]) -> str:
    match = _IN_NAME.fullmatch(stem)
    return match[1] if match else solution.get(stem, "")


def _classless(path: Path | str) -> DatasetError:
    return DatasetError(
        "image without a class",
        where=str(path),
        expected=f"a folder named after its synset, a name that ends in it, or {_SOLUTION}",
        fix=f"put {_SOLUTION} or {DEVKIT} beside it",
    )


def _solution(place: Path) -> dict[str, str]:
    """Image name -> synset: Kaggle's `ImageId,PredictionString`, synset first, or the devkit."""
    if (path := named(place, _SOLUTION)) is None:
        return devkit_solution(place)
    if (size := path.stat().st_size) > _MAX_SOLUTION_BYTES:
        raise UnsafeInputError("not ILSVRC's solution", where=str(path), found=f"{size:,} bytes")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, OSError, csv.Error) as error:
        raise DatasetError(
            "not ILSVRC's solution", where=str(path), expected="ImageId,PredictionString"
        ) from error


def _in_tar(path: Path, split: str, place: Path) -> Iterator[Picture]:
    """Images of a tar, also of the tars inside it, as ranges of its bytes."""
    shard, solution = f"{split}-{path.name}", _solution(place) if split == "validation" else {}
    with path.open("rb") as file:
        for member, offset in _members(file, path, 0):
            name = member.name.rsplit("/", 1)[-1]
            if name.endswith(".tar"):
                inner = _members(file, path, offset)
                parts = [(name.removesuffix(".tar"), m, o) for m, o in inner]
            else:
                above = path.stem if _SYNSET.fullmatch(path.stem) else member.name.split("/")[-2:][0]
                stem = name.rsplit(".", 1)[0]
                parts = [(above if _SYNSET.fullmatch(above) else _told(stem, solution), member, offset)]
            for synset, m, begin in parts:
                if Path(m.name).suffix.lower() not in _IMAGES:
                    continue
                if not _SYNSET.fullmatch(synset):
                    raise _classless(f"{path}: {m.name}")
                yield Picture(synset, str(path), f"shards/{shard}", m.name, begin, m.size)


def _members(file: BinaryIO, path: Path, begin: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Plain files of a tar that begins somewhere in a file, with where their bytes begin."""
    file.seek(begin)
    try:
        # "r:" takes no compressed tar: a range of its bytes would be no image.
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in list(tar):
                if member.isreg() and not member.issparse():
                    yield member, member.offset_data
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DatasetError(
            "not a whole, uncompressed tar",
            where=str(path),
            found=str(error),
            fix="fetch the file again, or unpack .gz first",
        ) from error


def picture_items(
    pictures: list[Picture], labels: dict[str, int], draft: Draft, progress: Callable[[], None]
) -> Iterator[Item]:
    """Items of a split; files and tars are linked, never copied unless the draft copies.

    Raises:
        DatasetError: a class that the training images do not have.
    """
    for picture in pictures:
        progress()
        if picture.synset not in labels:
            raise DatasetError(
                "class without training images",
                where=f"{picture.name}, field label",
                found=picture.synset,
                expected=f"one of {len(labels)} synsets",
            )
        draft.link(Path(picture.file), picture.link)
        data = picture.read()
        medium = Medium(picture.reference, digest_bytes(data), len(data))
        yield Item({"label": labels[picture.synset]}, medium, picture.name)
