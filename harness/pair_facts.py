"""What a declared pair holds equal, computed where it can be: a claim in pairs.toml is not believed.

Architecture, parameters and tokens come from what the runs recorded of the networks themselves; resolution,
images seen, data, objective and initial weights from the submissions, whose text is their authors' word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from harness.pairs import Pair
from harness.records import Submission

_IMPLIED = ("parameters", "tokens")
Found = Literal["equal", "differs", "unknown"]


class Network(NamedTuple):
    """What runs recorded of an encoder's network; None where they did not."""

    num_params: int | None
    grid: tuple[int, ...] | None
    """Patch tokens, rows and columns."""


class PairFact(NamedTuple):
    """One aspect of a pair."""

    aspect: str
    declared: Literal["equal", "differs", "unnamed"]
    """Unnamed: it differs, and the declaration says nothing of it."""
    found: Found

    @property
    def contradicted(self) -> bool:
        """Whether what was computed is not what was declared."""
        return self.found not in {"unknown", self.declared}


def network_of(receipts: Sequence[Mapping[str, Any]]) -> Network:
    """Parameters and grid from the receipts of an encoder's runs; None where they are absent or disagree."""
    params = {r["num_params"] for r in receipts if isinstance(r.get("num_params"), int)}
    grids = {tuple(r["grid"]) for r in receipts if isinstance(r.get("grid"), list)}
    return Network(params.pop() if len(params) == 1 else None, grids.pop() if len(grids) == 1 else None)


def pair_facts(
    pair: Pair, submissions: Mapping[str, Submission], networks: Mapping[str, Network]
) -> tuple[PairFact, ...]:
    """Every declared aspect of a pair against what can be computed, and what differs unnamed.

    Args:
        pair: the declaration.
        submissions: of both arms, by id.
        networks: of both arms, by id.
    """
    a, b = (_computed(submissions[e], networks.get(e, Network(None, None))) for e in (pair.a, pair.b))
    facts = []
    for declared, aspects in (("equal", pair.held_equal), ("differs", pair.differs)):
        for aspect in aspects:
            mine, theirs = a.get(aspect), b.get(aspect)
            found: Found = "unknown" if None in {mine, theirs} else "equal" if mine == theirs else "differs"
            facts.append(PairFact(aspect, declared, found))  # type: ignore[arg-type]
    # Another architecture has other parameters as a matter of course; another name is no proof of one.
    implied = _IMPLIED if "architecture" in pair.differs else ()
    named = {*pair.held_equal, *pair.differs, *implied, "architecture"}
    unnamed = [x for x in sorted(set(a) - named) if None not in {a[x], b[x]} and a[x] != b[x]]
    return (*facts, *(PairFact(aspect, "unnamed", "differs") for aspect in unnamed))


def _computed(submission: Submission, network: Network) -> dict[str, str | None]:
    """Aspect -> its value as text, None where nothing tells."""
    stages = submission.pretraining
    begun = [stage.init_from for stage in stages[:1]]
    return {
        "architecture": None
        if network.num_params is None
        else f"{submission.source.name}, {network.num_params} parameters",
        "parameters": None if network.num_params is None else str(network.num_params),
        "tokens": None if network.grid is None else str(network.grid),
        "resolution": str(submission.input.resolution),
        "images": None if not stages else "; ".join(stage.data for stage in stages),
        "images-seen": None if not stages else str(sum(stage.images_seen for stage in stages)),
        "objective": submission.family,
        # Two random beginnings may be the same or not: only a named one tells.
        "initial-weights": begun[0] if begun and begun[0] else None,
    }
