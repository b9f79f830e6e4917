"""The question of the house: classification against contrastive, with the matched pair as the unit.

And the second one: does the linear probe tell what a language model will see?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.comparison import LEVEL, AllPairs, holm
from harness.stats import Interval, limits
from harness.variance import Component

MIN_INDEPENDENT = 5
"""Below this many independent pairs no pooled effect is given."""
MIN_RANKED = 5
"""Below this many encoders a rank correlation has no interval worth printing."""

Arms = tuple[str, str]
"""Encoder ids of a pair: the classification arm, then the contrastive one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyEffect:
    """Classification minus contrastive on one task, over pairs."""

    num_pairs: int
    num_independent: int
    pooled: Interval | None
    """None below MIN_INDEPENDENT independent pairs."""
    leave_one_out: tuple[tuple[tuple[Arms, ...], Interval], ...]
    """The pairs left out, and the pooled effect without them; empty where nothing is pooled."""

    @property
    def holds_without_any(self) -> bool:
        """Whether the sign is the same, and proven, whichever pair is left out."""
        spans = [interval for _, interval in self.leave_one_out]
        return bool(spans) and (all(s.low > 0 for s in spans) or all(s.high < 0 for s in spans))


def independent_groups(pairs: Sequence[Arms]) -> tuple[tuple[Arms, ...], ...]:
    """Pairs that share an encoder, directly or through others, together; each group is one observation.

    Two pairs with the same contrastive arm see the same luck of that arm's pretraining twice. A group is
    what can have varied on its own.

    >>> independent_groups([("a", "x"), ("b", "y"), ("a", "y"), ("c", "z")])
    ((('a', 'x'), ('b', 'y'), ('a', 'y')), (('c', 'z'),))
    """
    groups: list[list[Arms]] = []
    for pair in dict.fromkeys(pairs):
        touching = [g for g in groups if any(set(pair) & set(other) for other in g)]
        merged = [p for g in touching for p in g] + [pair]
        groups = [g for g in groups if g not in touching] + [merged]
    order = {pair: number for number, pair in enumerate(pairs)}
    ordered = [tuple(sorted(g, key=order.__getitem__)) for g in groups]
    return tuple(sorted(ordered, key=lambda g: order[g[0]]))


def family_effect(differences: Mapping[Arms, float]) -> FamilyEffect:
    """Pool the differences of pairs with the pair as the unit.

    The effect is the mean over independent groups of the mean over a group's pairs, its interval that of a
    mean of so many observations, t with one degree of freedom less. The noise of each difference, samples
    and adapter seeds, is in the spread between pairs already, as is what pairs truly differ in: this is the
    random-effects mean with equal weights (the unweighted mean of Hartung & Knapp 2001 where precisions are
    alike), and its population is pairs like these.

    Args:
        differences: classification minus contrastive of every pair, fractions.

    >>> five = {(f"a{i}", f"b{i}"): 0.1 + 0.01 * i for i in range(5)}
    >>> round(family_effect(five).pooled.value, 6), family_effect({("a", "b"): 0.1}).pooled
    (0.12, None)
    """
    groups = independent_groups(list(differences))
    means = [float(np.mean([differences[pair] for pair in group])) for group in groups]
    if len(groups) < MIN_INDEPENDENT:
        return FamilyEffect(
            num_pairs=len(differences), num_independent=len(groups), pooled=None, leave_one_out=()
        )
    without = tuple(
        (group, _mean_interval([m for other, m in enumerate(means) if other != number]))
        for number, group in enumerate(groups)
    )
    return FamilyEffect(
        num_pairs=len(differences),
        num_independent=len(groups),
        pooled=_mean_interval(means),
        leave_one_out=without,
    )


def _mean_interval(values: Sequence[float]) -> Interval:
    count, mean = len(values), float(np.mean(values))
    got = limits(mean, [Component(float(np.var(values, ddof=1)) / count, count - 1.0)], LEVEL)
    low, high, se, df, p = (float(x) for x in got)
    return Interval(mean, max(low, -1.0), min(high, 1.0), se, df, p=p)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAgreement:
    """How far the probe's order is another task's."""

    num_encoders: int
    correlation: float | None
    """Spearman's; None with fewer than two encoders or where one side does not vary."""
    low: float | None
    """None, as `high`, with fewer than MIN_RANKED encoders or where both orders are the same."""
    high: float | None
    flips: tuple[tuple[str, str], ...]
    """Encoders of which the first is proven better by probe and proven worse by the other task."""


def rank_agreement(names: Sequence[str], probe: AllPairs, other: AllPairs) -> RankAgreement:
    """Spearman's correlation of two tasks over encoders, with interval, and the proven rank flips.

    The interval is Bonett & Wright's (2000, Psychometrika 65:23): Fisher's z with variance (1 + ρ²/2)/(n −
    3). It treats the encoders as drawn from all there could be. A flip needs both differences proven, in
    Holm's sense over all pairs of both tasks.

    Args:
        names: encoder ids, in the order of both tables.
        probe: all pairs on the linear probe.
        other: all pairs on another task.
    """
    from scipy import stats as scipy_stats  # a second and a half, which no check needs

    count = len(names)
    rho = low = high = None
    scores = [pairs.value.mean(axis=1) for pairs in (probe, other)]
    if count > 1 and all(np.ptp(s) > 0 for s in scores):
        rho = float(scipy_stats.spearmanr(*scores).statistic)
        # At the ends Fisher's z is infinite: five encoders in one order prove no perfect agreement.
        if count >= MIN_RANKED and abs(rho) < 1 - 1e-9:
            half = float(special.ndtri(0.5 + LEVEL / 2)) * math.sqrt((1 + rho**2 / 2) / (count - 3))
            centre = math.atanh(rho)
            low, high = math.tanh(centre - half), math.tanh(centre + half)
    return RankAgreement(
        num_encoders=count, correlation=rho, low=low, high=high, flips=_flips(names, probe, other)
    )


def _flips(names: Sequence[str], probe: AllPairs, other: AllPairs) -> tuple[tuple[str, str], ...]:
    upper = np.triu_indices(len(names), 1)
    proven = holm(np.concatenate([probe.p[upper], other.p[upper]])) < 1 - LEVEL
    half = len(upper[0])
    found = []
    for place, (i, j) in enumerate(zip(*upper, strict=True)):
        signs = probe.value[i, j], other.value[i, j]
        if proven[place] and proven[half + place] and signs[0] * signs[1] < 0:
            first, second = (i, j) if signs[0] > 0 else (j, i)
            found.append((names[int(first)], names[int(second)]))
    return tuple(sorted(found))
