"""The rows of `declared_pairs` and `pair_differences`: declared pairs, and what was measured between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.pairs import Pair
from harness.stats import Interval, SeedVariance, paired_difference

RIGHT = 0.5
"""A sample is right for an encoder when its score, averaged over the seeds, is at least this."""
POWER = 0.8
"""A difference of `detectable` is found with this probability, at the interval's level of 95 %."""


def declared_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row a pair, in an order that does not depend on the file's."""
    return [asdict(pair) for pair in sorted(pairs, key=lambda p: (p.a, p.b))]


def difference_rows(
    pairs: Sequence[Pair],
    tables: Mapping[str, NDArray[Any]],
    clusters: NDArray[Any],
    pool: SeedVariance,
    floors: Collection[str],
) -> list[dict[str, Any]]:
    """A row for each pair whose both arms are complete on one task.

    Args:
        pairs: the declared ones.
        tables: (seeds, samples) scores of each complete encoder, all on the same samples in the same order.
        clusters: (samples,) image or video of each sample.
        pool: seed variance pooled over the encoders that are no floors.
        floors: which encoders are floors.
    """
    rows = []
    for pair in pairs:
        if pair.a in tables and pair.b in tables:
            # The pool says nothing about a floor's noise; as on the site, the larger error counts then.
            pools = (pool, None) if {pair.a, pair.b} & set(floors) else (pool,)
            found = [_pair_row(tables[pair.a], tables[pair.b], clusters, p) for p in pools]
            widest = max(found, key=_error)
            rows.append({"a": pair.a, "b": pair.b, **widest})
    return rows


def _pair_row(
    a: NDArray[Any], b: NDArray[Any], clusters: NDArray[Any], pool: SeedVariance | None
) -> dict[str, Any]:
    """The difference a − b on one task and what goes with it; None stands for what is unknown."""
    got = paired_difference(a, b, clusters, pool)
    known = bool(np.isfinite(got.se))
    right_a, right_b = (table.mean(axis=0) >= RIGHT for table in (a, b))
    return {
        "difference": got.value,
        "ci_low": got.low,
        "ci_high": got.high,
        "se": got.se if known else None,
        "df": got.df if known else None,
        "p": _p_value(got) if known else None,
        "only_a": int(np.sum(right_a & ~right_b)),
        "only_b": int(np.sum(right_b & ~right_a)),
        "num_samples": len(clusters),
        "num_clusters": len(np.unique(clusters)),
        "detectable": _detectable(got) if known else None,
    }


def _p_value(got: Interval) -> float | None:
    """Two-sided, by Student's t; without any spread only equality can be judged."""
    if got.se == 0:
        return 1.0 if got.value == 0 else None
    return float(2 * special.stdtr(got.df, -abs(got.value) / got.se))


def _detectable(got: Interval) -> float:
    """The smallest true difference that a test at 5 % finds with probability `POWER`: (t.975 + t.8) · se."""
    return float((special.stdtrit(got.df, 0.975) + special.stdtrit(got.df, POWER)) * got.se)


def _error(row: dict[str, Any]) -> float:
    return float("inf") if row["se"] is None else float(row["se"])
