"""Time and weigh the site at sizes that nobody has measured yet: made-up encoders, no bundles.

    python scripts/bench_site.py [--encoders 10000] [--naive 20]

Prints the weight of a board of 1,000 rows, the time of a whole build of many encoders, what one encoder more
changes, and the time of a plain build, from a slice of its pages: one that compiles the templates and looks
through all runs for every page.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.pair_facts import Network
from harness.records import InputSpec, Metric, PretrainStage, Source, Submission
from harness.task import read_task
from harness.variance import SeedPool
from leaderboard.build import render_site
from leaderboard.comparisons import Comparisons
from leaderboard.facts import Facts, Place, RunFacts, ScoreTable
from leaderboard.kit import Kit, environment
from leaderboard.profiles import encoder_page, site_frame

TASKS = ("probe", "digits", "vqa", "signs", "rec", "video")
FLOORS = ("blind", "shuffled-image", "random-init")
OBJECTIVES = (
    "label-classification",
    "sigmoid-contrastive",
    "softmax-contrastive",
    "caption-word-classification",
)
SAMPLES, SEEDS = 60, 3


def submission(name: str, number: int, floor: str | None = None) -> Submission:
    """A made-up encoder or floor."""
    return Submission(
        id=name,
        title=f"Made-up encoder {number:,}, variant {number % 7}",
        authors=("Nobody", f"Group {number % 40}"),
        links=(f"https://example.org/{name}",),
        license="Apache-2.0",
        contamination="none known",
        source=Source(
            kind="floor" if floor else "timm", name=f"net_{number % 25}", revision="0" * 40, files=()
        ),
        input=InputSpec(resolution=224, mean=(0.5,) * 3, std=(0.5,) * 3),
        pretraining=()
        if floor
        else (PretrainStage(objective=OBJECTIVES[number % 4], data=f"set {number % 9}", images_seen=10**9),),
        architecture=f"ViT, {10 + number % 300} M parameters",
        floor=floor,
        base="",
        identity_digest=f"{number:064x}",
    )


def made_up_run(number: int, name: str, task: str, seed: int, table: np.ndarray) -> RunFacts:
    """One seed of one cell."""
    return RunFacts(
        run_key=f"{number:08x}{seed:x}{task}",
        bundle_digest=f"{number:062x}{seed:02x}",
        protocol="mini",
        encoder=name,
        task=task,
        seed=seed,
        value=float(table[seed].mean()),
        num_expected=SAMPLES,
        num_scored=SAMPLES,
        num_unparsed=0,
        num_error=0,
        num_missing=0,
        inputs={"task": "0" * 64, "engine": "hf"},
        receipt={"frozen": True, "grid": [14, 14]},
        environment={"cpu": "a processor", "cores": 16},
        costs={"features": 40.0 + number % 91, "adapters and probes": 320.0 + number % 77},
    )


def made_up(num_encoders: int, more: int = 0) -> Facts:
    """Facts of so many encoders and three floors on six tasks, and of `more` behind them."""
    rng = np.random.default_rng(0)
    names = {f"made-up-{n:05}": submission(f"made-up-{n:05}", n) for n in range(num_encoders)}
    names |= {f"floor-{f}": submission(f"floor-{f}", 0, f) for f in FLOORS}
    names |= {f"later-{n}": submission(f"later-{n}", num_encoders + n) for n in range(more)}
    tasks = {f"eyechart_mini_{t}": read_task(f"eyechart_mini_{t}") for t in TASKS}
    ids, clusters = tuple(f"{i:04}" for i in range(SAMPLES)), np.arange(SAMPLES) // 2
    metrics, scores, runs, places = {}, {}, [], {}
    for number, name in enumerate(names):
        floor = names[name].floor is not None
        for task in tasks:
            share = 0.1 if floor else rng.uniform(0.3, 0.95)
            table = (rng.random((SEEDS, SAMPLES)) < share).astype(float)
            value = float(table.mean())
            below, above = rng.uniform(0.005, 0.04, 2)
            key = "mini", name, task
            scores[key] = ScoreTable(sample_ids=ids, clusters=clusters, scores=table)
            metrics[key] = Metric(
                protocol="mini", encoder=name, family=names[name].family, side=names[name].side, task=task,
                split="test", metric="exact_match", value=value, ci_low=max(value - below, 0),
                ci_high=min(value + above, 1), num_seeds=SEEDS, num_expected=SEEDS * SAMPLES,
                num_scored=SEEDS * SAMPLES, num_unparsed=0, num_error=0, num_missing=0, tier="re-run",
            )  # fmt: skip
            if not floor:
                low = int(rng.integers(1, num_encoders))
                places[key] = Place(
                    low=low,
                    high=min(low + 9, num_encoders),
                    groups=tuple(range(1 + low // 90, 2 + low // 90 + number % 2)),
                    num_ranked=num_encoders,
                )
            runs += [made_up_run(number, name, task, seed, table) for seed in range(SEEDS)]
    return Facts(
        metrics=metrics,
        submissions=names,
        runs=tuple(runs),
        scores=scores,
        seed_pools={("mini", t): SeedPool(0.002, 40.0, 0.25) for t in tasks},
        chances={("mini", t): 0.0 for t in tasks},
        tasks=tasks,
        suites={"mini": "mini"},
        protocols={},
        pairs=(),
        set_aside=(),
        index_digest="0" * 64,
        places=places,
        networks={n: Network(86_000_000 + 1000 * i, (14, 14)) for i, n in enumerate(names)},
    )


def weigh() -> None:
    """A board of 1,000 rows with all that its page loads."""
    files = render_site(made_up(1000))
    parts = ("boards/mini.html", "static/site.css", "static/sort.js", "static/board.js")
    sizes = [len(gzip.compress(files[name], 9)) / 1e3 for name in parts]
    print(f"board of 1,000 rows: {sum(sizes):.1f} kB gzipped (goal 200)")
    for name, size in zip(parts, sizes, strict=True):
        print(f"  {name}: {size:.1f} kB")


def plainly(facts: Facts, count: int, shared: Comparisons | None = None) -> float:
    """Seconds an encoder's page takes whoever compiles the templates anew for each, over `count` of them.

    Without `shared`, whoever also looks through all runs for each.
    """
    if shared is not None:
        encoder_page(facts, [shared], min(facts.submissions))  # what is found once
    begun = time.process_time()
    for encoder in sorted(facts.submissions)[:count]:
        compared = shared or Comparisons(facts, "mini")
        kit = Kit(
            facts=facts, compared=[compared], site=site_frame(facts, [compared]), environment=environment()
        )
        view = encoder_page(facts, [compared], encoder)
        kit.page("encoder.html.j2", view.name.href, page=view)
    return (time.process_time() - begun) / count


def main() -> int:
    """Print the figures; CPU seconds of one process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", type=int, default=10_000)
    parser.add_argument("--naive", type=int, default=20, help="pages of the plain build")
    arguments = parser.parse_args()
    weigh()
    many = made_up(arguments.encoders)
    begun = time.process_time()
    files = render_site(many)
    ours = time.process_time() - begun
    size = sum(map(len, files.values())) / 1e6
    print(f"{arguments.encoders:,} encoders: {len(files):,} files, {size:,.0f} MB in {ours:.0f} s")
    more = render_site(made_up(arguments.encoders, more=1))
    changed = sum(files.get(name) != data for name, data in more.items())
    print(f"one encoder more: {changed:,} of {len(more):,} files are new or changed")
    for shared, how in (
        (Comparisons(many, "mini"), "templates compiled for each"),
        (None, "and runs searched"),
    ):
        plain = plainly(many, arguments.naive, shared) * len(many.submissions)
        print(f"plain build, {how}: {plain:,.0f} s, from {arguments.naive} pages of encoders alone: ", end="")
        print(f"{plain / ours:.1f} times (goal 5)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
