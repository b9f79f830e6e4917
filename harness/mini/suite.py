"""Write the mini suite's datasets: Parquet with the hub datasets' schemas, real mp4 clips.

Everything follows from SUITE_VERSION and the counts below. Digests cover decoded pixels and all other
columns, so they do not depend on the PNG or mp4 encoder; the clips' digests cover the frames drawn.
"""

from __future__ import annotations

import io
import random
import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from harness.data import NOTE, read_note
from harness.digest import digest_bytes, digest_file, digest_json
from harness.errors import DatasetError
from harness.files import require_free, write_atomic, write_json, write_parquet
from harness.mini import schemas
from harness.mini.clips import NUM_FRAMES, SHOWN_FRAMES, Clip, encode_mp4, render_frame, sample_clips
from harness.mini.language import (
    DESCRIBE,
    DESCRIBE_CLIP,
    VQA_KINDS,
    ask,
    ask_clip,
    ask_place,
    describe,
    describe_clip,
)
from harness.mini.world import NUM_CLASSES, SIDE, Scene, class_name, class_of, render, sample_scenes
from harness.prompts import LETTERS
from harness.seeds import derive_seed

SUITE_VERSION = 2
NUM_PROBE_TRAIN, NUM_PROBE_TEST = 8_000, 2_000
NUM_VQA = 1_250
NUM_SIGNS = NUM_REC = NUM_VIDEO = 1_000
NUM_DIGITS_TRAIN = 797
VIDEO_SEED = 105
NUM_MIXTURE, NUM_MIXTURE_CLIPS = 10_000, 1_500

EXCHANGE = pa.struct([("kind", pa.string()), ("prompt", pa.string()), ("answer", pa.string())])
MIXTURE_SCHEMA = pa.schema(
    [("image_id", pa.int64()), ("image", schemas.IMAGE), ("exchanges", pa.list_(EXCHANGE))]
)
MIXTURE_CLIP_SCHEMA = pa.schema([("video", pa.int64()), ("exchanges", pa.list_(EXCHANGE))])

Row = dict[str, Any]
Pixels = NDArray[np.uint8]


def encode_png(pixels: Pixels) -> bytes:
    """PNG bytes of an RGB or greyscale picture."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()


class _Writer:
    """Collects a dataset's splits and clips; its digest covers what was drawn, not how it is stored.

    Args:
        folder: of the dataset.
        pack: frames of its clips that were decoded elsewhere, in place of the clips.
    """

    def __init__(self, folder: Path, pack: Path | None = None) -> None:
        self.folder, self._pack = folder, pack
        self._facts: list[str] = []
        self._rows: dict[str, int] = {}
        self._files: dict[str, str] = {}

    def split(self, name: str, rows: Sequence[Row], pictures: Sequence[Pixels], schema: pa.Schema) -> None:
        """Write one Parquet file; `pictures` are what the rows' images decode to, in order."""
        for i, row in enumerate(rows):
            plain = {k: v for k, v in row.items() if k != "image"}
            pixels = digest_bytes(pictures[i].tobytes()) if pictures else ""
            self._facts.append(digest_json([name, plain, pixels]))
        path = self.folder / f"{name}.parquet"
        write_parquet(path, pa.Table.from_pylist(list(rows), schema=schema))
        self._rows[name], self._files[path.name] = len(rows), digest_file(path)

    def clip(self, name: int, clip: Clip) -> None:
        """Write one mp4 below clips/; its hash is kept, since most damage to a clip still decodes."""
        frames = np.stack([render_frame(clip, i) for i in range(NUM_FRAMES)])
        self._facts.append(digest_json([name, digest_bytes(frames.tobytes())]))
        if self._pack:
            return
        path, data = self.folder / "clips" / f"{name}.mp4", encode_mp4(clip)
        write_atomic(path, data)
        self._files[path.relative_to(self.folder).as_posix()] = digest_bytes(data)

    def close(self) -> str:
        """Write DATASET.json last: without it the dataset does not exist."""
        if self._pack:
            shutil.copy(self._pack, self.folder / self._pack.name)
            self._files[self._pack.name] = digest_file(self._pack)
        digest = digest_json({"version": SUITE_VERSION, "facts": self._facts})
        facts = {"digest": digest, "rows": self._rows, "files": self._files}
        write_json(self.folder / NOTE, {"suite_version": SUITE_VERSION, **facts})
        return digest


