"""What `eyechart plan` says of a plan: a table for people, the same facts as JSON."""

from __future__ import annotations

from typing import Any

from harness.forecast import TEXT_TOKENS, Device
from harness.plan import Plan
from harness.tables import spell_bytes, text_table


def plan_facts(plan: Plan, device: Device) -> dict[str, Any]:
    """What is planned and predicted, as JSON values.

    Args:
        plan: from `make_plan`.
        device: that the prediction is about.
    """
    subject, wanted = plan.subject, plan.forecast
    protocol = subject.protocol
    return {
        "encoder": subject.submission.id,
        "protocol": protocol.name,
        "family": subject.submission.family,
        "num_params": plan.num_params,
        "grid": list(plan.grid),
        "side": plan.side,
        "engine": plan.engine,
        "device": subject.device,
        "images": plan.load.images,
        "streamed_images": plan.load.streamed_images,
        "gmacs": round(plan.load.gmacs, 6),
        "questions": plan.load.questions,
        "adapter_steps": protocol.adapter.total_steps * len(protocol.seeds),
        "train_tokens": wanted.train_tokens,
        "answer_tokens": wanted.answer_tokens,
        "encode_ops": wanted.encode_ops,
        "train_ops": wanted.train_ops,
        "answer_ops": wanted.answer_ops,
        "disk_bytes": wanted.disk_bytes,
        "memory_bytes": wanted.needed_bytes(device),
        "memory_free_bytes": device.memory_bytes,
        "on": device.name,
        "hours": float(f"{wanted.seconds(device, len(protocol.seeds)) / 3600:.4g}"),
        "units": len(plan.units),
        "pending": len(plan.pending),
    }


def plan_table(plan: Plan, device: Device) -> str:
    """The same for people."""
    subject, wanted, load = plan.subject, plan.forecast, plan.load
    seeds = len(subject.protocol.seeds)
    seconds = wanted.seconds(device, seeds)
    again = f", {load.streamed_images:,} more while training" if load.streamed_images else ""
    memory = f"{spell_bytes(wanted.needed_bytes(device))} of {spell_bytes(device.memory_bytes)}"
    adapters = f"{seeds} adapters of {subject.protocol.adapter.total_steps:,} steps"
    rows = [
        ["encoder", f"{subject.submission.id} ({subject.submission.family}), {plan.num_params:,} parameters"],
        ["grid", f"{plan.grid[0]} x {plan.grid[1]} at {plan.side} pixels, {load.gmacs:.3g} GMACs an image"],
        ["budget", f"{subject.protocol.tokens.budget} tokens"],
        ["encode", f"{load.images:,} images and frames{again}: {wanted.encode_ops:.1e} operations"],
        [
            "train",
            f"{adapters}, {wanted.train_tokens:,} tokens: {wanted.train_ops:.1e} operations",
        ],
        [
            "answer",
            f"{load.questions:,} questions x {seeds} with {plan.engine}: {wanted.answer_ops:.1e} operations",
        ],
        ["disk", spell_bytes(wanted.disk_bytes)],
        ["memory", f"{memory}, {_spell_device(device)}"],
        ["time", f"about {_spell_hours(seconds / 3600)} on {_spell_device(device)}, predicted"],
        ["units", f"{len(plan.units)} ({len(plan.pending)} pending)"],
    ]
    note = (
        f"Predicted by arithmetic (docs/gpu.md): {TEXT_TOKENS} tokens a question, right within a factor of "
        "two or three; data, scores and start-up not counted."
    )
    return f"{text_table(['plan', subject.protocol.name], rows)}\n{note}"


def _spell_device(device: Device) -> str:
    if device.is_cpu:
        return f"this CPU, {device.workers} process{'es' * (device.workers > 1)}"
    return f"one {device.name}"


def _spell_hours(hours: float) -> str:
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
