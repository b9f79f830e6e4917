"""The index over the bundles: rebuilt whole, in any order, by one writer, and counting nothing twice."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from harness import cells, stats, store
from harness.bundle import count_scores, find_bundles, write_bundle
from harness.errors import IntegrityError, ResourceError, StoreBusyError, UsageError
from harness.records import Answer, InputSpec, PretrainStage, Run, Score, Source, Submission
from harness.store import ingest, open_store

HEX = "0123456789abcdef" * 4
COLUMNS = ["protocol", "encoder", "family", "side", "task", "split", "metric", "value", "ci_low", "ci_high"]
COLUMNS += ["num_seeds", "num_expected", "num_scored", "num_unparsed", "num_error", "num_missing", "tier"]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests ask what is written, not whether a power cut spares it; syncing costs seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def submission(encoder: str = "vit", **changes: Any) -> Submission:
    floor = "blind" if encoder == "blind" else None
    made = Submission(
        id=encoder,
        title=encoder.title(),
        authors=(),
        links=(),
        license="Apache-2.0",
        contamination="none known",
        source=Source(kind="floor" if floor else "local", name=encoder, revision="local", files=()),
        input=InputSpec(resolution=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        pretraining=()
        if floor
        else (PretrainStage(objective="sigmoid-contrastive", data="world", images_seen=9),),
        floor=floor,
        identity_digest=HEX,
    )
    return dataclasses.replace(made, **changes)


def write(
    root: Path,
    encoder: str = "vit",
    seed: int = 0,
    *,
    values: Any = None,
    status: str = "scored",
    scorer: str = HEX,
    receipt: dict[str, Any] | None = None,
    n: int = 60,
    **changes: Any,
) -> Path:
    """One bundle; `status` is that of its first sample."""
    rng = np.random.default_rng([seed, len(encoder)])
    values = (rng.random(n) < 0.6).astype(float) if values is None else values
    scores = [
        Score(sample_id=f"{i:03}", cluster=f"img-{i // 3}", score=float(v), status="scored")
        for i, v in enumerate(values)
    ]
    null = status in {"error", "missing"}
    if status != "scored":
        scores[0] = dataclasses.replace(scores[0], score=None if null else 0.0, status=status)  # type: ignore[arg-type]
    answers = [
        Answer(sample_id=s.sample_id, prompt_hash="ab" * 8, answer="yes", status="scored") for s in scores
    ]
    run = Run(
        submission=submission(encoder),
        protocol="mini",
        protocol_version=1,
        suite="mini",
        recipes={"feature": HEX},
        task="eyechart_mini_vqa",
        task_digest=HEX,
        dataset_digest=HEX,
        split="validation",
        metric="exact_match",
        chance=0.1,
        seed=seed,
        engine="hf",
        dtype="float32",
        llm_revision=HEX,
        counts=count_scores(scores),
    )
    run = dataclasses.replace(run, **changes)
    environment = {"stages_s": {"adapter": 10 + seed, "answers": 2.5}}
    return write_bundle(
        root, run, answers, receipt or {"frozen": True}, environment, scores=scores, scorer_digest=scorer
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two encoders and a floor, three seeds each."""
    for encoder in ("vit", "resnet", "blind"):
        for seed in range(3):
            write(tmp_path / "results", encoder, seed)
    return tmp_path / "results"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "index" / "eyechart.duckdb"


