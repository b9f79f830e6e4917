"""What bundles say about each other: runs of one task saw the same samples, and one answer has one score.

A forger who edits one bundle consistently in itself must still agree with every other run of the same task.
Where bundles disagree, those of the base count before others, then what most encoders say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.bundle import Bundle
from harness.errors import IntegrityError

Trait = Callable[[Bundle], Any]


def compare_siblings(bundles: Sequence[Bundle], trusted: Collection[Path] = ()) -> list[IntegrityError]:
    """Every contradiction between bundles, the odd one named, at most one of each sort a bundle.

    Args:
        bundles: each sound in itself.
        trusted: folders of bundles that are known to be right, for they were on the board before.
    """
    ordered = sorted(bundles, key=lambda b: (b.path not in trusted, str(b.path)))
    vote = _Vote(ordered, trusted)
    return [
        *_find_twins(ordered),
        *vote.odd(_encoder, lambda b: b.run.submission.identity_digest, "another encoder under this id"),
        *vote.odd(_encoder, _history, "another family, floor or base than other runs of this encoder"),
        *vote.odd(lambda b: b.run.submission.identity_digest, _encoder, "the same encoder under another id"),
        *vote.odd(
            lambda b: b.run.submission.identity_digest,
            lambda b: b.receipt["encoder_weights"]["before"],
            "other weights in its receipt than other runs of this encoder",
        ),
        *_compare_samples(ordered, vote),
        *_compare_scores(ordered, vote),
    ]


def _encoder(bundle: Bundle) -> str:
    return bundle.run.submission.id


def _history(bundle: Bundle) -> tuple[str, str, str]:
    submission = bundle.run.submission
    return submission.family, str(submission.floor or "none"), submission.base or "none"


def _asked(bundle: Bundle) -> tuple[str, str, str]:
    return bundle.run.task, bundle.run.task_digest, bundle.run.dataset_digest


class _Vote:
    """Which of several claims is believed, and who stands apart from it.

    Args:
        bundles: trusted ones first, then by path.
        trusted: folders whose word counts before that of others.
    """

    def __init__(self, bundles: Sequence[Bundle], trusted: Collection[Path]) -> None:
        self.bundles, self._trusted = bundles, trusted

    def believed(self, claims: Iterable[tuple[Bundle, Hashable]]) -> tuple[Any, Bundle]:
        """The claim of most encoders, the earlier one in a tie, and the first bundle that makes it."""
        voters: dict[Hashable, set[tuple[bool, str]]] = defaultdict(set)
        first: dict[Hashable, Bundle] = {}
        for bundle, claim in claims:
            voters[claim].add((bundle.path in self._trusted, _encoder(bundle)))
            first.setdefault(claim, bundle)
        best = max(voters, key=lambda c: (sum(t for t, _ in voters[c]), len(voters[c])))
        return best, first[best]

    def odd(self, group: Trait, trait: Trait, what: str) -> list[IntegrityError]:
        """Bundles of one group whose trait is not the believed one."""
        groups: dict[Hashable, list[tuple[Bundle, Any]]] = defaultdict(list)
        for bundle in self.bundles:
            groups[group(bundle)].append((bundle, trait(bundle)))
        found = []
        for claims in groups.values():
            if len({claim for _, claim in claims}) == 1:
                continue
            best, peer = self.believed(claims)
            found += [
                IntegrityError(
                    what,
                    where=str(bundle.path),
                    found=_spell(claim),
                    expected=f"{_spell(best)} as in {_short(peer)}",
                )
                for bundle, claim in claims
                if claim != best
            ]
        return found


def _spell(claim: Any) -> str:
    return ", ".join(claim) if isinstance(claim, tuple) else str(claim)


def _short(bundle: Bundle) -> str:
    return "/".join(bundle.path.absolute().parts[-2:])


def _find_twins(bundles: Sequence[Bundle]) -> list[IntegrityError]:
    first: dict[str, Bundle] = {}
    found = []
    for bundle in bundles:
        twin = first.setdefault(bundle.digest, bundle)
        if twin is not bundle:
            what = f"the same bundle lies in {_short(twin)} too"
            found.append(IntegrityError(what, where=str(bundle.path), found=bundle.digest[:16]))
    return found


def _compare_samples(bundles: Sequence[Bundle], vote: _Vote) -> list[IntegrityError]:
    """One task over one dataset: the same samples, clusters and prompts, whoever answers."""
    groups: dict[Hashable, list[Bundle]] = defaultdict(list)
    for bundle in bundles:
        groups[_asked(bundle)].append(bundle)
    found = []
    for members in groups.values():
        kinds: list[Bundle] = []  # one bundle of each kind; comparing columns is cheaper than hashing them
        claims: list[tuple[Bundle, int]] = []
        for bundle in members:
            same = (i for i, kind in enumerate(kinds) if _same_questions(kind, bundle))
            number = next(same, len(kinds))
            if number == len(kinds):
                kinds.append(bundle)
            claims.append((bundle, number))
        if len(kinds) == 1:
            continue
        best, peer = vote.believed(claims)
        found += [_first_question(b, peer) for b, number in claims if number != best]
    return found


def _same_questions(one: Bundle, other: Bundle) -> bool:
    return bool(
        one.score_table["sample_id"].equals(other.score_table["sample_id"])
        and one.score_table["cluster"].equals(other.score_table["cluster"])
        and one.answer_table["prompt_hash"].equals(other.answer_table["prompt_hash"])
    )


def _first_question(bundle: Bundle, peer: Bundle) -> IntegrityError:
    """The first sample that two runs of a task do not share in name, cluster or prompt."""
    mine, theirs = (
        {
            name: (cluster, prompt)
            for name, cluster, prompt in zip(
                b.score_table["sample_id"].to_pylist(),
                b.score_table["cluster"].to_pylist(),
                b.answer_table["prompt_hash"].to_pylist(),
                strict=True,
            )
        }
        for b in (bundle, peer)
    )
    where, like = str(bundle.path), f"as in {_short(peer)}"
    apart = sorted(set(mine) ^ set(theirs))
    if apart:
        has = "one more sample" if apart[0] in mine else "a sample less"
        what = f"other samples than other runs of this task: {has}"
        return IntegrityError(what, where=where, found=repr(apart[0]), expected=f"the samples {like}")
    name = next(n for n in mine if mine[n] != theirs[n])
    part = 0 if mine[name][0] != theirs[name][0] else 1
    return IntegrityError(
        f"another {('cluster', 'prompt')[part]} than other runs of this task have for sample {name!r}",
        where=where,
        found=mine[name][part],
        expected=f"{theirs[name][part]} {like}",
    )


def _compare_scores(bundles: Sequence[Bundle], vote: _Vote) -> list[IntegrityError]:
    """One scorer gives one answer to one sample one score; of a probe's answers to a sample one is right."""
    groups: dict[Hashable, list[Bundle]] = defaultdict(list)
    for bundle in bundles:
        groups[*_asked(bundle), bundle.scorer_digest].append(bundle)
    found: dict[Path, IntegrityError] = {}
    for members in groups.values():
        rows = pa.concat_tables([_verdicts(bundle, i) for i, bundle in enumerate(members)])
        _one_score_an_answer(rows, members, vote, found)
        if members[0].run.engine == "probe":
            _one_right_answer(rows, members, vote, found)
    return list(found.values())


