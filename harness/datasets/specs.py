"""What each dataset of the main suite is: where it comes from, its splits and its columns.

Sources: docs/data.md names one for every count. A count that stands nowhere is None and is not checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from harness.errors import UsageError
from harness.fields import nearest

UNPINNED = "UNPINNED"
SUITE = "main"
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""An image cell of the hub's Parquet files."""
ANSWER = pa.struct(
    [
        pa.field("answer", pa.string()),
        pa.field("answer_confidence", pa.string()),
        pa.field("answer_id", pa.int64()),
    ]
)
EXCHANGE = pa.struct([("kind", pa.string()), ("prompt", pa.string()), ("answer", pa.string())])
TURN = pa.struct([("from", pa.string()), ("value", pa.string())])

Media = Literal["image", "shard", "clip", "none"]
"""Where media rest: written out once each; left in the source's shards; clips; or a table without any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSpec:
    """One split that is written."""

    name: str
    rows: int | None
    """As published, after flattening; None where no source states it."""
    raw_rows: int | None = None
    """Of the hub's files, where they are not `rows`: RefCOCO's objects, all conversations of the mixture."""
    derived_from: str = ""
    """The split it is drawn from, "" for one that comes from a source."""
    hub_refusal: str = ""
    """Why the hub's split of this name is not taken; "" where it is."""
    optional: bool = False
    """Written only where the source has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """One dataset."""

    name: str
    title: str
    kind: Literal["vqa", "text", "rec", "choice", "choice3", "classes", "mixture"]
    """Decides how its rows are read and what they must hold."""
    repo: str
    """On the hub; never substituted."""
    prefix: str
    """Folder of the Parquet files in the repository."""
    license: str
    media: Media
    splits: tuple[SplitSpec, ...]
    columns: tuple[tuple[str, pa.DataType], ...]
    """Of the prepared rows, in order; `image` is a reference."""
    raw_columns: tuple[tuple[str, pa.DataType], ...]
    """That the hub's Parquet files must have."""
    ids: tuple[str, ...]
    """Columns that together name a row; empty where rows have no name."""
    cluster: str = ""
    """Column of the image's or clip's name."""
    gated: bool = False
    archives: str = ""
    """Suffix of the repository's files that hold the clips."""
    disjoint: tuple[tuple[str, str], ...] = ()
    """Splits that may not share an image."""
    notes: tuple[str, ...] = field(default=())

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the prepared splits."""
        return pa.schema(list(self.columns))

    def split(self, name: str) -> SplitSpec:
        """One split by name.

        Raises:
            UsageError: no such split; the nearest is named.
        """
        names = [split.name for split in self.splits]
        if name not in names:
            raise UsageError(
                f"{self.name} has no such split",
                found=name,
                expected=", ".join(names),
                fix=f"write {nearest(name, names)}",
            )
        return self.splits[names.index(name)]


_VQA = (
    ("question_type", pa.string()),
    ("multiple_choice_answer", pa.string()),
    ("answers", pa.list_(ANSWER)),
    ("image_id", pa.int64()),
    ("answer_type", pa.string()),
    ("question_id", pa.int64()),
    ("question", pa.string()),
)
_TEXT = (
    ("image_id", pa.string()),
    ("question_id", pa.int32()),
    ("question", pa.string()),
    ("question_tokens", pa.list_(pa.string())),
    ("image", pa.string()),
    ("image_width", pa.int32()),
    ("image_height", pa.int32()),
    ("flickr_original_url", pa.string()),
    ("flickr_300k_url", pa.string()),
    ("answers", pa.list_(pa.string())),
    ("image_classes", pa.list_(pa.string())),
    ("set_name", pa.string()),
    ("ocr_tokens", pa.list_(pa.string())),
)
_REC = (
    ("answer", pa.string()),
    ("question_id", pa.string()),
    ("image", pa.string()),
    ("question", pa.string()),
    ("segmentation", pa.list_(pa.float64())),
    ("bbox", pa.list_(pa.float64())),
    ("iscrowd", pa.int64()),
    ("file_name", pa.string()),
    ("image_width", pa.int64()),
    ("image_height", pa.int64()),
)
_RAW_REC = (
    ("question_id", pa.string()),
    ("image", IMAGE),
    ("question", pa.string()),
    ("answer", pa.list_(pa.string())),
    ("segmentation", pa.list_(pa.float32())),
    ("bbox", pa.list_(pa.float32())),
    ("iscrowd", pa.int8()),
    ("file_name", pa.string()),
)
_NEXT = (
    ("video", pa.int64()),
    ("frame_count", pa.int64()),
    ("width", pa.int64()),
    ("height", pa.int64()),
    ("question", pa.string()),
    ("answer", pa.int64()),
    ("qid", pa.int64()),
    ("type", pa.string()),
    *((f"a{i}", pa.string()) for i in range(5)),
)
_PERCEPTION = (
    ("video_name", pa.string()),
    ("question", pa.string()),
    ("question_id", pa.string()),
    ("options", pa.list_(pa.string())),
    ("answer_id", pa.string()),
    ("area", pa.string()),
    ("reasoning", pa.string()),
    ("tag", pa.list_(pa.string())),
)
_GOOGLE = "it is {}; only the official REFER files keep the two apart"


def _raw(columns: tuple[tuple[str, pa.DataType], ...]) -> tuple[tuple[str, pa.DataType], ...]:
    return tuple((name, IMAGE if name == "image" else kind) for name, kind in columns)


def _rec(name: str, title: str, repo: str, splits: tuple[SplitSpec, ...]) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        kind="rec",
        repo=repo,
        prefix="data",
        license="COCO's images under their Flickr licences; expressions for research",
        media="image",
        splits=splits,
        columns=_REC,
        raw_columns=_RAW_REC,
        ids=("question_id",),
        cluster="file_name",
    )


SPECS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="vqav2",
            title="VQAv2",
            kind="vqa",
            repo="lmms-lab-encoder/VQAv2",
            prefix="data",
            license="CC-BY-4.0; images are COCO's",
            media="image",
            splits=(
                SplitSpec(name="validation", rows=214_354),
                SplitSpec(name="validation_16k", rows=16_384, derived_from="validation"),
            ),
            columns=(*_VQA, ("image", pa.string())),
            raw_columns=(*_VQA, ("image", IMAGE)),
            ids=("question_id",),
            cluster="image_id",
        ),
        DatasetSpec(
            name="textvqa",
            title="TextVQA",
            kind="text",
            repo="lmms-lab-encoder/textvqa",
            prefix="data",
            license="CC-BY-4.0; images are Open Images'",
            media="image",
            splits=(SplitSpec(name="validation", rows=5_000),),
            columns=_TEXT,
            raw_columns=_raw(_TEXT),
            ids=("question_id",),
            cluster="image_id",
        ),
        _rec(
            "refcoco",
            "RefCOCO (UNC)",
            "lmms-lab-encoder/RefCOCO",
            (
                SplitSpec(
                    name="val",
                    rows=10_834,
                    hub_refusal=_GOOGLE.format("UNC's 3,811 objects and 5,000 of google's"),
                    optional=True,
                ),
                SplitSpec(name="testA", rows=5_657, raw_rows=1_975),
                SplitSpec(name="testB", rows=5_095, raw_rows=1_810),
                SplitSpec(name="test", rows=None, hub_refusal="it is google's, not UNC's", optional=True),
            ),
        ),
        _rec(
            "refcocoplus",
            "RefCOCO+ (UNC)",
            "lmms-lab-encoder/RefCOCOplus",
            (
                SplitSpec(name="val", rows=10_758, raw_rows=3_805),
                SplitSpec(name="testA", rows=5_726, raw_rows=1_975),
                SplitSpec(name="testB", rows=4_889, raw_rows=1_798),
            ),
        ),
        _rec(
            "refcocog",
            "RefCOCOg (UMD)",
            "lmms-lab-encoder/RefCOCOg",
            (
                SplitSpec(
                    name="val",
                    rows=4_896,
                    hub_refusal=_GOOGLE.format("UMD's 2,573 objects and 5,000 of google's"),
                    optional=True,
                ),
                SplitSpec(name="test", rows=9_602, raw_rows=5_023),
            ),
        ),
        DatasetSpec(
            name="nextqa",
            title="NExT-QA, multiple choice",
            kind="choice",
            repo="lmms-eval/NExTQA",
            prefix="MC",
            license="MIT for the questions; clips are VidOR's, from YFCC100M",
            media="clip",
            splits=(SplitSpec(name="test", rows=8_564),),
            columns=_NEXT,
            raw_columns=_NEXT,
            ids=("video", "qid"),
            cluster="video",
            archives=".zip",
        ),
        DatasetSpec(
            name="perceptiontest",
            title="Perception Test, multiple choice",
            kind="choice3",
            repo="lmms-eval/PerceptionTest_Val",
            prefix="mc_question_val",
            license="CC-BY-4.0",
            media="clip",
            splits=(SplitSpec(name="validation", rows=19_140),),
            columns=(("video", pa.string()), *_PERCEPTION),
            raw_columns=_PERCEPTION,
            ids=("video", "question_id"),
            cluster="video",
            archives=".zip",
        ),
        DatasetSpec(
            name="imagenet",
            title="ImageNet-1k",
            kind="classes",
            repo="ILSVRC/imagenet-1k",
            prefix="data",
            license="ImageNet's terms: research and education, not to be passed on",
            media="shard",
            splits=(
                SplitSpec(name="train", rows=1_281_167),
                SplitSpec(name="validation", rows=50_000),
            ),
            columns=(("image", pa.string()), ("label", pa.int64())),
            raw_columns=(("image", IMAGE), ("label", pa.int64())),
            ids=(),
            gated=True,
            disjoint=(("train", "validation"),),
        ),
        DatasetSpec(
            name="mixture",
            title="training mixture, LLaVA-NeXT",
            kind="mixture",
            repo="lmms-lab/LLaVA-NeXT-Data",
            prefix="data",
            license="mixed: each part keeps its own terms; answers by GPT-4V under OpenAI's",
            media="shard",
            splits=(SplitSpec(name="train", rows=None, raw_rows=779_289),),
            columns=(("image_id", pa.int64()), ("image", pa.string()), ("exchanges", pa.list_(EXCHANGE))),
            raw_columns=(
                ("id", pa.string()),
                ("conversations", pa.list_(TURN)),
                ("data_source", pa.string()),
                ("image", IMAGE),
            ),
            ids=("image_id",),
            cluster="image_id",
        ),
    )
}
"""Name -> spec."""


def find_spec(name: str) -> DatasetSpec:
    """The spec of a dataset.

    Raises:
        UsageError: no such dataset; the nearest is named.
    """
    if name not in SPECS:
        raise UsageError(
            "no such dataset", found=name, expected=", ".join(SPECS), fix=f"write {nearest(name, SPECS)}"
        )
    return SPECS[name]
