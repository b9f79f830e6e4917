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
from index_bundles import HEX, PAIRS, submission, write, write_board
from scipy.stats import t as student

from harness import cells, pair_rows, stats, store, store_files, variance
from harness.baseline import board_pools
from harness.bundle import find_bundles
from harness.cli import main
from harness.compare_output import compare_sides
from harness.errors import IntegrityError, ResourceError, StoreBusyError, UsageError
from harness.gate_sides import bundle_folders, read_side
from harness.store import STORE_VERSION, ingest, open_store
from leaderboard.comparisons import Comparisons
from leaderboard.index import read_facts

COLUMNS = ["protocol", "encoder", "family", "side", "task", "split", "metric", "value", "ci_low", "ci_high"]
COLUMNS += ["num_seeds", "num_expected", "num_scored", "num_unparsed", "num_error", "num_missing", "tier"]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests ask what is written, not whether a power cut spares it; syncing costs seconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def root(board: Path, tmp_path: Path) -> Path:
    shutil.copytree(board / "results", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its index, for tests that change neither."""
    home = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        write_board(home / "results")
        ingest(home / "index" / "eyechart.duckdb", home / "results", pairs=PAIRS)
    return home


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
    names += ("pairs", "flips", "pair_differences", "declared_pairs")
    connection = open_store(db)
    try:
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name in names}
    finally:
        connection.close()


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
    pool = variance.pool_seeds([tables["vit"], tables["resnet"]], clusters)
    assert query(db, "SELECT seed_ratio, seed_df, seed_total FROM tasks") == [pytest.approx(pool)]
    for encoder, want in [
        ("vit", stats.estimate(tables["vit"], clusters, pool)),
        ("resnet", stats.estimate(tables["resnet"], clusters, pool)),
        ("blind", stats.estimate(tables["blind"], clusters)),
    ]:
        sql = f"SELECT value, ci_low, ci_high, se, df FROM metrics WHERE encoder = '{encoder}'"
        assert query(db, sql)[0] == pytest.approx(want[:5])


def test_ingesting_again_deleting_and_any_order_give_the_same(root: Path, db: Path, tmp_path: Path) -> None:
    ingest(db, root, pairs=PAIRS)
    want = export(db)
    assert want["flips"] and want["pairs"]
    ingest(db, root, pairs=PAIRS)
    assert export(db) == want
    db.unlink()
    ingest(db, root, pairs=PAIRS)
    assert export(db) == want
    # The same bundles, spread over two folders of results, one of them in both.
    spread = [tmp_path / "left", tmp_path / "right"]
    for number, path in enumerate(find_bundles(root)):
        for target in spread if number == 4 else [spread[number % 2]]:
            shutil.copytree(path, target / path.relative_to(root))
    for order in (spread, spread[::-1]):
        ingest(db, *order, pairs=PAIRS[::-1])
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


def test_pairs_carry_the_difference_and_what_goes_with_it(root: Path, db: Path) -> None:
    ingest(db, root, pairs=PAIRS)
    tables = {}
    for encoder in ("vit", "resnet"):
        sql = f"SELECT score FROM samples WHERE encoder = '{encoder}' ORDER BY seed, sample_id"
        tables[encoder] = np.array([score for (score,) in query(db, sql)]).reshape(3, 60)
    pool = variance.pool_seeds(list(tables.values()), np.arange(60) // 3)
    want = stats.paired_difference(tables["resnet"], tables["vit"], np.arange(60) // 3, pool)
    columns = "difference, ci_low, ci_high, se, df"
    assert query(db, f"SELECT {columns} FROM pairs") == [pytest.approx(want[:5])]
    t = student(want.df)
    detectable = (t.ppf(0.975) + t.ppf(0.8)) * want.se
    assert query(db, "SELECT p, detectable, num_samples, num_clusters FROM pairs") == [
        (pytest.approx(want.p), pytest.approx(detectable), 60, 20)
    ]
    declared = query(db, "SELECT b FROM declared_pairs ORDER BY b")
    assert declared == [("absent",), ("vit",)]
    said = query(db, "SELECT task, a, b, held_equal, differs, note FROM pairs")
    assert said == [("eyechart_mini_vqa", "resnet", "vit", ["images", "tokens"], ["objective"], "measured")]


def test_flips_are_the_samples_that_one_side_has_right(tmp_path: Path, db: Path) -> None:
    """Fractions as VQA gives them: 0.6 + 0.6 + 0.3 is 1.5 in one order, and a little less in another."""
    left, right = np.zeros((3, 60)), np.zeros((3, 60))
    left[:, 0], right[:, 0] = 1, 0
    left[:, 1], right[:, 1] = (1, 0, 0), (1, 1, 0)
    left[:, 2], right[:, 2] = (0.6, 0.6, 0.3), (0.3, 0.3, 0.9)
    left[:, 3], right[:, 3] = (0.9, 0.3, 0.3), 0
    for seed in range(3):
        write(tmp_path / "results", "resnet", seed, values=left[seed])
        write(tmp_path / "results", "vit", seed, values=right[seed])
    ingest(db, tmp_path / "results", pairs=PAIRS)
    right_a, right_b = left.mean(axis=0) >= 0.5, right.mean(axis=0) >= 0.5
    found = query(db, "SELECT sample_id, cluster, score_a, score_b, right_side FROM flips ORDER BY ALL")
    assert found == [
        (f"{i:03}", f"img-{i // 3}", left[:, i].mean(), right[:, i].mean(), "a" if right_a[i] else "b")
        for i in np.flatnonzero(right_a != right_b)
    ]
    assert {(i, side) for i, *_, side in found} >= {("000", "a"), ("001", "b")}
    counts = "count(*) FILTER (right_side = 'a'), count(*) FILTER (right_side = 'b')"
    assert query(db, f"SELECT {counts} FROM flips") == query(db, "SELECT only_a, only_b FROM pairs")


def test_a_pair_with_an_incomplete_arm_has_no_numbers(root: Path, db: Path) -> None:
    write(root, "vit", 3, status="missing")
    ingest(db, root, pairs=PAIRS)
    assert query(db, "FROM pairs") == query(db, "FROM flips") == []
    assert len(query(db, "FROM declared_pairs")) == 2


def test_a_pair_without_spread_says_what_it_does_not_know(tmp_path: Path, db: Path) -> None:
    for encoder in ("vit", "resnet"):
        write(tmp_path / "results", encoder, values=np.ones(3))
    ingest(db, tmp_path / "results", pairs=PAIRS)
    assert query(db, "SELECT difference, se, df, p, detectable FROM pairs") == [(0, None, None, None, None)]
    row = pair_rows._pair_row(np.ones((2, 9)), np.zeros((2, 9)), np.arange(9), None)
    assert (row["se"], row["detectable"], row["only_a"]) == (0, None, 9)
    assert 0 < row["p"] < 0.01
    assert pair_rows._pair_row(np.ones((2, 9)), np.ones((2, 9)), np.arange(9), None)["p"] == 1


def test_a_pair_with_a_floor_has_the_wider_interval(root: Path, db: Path) -> None:
    ingest(db, root, pairs=(dataclasses.replace(PAIRS[0], b="blind"),))
    (found,) = query(db, "SELECT ci_low, ci_high FROM pairs")
    tables = {}
    for encoder in ("vit", "resnet", "blind"):
        sql = f"SELECT score FROM samples WHERE encoder = '{encoder}' ORDER BY seed, sample_id"
        tables[encoder] = np.array([score for (score,) in query(db, sql)]).reshape(3, 60)
    pool = variance.pool_seeds([tables["vit"], tables["resnet"]], np.arange(60) // 3)
    arms = (tables["resnet"], tables["blind"], np.arange(60) // 3)
    # The encoder borrows from the pool either way; the floor's own seeds count where they say more.
    ways = (pool, pool), (pool, None)
    both = [stats.interval_of(stats.difference_parts(*arms, *pools)) for pools in ways]
    widest = max(both, key=lambda d: d.high - d.low)
    assert found == pytest.approx((widest.low, widest.high))
    assert both[0].df != both[1].df


def test_differences_to_floors_are_those_that_compare_and_the_site_print(root: Path, db: Path) -> None:
    ingest(db, root)
    rows = query(db, "SELECT encoder, floor, kind, difference, ci_low, ci_high, se FROM floor_differences")
    assert {(e, f, k) for e, f, k, *_ in rows} == {("vit", "blind", "blind"), ("resnet", "blind", "blind")}
    blind = read_side(bundle_folders([root / "mini" / "blind"]))
    compared = Comparisons(read_facts(db, None, None), "mini")
    for encoder, floor, _, difference, low, high, se in rows:
        side = read_side(bundle_folders([root / "mini" / encoder]))
        pools = board_pools(side, [root], with_own=True)
        (found,) = (t for t in compare_sides(side, blind, pools) if t.comparison)
        assert found.comparison is not None
        interval, shown = found.comparison.interval, compared.difference(encoder, floor, found.task)
        assert shown is not None
        for got in (interval, shown):
            assert (got.value, got.low, got.high, got.se) == pytest.approx((difference, low, high, se))


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
with store.writer_lock(pathlib.Path({str(db)!r})):
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
    assert "(python" in str(caught.value), "with its command line"
    holder.kill()  # a writer that dies holds nothing, though its file stays
    holder.communicate()
    assert (db.with_name(db.name + ".lock")).read_text().startswith(f"{holder.pid}\n")
    assert ingest(db, root).num_bundles == 9


def test_of_two_ingests_at_once_the_second_names_the_first(root: Path, db: Path) -> None:
    words = ["ingest", str(root), "--db", str(db)]
    code = f"""
import sys
from harness import store
from harness.cli import main
fill = store._fill
def slow(*arguments):
    print("held", flush=True)
    sys.stdin.readline()
    return fill(*arguments)
store._fill = slow
sys.exit(main({words!r}))
"""
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert first.stdout is not None and first.stdout.readline() == "held\n"
    second = [sys.executable, "-m", "harness.cli", *words]
    done = subprocess.run(second, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "")
    assert f"found process {first.pid} (python" in done.stderr and done.stderr.count("\n") == 1
    assert first.communicate("\n")[0].startswith("9 bundles")
    assert first.returncode == 0
    assert export(db)["leaderboard"]


def test_processes_are_named_as_people_typed_them() -> None:
    assert store_files.name_process(os.getpid()).startswith(f"process {os.getpid()} (")
    assert store_files.name_process(2**22 + 1) == f"process {2**22 + 1}"
    assert store_files._holder(b"") == "process unknown"
    assert store_files._holder(b"12\neyechart ingest\n") == "process 12 (eyechart ingest)"
    assert len(store_files._spell_command(["eyechart", "ingest", "x" * 500])) == store_files.SHOWN


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


@pytest.mark.parametrize(
    ("damage", "rebuild"),
    [(damage, False) for damage in ("garbage", "empty", "short", "end", "foreign", "absent")]
    + [(damage, True) for damage in ("text", "empty", "half", "absent")],
)
def test_a_database_that_is_not_ours_is_refused_and_rebuilt(
    board: Path, db: Path, damage: str, rebuild: bool
) -> None:
    shutil.copytree(board / "index", db.parent)
    want, whole = export(db), db.read_bytes()
    if damage in {"foreign", "absent"}:
        db.unlink()
        if damage == "foreign":
            with duckdb.connect(str(db)) as connection:
                connection.execute("CREATE TABLE x (a INT)")
    else:
        lost = {"garbage": b"garbage" * 999, "text": b"notes of mine", "empty": b"", "short": whole[:5000]}
        lost |= {"half": whole[: len(whole) // 2], "end": whole[:-1]}
        db.write_bytes(lost[damage])
    with pytest.raises(UsageError if damage == "absent" else IntegrityError, match="eyechart ingest"):
        open_store(db)
    for end in (".wal", ".new", ".new.wal"):
        db.with_name(db.name + end).write_bytes(whole[:9999])
    ingest(db, board / "results", pairs=PAIRS, rebuild=rebuild)
    assert export(db) == want
    assert sorted(p.name for p in db.parent.iterdir()) == [db.name, db.name + ".lock"]


@pytest.mark.parametrize("log", [b"", b"garbage" * 50, b"\0" * 5000])
def test_a_log_that_is_no_log_loses_nothing(board: Path, db: Path, log: bytes) -> None:
    shutil.copytree(board / "index", db.parent)
    want = export(db)
    db.with_name(db.name + ".wal").write_bytes(log)
    assert export(db) == want, "our database is whole without one"
    ingest(db, board / "results", pairs=PAIRS)
    assert export(db) == want and not db.with_name(db.name + ".wal").exists()


def test_a_foreign_writers_log_is_not_replayed(board: Path, db: Path) -> None:
    shutil.copytree(board / "index", db.parent)
    want = export(db)
    code = f"""
import duckdb, os
connection = duckdb.connect({str(db)!r})
connection.execute("DELETE FROM scores")
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    log = db.with_name(db.name + ".wal").read_bytes()
    assert len(log) > 100
    for kept in (len(log), len(log) // 2):
        db.with_name(db.name + ".wal").write_bytes(log[:kept])
        ingest(db, board / "results", pairs=PAIRS)
        assert export(db) == want


@pytest.mark.parametrize(("version", "word"), [("1", "older"), ("999", "newer")])
def test_a_database_of_another_version_is_replaced_and_loses_nothing(
    board: Path, db: Path, version: str, word: str
) -> None:
    shutil.copytree(board / "index", db.parent)
    want = export(db)
    with duckdb.connect(str(db)) as connection:
        for sql in ("DROP VIEW flips", "DROP VIEW pairs", "DROP TABLE declared_pairs", "DELETE FROM scores"):
            connection.execute(sql)
        connection.execute("UPDATE meta SET value = ?", [version])
    with pytest.raises(IntegrityError, match="nothing is lost") as caught:
        open_store(db)
    assert f"found {version} ({word}), expected {STORE_VERSION}" in str(caught.value)
    assert ("the Eyechart that made it" in str(caught.value)) == (word == "newer")
    ingest(db, board / "results", pairs=PAIRS)
    assert export(db) == want


def test_a_folder_is_no_database(board: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for rebuild in (False, True):
        with pytest.raises(UsageError, match="is a folder"):
            ingest(tmp_path / "folder", board / "results", rebuild=rebuild)


def test_a_path_without_a_folder(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["ingest", str(board / "results"), "--db", "x.duckdb", "--rebuild"]) == 0
        Path("x.duckdb.wal").write_bytes(b"left over")
    assert capsys.readouterr().out.count("9 bundles, 540 samples, 3 cells in x.duckdb") == 2
    assert len(export(Path("x.duckdb"))["leaderboard"]) == 3


MOMENTS = ("locked", "reading", "committing", "finished", "renaming", "renamed")
KILLED = """
import contextlib, os, signal, sys
from pathlib import Path
with contextlib.suppress(ImportError):
    import pandas  # DuckDB would import it in every child
from harness import store, store_files
from index_bundles import PAIRS

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_version(connection, table, rows, insert=store._insert):
    die() if table == "meta" else insert(connection, table, rows)

places = {
    "locked": (store, "_fill", die),
    "committing": (store, "_insert", die_at_version),
    "finished": (store, "replace_database", die),
    "renaming": (os, "replace", die),
    "renamed": (store_files, "sync_folder", die),
}
os.fsync = lambda _: None
home, results = map(Path, sys.argv[1:3])
for moment in sys.argv[3:]:
    if os.fork() == 0:
        if moment in places:
            setattr(*places[moment])
        stop = die if moment == "reading" else lambda *_: None
        progress = lambda done, total: stop() if done == total // 2 else None
        store.ingest(home / moment / "eyechart.duckdb", results, pairs=PAIRS, progress=progress)
        os._exit(1)
    assert os.wait()[1] == signal.SIGKILL, moment
"""


def test_a_killed_ingest_leaves_a_whole_database(board: Path, tmp_path: Path) -> None:
    want = export(board / "index" / "eyechart.duckdb")
    shutil.copytree(board / "results", tmp_path / "results")
    write(tmp_path / "results", "newcomer")
    for moment in MOMENTS:
        shutil.copytree(board / "index", tmp_path / moment)
    path = {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(Path(__file__).parent)])}
    words = [sys.executable, "-c", KILLED, str(tmp_path), str(tmp_path / "results"), *MOMENTS]
    done = subprocess.run(words, env={**os.environ, **path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for moment in MOMENTS:
        db = tmp_path / moment / "eyechart.duckdb"
        found = export(db)
        assert (found == want) == (moment != "renamed"), moment
        assert len(found["leaderboard"]) == 3 + (moment == "renamed"), "the old database or the new one"
    for moment in ("committing", "renamed"):
        db = tmp_path / moment / "eyechart.duckdb"
        ingest(db, tmp_path / "results", pairs=PAIRS)
        assert len(export(db)["leaderboard"]) == 4
        assert sorted(p.name for p in db.parent.iterdir()) == [db.name, db.name + ".lock"]


def test_no_database_says_how_to_make_one(db: Path) -> None:
    with pytest.raises(UsageError, match="eyechart ingest"):
        open_store(db)


def test_no_disk_space_keeps_the_old_database(root: Path, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(db, root)
    want = export(db)

    def full(*_: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "replace_database", full)
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