def query(db: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = open_store(db)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def export(db: Path) -> dict[str, list[tuple[Any, ...]]]:
    names = ("leaderboard", "seeds", "samples", "costs", "receipts", "runs", "encoders", "tasks", "metrics")
    return {name: query(db, f"SELECT * FROM {name} ORDER BY ALL") for name in names}


def test_the_leaderboard_has_the_columns_of_the_design(root: Path, db: Path) -> None:
    report = ingest(db, root)
    assert (report.num_bundles, report.num_samples, report.num_cells) == (9, 540, 3)
    assert report.incomplete == report.set_aside == report.uncommitted == ()
    assert [row[0] for row in query(db, "DESCRIBE leaderboard")] == COLUMNS
    rows = {row[1]: dict(zip(COLUMNS, row, strict=True)) for row in query(db, "FROM leaderboard")}
    assert set(rows) == {"vit", "resnet", "blind"}
    assert (rows["blind"]["family"], rows["blind"]["side"]) == ("none", "floor")
    assert (rows["vit"]["family"], rows["vit"]["side"]) == ("sigmoid-contrastive", "contrastive")
    for row in rows.values():
        assert 0 <= row["ci_low"] < row["value"] < row["ci_high"] <= 1
        assert (row["num_seeds"], row["num_expected"], row["num_scored"]) == (3, 180, 180)
        assert row["tier"] == "re-run"


def test_intervals_come_from_samples_clusters_and_pooled_seeds(root: Path, db: Path) -> None:
    ingest(db, root)
    clusters = np.arange(60) // 3
    tables = {}
    for encoder in ("vit", "resnet", "blind"):
        sql = f"SELECT seed, score FROM samples WHERE encoder = '{encoder}' ORDER BY seed, sample_id"
        tables[encoder] = np.array([score for _, score in query(db, sql)]).reshape(3, 60)
    pool = stats.pooled_seed_variance([tables["vit"], tables["resnet"]])
    assert query(db, "SELECT seed_variance, seed_df FROM tasks") == [pytest.approx(pool)]
    for encoder, want in [
        ("vit", stats.estimate(tables["vit"], clusters, pool)),
        ("resnet", stats.estimate(tables["resnet"], clusters, pool)),
        ("blind", stats.estimate(tables["blind"], clusters)),
    ]:
        sql = f"SELECT value, ci_low, ci_high, se, df FROM metrics WHERE encoder = '{encoder}'"
        assert query(db, sql)[0] == pytest.approx(want[:5])


def test_ingesting_again_deleting_and_any_order_give_the_same(root: Path, db: Path, tmp_path: Path) -> None:
    ingest(db, root)
    want = export(db)
    ingest(db, root)
    assert export(db) == want
    db.unlink()
    ingest(db, root)
    assert export(db) == want
    # The same bundles, spread over two folders of results, one of them in both.
    spread = [tmp_path / "left", tmp_path / "right"]
    for number, path in enumerate(find_bundles(root)):
        for target in spread if number == 4 else [spread[number % 2]]:
            shutil.copytree(path, target / path.relative_to(root))
    for order in (spread, spread[::-1]):
        ingest(db, *order)
        assert export(db) == want


def test_the_other_views(root: Path, db: Path) -> None:
    ingest(db, root)
    assert query(db, "SELECT seed, num_expected FROM seeds WHERE encoder = 'vit'") == [
        (s, 60) for s in range(3)
    ]
    means = query(db, "SELECT avg(value) FROM seeds WHERE encoder = 'vit'")
    assert means == [pytest.approx(query(db, "SELECT value FROM metrics WHERE encoder = 'vit'")[0])]
    costs = query(db, "SELECT stage, seconds FROM costs WHERE encoder = 'vit' AND seed = 2")
    assert costs == [("adapter", 12.0), ("answers", 2.5)]
    assert query(db, "SELECT DISTINCT receipt FROM receipts") == [('{"frozen":true}',)]
    assert query(db, "SELECT count(*), min(answer) FROM samples") == [(540, "yes")]


@pytest.mark.parametrize(("status", "column"), [("error", "num_error"), ("missing", "num_missing")])
def test_a_sample_without_score_blocks_its_cell_alone(root: Path, db: Path, status: str, column: str) -> None:
    shutil.rmtree(root / "mini" / "vit")
    for seed in range(3):
        write(root, "vit", seed, status=status if seed == 1 else "scored")
    report = ingest(db, root)
    assert report.incomplete == ("mini/vit/eyechart_mini_vqa",)
    columns = f"value, ci_low, ci_high, num_seeds, {column}, num_scored"
    cell = query(db, f"SELECT {columns} FROM leaderboard WHERE value IS NULL")
    assert cell == [(None, None, None, 3, 1, 179)]
    assert [v is None for (v,) in query(db, "SELECT value FROM seeds WHERE encoder = 'vit'")] == [0, 1, 0]
    assert query(db, "SELECT count(*) FROM leaderboard WHERE value IS NOT NULL") == [(2,)]


def test_unparsed_answers_stay_in_the_denominator(tmp_path: Path, db: Path) -> None:
    write(tmp_path / "results", values=np.ones(60), status="unparsed")
    ingest(db, tmp_path / "results")
    cell = query(db, "SELECT value, num_scored, num_unparsed FROM leaderboard")
    assert cell == [(pytest.approx(59 / 60), 59, 1)]


def test_one_seed_and_no_pool_is_flagged(tmp_path: Path, db: Path) -> None:
    write(tmp_path / "results")
    ingest(db, tmp_path / "results")
    assert query(db, "SELECT seeds_unknown, num_seeds FROM metrics") == [(True, 1)]


def test_a_single_seed_borrows_the_pool(root: Path, db: Path) -> None:
    write(root, "newcomer")
    ingest(db, root)
    assert query(db, "SELECT seeds_unknown FROM metrics WHERE encoder = 'newcomer'") == [(False,)]


def test_one_cluster_leaves_the_error_unknown(tmp_path: Path, db: Path) -> None:
    write(tmp_path / "results", values=[1.0, 0.0, 1.0])
    ingest(db, tmp_path / "results")
    cell = query(db, "SELECT ci_low, ci_high, se, df FROM metrics")
    assert cell == [(0, 1, None, None)]


def test_two_bundles_of_one_run_count_once(root: Path, db: Path) -> None:
    ingest(db, root)
    twin = write(root, "vit", 1, values=np.ones(60))
    assert twin.name.endswith("-2")
    report = ingest(db, root)
    assert report.num_bundles == 10 and [why for _, why in report.set_aside] == [cells.OTHER_RUN]
    assert query(db, "SELECT num_seeds, num_expected FROM leaderboard WHERE encoder = 'vit'") == [(3, 180)]
    counted = query(db, "SELECT bundle_digest, counted FROM runs WHERE encoder = 'vit' AND seed = 1")
    assert [flag for _, flag in sorted(counted)] == [True, False], "the smaller digest counts"
    assert query(db, "SELECT count(DISTINCT run_key) FROM runs WHERE encoder = 'vit' AND seed = 1") == [(1,)]


def test_the_reference_engine_counts_before_another(tmp_path: Path, db: Path) -> None:
    for seed in range(4):
        for engine in ("vllm", "hf"):
            write(tmp_path / "results", seed=seed, engine=engine, values=np.full(60, engine == "hf"))
    report = ingest(db, tmp_path / "results")
    assert [why for _, why in report.set_aside] == [cells.OTHER_RUN] * 4
    assert query(db, "SELECT DISTINCT engine FROM runs WHERE counted") == [("hf",)]


def test_a_complete_run_counts_before_an_incomplete_one(tmp_path: Path, db: Path) -> None:
    for number in range(4):
        write(tmp_path / "results", status="error", receipt={"attempt": number})
    write(tmp_path / "results")
    ingest(db, tmp_path / "results")
    assert query(db, "SELECT num_error, value IS NOT NULL FROM leaderboard") == [(0, True)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"recipes": {"feature": "f" * 64}}, cells.OTHER_CONDITIONS),
        ({"task_digest": "f" * 64}, cells.OTHER_CONDITIONS),
        ({"llm_revision": "f" * 64}, cells.OTHER_CONDITIONS),
        ({"scorer": "f" * 64}, cells.OTHER_CONDITIONS),
        ({"protocol_version": 0}, cells.OTHER_VERSION),
    ],
)
def test_what_is_not_comparable_does_not_share_a_column(
    root: Path, db: Path, changes: dict[str, Any], reason: str
) -> None:
    ingest(db, root)
    want = query(db, "FROM leaderboard")
    path = write(root, "stranger", **changes)
    report = ingest(db, root)
    assert report.set_aside == ((path.relative_to(root).as_posix(), reason),)
    assert query(db, "FROM leaderboard") == want
    assert query(db, "SELECT counted, reason FROM runs WHERE encoder = 'stranger'") == [(False, reason)]


