"""What a team's CI accepts: margins, which tasks count, and the rule by which seeds are added.

schema = 1
level = 0.95
inconclusive = "warn"
seeds = [3, 5, 8]

[tasks.eyechart_mini_vqa]
margin = 0.03
importance = "gating"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.digest import digest_json
from harness.errors import UsageError
from harness.fields import Place, Rule, Rules, check_keys, nearest, parse_toml, read_record, show
from harness.task import known_tasks, read_task

Importance = Literal["gating", "advisory"]
MAX_POLICY_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPolicy:
    """What one task may lose."""

    margin: float = -1.0
    """Largest true loss that is accepted, a fraction; -1: the task definition's gating margin."""
    importance: Importance = "gating"
    """An advisory task is reported and never fails a build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The rules of a check, declared before anything is measured."""

    level: float = 0.95
    """Coverage of the intervals that decide; false alarms are at most half of 1 − level, over all tasks."""
    inconclusive: Literal["warn", "fail"] = "warn"
    """Whether too little evidence fails the build."""
    seeds: tuple[int, ...] = (3,)
    """Numbers of seeds after which `run --for-check` looks, in order; it goes on only while inconclusive."""
    tasks: Mapping[str, TaskPolicy] = field(default_factory=dict)
    """Tasks with rules of their own; all others of the baseline are gating at their definition's margin."""

    source: str = ""
    """File it was read from, for errors; no part of the rules."""

    @property
    def alpha(self) -> float:
        """Two-sided error of one look: 1 − level shared out over the declared looks (Bonferroni)."""
        return (1 - self.level) / len(self.seeds)

    @property
    def digest(self) -> str:
        """sha256 over every rule."""
        tasks = {name: [rule.margin, rule.importance] for name, rule in self.tasks.items()}
        return digest_json([self.level, self.inconclusive, list(self.seeds), tasks])


RULES: Rules = {
    (TaskPolicy, "margin"): Rule(low=0, high=1),
    (Policy, "level"): Rule(low=0.5, high=0.9999),
    (Policy, "seeds"): Rule(low=1, high=1000, min_items=1, max_items=10),
}
_TOP = ("schema", "level", "inconclusive", "seeds", "tasks")


def read_policy(path: Path) -> Policy:
    """Read a policy file (TOML).

    Raises:
        UsageError: no such file, not TOML, an unknown key or value; one line names the spot.
    """
    place = Place(str(path), UsageError)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError("cannot read the policy", where=str(path), found=error.strerror or "") from error
    if len(data) > MAX_POLICY_BYTES:
        place.refuse("file too large", found=f"{len(data)} bytes", expected=f"at most {MAX_POLICY_BYTES}")
    try:
        table = parse_toml(data)
    except ValueError as error:
        raise UsageError("not valid TOML", where=str(path), found=str(error)) from error
    check_keys(table, _TOP, place)
    schema = table.pop("schema", None)
    if schema != 1 or isinstance(schema, bool):
        found = "none" if schema is None else show(schema)
        place.at("schema").refuse("schema version", found=found, expected="schema = 1")
    rules = table.pop("tasks", {})
    if not isinstance(rules, dict):
        place.at("tasks").refuse("wrong type", expected="tables such as [tasks.eyechart_vqav2_val]")
    tasks = {
        name: read_record(TaskPolicy, rule, place.at("tasks").at(name), RULES) for name, rule in rules.items()
    }
    policy = read_record(Policy, table, place, RULES, given={"tasks": tasks, "source": str(path)})
    if list(policy.seeds) != sorted(set(policy.seeds)):
        place.at("seeds").refuse(
            "not in rising order", found=str(list(policy.seeds)), expected="such as [3, 5, 8]"
        )
    return policy


def rules_of(
    policy: Policy, tasks: Mapping[str, str], tasks_dir: Path | None = None
) -> dict[str, TaskPolicy]:
    """The rule of every task of a baseline, its margin filled in.

    Args:
        policy: the declared rules.
        tasks: name -> task digest of the baseline.
        tasks_dir: folder of task definitions; the installation's by default.

    Raises:
        UsageError: the policy names a task that the baseline lacks, a task has no margin, or none gates.
    """
    for name in policy.tasks:
        if name not in tasks:
            close = nearest(name, tasks)
            where = f"{policy.source}: tasks" if policy.source else "tasks"
            raise UsageError(
                "the policy names a task the baseline lacks", where=where, found=name, expected=close
            )
    found = {
        name: _rule(policy.tasks.get(name, TaskPolicy()), name, tasks[name], tasks_dir) for name in tasks
    }
    if not any(rule.importance == "gating" for rule in found.values()):
        fix = 'give one importance = "gating" in the policy'
        raise UsageError("no task gates", where=policy.source, found="only advisory tasks", fix=fix)
    return found


def _rule(rule: TaskPolicy, name: str, digest: str, tasks_dir: Path | None) -> TaskPolicy:
    if rule.margin >= 0:
        return rule
    if name in known_tasks(tasks_dir):
        task = read_task(name, tasks_dir)
        if task.digest == digest:
            return TaskPolicy(margin=task.gating_margin, importance=rule.importance)
    raise UsageError(
        "no margin for a task whose definition is not installed",
        where=name,
        fix=f"write [tasks.{name}] with margin = … into a policy, and give it by --policy",
    )


def policy_table(policy: Policy, rules: Iterable[tuple[str, TaskPolicy]]) -> dict[str, Any]:
    """The rules as a JSON object, for reports."""
    return {
        "level": policy.level,
        "inconclusive": policy.inconclusive,
        "seeds": list(policy.seeds),
        "tasks": {name: {"margin": r.margin, "importance": r.importance} for name, r in rules},
    }
