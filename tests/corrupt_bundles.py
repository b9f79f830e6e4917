"""A corpus of damaged and edited results, made from bundles of record.

Each case begins with a fresh copy of the same seven bundles (three encoders, two or three tasks, one seed)
and does one thing to them. `RESEALED` in a name means that the attacker made new hashes over what he edited:
then only a contradiction can give him away, in the bundle, with the definitions, or with the other runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import bundle as bundles
from harness.bundle import read_bundle, run_key
from harness.digest import digest_bytes, digest_file
from harness.errors import EyechartError
from harness.files import write_parquet
from harness.record_json import record_from_json
from harness.records import STATUSES, Run
from harness.sample_tables import count_statuses
from harness.submission import identity_digest

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "mini"
ENCODERS = ("mini-pvt-clip-s0", "mini-resnet-clip-s0", "mini-resnet-label-s0")
TASKS = ("eyechart_mini_rec", "eyechart_mini_digits", "eyechart_mini_signs")
VICTIM = "mini-resnet-clip-s0"
FILES = ("answers.parquet", "scores", "run.json", "receipt.json", "MANIFEST.sha256", "COMMIT")


@dataclass(frozen=True)
class Results:
    """A copy of the seven bundles, and the one that a case is about."""

    root: Path
    rec: Path
    """A generated task of the victim's."""
    digits: Path
    """A probe of the victim's."""
    other: Path
    """The same generated task of another encoder."""

    def file(self, name: str) -> Path:
        """A file of `rec`; `scores` stands for the one that has a digest in its name."""
        return next(self.rec.glob("scores-*")) if name == "scores" else self.rec / name


@dataclass(frozen=True)
class Case:
    name: str
    damage: Callable[[Results], None]
    says: str
    """Regular expression that some line of the findings must match."""


def copy_results(target: Path) -> Results:
    """Seed 0 of the encoders and tasks above, below `target`."""
    found: dict[tuple[str, str], Path] = {}
    for encoder in ENCODERS:
        tasks = TASKS if encoder == VICTIM else TASKS[:2]
        for path in sorted((RECORD / encoder).iterdir()):
            run = json.loads((path / "run.json").read_bytes())
            if run["seed"] == 0 and run["task"] in tasks:
                found[encoder, run["task"]] = target / "mini" / encoder / path.name
                shutil.copytree(path, target / "mini" / encoder / path.name)
    rec, digits, _ = TASKS
    return Results(target, found[VICTIM, rec], found[VICTIM, digits], found[ENCODERS[2], rec])


# --- what an attacker does -------------------------------------------------------------------------------


def reseal(path: Path) -> None:
    """New hashes over whatever lies there."""
    for name in (bundles.MANIFEST, bundles.COMMIT):
        (path / name).unlink(missing_ok=True)
    bundles._seal(path)


def recommit(path: Path, manifest: bytes) -> None:
    """Another manifest, and a COMMIT that fits it."""
    (path / bundles.MANIFEST).write_bytes(manifest)
    (path / bundles.COMMIT).write_text(digest_bytes(manifest) + "\n")


def resettle(path: Path) -> Path:
    """Move a bundle where its inputs belong, so that its place does not give it away."""
    try:
        run = record_from_json(Run, json.loads((path / "run.json").read_bytes()), "run.json")
        target = path.parent.parent.parent / run.protocol / run.submission.id / run_key(run)[:16]
    except (EyechartError, ValueError):  # what has no key has no place either
        return path
    if target != path and target.parts[:-3] == path.parts[:-3] and ".." not in target.parts:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
        return target
    return path


def edit_json(path: Path, name: str, change: Callable[[Any], object], *, settle: bool = True) -> Path:
    value = json.loads((path / name).read_bytes())
    change(value)
    (path / name).write_text(json.dumps(value))
    reseal(path)
    return resettle(path) if settle else path


def edit_text(path: Path, name: str, change: Callable[[str], str]) -> None:
    text = (path / name).read_text()
    assert change(text) != text
    (path / name).write_text(change(text))
    reseal(path)


def table_file(path: Path, name: str) -> Path:
    return next(path.glob("scores-*")) if name == "scores" else path / "answers.parquet"


def edit_table(
    path: Path, name: str, change: Callable[[pa.Table], pa.Table], *, recount: bool = True
) -> None:
    """Rewrite a table, count anew and reseal."""
    file = table_file(path, name)
    write_parquet(file, change(pq.read_table(file)))
    if recount:
        count_anew(path)
    reseal(path)