def test_a_new_protocol_version_takes_the_board(root: Path, db: Path) -> None:
    write(root, "vit", protocol_version=2)
    report = ingest(db, root)
    assert len(report.set_aside) == 9
    assert query(db, "SELECT encoder, num_seeds FROM leaderboard") == [("vit", 1)]


def test_an_id_means_one_encoder(root: Path, db: Path) -> None:
    other = submission("vit", identity_digest="f" * 64, title="Impostor")
    write(root, "vit", 3, submission=other)
    report = ingest(db, root)
    assert [why for _, why in report.set_aside] == [cells.OTHER_ENCODER]
    assert query(db, "SELECT title, identity_digest FROM encoders WHERE encoder = 'vit'") == [("Vit", HEX)]


def test_edited_annotations_follow_the_majority_of_runs(root: Path, db: Path) -> None:
    write(root, "vit", 3, submission=submission("vit", title="New title"))
    ingest(db, root)
    assert query(db, "SELECT title FROM encoders WHERE encoder = 'vit'") == [("Vit",)]
    assert query(db, "SELECT num_seeds FROM leaderboard WHERE encoder = 'vit'") == [(4,)]


def test_other_samples_under_the_same_digests_are_refused(root: Path, db: Path) -> None:
    write(root, "short", n=57)
    with pytest.raises(IntegrityError, match="other samples"):
        ingest(db, root)