def _verdicts(bundle: Bundle, number: int) -> pa.Table:
    """sample_id, answer, verdict and the bundle's number, of the samples that were judged."""
    scores = bundle.score_table
    # -1 keeps an unparsed answer apart from a wrong one.
    verdict = pc.if_else(pc.equal(scores["status"], "unparsed"), -1.0, scores["score"])
    table = pa.table(
        {
            "sample_id": scores["sample_id"],
            "answer": bundle.answer_table["answer"],
            "verdict": verdict,
            "bundle": pa.repeat(number, scores.num_rows),
        }
    )
    return table.filter(pc.is_valid(scores["score"]))


def _one_score_an_answer(
    rows: pa.Table, members: Sequence[Bundle], vote: _Vote, found: dict[Path, IntegrityError]
) -> None:
    keys = ["sample_id", "answer"]
    spans = rows.group_by(keys).aggregate([("verdict", "min"), ("verdict", "max")])
    split = spans.filter(pc.not_equal(spans["verdict_min"], spans["verdict_max"])).select(keys)
    for (sample, answer), claims in _claims(rows, split, keys, "verdict", members):
        best, peer = vote.believed(claims)
        for bundle, claim in claims:
            if claim != best:
                error = IntegrityError(
                    f"another score than {_short(peer)} has for the same answer to sample {sample!r}",
                    where=str(bundle.path),
                    found=f"{_verdict(claim)} for {answer[:40]!r}",
                    expected=_verdict(best),
                )
                found.setdefault(bundle.path, error)


def _one_right_answer(
    rows: pa.Table, members: Sequence[Bundle], vote: _Vote, found: dict[Path, IntegrityError]
) -> None:
    right = rows.filter(pc.equal(rows["verdict"], 1.0))
    spans = right.group_by("sample_id").aggregate([("answer", "count_distinct")])
    split = spans.filter(pc.greater(spans["answer_count_distinct"], 1)).select(["sample_id"])
    for (sample,), claims in _claims(right, split, ["sample_id"], "answer", members):
        best, peer = vote.believed(claims)
        for bundle, claim in claims:
            if claim != best:
                error = IntegrityError(
                    f"another answer is right than in {_short(peer)} for sample {sample!r}",
                    where=str(bundle.path),
                    found=repr(claim[:40]),
                    expected=repr(best[:40]),
                )
                found.setdefault(bundle.path, error)


def _claims(
    rows: pa.Table, split: pa.Table, keys: list[str], value: str, members: Sequence[Bundle]
) -> list[tuple[tuple[str, ...], list[tuple[Bundle, Any]]]]:
    """For each key in dispute, in order, who says what; bundles in the order of `members`."""
    if not split.num_rows:
        return []
    disputed: dict[tuple[str, ...], list[tuple[int, Any]]] = defaultdict(list)
    for row in rows.join(split, keys, join_type="inner").to_pylist():
        disputed[tuple(row[key] for key in keys)].append((row["bundle"], row[value]))
    return [
        (key, [(members[number], claim) for number, claim in sorted(said, key=lambda s: s[0])])
        for key, said in sorted(disputed.items())
    ]


def _verdict(value: float) -> str:
    return "unparsed" if value < 0 else f"{value:g}"
