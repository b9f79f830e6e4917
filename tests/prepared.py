"""Prepares a miniature repository as `eyechart data import` lays out the real one; for tests only."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from harness.digest import digest_bytes, digest_file, digest_json
from harness.files import write_atomic, write_json, write_parquet
from harness.media import MEDIA, MEDIA_SCHEMA
from harness.mini.schemas import REC_SCHEMA
from harness.rehearsal.raw import write_raw

IN_SHARDS = {"imagenet", "mixture"}


class Preparer:
    def __init__(self, raw: Path, folder: Path) -> None:
        self.raw, self.folder = raw, folder
        self.media: dict[str, tuple[str, int]] = {}

    def list(self, reference: str, data: bytes) -> str:
        self.media[reference] = digest_bytes(data), len(data)
        return reference

    def image(self, data: bytes) -> str:
        reference = f"images/{digest_bytes(data)[:16]}.jpg"
        write_atomic(self.folder / reference, data)
        return self.list(reference, data)

    def shard(self, path: Path, rows: list[dict]) -> list[str | None]:
        write_atomic(self.folder / "shards" / path.name, path.read_bytes())
        return [
            self.list(f"shards/{path.name}#{i}", row["image"]["bytes"]) if row["image"] else None
            for i, row in enumerate(rows)
        ]

    def clips(self) -> None:
        for archive in sorted(self.raw.glob("*.zip")):
            with zipfile.ZipFile(archive) as packed:
                for name in packed.namelist():
                    reference = f"clips/{Path(name).name}"
                    write_atomic(self.folder / reference, packed.read(name))
                    self.list(reference, packed.read(name))

    def close(self, splits: dict[str, pa.Table]) -> None:
        for name, table in splits.items():
            write_parquet(self.folder / f"{name}.parquet", table)
        columns = [
            list(self.media),
            [digest for digest, _ in self.media.values()],
            [size for _, size in self.media.values()],
        ]
        write_parquet(self.folder / MEDIA, pa.table(columns, schema=MEDIA_SCHEMA))
        files = {path.name: digest_file(path) for path in sorted(self.folder.glob("*.parquet"))}
        rows = {name: table.num_rows for name, table in splits.items()}
        write_json(self.folder / "DATASET.json", {"digest": digest_json(files), "rows": rows, "files": files})


def _splits(raw: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(raw.rglob("*.parquet")):
        found.setdefault(path.name.split("-")[0], []).append(path)
    return found


def _flat(rows: list[dict], folder: Path, first: int) -> list[dict]:
    """One row an expression, the box in 0-1, a question_id that is unique."""
    flat = []
    for row in rows:
        with Image.open(folder / row["image"]) as image:
            width, height = image.size
        x, y, w, h = row["bbox"]
        box = [x / width, y / height, (x + w) / width, (y + h) / height]
        for number, answer in enumerate(row["answer"]):
            name = f"{row['question_id']}-{first}-{number}"
            sizes = {"image_width": width, "image_height": height}
            flat.append({**row, "answer": answer, "bbox": box, "question_id": name, **sizes})
    return flat


def prepare(raw: Path, folder: Path) -> Path:
    preparer, name, tables = Preparer(raw, folder), raw.name, {}
    for split, paths in _splits(raw).items():
        parts = []
        for number, path in enumerate(paths):
            rows = pq.read_table(path).to_pylist()
            if name in IN_SHARDS:
                references = preparer.shard(path, rows)
            else:
                references = [
                    preparer.image(row["image"]["bytes"]) if "image" in row else None for row in rows
                ]
            for row, reference in zip(rows, references, strict=True):
                if "image" in row:
                    row["image"] = reference
                if "video_name" in row:
                    row["video"] = row["video_name"]
            parts += _flat(rows, folder, number) if name.startswith("refcoco") else rows
        tables[split] = pa.Table.from_pylist(parts, schema=_schema(name, pq.read_schema(paths[0])))
    preparer.clips()
    if name == "vqav2":
        tables["validation_16k"] = tables["validation"].slice(0, tables["validation"].num_rows // 2)
    preparer.close(tables)
    return folder


def _schema(name: str, raw: pa.Schema) -> pa.Schema:
    base = REC_SCHEMA if name.startswith("refcoco") else raw
    fields = [pa.field(f.name, pa.string() if f.name == "image" else f.type) for f in base]
    return pa.schema([*([pa.field("video", pa.string())] if "video_name" in base.names else []), *fields])


def prepare_suite(home: Path, names: tuple[str, ...], rows: int = 12) -> Path:
    """Writes and prepares the named datasets below `home`; returns the suite's data folder."""
    for name in names:
        prepare(write_raw(home / "raw", name, rows=rows), home / "data" / "main" / name)
    return home / "data" / "main"
