"""A person's files → a prepared dataset: which form they have, which splits are taken, what is checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness.data import NOTE, read_note
from harness.datasets import import_imagenet, import_refer, import_vqa
from harness.datasets.import_parquet import Reading, read_items
from harness.datasets.leaks import LEAKS, Leaks, evaluation_table, write_leaks
from harness.datasets.padded_boxes import BoxCount
from harness.datasets.prepare import Draft, Item, file_stamp
from harness.datasets.sources import Clips, count_rows, refuse_pickle, split_files, unfamiliar
from harness.datasets.specs import SPECS, DatasetSpec
from harness.datasets.subset import draw_subset
from harness.errors import DatasetError, UsageError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a person says beside the source."""

    images: Path | None = None
    """Folder or zip of images that rows name."""
    clips: Path | None = None
    """Folder or zip of the clips."""
    splits: tuple[str, ...] = ()
    """Some splits only."""
    copy: bool = False
    partial: bool = False
    """Take fewer or more rows than were published."""
    against: tuple[str, ...] = ()
    """The mixture: evaluation datasets whose images it may not contain."""
    source: dict[str, str] = field(default_factory=dict)
    """repo and revision, where it was fetched."""
    workers: int = max(1, min(16, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class Made:
    """A prepared dataset."""

    path: Path
    digest: str
    rows: dict[str, int]
    notes: tuple[str, ...]
    """Sentences a person should read."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Splits of one form of source: their rows, what they come from, how many if known."""

    kind: str
    files: dict[str, list[Path]]
    items: Callable[[str], Iterator[Item]]
    total: int


class _Import:
    """One import; `run` does it."""

    def __init__(self, spec: DatasetSpec, place: Path, root: Path, given: Given, progress: Progress) -> None:
        self._spec, self._place, self._root, self._given = spec, place, root, given
        self._draft = Draft(spec, root, copy=given.copy)
        self._notes: list[str] = []
        self._progress, self._done, self._total = progress, 0, 0
        self._facts: dict[str, Any] = {}
        self._told: dict[str, Any] = {}

    def _advance(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)

    def run(self) -> Made:
        """Write every split, then the note."""
        try:
            return self._run()
        finally:
            self._draft.release()

    def _run(self) -> Made:
        spec, given = self._spec, self._given
        source = self._find()
        self._total = source.total
        rows: dict[str, int] = {}
        for split, files in source.files.items():
            stamp = [source.kind, file_stamp(files), self._facts.get("against", {})]
            stamp += ["boxes of the picture"] * (spec.kind == "mixture")  # an older draft has LLaVA's
            rows[split] = self._draft.split(
                split,
                partial(source.items, split),
                stamp,
                source=str(self._place),
                told=lambda: self._told,
            )
            self._check_rows(split, rows[split], self._spec.split(split).rows)
            self._facts |= self._draft.told_of(split)
        for extra in spec.splits:
            if extra.derived_from in rows:
                rows[extra.name] = draw_subset(self._draft, extra.derived_from, extra.name, extra.rows or 0)
        if given.partial:
            self._facts["partial"] = True
        if spec.kind == "classes" and "label_order" not in self._facts:
            self._notes.append("label order not checked: no file name tells its synset")
        for why, count in sorted(self._facts.get("left_out", {}).items()):
            self._notes.append(f"left out, {why}: {count:,}")
        self._tell_of_boxes()
        if not given.against:
            (self._draft.folder / LEAKS).unlink(missing_ok=True)  # of an attempt that looked for some
        about = {"kind": source.kind, **(given.source or {"folder": _spelled(self._place)})}
        digest = self._draft.close({"dataset": spec.name, "source": about, **self._facts})
        return Made(self._draft.target, digest, rows, tuple(self._notes))

    def _tell_of_boxes(self) -> None:
        """The mixture: how many boxes were rewritten, and sources whose boxes may be of something else."""
        counts = {source: BoxCount(**count) for source, count in self._facts.get("boxes", {}).items()}
        if total := sum(count.converted for count in counts.values()):
            cut = sum(count.cut for count in counts.values())
            self._notes.append(
                f"boxes turned from fractions of the padded square into fractions of the picture: {total:,}, "
                f"cut at an edge: {cut:,}"
            )
        for source, count in counts.items():
            if count.suspicious:
                self._notes.append(
                    f"{count.in_padding:,} of {count.converted + count.in_padding:,} boxes of the source "
                    f"{source} reach into the padding: they may be fractions of the picture already, "
                    "see docs/decisions/0008-mixture-boxes.md before you train on them"
                )

    def _find(self) -> _Source:
        spec, place = self._spec, self._place
        if spec.kind == "rec" and (found := import_refer.find_refer(place)):
            return self._refer(*found)
        if official := import_vqa.find_vqa(spec.name, place, self._given.images):
            return self._official(official)
        parquet = {s.name: split_files(place, s.name) for s in spec.splits if not s.derived_from}
        if spec.kind == "classes" and not any(parquet.values()):
            return self._pictures()
        return self._parquet(parquet)

    def _wanted(self, there: Sequence[str], refused: dict[str, str]) -> list[str]:
        """Splits to write, in the spec's order.

        Raises:
            DatasetError: one that is needed or asked for is not there, or is not the dataset's own.
        """
        asked = self._given.splits
        for name in asked:
            if self._spec.split(name).derived_from:
                raise UsageError("this split is drawn from another", found=name, fix="leave it out")
            if name in refused:
                raise DatasetError(
                    f"{self._spec.title}: the hub's split {name} is not taken, {refused[name]}",
                    where=str(self._place),
                    fix="import instances.json and the references as JSON, see docs/data.md",
                )
        wanted = []
        for split in self._spec.splits:
            name = split.name
            if split.derived_from or (asked and name not in asked):
                continue
            if name in there and name not in refused:
                wanted.append(name)
            elif name in refused and name in there:
                self._notes.append(f"the split {name} of the hub was left out: {refused[name]}")
            elif name in asked or not split.optional:
                expected = f"{name}-00000-of-00001.parquet or the like"
                fix = f"name the splits that are there with --splits: {', '.join(there) or 'none is'}"
                if not there:
                    raise unfamiliar(self._spec, self._place, f"files of {self._spec.title}, e.g. {expected}")
                raise DatasetError(
                    "split is missing", where=f"{self._place}: {name}", expected=expected, fix=fix
                )
        return wanted

    def _check_rows(self, split: str, found: int, expected: int | None) -> None:
        if expected in {None, found}:
            return
        if not self._given.partial:
            raise DatasetError(
                "split has another number of rows",
                where=f"{self._place}: {split}",
                found=f"{found:,}",
                expected=f"{expected:,}",
                fix="fetch what is missing; to take it as it is, and never call it official, add --partial",
            )
        self._notes.append(f"{split} has {found:,} of {expected:,} rows, as allowed by --partial")

    def _parquet(self, there: dict[str, list[Path]]) -> _Source:
        spec, given = self._spec, self._given
        refused = {s.name: s.hub_refusal for s in spec.splits if s.hub_refusal}
        wanted = self._wanted([name for name, files in there.items() if files], refused)
        files = {name: there[name] for name in wanted}
        counts = {name: count_rows(paths, spec.raw_columns) for name, paths in files.items()}
        for name, count in counts.items():
            if not count:
                raise DatasetError("split is empty", where=f"{self._place}: {name}", found="0 rows")
            split = spec.split(name)
            if not given.partial:
                plain = spec.kind not in {"rec", "mixture"}  # of the others, rows are made or left out
                self._check_rows(name, count, split.rows if plain else split.raw_rows)
        clips = None
        if spec.media == "clip":
            clips = Clips(self._draft, [given.clips or self._place])
        images = given.images
        reading = Reading(spec, self._draft, images, clips, progress=self._advance)
        if given.against:
            reading.leaks = self._leaks()

        def items(split: str) -> Iterator[Item]:
            yield from read_items(reading, files[split])
            self._after(reading)

        return _Source("parquet", files, items, sum(counts.values()))

    def _after(self, reading: Reading) -> None:
        """What is known only once a split was read."""
        where = str(self._place)
        if self._spec.kind == "classes":
            order = [reading.synsets[label] for label in sorted(reading.synsets)]
            if order != sorted(order):
                raise DatasetError(
                    "labels are not in the order of the synsets", where=f"{where}, field label"
                )
            if order:
                self._told = {"label_order": import_imagenet.check_label_order(order, where)}
        if self._spec.kind == "mixture":
            boxes = {source: asdict(count) for source, count in sorted(reading.boxes.items())}
            self._told = {"left_out": reading.left_out, "boxes": boxes}
            if reading.leaks:
                write_leaks(self._draft.folder, reading.leaks.found)

    def _leaks(self) -> Leaks:
        names = prepared_evaluations(self._root) if "all" in self._given.against else self._given.against
        for name in names:
            if name not in SPECS or SPECS[name].media == "clip" or name == "mixture":
                raise UsageError("nothing to compare images with", found=name, fix="name an image dataset")
            read_note(self._root / name)
        table = evaluation_table(self._root, names, self._given.workers, lambda _done, _total: None)
        self._facts["against"] = {name: read_note(self._root / name)["digest"] for name in names}
        return Leaks(table)

    def _refer(self, refs: Path, instances: Path) -> _Source:
        images = self._given.images or next(
            (p for n in ("images", "train2014") if (p := self._place / n).is_dir()), None
        )
        if images is None:
            raise UsageError("the folder of COCO's images is needed", fix="give it with --images")
        refer = import_refer.read_refer(refs, instances)
        counts = import_refer.splits_of(refer, self._spec)
        files = {name: [refs, instances] for name in self._wanted(list(counts), {})}

        def items(split: str) -> Iterator[Item]:
            for item in import_refer.refer_items(refer, split, self._draft, images):
                self._advance()
                yield item

        return _Source("refer", files, items, sum(counts[name] for name in files))

    def _official(self, source: import_vqa.VqaFiles) -> _Source:
        split = import_vqa.SPLIT
        self._wanted([split], {})
        if not source.rows:
            raise DatasetError("split is empty", where=f"{self._place}: {split}", found="0 rows")
        if not self._given.partial:
            self._check_rows(split, len(source.rows), self._spec.split(split).rows)
        self._notes += source.notes
        files = {split: source.files}

        def items(_split: str) -> Iterator[Item]:
            return import_vqa.vqa_items(source, self._draft, self._advance)

        return _Source("official", files, items, len(source.rows))

    def _pictures(self) -> _Source:
        found = {s.name: import_imagenet.find_pictures(self._place, s.name) for s in self._spec.splits}
        wanted = self._wanted([name for name, pictures in found.items() if pictures], {})
        synsets = sorted({p.synset for p in found[wanted[0]]})
        self._facts["label_order"] = import_imagenet.check_label_order(synsets, str(self._place))
        labels = {name: i for i, name in enumerate(synsets)}
        sources = {name: sorted({Path(p.file) for p in found[name]}) for name in wanted}

        def items(split: str) -> Iterator[Item]:
            return import_imagenet.picture_items(found[split], labels, self._draft, self._advance)

        total = sum(len(found[name]) for name in wanted)
        return _Source("pictures", sources, items, total)


def _spelled(place: Path) -> str:
    """A folder's name for the note: one that is no UTF-8 has no other spelling in JSON."""
    return place.name.encode("utf-8", "backslashreplace").decode()


def prepared_evaluations(root: Path) -> list[str]:
    """Image datasets that are prepared below a suite's folder and are scored."""
    scored = [s.name for s in SPECS.values() if s.media in {"image", "shard"} and s.name != "mixture"]
    return [name for name in scored if (root / name / NOTE).is_file()]


def import_dataset(
    spec: DatasetSpec, place: Path, root: Path, given: Given, progress: Progress = lambda _done, _total: None
) -> Made:
    """Prepare a dataset from a folder of Parquet files, images, tars or JSON.

    Args:
        spec: which.
        place: the folder; never written to.
        root: the suite's data folder; `<root>/<name>` is replaced once the new one is whole.
        given: what is said beside it.
        progress: told rows done and rows in all.

    Raises:
        DatasetError: something is missing, damaged or not what it should be; names file, row and field.
        UnsafeInputError: a pickle, or a name that leads out of its folder.
        UsageError: what is asked for does not exist.
        ResourceError: the disk is full; what is written stays for the next time.
    """
    if not place.is_dir():
        if place.exists():
            refuse_pickle(place)
            raise UsageError("not a folder", where=str(place), fix="give the folder that holds the files")
        raise DatasetError("folder is missing", where=str(place))
    return _Import(spec, place, root, given, progress).run()
