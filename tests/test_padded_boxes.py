"""LLaVA's boxes of the padded square become boxes of the picture, and nothing else is touched."""

from __future__ import annotations

import io

import hub_datasets as given
import pytest
from hub_datasets import picture, write_raw
from PIL import Image

from harness.data import read_rows
from harness.datasets.make import Given, import_dataset
from harness.datasets.padded_boxes import BoxCount, convert, has_box, pad, unpad
from harness.datasets.specs import SPECS
from harness.files import read_json

LANDSCAPE, PORTRAIT = (640, 480), (427, 640)


def exchange(prompt, answer):
    return {"kind": "open", "prompt": prompt, "answer": answer}


@pytest.mark.parametrize(
    ("size", "square", "box"),
    [
        # 640 x 480 lies 80 px below the square's top: y of 80 to 560 of 640.
        (LANDSCAPE, (0.25, 0.125, 0.75, 0.875), (0.25, 0.0, 0.75, 1.0)),
        (LANDSCAPE, (0.1, 0.5, 0.2, 0.6875), (0.1, 0.5, 0.2, 0.75)),
        # 427 x 640 lies 106 px right of the square's edge.
        (PORTRAIT, (106 / 640, 0.0, 533 / 640, 1.0), (0.0, 0.0, 1.0, 1.0)),
        (PORTRAIT, (319.5 / 640, 0.25, 533 / 640, 0.5), (0.5, 0.25, 1.0, 0.5)),
        ((300, 300), (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_a_box_of_the_square_and_of_the_picture(size, square, box):
    found, cut = unpad(square, *size)
    assert found == pytest.approx(box, abs=1e-9)
    assert not cut or min(abs(v - round(v)) for v in found) == 0
    assert pad(box, *size) == pytest.approx(square, abs=1e-9)


@pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, (500, 375), (333, 500), (1024, 101), (3, 400)])
def test_two_decimals_are_within_the_rounding(size):
    for box in [(0, 0, 1, 1), (0, 0, 0.3, 0.4), (0.37, 0.81, 1, 1), (0.2, 0, 0.21, 1)]:
        written = [round(value, 2) for value in pad(box, *size)]
        found, _ = unpad(written, *size)
        for one, other, extent in zip(found, box, size * 2, strict=True):
            assert abs(one - other) * extent <= 0.0051 * max(size)
        assert all(0 <= value <= 1 for value in found)


def test_a_box_in_the_padding_is_left_out_and_one_at_its_edge_is_cut():
    count = BoxCount()
    assert convert(exchange("Where?", "[0.1, 0.02, 0.3, 0.5]"), *LANDSCAPE, count) is None
    assert convert(exchange("Where?", "[0.1, 0.12, 0.3, 0.5]"), *LANDSCAPE, count)["answer"] == (
        "[0.10, 0.00, 0.30, 0.50]"
    )
    assert (count.converted, count.cut, count.in_padding) == (1, 1, 1)


@pytest.mark.parametrize(
    ("prompt", "answer", "as_prompt", "as_answer"),
    [
        (
            "Please provide the bounding box coordinate of the region this sentence describes: a dog.",
            "[0.25, 0.5, 0.75, 0.69]",
            None,
            "[0.25, 0.50, 0.75, 0.75]",
        ),
        ("Where is it?", "[0, .5, 1, 0.69].", None, "[0.00, 0.50, 1.00, 0.75]."),
        (
            "Please provide a short description for this region: [0.25, 0.5, 0.75, 0.69].",
            "A dog.",
            "Please provide a short description for this region: [0.25, 0.50, 0.75, 0.75].",
            None,
        ),
        # No box exchanges: nothing else moves.
        ("What is the sum of [0.25, 0.5, 0.75, 0.69]?", "2.19", None, None),
        ("Sort.", "Sorted: [0.25, 0.5, 0.75, 0.69]", None, None),
        ("Compare the regions [0.1, 0.5, 0.2, 0.6] and [0.3, 0.5, 0.4, 0.6].", "Equal.", None, None),
        ("Describe the region [10, 20, 30, 40].", "A dog.", None, None),
        ("Describe the region [0.1, 0.2, 1.5, 0.6].", "A dog.", None, None),
        ("Where?", "[1.2, 0.5, 0.75, 0.69]", None, None),
    ],
)
def test_only_the_box_of_a_box_exchange_is_rewritten(prompt, answer, as_prompt, as_answer):
    before, count = exchange(prompt, answer), BoxCount()
    after = convert(before, *LANDSCAPE, count)
    assert after == {"kind": "open", "prompt": as_prompt or prompt, "answer": as_answer or answer}
    assert has_box(before) == (count.converted == 1) == bool(as_prompt or as_answer)


def rows_with_boxes(boxes, data, source="refcoco"):
    rows = given.mixture_rows()[:1]
    row = {**rows[0], "image": given.cell(data), "data_source": source}
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A dog."}]
    for box in boxes:
        turns += [{"from": "human", "value": "Where is it?"}, {"from": "gpt", "value": box}]
    return [{**row, "conversations": turns}]


def bring(tmp_path, rows):
    write_raw(tmp_path / "raw" / "train.parquet", "mixture", rows)
    return import_dataset(SPECS["mixture"], tmp_path / "raw", tmp_path / "main", Given(partial=True))


def test_the_import_counts_and_warns_of_boxes_that_are_of_something_else(tmp_path):
    inside, outside = "[0.25, 0.5, 0.75, 0.69]", "[0.25, 0.0, 0.75, 0.5]"
    rows = rows_with_boxes([inside, outside], picture(1, LANDSCAPE))
    rows += rows_with_boxes([inside], picture(2, PORTRAIT), "vg")
    made = bring(tmp_path, rows)
    first, second = read_rows(made.path / "train.parquet")
    assert [e["answer"] for e in first["exchanges"]] == ["A dog.", "[0.25, 0.50, 0.75, 0.75]"]
    assert [e["answer"] for e in second["exchanges"]] == ["A dog.", "[0.13, 0.50, 0.88, 0.69]"]
    note = read_json(made.path / "DATASET.json")
    assert note["left_out"] == {"box in the padding": 1}
    assert note["boxes"] == {
        "refcoco": {"converted": 1, "cut": 0, "in_padding": 1},
        "vg": {"converted": 1, "cut": 0, "in_padding": 0},
    }
    assert "left out, box in the padding: 1" in made.notes
    (warning,) = [note for note in made.notes if "before you train" in note]
    assert "1 of 2 boxes of the source refcoco" in warning


def test_boxes_on_a_picture_stored_turned_are_left_out(tmp_path):
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(picture(1))).save(out, "JPEG", exif=exif)
    made = bring(tmp_path, rows_with_boxes(["[0.25, 0.5, 0.75, 0.69]"], out.getvalue()))
    (row,) = read_rows(made.path / "train.parquet")
    assert [e["answer"] for e in row["exchanges"]] == ["A dog."]
    assert read_json(made.path / "DATASET.json")["left_out"] == {"box on a turned picture": 1}