def _write_probe(writer: _Writer) -> None:
    schema = schemas.image_schema([class_name(i) for i in range(NUM_CLASSES)])
    for split, source, count in (("train", "train", NUM_PROBE_TRAIN), ("test", "test", NUM_PROBE_TEST)):
        scenes = sample_scenes("train" if source == "train" else "test", count, seed=101)
        pictures = [render(s) for s in scenes]
        rows = [schemas.image_row(encode_png(p), class_of(s)) for s, p in zip(scenes, pictures, strict=True)]
        writer.split(split, rows, pictures, schema)


def _write_vqa(writer: _Writer) -> None:
    """Kinds in turn, two questions an image; a scene that cannot answer its kind is asked the next time."""
    rng = random.Random(derive_seed("mini-vqa"))
    rows: list[Row] = []
    pictures: list[Pixels] = []
    for image_id, scene in enumerate(sample_scenes("test", 2 * NUM_VQA, seed=102)):
        picture = render(scene)
        for kind in (VQA_KINDS[(len(rows) + i) % len(VQA_KINDS)] for i in range(2)):
            question = ask(scene, kind, rng)
            if question is None or len(rows) == NUM_VQA:
                break
            rows.append(
                schemas.vqa_row(
                    image=encode_png(picture),
                    image_id=image_id,
                    question_id=len(rows),
                    question=question.text,
                    answer=question.answer,
                    question_type=kind,
                )
            )
            pictures.append(picture)
    writer.split("validation", rows, pictures, schemas.VQA_SCHEMA)


def _write_signs(writer: _Writer) -> None:
    rng = random.Random(derive_seed("mini-signs"))
    scenes = sample_scenes("test", NUM_SIGNS, seed=103, with_sign=True)
    pictures = [render(s) for s in scenes]
    rows = []
    for i, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        question = ask(scene, "sign", rng)
        assert question is not None
        rows.append(
            schemas.signs_row(
                image=encode_png(picture),
                width=SIDE,
                height=SIDE,
                image_id=f"sign-{i}",
                question_id=i,
                question=question.text,
                answers=question.answer,
                ocr_tokens=[question.answer],
            )
        )
    writer.split("validation", rows, pictures, schemas.SIGNS_SCHEMA)


def _write_rec(writer: _Writer) -> None:
    """Up to two objects a scene, the dominant one included."""
    rng = random.Random(derive_seed("mini-rec"))
    rows: list[Row] = []
    pictures: list[Pixels] = []
    for image_id, scene in enumerate(sample_scenes("test", NUM_REC, seed=104)):
        picture = render(scene)
        order = rng.sample(range(len(scene.things)), min(2, len(scene.things)))
        for index in order[: NUM_REC - len(rows)]:
            only = Scene((scene.things[index],), None, 0)
            question = ask(only, "rec", rng)
            assert question is not None
            assert question.box is not None
            rows.append(
                schemas.rec_row(
                    image=encode_png(picture),
                    width=SIDE,
                    height=SIDE,
                    image_id=image_id,
                    object_index=index,
                    question_id=f"{image_id}-{index}",
                    expression=question.text,
                    box=question.box,
                )
            )
            pictures.append(picture)
    writer.split("test", rows, pictures, schemas.REC_SCHEMA)


def _write_video(writer: _Writer) -> None:
    rng = random.Random(derive_seed("mini-video"))
    rows = []
    for i, clip in enumerate(sample_clips("test", NUM_VIDEO, seed=VIDEO_SEED)):
        choice = ask_clip(clip, rng)
        writer.clip(i, clip)
        rows.append(
            schemas.video_row(
                video=i,
                frame_count=NUM_FRAMES,
                width=SIDE,
                height=SIDE,
                question=choice.text,
                options=choice.options,
                answer=choice.answer,
                qid=i,
                kind="TC",
            )
        )
    writer.split("test", rows, [], schemas.VIDEO_SCHEMA)


def _write_digits(writer: _Writer) -> None:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 in 17 greys, as greyscale PNG of 64 x 64 px."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.Generator(np.random.PCG64(derive_seed("mini-digits"))).permutation(len(digits.target))
    schema = schemas.image_schema([str(i) for i in range(10)])
    for split, part in (("train", order[:NUM_DIGITS_TRAIN]), ("test", order[NUM_DIGITS_TRAIN:])):
        small = (digits.images[part] * (255 / 16)).round().astype(np.uint8)
        pictures = [np.kron(d, np.ones((8, 8), np.uint8)) for d in small]
        labels = digits.target[part].tolist()
        rows = [schemas.image_row(encode_png(p), y) for p, y in zip(pictures, labels, strict=True)]
        writer.split(split, rows, pictures, schema)


