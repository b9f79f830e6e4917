"""Prompts, references, clusters and ids of a task's rows, without lmms-eval and without torch.

The prompt is byte for byte the one that lmms-eval's `doc_to_text` builds for the same row; a test compares
them. It is written here a second time because engines run in a process that must not import lmms-eval.
What kind of question a task asks follows from its scorer, so a task on real data shares the entry of its
mini variant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.errors import DatasetError, UsageError
from harness.records import Task

PROBE_SCORER = "harness.probe"
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
BOX_REQUEST = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, "
    "bottom-right y). All values are floating point numbers bounded between 0 and 1. Please provide the "
    "bounding box coordinate of the region this sentence describes: "
)
LETTER_REQUEST = "\nAnswer with the option's letter from the given choices directly."
LETTERS = ("A", "B", "C", "D", "E")
THREE_LETTERS = LETTERS[:3]

Row = Mapping[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """What can be said about the rows of one dataset family."""

    prompt: Callable[[Row], str]
    references: Callable[[Row], tuple[str, ...]]
    sample_id: Callable[[Row], str]
    options: tuple[str, ...] = ()


def _vqa_prompt(row: Row) -> str:
    return f"{row['question']}{SHORT_ANSWER}"


def _signs_prompt(row: Row) -> str:
    return f"{row['question'].capitalize()}{SHORT_ANSWER}"


def _rec_prompt(row: Row) -> str:
    return BOX_REQUEST + str(row["answer"])


def _choice_prompt(row: Row) -> str:
    lines = [row["question"].strip()]
    lines += [f"{letter}. {row[f'a{i}'].strip()}" for i, letter in enumerate(LETTERS)]
    return "\n".join(lines)


def _three_way_prompt(row: Row) -> str:
    # Unlike NExT-QA's, nothing is stripped here; lmms-eval calls every option after the second one "C".
    lines = [f"\n{THREE_LETTERS[min(i, 2)]}. {option}" for i, option in enumerate(row["options"])]
    return "".join([row["question"], *lines, LETTER_REQUEST])


def format_box(box: Sequence[float], decimals: int = 2) -> str:
    """A box as an answer spells it: `[0.12, 0.34, 0.50, 0.75]`, x1 y1 x2 y2 in 0-1."""
    return "[" + ", ".join(f"{value:.{decimals}f}" for value in box) + "]"


def _question_id(row: Row) -> str:
    return str(row["question_id"])


def _clip_question_id(row: Row) -> str:
    # NExT-QA numbers questions within a video, so `qid` alone names several rows.
    return f"{row['video']}-{row['qid']}"


def _staged_question_id(row: Row) -> str:
    # Perception Test numbers questions within a video, too.
    return f"{row['video']}-{row['question_id']}"


_QUESTIONS: dict[str, _Question] = {
    "lmms_eval.tasks.vqav2.utils.vqav2_process_results_val": _Question(
        prompt=_vqa_prompt,
        references=lambda row: tuple(answer["answer"] for answer in row["answers"]),
        sample_id=_question_id,
    ),
    "lmms_eval.tasks.textvqa.utils.textvqa_process_results": _Question(
        prompt=_signs_prompt,
        references=lambda row: tuple(row["answers"]),
        sample_id=_question_id,
    ),
    "lmms_eval.tasks.refcoco.utils_rec.refcoco_bbox_rec_process_result": _Question(
        prompt=_rec_prompt,
        references=lambda row: (format_box(row["bbox"]),),
        sample_id=_question_id,
    ),
    "lmms_eval.tasks.nextqa.utils.nextqa_mc_process_results": _Question(
        prompt=_choice_prompt,
        references=lambda row: (LETTERS[row["answer"]],),
        sample_id=_clip_question_id,
        options=LETTERS,
    ),
    "lmms_eval.tasks.perceptiontest.val.utils.perceptiontest_val_process_results_mc": _Question(
        prompt=_three_way_prompt,
        references=lambda row: (THREE_LETTERS[int(row["answer_id"])],),
        sample_id=_staged_question_id,
        options=THREE_LETTERS,
    ),
}


def _question(task: Task) -> _Question:
    try:
        return _QUESTIONS[task.scorer]
    except KeyError:
        known = ", ".join(sorted(_QUESTIONS))
        raise UsageError(
            "no prompt is known for this scorer", where=task.name, found=task.scorer, expected=known
        ) from None


def build_prompt(task: Task, row: Row) -> str:
    """The prompt of one row, as lmms-eval builds it, without image placeholders or chat template.

    Raises:
        UsageError: the task is a probe, or its scorer is unknown here.
        DatasetError: the row lacks a column.
    """
    return _from_row(task, row, _question(task).prompt)


def references(task: Task, row: Row) -> tuple[str, ...]:
    """Right answers as an answer would spell them: ten texts, one box, one letter, or a probe's label."""
    if task.scorer == PROBE_SCORER:
        return _from_row(task, row, lambda r: (str(r["label"]),))
    return _from_row(task, row, _question(task).references)


def options(task: Task, row: Row) -> tuple[str, ...]:
    """Letters a multiple choice is decoded over; empty for every other kind."""
    del row  # letters differ by task, not yet by row
    return () if task.scorer == PROBE_SCORER else _question(task).options


def sample_id(task: Task, row: Row, index: int = -1) -> str:
    """Name of a sample, unique in its split.

    Args:
        index: position of the row in its split; probes have no id column and are named by it.

    Raises:
        ValueError: a probe's row without `index`.
    """
    if task.scorer == PROBE_SCORER:
        if index < 0:
            raise ValueError(f"{task.name}: a probe's sample is named by its row index, none was given")
        return f"{task.split}-{index}"
    return _from_row(task, row, _question(task).sample_id)


def cluster(task: Task, row: Row, index: int = -1) -> str:
    """Name of the image or clip that a sample hangs on; a probe's row is its own cluster."""
    if task.scorer == PROBE_SCORER:
        return sample_id(task, row, index)
    name = _from_row(task, row, lambda r: str(r[task.cluster_key]))
    # RefCOCO names one file an object, `COCO_train2014_000000581857_16.jpg`; the image is what precedes.
    return re.sub(r"_\d+\.\w+$", "", name) if task.cluster_key == "file_name" else name


def _from_row(task: Task, row: Row, read: Callable[[Row], _T]) -> _T:
    try:
        return read(row)
    except KeyError as error:
        raise DatasetError(
            "column is missing", where=task.name, found=", ".join(sorted(row)), expected=str(error.args[0])
        ) from error
    except (IndexError, ValueError) as error:
        raise DatasetError("row does not fit its task", where=task.name, found=str(error)) from error
