"""Paired comparisons behind the page: lift over blind, margins over floors, pairs, dead tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from harness.comparison import all_against
from harness.records import SELF_REPORTED, Metric
from harness.stats import Interval, paired_difference
from leaderboard.facts import Facts, RunFacts
from leaderboard.views import BEATS_BY

REQUIRED_FLOORS = ("blind", "shuffled-image", "random-init")
"""Floors that every encoder must pass; pixel patches are shown beside them."""


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of one protocol, with the seed variance that the index pooled task by task."""

    facts: Facts
    protocol: str
    _found: dict[tuple[str, str, str], Interval | None] = field(default_factory=dict, compare=False)
    """Differences already computed: several pages print the same one."""
    _margins: dict[tuple[str, str], Mapping[str, Interval]] = field(default_factory=dict, compare=False)
    _holders: dict[str, Mapping[str, frozenset[str]]] = field(default_factory=dict, compare=False)

    @cached_property
    def encoders(self) -> tuple[str, ...]:
        """Encoders and floors with at least one run here, by id."""
        return tuple(sorted({e for p, e, _ in self.facts.metrics if p == self.protocol}))

    @cached_property
    def tasks(self) -> frozenset[str]:
        """Tasks with at least one run here."""
        return frozenset(t for p, _, t in self.facts.metrics if p == self.protocol)

    @cached_property
    def runs(self) -> Mapping[str, tuple[RunFacts, ...]]:
        """Runs of each encoder here, in the order of the index."""
        found: dict[str, list[RunFacts]] = {}
        for run in self.facts.runs:
            if run.protocol == self.protocol:
                found.setdefault(run.encoder, []).append(run)
        return {encoder: tuple(runs) for encoder, runs in found.items()}

    @cached_property
    def floors(self) -> tuple[str, ...]:
        """Ids of the floors among them."""
        return tuple(e for e in self.encoders if self.facts.submissions[e].floor is not None)

    @cached_property
    def reported(self) -> tuple[str, ...]:
        """Ids of encoders of which a row is self-reported: shown apart, never ranked."""
        mine = (m for (p, _, _), m in self.facts.metrics.items() if p == self.protocol)
        return tuple(sorted({m.encoder for m in mine if m.tier == SELF_REPORTED} - set(self.floors)))

    def metric(self, encoder: str, task: str) -> Metric | None:
        """The index's cell, or None when nothing was run."""
        return self.facts.metrics.get((self.protocol, encoder, task))

    def difference(self, a: str, b: str, task: str) -> Interval | None:
        """Difference a − b on the samples of one task; None unless both are complete on the same samples."""
        key = a, b, task
        if key not in self._found:
            self._found[key] = self._difference(a, b, task)
        return self._found[key]

    def _difference(self, a: str, b: str, task: str) -> Interval | None:
        if b in self.floors and a in self._held_by(b, task):
            return self._against_floor(b, task).get(a)
        left = self.facts.scores.get((self.protocol, a, task))
        right = self.facts.scores.get((self.protocol, b, task))
        if left is None or right is None or left.sample_ids != right.sample_ids:
            return None
        pool = self.facts.seed_pools.get((self.protocol, task))
        # No p: the pages print intervals, and the index has p where a page needs it.
        found = paired_difference(left.scores, right.scores, left.clusters, pool, against=None)
        if a not in self.floors and b not in self.floors:
            return found
        # The pool holds encoders only and may understate a floor's noise, or the floor's few seeds may:
        # the wider interval counts.
        return max(
            found, paired_difference(left.scores, right.scores, left.clusters, against=None), key=_width
        )

    def _against_floor(self, floor: str, task: str) -> Mapping[str, Interval]:
        """The encoders that a floor holds against it, all at once; the wider interval of each as above."""
        key = floor, task
        if key not in self._margins:
            right = self.facts.scores.get((self.protocol, floor, task))
            tables = {
                e: table.scores
                for e in sorted(self._held_by(floor, task))
                if right is not None
                and (table := self.facts.scores.get((self.protocol, e, task))) is not None
                and table.sample_ids == right.sample_ids
            }
            found: dict[str, Interval] = {}
            if right is not None and tables:
                pool = self.facts.seed_pools.get((self.protocol, task))
                arms = list(tables.values()), right.scores, right.clusters
                both = zip(all_against(*arms, pool), all_against(*arms), strict=True)
                found = {e: max(pair, key=_width) for e, pair in zip(tables, both, strict=True)}
            self._margins[key] = found
        return self._margins[key]

    def _held_by(self, floor: str, task: str) -> frozenset[str]:
        """Encoders that are held against a floor on a task."""
        if task not in self._holders:
            holders: dict[str, set[str]] = {f: set() for f in self.floors}
            for encoder in set(self.encoders) - set(self.floors):
                for kind in {self.facts.submissions[f].floor or "" for f in self.floors}:
                    for own in self.own_floors(encoder, kind, task):
                        holders[own].add(encoder)
            self._holders[task] = {f: frozenset(found) for f, found in holders.items()}
        return self._holders[task][floor]

    def own_floors(self, encoder: str, kind: str, task: str) -> tuple[str, ...]:
        """Floors of a kind, complete on a task, that an encoder is held against.

        Made from itself; else from an encoder of its architecture; else all of the kind, since a floor of
        another make is still a floor.
        """
        facts = self.facts.submissions
        found = [f for f in self.floors if facts[f].floor == kind and self._complete(f, task)]
        own = [f for f in found if facts[f].base == encoder]
        kin = [f for f in found if self._architecture(f) == self._architecture(encoder)]
        return tuple(own or kin or found)

    def _complete(self, encoder: str, task: str) -> bool:
        metric = self.metric(encoder, task)
        return metric is not None and metric.value is not None

    def _architecture(self, encoder: str) -> str:
        submission = self.facts.submissions[encoder]
        base = self.facts.submissions.get(submission.base)
        return (base or submission).source.name

    def highest_floor(self, task: str) -> Metric | None:
        """The complete floor with the highest score on a task; ties go to the smaller id."""
        cells = [m for f in self.floors if (m := self.metric(f, task)) is not None and m.value is not None]
        return max(cells, key=_value, default=None)

    def best(self, task: str) -> Metric | None:
        """The complete encoder with the highest score on a task."""
        return self._leaders.get(task)

    @cached_property
    def _leaders(self) -> Mapping[str, Metric]:
        apart = {*self.floors, *self.reported}
        names = [e for e in self.encoders if e not in apart]
        found: dict[str, Metric] = {}
        for task in self.tasks:
            cells = [m for e in names if (m := self.metric(e, task)) is not None and m.value is not None]
            if cells:
                found[task] = max(cells, key=_value)
        return found

    def dead(self, task: str) -> Metric | None:
        """The floor whose interval the best encoder's interval overlaps, or None when the task is alive."""
        best = self.best(task)
        if best is None or best.ci_low is None:
            return None
        cells = [m for f in self.floors if (m := self.metric(f, task)) is not None and m.ci_high is not None]
        top = max(cells, key=lambda m: m.ci_high or 0.0, default=None)
        return top if top is not None and (top.ci_high or 0.0) >= best.ci_low else None


def _width(interval: Interval) -> float:
    return interval.high - interval.low


def errors_away(difference: Interval) -> float:
    """A difference in its standard errors; ±inf when it has none, 0 when both are zero or it is unknown."""
    if not math.isfinite(difference.se):
        return 0.0
    if difference.se == 0:
        return math.copysign(math.inf, difference.value) if difference.value else 0.0
    return difference.value / difference.se


def beats(difference: Interval) -> bool:
    """Whether a difference is at least BEATS_BY standard errors above zero."""
    return errors_away(difference) >= BEATS_BY


def _value(metric: Metric) -> float:
    return metric.value if metric.value is not None else -1.0
