"""Columns of the hub's repositories that harness/mini/schemas.py does not have already.

Read from the dataset cards: RefCOCO, RefCOCO+ and RefCOCOg (`lmms-lab-encoder/*`, one card is shared),
Perception Test (`lmms-eval/PerceptionTest_Val`) and the mixture (`lmms-lab/LLaVA-NeXT-Data`). Cards say
`sequence`, which is a list in Arrow.
"""

from __future__ import annotations

import pyarrow as pa

from harness.mini.schemas import IMAGE, hub_schema

RAW_REC_SCHEMA = hub_schema(
    [
        ("question_id", pa.string()),
        ("image", IMAGE),
        ("question", pa.string()),
        ("answer", pa.list_(pa.string())),
        ("segmentation", pa.list_(pa.float32())),
        ("bbox", pa.list_(pa.float32())),
        ("iscrowd", pa.int8()),
        ("file_name", pa.string()),
    ]
)
"""One row an object; `answer` holds its expressions, `bbox` is x, y, width, height in pixels."""

PERCEPTION_SCHEMA = hub_schema(
    [
        ("video_name", pa.string()),
        ("question", pa.string()),
        ("question_id", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer_id", pa.string()),
        ("area", pa.string()),
        ("reasoning", pa.string()),
        ("tag", pa.list_(pa.string())),
    ]
)
"""One row a question; `answer_id` is the index of the right option, as text."""

TURN = pa.struct([pa.field("from", pa.string()), pa.field("value", pa.string())])
MIXTURE_SCHEMA = hub_schema(
    [
        ("id", pa.string()),
        ("conversations", pa.list_(TURN)),
        ("data_source", pa.string()),
        ("image", IMAGE),
    ]
)
"""One row a conversation; `image` is null where there is none."""
