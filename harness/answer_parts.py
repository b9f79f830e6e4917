"""Answers on their way: kept in parts while a task is being answered, so that a death costs one part."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.digest import digest_json
from harness.errors import IntegrityError
from harness.files import read_parquet, write_parquet
from harness.records import Answer, Sample
from harness.sample_tables import ANSWER_SCHEMA, table_of_answers


@dataclass(frozen=True, slots=True)
class AnswerParts:
    """Parts of one task's answers in a folder that is named by the hash of what makes them."""

    folder: Path

    def read(self, samples: Sequence[Sample]) -> list[Answer] | None:
        """The answers to exactly these samples, in their order; None where they are missing or damaged."""
        try:
            table = read_parquet(self._file(samples))
        except IntegrityError:  # an answer costs less than a question to the person
            return None
        if not table.schema.equals(ANSWER_SCHEMA):
            return None
        found = {row["sample_id"]: Answer(**row) for row in table.to_pylist()}
        return (
            [found[s.sample_id] for s in samples] if found.keys() == {s.sample_id for s in samples} else None
        )

    def write(self, samples: Sequence[Sample], answers: Sequence[Answer]) -> None:
        """Keep the answers to these samples."""
        write_parquet(self._file(samples), table_of_answers(answers))

    def clear(self) -> None:
        """Remove the parts, once the whole is kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, samples: Sequence[Sample]) -> Path:
        return self.folder / f"{digest_json([s.sample_id for s in samples])}.parquet"