def edit_both(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    for name in ("answers", "scores"):
        edit_table(path, name, change)


def count_anew(path: Path) -> None:
    """Counts that fit the scores, as a careful forger would write them."""
    table = pq.read_table(table_file(path, "scores"))
    if "status" not in table.column_names:
        return
    status = table["status"]
    run = json.loads((path / "run.json").read_bytes())
    if set(status.to_pylist()) - set(STATUSES):
        return  # no count has a place for it
    run["counts"] = dataclasses.asdict(count_statuses(status))
    (path / "run.json").write_text(json.dumps(run))


def put(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    index = table.column_names.index(column)
    return table.set_column(
        index, table.schema.field(index), pa.array(values, table.schema.field(index).type)
    )


def rename_identity(data: dict[str, Any]) -> None:
    """An identity digest that fits the edited source and input."""
    run = record_from_json(Run, data, "run.json")
    data["submission"]["identity_digest"] = identity_digest(run.submission)


def shared_answer(results: Results) -> int:
    """Row of a sample to which victim and other gave the same answer."""
    mine, theirs = (read_bundle(p).answer_table["answer"] for p in (results.rec, results.other))
    return int(pc.index(pc.equal(mine, theirs), True).as_py())


# --- the cases -------------------------------------------------------------------------------------------


def _shown(results_name: str) -> str:
    return {"scores": r"scores-[0-9a-f]{12}\.parquet"}.get(results_name, results_name.replace(".", r"\."))


def _bytes_cases() -> Iterator[Case]:
    """Damage that happens: bits, ends, absence."""

    def flip(name: str, part: float) -> Callable[[Results], None]:
        def damage(results: Results) -> None:
            data = bytearray(results.file(name).read_bytes())
            data[int(part * (len(data) - 1))] ^= 1 << int(part * 100) % 7
            results.file(name).write_bytes(data)

        return damage

    def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Results], None]:
        return lambda r: void(r.file(name).write_bytes(change(r.file(name).read_bytes())))

    for name in FILES:
        says = _shown(name)
        for part in (0.0, 0.23, 0.5, 0.77, 1.0):
            yield Case(f"{name}: bit flipped at {part:.0%}", flip(name, part), says)
        yield Case(f"{name}: half of it", rewrite(name, lambda d: d[: len(d) // 2]), says)
        yield Case(f"{name}: empty", rewrite(name, lambda _: b""), says)
        yield Case(f"{name}: one byte more", rewrite(name, lambda d: d + b"\n"), says)
        yield Case(f"{name}: missing", lambda r, n=name: r.file(n).unlink(), f"{says}.* missing")


def void(_: object) -> None:
    """Makes an expression a statement."""


def _edit_cases() -> Iterator[Case]:
    """Edits without new hashes: what people do by hand."""

    def raw(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Results], None]:
        return lambda r: pq.write_table(change(pq.read_table(r.file(name))), r.file(name))

    changed = "file was changed"
    yield Case("a score edited", raw("scores", lambda t: put(t, "score", 3, 1.0)), f"scores-.*{changed}")
    yield Case("an answer edited", raw("answers.parquet", lambda t: put(t, "answer", 3, "x")), changed)
    yield Case("a sample dropped from the scores", raw("scores", lambda t: t.slice(1)), changed)
    yield Case("a table written again as it is", raw("scores", lambda t: t), changed)

    def counts(results: Results) -> None:
        data = json.loads(results.file("run.json").read_bytes())
        data["counts"]["num_scored"] += 1
        results.file("run.json").write_text(json.dumps(data))

    yield Case("counts edited", counts, rf"run\.json: {changed}")


def _folder_cases() -> Iterator[Case]:
    def extra(name: str) -> Callable[[Results], None]:
        return lambda r: void((r.rec / name).write_bytes(b"x"))

    yield Case("extra file", extra("notes.txt"), r"notes\.txt: file is not in the manifest")
    yield Case("extra hidden file", extra(".hidden"), r"\.hidden: file is not in the manifest")
    yield Case("second file of scores", extra(f"scores-{'9' * 12}.parquet"), "scores-9+.parquet: file is not")
    yield Case("extra file of another kind of line end", extra("run.json\r"), r"run\.json\\r: file is not in")
    yield Case("extra folder", lambda r: (r.rec / "more").mkdir(), "more: not a plain file")
    yield Case(
        "a bundle within a bundle", lambda r: void(shutil.copytree(r.other, r.rec / "in")), "in: not a p"
    )
    yield Case("a pipe", lambda r: os.mkfifo(r.rec / "pipe"), "pipe: not a plain file")

    def link(name: str) -> Callable[[Results], None]:
        def damage(results: Results) -> None:
            file = results.file(name)
            moved = results.root.parent / f"moved-{file.name}"
            os.rename(file, moved)
            file.symlink_to(moved)

        return damage

    for name in ("run.json", "scores", "COMMIT", "environment.json"):
        yield Case(f"{name} is a link", link(name), f"{_shown(name)}: not a plain file")

    def link_folder(results: Results) -> None:
        os.rename(results.rec, results.root.parent / "elsewhere")
        results.rec.symlink_to(results.root.parent / "elsewhere")

    yield Case("the folder is a link", link_folder, f"mini/{VICTIM}/[0-9a-f]+: symbolic link among")
    yield Case(
        "the encoder is a link",
        lambda r: (r.root / "mini" / "alias").symlink_to(r.rec.parent),
        "alias: symbolic link among",
    )

    def move(name: str) -> Callable[[Results], None]:
        def damage(results: Results) -> None:
            target = results.root / name.format(results.rec.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(results.rec, target)

        return damage

    wrong = "bundle lies in the wrong folder"
    yield Case("under another run key", move("mini/" + VICTIM + "/" + "0" * 16), wrong)
    yield Case("with the suffix -0", move("mini/" + VICTIM + "/{}-0"), wrong)
    yield Case("with another suffix", move("mini/" + VICTIM + "/{}-new"), wrong)
    yield Case("under another encoder", move("mini/mini-resnet-words-s0/{}"), wrong)
    yield Case("under another protocol", move("main/" + VICTIM + "/{}"), wrong)

    def copy(name: str) -> Callable[[Results], None]:
        return lambda r: void(shutil.copytree(r.rec, r.root / name.format(r.rec.name)))

    yield Case("twice", copy("mini/" + VICTIM + "/{}-2"), "the same bundle lies in .* too")
    yield Case("a copy under another encoder", copy("mini/copycat/{}"), wrong)
    yield Case(
        "left over", copy("mini/" + VICTIM + "/.tmp-host-1-ab"), "left over from a run that was cut off"
    )
    yield Case("hidden", copy("mini/" + VICTIM + "/.keep"), "hidden file or folder among the results")
    yield Case("hidden protocol", copy(".git/" + VICTIM + "/{}"), r"\.git: hidden file or folder")
    yield Case(
        "a file beside bundles",
        lambda r: void((r.rec.parent / "README.md").write_text("x")),
        r"README\.md: not part of the results",
    )
    yield Case(
        "a program beside protocols",
        lambda r: void((r.root / "run.sh").write_text("x")),
        r"run\.sh: not part of the results",
    )
    yield Case(
        "an empty folder in a bundle's place", lambda r: (r.rec.parent / "empty").mkdir(), "COMMIT is miss"
    )


def _manifest_cases() -> Iterator[Case]:
    """COMMIT fits, and the manifest is not one that we write."""

    def manifest(change: Callable[[str], str]) -> Callable[[Results], None]:
        def damage(results: Results) -> None:
            text = results.file("MANIFEST.sha256").read_text()
            assert change(text) != text
            recommit(results.rec, change(text).encode())

        return damage

    line, one = "not a manifest line", "manifest does not list one of each file"
    traversal = "0" * 64 + "  ../../../etc/passwd\n"
    yield Case("RESEALED a path out of the folder", manifest(lambda t: t + traversal), line)
    yield Case("RESEALED an absolute path", manifest(lambda t: t.replace("  run", "  /run")), line)
    yield Case("RESEALED CRLF", manifest(lambda t: t.replace("\n", "\r\n")), "other line ends")
    yield Case("RESEALED hashes in capitals", manifest(str.upper), line)
    yield Case("RESEALED short hashes", manifest(lambda t: t.replace(t[:64], t[:40])), line)
    yield Case("RESEALED one space", manifest(lambda t: t.replace("  ", " ")), line)
    yield Case("RESEALED binary mark", manifest(lambda t: t.replace("  ", " *")), line)
    yield Case(
        "RESEALED a line twice",
        manifest(lambda t: t + t.splitlines(keepends=True)[0]),
        "a line twice, or other",
    )
    yield Case("RESEALED unsorted", manifest(lambda t: "".join(sorted(t.splitlines(True))[::-1])), one)
    yield Case("RESEALED a byte order mark", manifest(lambda t: "\ufeff" + t), line)
    yield Case("RESEALED an empty line", manifest(lambda t: t + "\n"), line)
    yield Case("RESEALED no last line end", manifest(lambda t: t.rstrip("\n")), "other line ends")
    yield Case("RESEALED without the scores", manifest(lambda t: "".join(t.splitlines(True)[:-1])), one)
    yield Case("RESEALED without the receipt", manifest(lambda t: "".join(
        x for x in t.splitlines(True) if "receipt" not in x)), one)  # fmt: skip
    yield Case("RESEALED a file that is not there", manifest(lambda t: t + "0" * 64 + "  z.json\n"), one)

    def environment(results: Results) -> None:
        text = results.file("MANIFEST.sha256").read_text()
        more = f"{digest_file(results.file('environment.json'))}  environment.json\n"
        recommit(results.rec, "".join(sorted([*text.splitlines(True), more], key=lambda x: x[66:])).encode())

    yield Case("RESEALED the environment under the hash", environment, one)

    def commit(change: Callable[[str], str]) -> Callable[[Results], None]:
        return lambda r: void(r.file("COMMIT").write_bytes(change(r.file("COMMIT").read_text()).encode()))

    fit = "MANIFEST.sha256 and COMMIT do not fit each other"
    yield Case("COMMIT with more text", commit(lambda t: t + "verified by hand\n"), fit)
    yield Case("COMMIT in capitals", commit(str.upper), fit)
    yield Case("COMMIT with CRLF", commit(lambda t: t.replace("\n", "\r\n")), fit)
    yield Case("COMMIT without line end", commit(str.strip), fit)
    yield Case(
        "COMMIT of another bundle",
        lambda r: void(shutil.copy(r.other / "COMMIT", r.rec / "COMMIT")),
        fit,
    )


def _record_cases() -> Iterator[Case]:
    """run.json edited and sealed again."""

    def run(change: Callable[[dict[str, Any]], object]) -> Callable[[Results], None]:
        return lambda r: void(edit_json(r.rec, "run.json", change))

    def key(says: str, **values: object) -> Case:
        shown = ", ".join(f"{k} = {v!r}"[:60] for k, v in values.items())
        return Case(f"RESEALED run.json: {shown}", run(lambda d: d.update(values)), says)

    for version in (0, 2, "1", None, 1.5):
        yield key(r"run\.json: schema version: found", schema_version=version)
    yield Case(
        "RESEALED no schema version", run(lambda d: d.pop("schema_version")), "schema version: found None"
    )
    yield Case("RESEALED a key of tomorrow", run(lambda d: d.update(colour="red")), "colour: unknown key")
    yield Case("RESEALED a key less", run(lambda d: d.pop("tier")), "tier: key missing")
    yield key("tier: wrong type or value", tier="gold")
    yield key("tier: wrong type or value", tier=None)
    yield key("seed: wrong type or value", seed="0")
    yield key("seed: wrong type or value", seed=True)
    yield key("seed: wrong type or value", seed=0.5)
    yield key("seed is out of range", seed=-1)
    yield key("seed is out of range", seed=2**40)
    yield key("protocol_version is out of range", protocol_version=0)
    yield key("chance is out of range", chance=1.5)
    yield key("chance is not that of the task", chance=0.25)
    yield key("protocol is not well formed", protocol="../elsewhere")
    yield key("protocol is not well formed", protocol="")
    yield key("task is not well formed", task="vqav2")
    yield key("task is not that of the task's definition", task="eyechart_mini_vqa")
    yield key("task_digest is not well formed", task_digest="A" * 64)
    yield key("dataset_digest is not that of the task", dataset_digest="a" * 64)
    yield key("split is not that of the task", split="train")
    yield key("metric is not that of the task", metric="accuracy")
    yield key("suite is not that of the task", suite="main")
    yield key("engine is not well formed", engine="gpt")
    yield key("engine and llm_revision contradict", engine="probe")
    yield key("engine cannot answer this task", engine="probe", llm_revision="")
    yield key("engine and llm_revision contradict", llm_revision="")
    yield key("llm_revision differs from version 2 of the protocol mini", llm_revision="a" * 64)
    yield key("dtype is not well formed", dtype="int4")
    yield key("dtype differs from version 2", dtype="float16")
    yield key("recipes differs from version 2", recipes={})
    yield key("recipes are not well formed", recipes={"adapter": "mine"})
    yield key("split is not well formed", split="te\x00st")
    yield key("metric is not well formed", metric="\ud800")

    def counts(**more: int) -> Callable[[Results], None]:
        return run(lambda d: d["counts"].update({k: d["counts"][k] + v for k, v in more.items()}))

    yield Case("RESEALED a count more", counts(num_scored=1), "counts do not add up")
    yield Case(
        "RESEALED an error hidden", counts(num_scored=1, num_unparsed=-1), "counts are not those of the sc"
    )
    yield Case(
        "RESEALED a negative count", counts(num_scored=-2000, num_error=2000), "counts are not those of"
    )
    yield Case(
        "RESEALED more expected", counts(num_expected=5, num_missing=5), "counts are not those of the scores"
    )

    def text(name: str, says: str, change: Callable[[str], str]) -> Case:
        return Case(f"RESEALED run.json: {name}", lambda r: edit_text(r.rec, "run.json", change), says)

    yield from _spelling_cases(text)
    yield from _submission_cases()


def _spelling_cases(text: Callable[..., Case]) -> Iterator[Case]:
    yield text("a key twice", "the key 'seed' twice", lambda t: t.replace('"seed"', '"seed": 7, "seed"'))
    yield text("NaN", "not valid JSON.*NaN", lambda t: t.replace('"chance": 0.0', '"chance": NaN'))
    yield text("infinite", "not valid JSON", lambda t: t.replace('"chance": 0.0', '"chance": Infinity'))
    yield text(
        "too large a number",
        "chance is out of range",
        lambda t: t.replace('"chance": 0.0', '"chance": 1e999'),
    )
    yield text(
        "digits without end", "not valid JSON", lambda t: t.replace('"seed": 0', '"seed": ' + "9" * 5000)
    )
    yield text("a list", "not a JSON object", lambda _: "[]")
    yield text("not JSON", "not valid JSON", lambda t: t + "}")
    yield text("nested deeply", "not valid JSON|not a JSON object", lambda _: "[" * 100_000)
    yield Case("RESEALED run.json: not UTF-8", _not_utf8, "not valid JSON")


def _not_utf8(results: Results) -> None:
    data = results.file("run.json").read_bytes()
    results.file("run.json").write_bytes(data.replace(b"Eyechart authors", b"\xff\xfe authors"))
    reseal(results.rec)


def _submission_cases() -> Iterator[Case]:
    def sub(
        name: str, says: str, change: Callable[[dict[str, Any]], object], *, new_identity: bool = False
    ) -> Case:
        def edit(data: dict[str, Any]) -> None:
            change(data["submission"])
            if new_identity:
                rename_identity(data)

        return Case(f"RESEALED {name}", lambda r: void(edit_json(r.rec, "run.json", edit)), says)

    identity = "identity_digest is not that of source and input"
    yield sub("another identity digest", identity, lambda s: s.update(identity_digest="a" * 64))
    yield sub("other weights", identity, lambda s: s["source"]["files"][-1].update(sha256="b" * 64))
    yield sub("another input", identity, lambda s: s["input"].update(resolution=128))
    yield sub("another architecture", identity, lambda s: s["source"].update(name="vit"))
    yield sub(
        "another encoder with its own digest",
        "another encoder under this id",
        lambda s: s["source"]["files"][-1].update(sha256="b" * 64),
        new_identity=True,
    )
    yield sub("another's id", "the same encoder under another id", lambda s: s.update(id="my-new-encoder"))
    yield sub(
        "another family",
        "another family, floor or base than other runs",
        lambda s: s["pretraining"][-1].update(objective="label-classification"),
    )
    valid = "not a valid submission: "
    yield sub("no family", valid + "pretraining", lambda s: s.update(pretraining=[]))
    yield sub("a family of floors", valid, lambda s: s["pretraining"][-1].update(objective="none"))
    yield sub("a floor that is none", valid, lambda s: s.update(floor="blind"), new_identity=True)
    yield sub("a base that is none", "submission.base belongs to floors", lambda s: s.update(base="other"))
    yield sub("an id as a path", "not a valid submission: id", lambda s: s.update(id="../../etc"))
    yield sub("an id of a floor", valid + "id", lambda s: s.update(id="floor-mine"))
    yield sub("a device's id", valid + "id", lambda s: s.update(id="nul"))
    yield sub("a script as link", valid + "links", lambda s: s.update(links=["javascript:alert(1)"]))
    yield sub("a control character", valid + "title", lambda s: s.update(title="a\x1b[2Jb"))
    yield sub("text that runs backwards", valid + "title", lambda s: s.update(title="a\u202eb"))
    yield sub("half a character", valid + "title", lambda s: s.update(title="a\ud800"))
    yield sub("a title without end", valid + "title", lambda s: s.update(title="x" * 5000))
    yield sub("no authors", valid + "authors", lambda s: s.update(authors=[]))
    yield sub("a pickle", valid + "source.files", lambda s: s["source"]["files"][-1].update(path="model.bin"))
    yield sub(
        "a path out",
        valid + "source.files",
        lambda s: s["source"]["files"][-1].update(path="../m.safetensors"),
    )
    yield sub("no weights", valid + "source.files", lambda s: s["source"].update(files=[]))
    yield sub("a branch", valid + "source.revision", lambda s: s["source"].update(revision="main"))
    yield sub(
        "a wrong objective",
        "objective: wrong type or value",
        lambda s: s["pretraining"][0].update(objective="x"),
    )
    yield sub(
        "images not a number",
        "images_seen: wrong type",
        lambda s: s["pretraining"][0].update(images_seen="many"),
    )


def _table_cases() -> Iterator[Case]:
    """Answers and scores edited, counted and sealed again."""

    def score(name: str, says: str, change: Callable[[pa.Table], pa.Table], *, probe: bool = False) -> Case:
        where = "digits" if probe else "rec"
        return Case(f"RESEALED {name}", lambda r: edit_table(getattr(r, where), "scores", change), says)

    def answer(name: str, says: str, change: Callable[[pa.Table], pa.Table]) -> Case:
        return Case(f"RESEALED {name}", lambda r: edit_table(r.rec, "answers", change), says)

    number = "score is not a number between 0 and 1"
    for value in (float("nan"), float("inf"), -0.25, 1.0001, None):
        yield score(f"score {value}", number, lambda t, v=value: put(t, "score", 5, v))
    yield score("a half-right probe", "a probe scores 0 or 1", lambda t: put(t, "score", 5, 0.5), probe=True)
    yield score("status fine", "unknown status", lambda t: put(t, "status", 5, "fine"))
    yield score("status of nobody", "null in a column", lambda t: put(t, "status", 5, None))
    yield score(
        "a score beside an error", "score beside the status error", lambda t: put(t, "status", 5, "error")
    )
    yield score(
        "an unparsed answer with a score",
        "unparsed answer with a score",
        lambda t: put(put(t, "status", 5, "unparsed"), "score", 5, 0.5),
    )
    yield answer(
        "an error scored", "status is not that of the answer", lambda t: put(t, "status", 5, "error")
    )
    yield answer("a missing answer scored", "status is not that of", lambda t: put(t, "status", 5, "missing"))
    yield score(
        "a cluster renamed", "another cluster than other runs", lambda t: put(t, "cluster", 5, "mine")
    )
    yield score("all one cluster", "another cluster than other", lambda t: _fill(t, "cluster", "one"))
    yield score("no cluster", "cluster is empty", lambda t: put(t, "cluster", 5, ""))
    yield score("a probe's cluster", "its own cluster", lambda t: put(t, "cluster", 5, "x"), probe=True)
    yield answer(
        "another prompt", "another prompt than other runs", lambda t: put(t, "prompt_hash", 5, "a" * 16)
    )
    yield answer("all prompts", "another prompt than other", lambda t: _fill(t, "prompt_hash", "b" * 16))
    yield answer("a prompt that is no hash", "prompt hash is not 16", lambda t: put(t, "prompt_hash", 5, "?"))
    yield answer("an answer null", "null in a column that has none", lambda t: put(t, "answer", 5, None))
    yield answer("an endless answer", "answer of more than", lambda t: put(t, "answer", 5, "x" * 30_000))
    yield from _row_cases()
    yield from _column_cases()
    yield from _sibling_cases()


def _fill(table: pa.Table, column: str, value: str) -> pa.Table:
    return table.set_column(
        table.column_names.index(column), column, pa.array([value] * table.num_rows, pa.string())
    )


def _row_cases() -> Iterator[Case]:
    def both(name: str, says: str, change: Callable[[pa.Table], pa.Table]) -> Case:
        return Case(f"RESEALED {name}", lambda r: edit_both(r.rec, change), says)

    expected = "number of samples is not that of the task's definition"
    rows = list(range(1000))
    yield both("the last sample dropped", expected, lambda t: t.slice(0, t.num_rows - 1))
    yield both("all but one dropped", expected, lambda t: t.slice(0, 1))
    yield both("wrong answers dropped", expected, lambda t: t.take(rows[::2]))
    yield both("no samples", "no samples", lambda t: t.slice(0, 0))
    yield both("a sample twice", "duplicate sample id", lambda t: t.take([0, 0, *rows[2:]]))
    yield both("a sample added twice", "duplicate sample id", lambda t: t.take([*rows, 999]))
    yield both("two samples exchanged", "samples are not sorted by id", lambda t: t.take([1, 0, *rows[2:]]))
    yield both("the other way round", "samples are not sorted by id", lambda t: t.take(rows[::-1]))
    yield both("a sample renamed", "other samples than other runs", lambda t: put(t, "sample_id", 999, "zzz"))
    yield both("a sample without name", "sample_id is empty", lambda t: put(t, "sample_id", 0, ""))
    yield both("a sample with half a name", "sample_id is empty or too long", lambda t: put(
        t, "sample_id", 999, "z" * 600))  # fmt: skip

    def one(name: str, says: str, table: str, change: Callable[[pa.Table], pa.Table]) -> Case:
        return Case(f"RESEALED {name}", lambda r: edit_table(r.rec, table, change), says)

    yield one("scores in another order", "not sorted", "scores", lambda t: t.take([1, 0, *rows[2:]]))
    yield one("a score dropped", "not the samples of the answers", "scores", lambda t: t.slice(1))
    yield one("an answer dropped", "not the samples of the answers", "answers", lambda t: t.slice(1))
    yield one(
        "an answer to another sample",
        "not the samples of",
        "answers",
        lambda t: put(t, "sample_id", 999, "zz"),
    )

    def probe(results: Results) -> None:
        edit_both(results.digits, lambda t: put(t, "sample_id", t.num_rows - 1, "train-999"))

    yield Case("RESEALED a probe on another split", probe, "not the name of a probe's sample")


def _column_cases() -> Iterator[Case]:
    def column(name: str, table: str, change: Callable[[pa.Table], pa.Table]) -> Case:
        says = "columns are not the ones of this file"
        return Case(f"RESEALED {name}", lambda r: edit_table(r.rec, table, change), says)

    def cast(index: int, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
        return lambda t: t.set_column(index, t.column_names[index], t.column(index).cast(kind))

    yield column("scores of half precision", "scores", cast(2, pa.float32()))
    yield column("scores as text", "scores", cast(2, pa.string()))
    yield column("large text", "answers", cast(2, pa.large_string()))
    yield column("bytes for text", "answers", cast(2, pa.binary()))
    yield column("one column more", "scores", lambda t: t.append_column("weight", t["score"]))
    yield column("one column less", "answers", lambda t: t.drop_columns(["prompt_hash"]))
    yield column("a column twice", "answers", lambda t: t.append_column("answer", t["answer"]))
    yield column("columns in another order", "scores", lambda t: t.select(t.column_names[::-1]))
    yield column("a column renamed", "scores", lambda t: t.rename_columns([*t.column_names[:3], "state"]))

    def not_text(results: Results) -> None:
        file = results.file("answers.parquet")
        table = pq.read_table(file)
        words = [b"\xff\xfe", *(w.encode() for w in table["answer"].to_pylist()[1:])]
        raw = pa.array(words, pa.binary())
        # The same buffers under another name: Arrow does not look at them until asked.
        text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
        write_parquet(file, table.set_column(2, "answer", text))
        reseal(results.rec)

    yield Case("RESEALED text that is no UTF-8", not_text, r"answers\.parquet: not a sound")

    def sealed(name: str, data: bytes, says: str) -> Case:
        def damage(results: Results) -> None:
            results.file(name).write_bytes(data)
            reseal(results.rec)

        return Case(f"RESEALED {name} is {data[:8]!r}", damage, says)

    for name in ("answers.parquet", "scores"):
        yield sealed(name, b"", f"{_shown(name)}: not a sound Parquet file")
        yield sealed(name, b"PAR1" + b"\0" * 40 + b"PAR1", f"{_shown(name)}: not a sound Parquet file")

    def cut(results: Results) -> None:
        file = results.file("scores")
        file.write_bytes(file.read_bytes()[:-20])
        reseal(results.rec)

    yield Case("RESEALED scores cut short", cut, "scores-.*: not a sound Parquet file")

    def page(results: Results) -> None:
        data = bytearray(results.file("answers.parquet").read_bytes())
        data[200] ^= 4
        results.file("answers.parquet").write_bytes(data)
        reseal(results.rec)

    yield Case("RESEALED a bit within a page", page, r"answers\.parquet: not a sound Parquet file")


def _sibling_cases() -> Iterator[Case]:
    """Consistent in itself, and at odds with other runs."""

    def better(results: Results) -> None:
        row = shared_answer(results)
        was = read_bundle(results.rec).score_table["score"][row].as_py()
        edit_table(results.rec, "scores", lambda t: put(t, "score", row, 0.0 if was else 1.0))

    same = "another score than .* has for the same answer to sample"
    yield Case("RESEALED a better score for the same answer", better, same)

    def swap(name: str) -> Callable[[Results], None]:
        def damage(results: Results) -> None:
            mine, theirs = (table_file(p, name) for p in (results.rec, results.other))
            data = mine.read_bytes()
            mine.write_bytes(theirs.read_bytes())
            theirs.write_bytes(data)
            for path in (results.rec, results.other):
                count_anew(path)
                reseal(path)

        return damage

    yield Case("RESEALED answers of two encoders exchanged", swap("answers"), same)
    yield Case("RESEALED scores of two encoders exchanged", swap("scores"), same)

    def task(results: Results) -> None:
        shutil.copy(results.digits / "answers.parquet", results.rec / "answers.parquet")
        reseal(results.rec)

    yield Case("RESEALED answers of another task", task, "not the samples of the answers")

    def right(results: Results) -> None:
        said, scores = read_bundle(results.digits).answer_table, read_bundle(results.digits).score_table
        row = int(pc.index(scores["score"], 1.0).as_py())
        edit_table(results.digits, "answers", lambda t: put(t, "answer", row, f"{said['answer'][row]}1"))

    yield Case("RESEALED another digit is right", right, "another answer is right than in")

    def weights(data: dict[str, Any]) -> None:
        data["encoder_weights"] = {"before": "c" * 64, "after": "c" * 64}

    yield Case(
        "RESEALED weights of another encoder",
        lambda r: void(edit_json(r.rec, "receipt.json", weights)),
        "other weights in its receipt",
    )


def _receipt_cases() -> Iterator[Case]:
    def receipt(name: str, says: str, change: Callable[[dict[str, Any]], object]) -> Case:
        return Case(f"RESEALED {name}", lambda r: void(edit_json(r.rec, "receipt.json", change)), says)

    yield receipt("no proof", "no digests of the encoder's weights", lambda d: d.pop("encoder_weights"))
    yield receipt(
        "thawed", "the encoder was not frozen", lambda d: d["encoder_weights"].update(after="d" * 64)
    )
    yield receipt("not frozen", "the encoder was not frozen", lambda d: d.update(frozen=False))
    yield receipt(
        "no digest",
        "weights is not 64 hex",
        lambda d: d.update(encoder_weights={"before": "x", "after": "x"}),
    )
    yield receipt(
        "half a character in the receipt", "no canonical JSON form", lambda d: d.update(note="\ud800")
    )

    def text(name: str, data: str, says: str) -> Case:
        def damage(results: Results) -> None:
            results.file(name).write_text(data)
            reseal(results.rec)

        return Case(f"RESEALED {name}: {data[:24]}", damage, says)

    yield text("receipt.json", "[]", r"receipt\.json: not a JSON object")
    yield text("receipt.json", '{"a": {"b": 1, "b": 2}}', "the key 'b' twice")
    yield text(
        "receipt.json",
        '{"a": ' + "[" * 900 + "]" * 900 + "}",
        "canonical JSON form|not valid JSON|no digests",
    )
    environment = r"environment\.json: "
    yield text("environment.json", "[]", environment + "not a JSON object")
    yield text("environment.json", "{", environment + "not valid JSON")
    yield text("environment.json", '{"stages_s": []}', environment + "stages_s is not")
    yield text("environment.json", '{"stages_s": {"x": -1}}', environment + "stages_s is not")
    yield text("environment.json", '{"stages_s": {"x": "long"}}', environment + "stages_s is not")
    yield text("environment.json", '{"stages_s": {"x": NaN}}', environment + "not valid JSON")
    yield text("environment.json", '{"stages_s": {"x": 1e999}}', environment)
    yield text("environment.json", '{"a": 1' + " " * (5 << 20) + "}", environment + "file is too large")


def _ledger_cases() -> Iterator[Case]:
    def ledger(name: str, text: str, says: str) -> Case:
        return Case(f"{name}: {says}", lambda r: void((r.root / name).write_text(text)), says)

    stone = '[[tombstone]]\nprotocol = "mini"\nencoder = "{}"\nidentity_digest = "{}"\n'
    stone += 'date = "2026-01-02"\nreason = "asked to"\n'
    gone = "withdrawn on 2026-01-02, and still here"
    yield ledger("tombstones.toml", "schema = 1\n" + stone.format(VICTIM, "a" * 64), gone)
    yield ledger("tombstones.toml", stone.format(VICTIM, "a" * 64), "schema version not known")
    yield ledger("tombstones.toml", "schema = 1\n[[tombstones]]\n", "unknown key.*tombstone")
    yield ledger("tombstones.toml", "schema = 1\n[[tombstone", "not valid TOML")
    tried = '[[attempt]]\nencoder = "' + VICTIM + '"\ncheckpoints = 1\nadapter_seeds = {}\nruns = {}\n'
    tried += 'declared_by = "A. Person"\ndate = "2026-01-02"\n'
    first = "schema = 1\n"
    yield ledger("attempts.toml", first + tried.format(1, 2), "more runs of .* than were declared")
    yield ledger("attempts.toml", first + tried.format(0, 9), "more adapter_seeds of .* than were declared")
    yield ledger("attempts.toml", first + 2 * tried.format(3, 9), "an encoder declared twice")
    yield ledger("attempts.toml", first + tried.format(3, 9).replace("runs", "run"), "unknown key.*runs")
    yield ledger(
        "attempts.toml", first + tried.format(3, 9).replace("-01-", "-13-"), "no day of the calendar"
    )


CASES: list[Case] = [
    *_bytes_cases(),
    *_edit_cases(),
    *_folder_cases(),
    *_manifest_cases(),
    *_record_cases(),
    *_table_cases(),
    *_receipt_cases(),
    *_ledger_cases(),
]


# --- what contradicts nothing ----------------------------------------------------------------------------

NEWCOMER = "new-encoder"


def add_submission(results: Results, tier: str = "self-reported", attempts: bool = True) -> list[Path]:
    """What an honest submitter adds: bundles of an encoder of his own, and its entry in the ledger."""
    added = []
    for number, path in enumerate((results.rec, results.digits)):
        copy = path.with_name(f"copy-{number}")
        shutil.copytree(path, copy)
        weights = json.loads((copy / "receipt.json").read_bytes())
        weights["encoder_weights"] = {"before": "e" * 64, "after": "e" * 64}
        (copy / "receipt.json").write_text(json.dumps(weights))

        def change(data: dict[str, Any]) -> None:
            data["submission"].update(id=NEWCOMER, title="A new encoder")
            data["submission"]["source"]["files"][-1].update(sha256="e" * 64)
            data["tier"] = tier
            rename_identity(data)

        added.append(edit_json(copy, "run.json", change))
    if attempts:
        declare(results.root, NEWCOMER, runs=2)
    return added


def declare(root: Path, encoder: str, *, runs: int, adapter_seeds: int = 1) -> None:
    """An entry in the ledger of attempts."""
    path = root / "attempts.toml"
    before = path.read_text() if path.is_file() else "schema = 1\n"
    path.write_text(
        f'{before}\n[[attempt]]\nencoder = "{encoder}"\ncheckpoints = 1\nadapter_seeds = {adapter_seeds}\n'
        f'runs = {runs}\ndeclared_by = "A. Person"\ndate = "2026-11-27"\n'
    )


def bury(root: Path, encoder: str) -> None:
    """A tombstone."""
    path = root / "tombstones.toml"
    before = path.read_text() if path.is_file() else "schema = 1\n"
    path.write_text(
        f'{before}\n[[tombstone]]\nprotocol = "mini"\nencoder = "{encoder}"\nidentity_digest = "{"a" * 64}"\n'
        'date = "2026-11-27"\nreason = "asked to"\n'
    )


def _invent(results: Results) -> None:
    """An answer that nobody else gave, called right."""
    row = int(pc.index(read_bundle(results.rec).score_table["score"], 0.0).as_py())
    edit_table(results.rec, "answers", lambda t: put(t, "answer", row, "[0.01, 0.01, 0.02, 0.02]"))
    edit_table(results.rec, "scores", lambda t: put(put(t, "score", row, 1.0), "status", row, "scored"))


def _guess(results: Results) -> None:
    """A digit that nobody was right about, called right with an answer that nobody gave."""
    paths = [p.parent for p in results.root.glob("mini/*/*/run.json") if b"mini_digits" in p.read_bytes()]
    read = [read_bundle(path) for path in paths]
    said = [b.answer_table["answer"].to_pylist() for b in read]
    worth = [b.score_table["score"].to_pylist() for b in read]
    row = next(i for i in range(len(said[0])) if not any(w[i] for w in worth))
    edit_table(results.digits, "answers", lambda t: put(t, "answer", row, "10"))
    edit_table(results.digits, "scores", lambda t: put(t, "score", row, 1.0))


def _other_words(results: Results) -> None:
    row = int(pc.index(read_bundle(results.rec).score_table["score"], 0.0).as_py())
    edit_table(results.rec, "answers", lambda t: put(t, "answer", row, "[0.01, 0.01, 0.02, 0.02]"))


def _copied(results: Results) -> None:
    for name in ("answers", "scores"):
        shutil.copy(table_file(results.other, name), table_file(results.rec, name))
    count_anew(results.rec)
    reseal(results.rec)


def _scorer(results: Results) -> None:
    os.rename(results.file("scores"), results.rec / f"scores-{'a' * 12}.parquet")
    reseal(results.rec)


FORGERIES: dict[str, tuple[Callable[[Results], None], str]] = {
    "an invented answer called right": (_invent, "rescore"),
    "an invented digit called right": (_guess, "rescore"),
    "a wrong answer put for another": (_other_words, "re-run"),
    "answers and scores of a better encoder": (_copied, "re-run"),
    "a scorer that is none": (_scorer, "rescore, as a note"),
    "another title": (
        lambda r: void(edit_json(r.rec, "run.json", lambda d: d["submission"].update(title="Best"))),
        "nothing: an annotation",
    ),
    "a faster machine": (
        lambda r: void(r.file("environment.json").write_text('{"stages_s": {"features": 0.1}}')),
        "nothing: under no hash",
    ),
}
"""Consistent forgeries: what only scoring again, or only measuring again, tells. See docs/verification.md."""
