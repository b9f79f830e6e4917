"""Paired comparisons behind the page: lift over blind, margins over floors, pairs, dead tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from harness.comparison import floor_pools
from harness.floor_rows import against_floor, own_floors
from harness.records import SELF_REPORTED, Metric
from harness.stats import Interval, difference_parts, interval_of
from leaderboard.facts import Facts, RunFacts

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
        pools = floor_pools(pool, (a in self.floors, b in self.floors))
        every = [difference_parts(left.scores, right.scores, left.clusters, *both) for both in pools]
        # No p: the pages print intervals, and the index has p where a page needs it.
        found = [interval_of(parts, against=None) for parts in every]
        return max(found, key=lambda interval: interval.high - interval.low)

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
            pool = self.facts.seed_pools.get((self.protocol, task))
            found: dict[str, Interval] = {}
            if right is not None and tables:
                found = against_floor(tables, right.scores, right.clusters, pool)
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
        """Floors of a kind, complete on a task, that an encoder is held against; see `harness.floor_rows`."""
        facts = self.facts.submissions
        complete = [facts[f] for f in self.floors if self._complete(f, task)]
        return own_floors(facts[encoder], kind, complete, facts)

    def _complete(self, encoder: str, task: str) -> bool:
        metric = self.metric(encoder, task)
        return metric is not None and metric.value is not None

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


def _value(metric: Metric) -> float:
    return metric.value if metric.value is not None else -1.0