def still_exchanges(scene: Scene, rng: random.Random) -> list[Row]:
    """Everything the mixture asks about a scene: one description, up to eleven questions."""
    exchanges = [{"kind": "describe", "prompt": DESCRIBE, "answer": describe(scene)}]
    seen = {DESCRIBE}
    wanted = ("count", "sign", *("color", "shape", "pattern", "exist", "rec") * 2, "exist")
    for kind in wanted:
        question = ask(scene, kind, rng)
        if question is not None and question.prompt not in seen:
            seen.add(question.prompt)
            exchanges.append({"kind": kind, "prompt": question.prompt, "answer": question.answer})
    return exchanges


def clip_exchanges(clip: Clip, rng: random.Random) -> list[Row]:
    """What the mixture says about a clip: a description, both directions, two places."""
    rows = [{"kind": "describe", "prompt": DESCRIBE_CLIP, "answer": describe_clip(clip, SHOWN_FRAMES)}]
    for which in range(len(clip.movers)):
        choice = ask_clip(clip, rng, which)
        rows.append({"kind": "video", "prompt": choice.prompt, "answer": LETTERS[choice.answer]})
    for _ in range(2):
        place = ask_place(clip, rng, SHOWN_FRAMES)
        rows.append({"kind": "place", "prompt": place.prompt, "answer": place.answer})
    return rows


def _write_mixture(writer: _Writer) -> None:
    """The adapter's training mixture: what is said about images and about clips."""
    rng = random.Random(derive_seed("mini-mixture"))
    scenes = sample_scenes("train", NUM_MIXTURE, seed=106)
    pictures = [render(s) for s in scenes]
    rows = [
        {"image_id": i, "image": schemas.image_cell(encode_png(p)), "exchanges": still_exchanges(s, rng)}
        for i, (s, p) in enumerate(zip(scenes, pictures, strict=True))
    ]
    writer.split("train", rows, pictures, MIXTURE_SCHEMA)
    clip_rows = []
    for i, clip in enumerate(sample_clips("train", NUM_MIXTURE_CLIPS, seed=107)):
        writer.clip(i, clip)
        clip_rows.append({"video": i, "exchanges": clip_exchanges(clip, rng)})
    writer.split("clips", clip_rows, [], MIXTURE_CLIP_SCHEMA)


DATASETS: dict[str, Callable[[_Writer], None]] = {
    "mixture": _write_mixture,
    "probe": _write_probe,
    "video": _write_video,
    "vqa": _write_vqa,
    "signs": _write_signs,
    "rec": _write_rec,
    "digits": _write_digits,
}


def _write_one(name: str, root: Path, pack: Path | None = None) -> tuple[str, str]:
    folder = root / name
    draft = root / f".{name}-draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    writer = _Writer(draft, pack)
    DATASETS[name](writer)
    digest = writer.close()
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    return name, digest


def suite_digests(root: Path) -> dict[str, str]:
    """Digest of each dataset that is there, leaving out what another version of the suite wrote."""
    notes = {name: read_note(root / name) for name in DATASETS if (root / name / NOTE).is_file()}
    return {name: note["digest"] for name, note in notes.items() if note["suite_version"] == SUITE_VERSION}


def write_suite(
    root: Path,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    names: Iterable[str] = tuple(DATASETS),
    packs: dict[str, Path] | None = None,
) -> dict[str, str]:
    """Write the datasets that are missing; returns the digest of each.

    Args:
        root: folder of the suite.
        workers: processes.
        progress: called with (datasets done, datasets in all).
        names: some datasets only.
        packs: frames of a dataset's clips (`harness.frame_pack`), for a machine that cannot write clips.

    Raises:
        DatasetError: an unknown name.
        ResourceError: the disk cannot take them.
    """
    wanted = list(names)
    if unknown := [name for name in wanted if name not in DATASETS]:
        raise DatasetError("unknown dataset", found=unknown[0], expected=", ".join(DATASETS))
    there = suite_digests(root)
    missing = [name for name in wanted if name not in there]
    if missing:
        root.mkdir(parents=True, exist_ok=True)
        require_free(root, 300_000_000, "the mini suite")
        others = set(active_children())
        with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
            # Ctrl-C reaches the whole group, but the parent alone answers it: workers are started deaf to it.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                futures = [pool.submit(_write_one, name, root, (packs or {}).get(name)) for name in missing]
            finally:
                signal.signal(signal.SIGINT, before)
            try:
                for done, future in enumerate(as_completed(futures), 1):
                    name, digest = future.result()
                    there[name] = digest
                    if progress:
                        progress(done, len(missing))
            except KeyboardInterrupt:
                # A dataset is whole or not there, so nothing is lost but the minute it took.
                for worker in set(active_children()) - others:
                    worker.terminate()
                raise
    return {name: there[name] for name in wanted}