def test_a_cell_has_the_tier_of_its_least_trusted_run(root: Path, db: Path) -> None:
    write(root, "vit", 3, tier="self-reported")
    ingest(db, root)
    assert query(db, "SELECT tier FROM leaderboard WHERE encoder = 'vit'") == [("self-reported",)]


def test_of_two_runs_of_a_seed_the_more_trusted_counts(root: Path, db: Path) -> None:
    write(root, "newcomer", 0, tier="self-reported")
    write(root, "newcomer", 0, tier="re-run")
    write(root, "newcomer", 0, tier="re-scored")
    ingest(db, root)
    counted = "SELECT tier FROM runs WHERE encoder = 'newcomer' AND counted"
    assert query(db, counted) == [("re-run",)]
    assert query(db, "SELECT tier FROM leaderboard WHERE encoder = 'newcomer'") == [("re-run",)]


def test_a_damaged_bundle_stops_the_ingest_and_spares_the_database(root: Path, db: Path) -> None:
    ingest(db, root)
    want = export(db)
    victim = find_bundles(root)[3] / "receipt.json"
    victim.write_bytes(victim.read_bytes().replace(b"true", b"fals"))
    with pytest.raises(IntegrityError, match=r"receipt\.json"):
        ingest(db, root)
    assert export(db) == want
    assert sorted(p.name for p in db.parent.iterdir()) == [db.name, db.name + ".lock"]


def test_a_bundle_in_the_wrong_place_is_refused(root: Path, db: Path) -> None:
    os.rename(root / "mini" / "vit", root / "mini" / "better")
    with pytest.raises(IntegrityError, match="wrong folder"):
        ingest(db, root)


def test_folders_without_commit_are_reported(root: Path, db: Path) -> None:
    (find_bundles(root)[0] / "COMMIT").unlink()
    report = ingest(db, root)
    assert report.num_bundles == 8 and len(report.uncommitted) == 1


def test_stage_seconds_that_are_none_are_refused(root: Path, db: Path) -> None:
    (find_bundles(root)[0] / "environment.json").write_text('{"stages_s": {"adapter": "long"}}')
    with pytest.raises(IntegrityError, match=r"environment\.json"):
        ingest(db, root)


