"""Muon for matrices and convolutions, AdamW for the rest, and exact resumption: all training here uses it.

Muon replaces a matrix's momentum by its nearest (semi-)orthogonal matrix, found by a quintic
Newton-Schulz iteration. Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural
networks" (2024), section "Definition" and its coefficients. Deviates: convolution kernels are flattened
to (out, in·kh·kw), which `torch.optim.Muon` refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.digest import digest_arrays
from harness.errors import IntegrityError
from harness.files import write_atomic

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
MOMENTUM = 0.95


def orthogonalise(matrix: Tensor) -> Tensor:
    """(m, n) float32 -> (m, n) float32 with singular values near one (0.7 to 1.2)."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    # bfloat16 is enough for the iteration and several times faster on CPUs with matrix units.
    x = (wide / (wide.norm() + 1e-7)).bfloat16()
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: Tensor = x.float()
    return result.T if matrix.shape[0] > matrix.shape[1] else result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; the update has unit RMS scale √max(1, m/n)."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                update = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(orthogonalise(update).reshape(parameter.shape), alpha=-group["lr"] * scale)


def build_optimisers(
    modules: dict[str, nn.Module], matrix_lr: float, adam_lr: float, kind: Literal["muon", "adamw"] = "muon"
) -> list[torch.optim.Optimizer]:
    """Muon or AdamW for weights of two and more dimensions, AdamW for embeddings, biases, norms and scalars.

    Each group carries `base_lr`; `set_progress` multiplies it.
    """
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    seen: set[int] = set()
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_table = "embed_tokens" in name or "lm_head" in name or "position" in name
            (others if parameter.ndim < 2 or is_table else matrices).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        optimisers.append(Muon(matrices, matrix_lr) if kind == "muon" else _adamw(matrices, matrix_lr))
    if others:
        optimisers.append(_adamw(others, adam_lr))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["base_lr"] = group["lr"]
    return optimisers


def _adamw(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)


def set_progress(
    optimisers: list[torch.optim.Optimizer],
    step: int,
    steps: int,
    warmup: int,
    flat: float = 0.3,
    rate: float = 1.0,
) -> float:
    """Linear warm-up, flat until `flat` of the run, then linear to 1 %, times `rate`; returns the factor."""
    progress = step / steps
    factor = rate * min(1.0, (step + 1) / max(1, warmup))
    if progress >= flat:
        factor *= max(0.01, (1 - progress) / (1 - flat))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
    return factor


def save_training(
    path: Path,
    modules: dict[str, nn.Module],
    optimisers: list[torch.optim.Optimizer],
    step: int,
    losses: Sequence[float] = (),
) -> None:
    """Weights, optimiser state, the number of finished steps and the losses so far, in one atomic file."""
    tensors: dict[str, Tensor] = {
        "step": torch.tensor(step),
        "losses": torch.tensor(list(losses), dtype=torch.float64),
    }
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"module.{name}.{key}"] = value.detach().cpu().clone().contiguous()
    for i, optimiser in enumerate(optimisers):
        for j, entry in optimiser.state_dict()["state"].items():
            for key, value in entry.items():
                tensors[f"optimiser.{i}.{j}.{key}"] = value.detach().cpu().clone().contiguous()
    # safetensors has no checksum, and one flipped bit of a momentum would move every later step unseen.
    tensors["sha256"] = torch.tensor(list(bytes.fromhex(_digest(tensors))), dtype=torch.uint8)
    write_atomic(path, save(tensors))


def _digest(tensors: dict[str, Tensor]) -> str:
    return digest_arrays({name: tensor.numpy() for name, tensor in tensors.items()})


def load_training(
    path: Path, modules: dict[str, nn.Module], optimisers: list[torch.optim.Optimizer]
) -> tuple[int, list[float]]:
    """Restore what `save_training` wrote; returns finished steps and losses, (0, []) without a file.

    Raises:
        IntegrityError: the file is damaged; it was set aside, and running again starts afresh.
    """
    if not path.exists():
        return 0, []
    try:
        tensors = load(path.read_bytes())
        recorded = bytes(tensors.pop("sha256").tolist()).hex()
        if (found := _digest(tensors)) != recorded:
            raise ValueError(f"sha256 {found[:16]}, not {recorded[:16]}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        path.replace(path.with_name(path.name + ".corrupt"))
        raise IntegrityError(
            "saved training state is damaged",
            where=str(path),
            found=str(error),
            fix="run the same command again: the state was set aside",
        ) from error
    for name, module in modules.items():
        prefix = f"module.{name}."
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    for i, optimiser in enumerate(optimisers):
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimiser.{i}."):
                _, _, index, name = key.split(".", 3)
                entries.setdefault(int(index), {})[name] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": entries, "param_groups": groups})
    return int(tensors["step"]), [float(v) for v in tensors["losses"]]