def test_a_second_writer_is_told_who_holds_the_store(root: Path, db: Path) -> None:
    db.parent.mkdir()
    code = f"""
import pathlib, sys
from harness import store
with store._writer_lock(pathlib.Path({str(db)!r})):
    print("held", flush=True)
    sys.stdin.readline()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreBusyError, match=f"process {holder.pid}") as caught:
        ingest(db, root)
    assert caught.value.exit_code == 7 and "run the same command again" in str(caught.value).lower()
    holder.kill()  # a writer that dies holds nothing, though its file stays
    holder.communicate()
    assert (db.with_name(db.name + ".lock")).read_text() == f"{holder.pid}\n"
    assert ingest(db, root).num_bundles == 9


def test_the_lock_is_free_after_success_and_failure(root: Path, db: Path, tmp_path: Path) -> None:
    ingest(db, root)
    with pytest.raises(UsageError, match="no such folder"):
        ingest(db, tmp_path / "none")
    with open(db.with_name(db.name + ".lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_reader_keeps_its_view_while_another_is_made(root: Path, db: Path) -> None:
    ingest(db, root)
    reader = open_store(db)
    write(root, "newcomer")
    assert ingest(db, root).num_cells == 4
    assert reader.execute("SELECT count(*) FROM leaderboard").fetchone() == (3,)
    reader.close()
    assert query(db, "SELECT count(*) FROM leaderboard") == [(4,)]


def test_readers_cannot_write_nor_reach_other_files(root: Path, db: Path, tmp_path: Path) -> None:
    ingest(db, root)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    connection = open_store(db)
    for sql in (
        "DELETE FROM runs",
        "CREATE TABLE x (a INT)",
        f"FROM read_csv('{tmp_path}/secret.csv')",
        f"ATTACH '{tmp_path}/other.duckdb'",
        f"COPY runs TO '{tmp_path}/out.csv'",
        "SET enable_external_access = true",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql)
    connection.close()


def test_a_foreign_writer_is_reported_as_busy(root: Path, db: Path) -> None:
    ingest(db, root)
    code = f"import duckdb, sys; c = duckdb.connect({str(db)!r})"
    code += "; print('held', flush=True); sys.stdin.readline()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StoreBusyError, match=f"process {holder.pid}"):
        open_store(db)
    holder.communicate("\n")


@pytest.mark.parametrize("damage", ["garbage", "empty", "short", "foreign", "version"])
def test_a_database_that_is_not_ours_is_refused_and_rebuilt(root: Path, db: Path, damage: str) -> None:
    ingest(db, root)
    want = export(db)
    whole = db.read_bytes()
    if damage in {"foreign", "version"}:
        db.unlink() if damage == "foreign" else None
        connection = duckdb.connect(str(db))
        connection.execute("CREATE TABLE x (a INT)" if damage == "foreign" else "UPDATE meta SET value = '0'")
        connection.close()
    else:
        db.write_bytes({"garbage": b"garbage" * 999, "empty": b"", "short": whole[:5000]}[damage])
    with pytest.raises(IntegrityError, match="eyechart ingest"):
        open_store(db)
    db.with_name(db.name + ".wal").write_bytes(b"left over")
    ingest(db, root)
    assert export(db) == want


def test_no_database_says_how_to_make_one(db: Path) -> None:
    with pytest.raises(UsageError, match="eyechart ingest"):
        open_store(db)


def test_no_disk_space_keeps_the_old_database(root: Path, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(db, root)
    want = export(db)

    def full(*_: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_replace", full)
    with pytest.raises(ResourceError, match="No space"):
        ingest(db, root)
    assert export(db) == want and not db.with_name(db.name + ".new").exists()


def test_an_empty_folder_of_results_makes_an_empty_board(tmp_path: Path, db: Path) -> None:
    (tmp_path / "results").mkdir()
    assert ingest(db, tmp_path / "results").num_cells == 0
    assert query(db, "FROM leaderboard") == []


def test_progress_is_told(root: Path, db: Path) -> None:
    seen: list[tuple[int, int]] = []
    ingest(db, root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 9) for i in range(1, 10)]


def test_importing_the_store_does_not_import_torch() -> None:
    code = "import harness.store, harness.pairs, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
