"""Linear probe: multinomial logistic regression on standardised features, its ridge strength cross-fitted.

Minimised for each λ, over W (D, C) and an unpenalised bias b (C,):

    mean log-loss of softmax(x W + b)  +  λ / 2 · ‖W‖²

so λ = 1 / (C · n) in scikit-learn's parametrisation. The path runs from the largest λ down, each fit
starting where the last one ended, in coordinates where the problem is nearly round: one
eigendecomposition of the train Gram matrix is shared by all λ, and each eigen-direction is scaled by
1/√(c·g + λ), the inverse root of the curvature bound of Böhning (1992) with his constant ½ replaced by
the mean p(1−p) at the start, which is tighter when classes are many. The first start is one such
Newton step from the class frequencies, a ridge regression in closed form.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import DatasetError, UsageError
from harness.recipes import ProbeRecipe
from harness.seeds import numpy_generator

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_MIN_CURVATURE = 1e-4
_ABSENT_LOG_LOSS = 30.0
"""Log-loss of a test sample whose class was never trained (a probability of 1e-13)."""


@dataclass(frozen=True, slots=True)
class LambdaFit:
    """One point of the path."""

    lam: float
    weights: Floats
    """(D, C), for standardised features."""
    bias: Floats
    """(C,)."""
    train_loss: float
    """Mean log-loss without the penalty, nats."""
    objective: float
    evaluations: int
    converged: bool
    """False when `max_iter` ended the fit."""


@dataclass(frozen=True, slots=True)
class ProbePath:
    """All fits on the training split. No test label took part."""

    classes: Labels
    """(C,), sorted."""
    mean: Floats
    scale: Floats
    fits: tuple[LambdaFit, ...]
    seconds: float

    def logits(self, x: npt.NDArray[Any], fit: LambdaFit) -> Floats:
        """(n, D) features -> (n, C)."""
        return np.asarray(_standardise(x, self.mean, self.scale) @ fit.weights + fit.bias, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Cross-fitted predictions of the test split."""

    predictions: Labels
    """(n_test,), labels."""
    folds: Labels
    """(n_test,), which fold each sample is in."""
    lambdas: tuple[float, ...]
    """Chosen for each fold, on the other folds."""
    evaluations: int
    """Passes over the training split, all λ together."""
    unconverged: tuple[float, ...]
    """λ whose fit `max_iter` ended."""
    seconds: float


def fit_probe(
    train_x: npt.NDArray[Any],
    train_y: npt.NDArray[Any],
    test_x: npt.NDArray[Any],
    test_y: npt.NDArray[Any],
    recipe: ProbeRecipe,
    seed: int,
) -> ProbeResult:
    """Fit the path and predict the test split, λ chosen for each fold on the others.

    The path is the same for every seed: with several, call `fit_path` once and `cross_fit` for each.

    Args:
        train_x: (n, D) features.
        train_y: (n,) integer labels.
        test_x: (n_test, D).
        test_y: (n_test,); those of a fold never influence its own predictions.
        recipe: λ, limits and number of folds.
        seed: decides which sample is in which fold.

    Raises:
        DatasetError: an empty split, shapes that disagree, NaN features, fewer than two classes.
        UsageError: the recipe has no λ, a λ ≤ 0 or fewer than two folds.
    """
    return cross_fit(fit_path(train_x, train_y, recipe), test_x, test_y, recipe, seed)


def fit_path(train_x: npt.NDArray[Any], train_y: npt.NDArray[Any], recipe: ProbeRecipe) -> ProbePath:
    """Fit every λ of the recipe, largest first.

    Args:
        train_x: (n, D) features.
        train_y: (n,) integer labels.
        recipe: λ, `max_iter` a λ, and `tolerance`: a fit ends when no entry of the gradient, in the
            scaled coordinates, exceeds it, or a step gains less than a hundredth of it, relatively.

    Raises:
        DatasetError: see `fit_probe`.
        UsageError: see `fit_probe`.
    """
    began = time.perf_counter()
    _check_recipe(recipe)
    _check_split(train_x, train_y, "train")
    mean = train_x.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = train_x.std(axis=0, dtype=np.float64).astype(np.float32)
    # A feature that is constant but for rounding would be blown up into noise.
    scale[scale <= 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    classes, y = np.unique(train_y, return_inverse=True)
    if len(classes) < 2:
        raise DatasetError("probe needs two classes or more", where="train split", found=f"{len(classes)}")
    problem = _Problem(_standardise(train_x, mean, scale), y.astype(np.int64), len(classes))
    fits: list[LambdaFit] = []
    for lam in sorted((float(value) for value in recipe.lambdas), reverse=True):
        fits.append(problem.fit(lam, recipe, fits[-1] if fits else None))
    return ProbePath(classes.astype(np.int64), mean, scale, tuple(fits), time.perf_counter() - began)


def cross_fit(
    path: ProbePath, test_x: npt.NDArray[Any], test_y: npt.NDArray[Any], recipe: ProbeRecipe, seed: int
) -> ProbeResult:
    """Predict each fold of the test split by the λ that is most accurate on the other folds.

    Equal accuracies are decided by the lower log-loss there, then by the larger λ.

    Raises:
        DatasetError: see `fit_probe`.
    """
    began = time.perf_counter()
    _check_recipe(recipe)
    _check_split(test_x, test_y, "test")
    if test_x.shape[1] != len(path.mean):
        found, expected = f"{test_x.shape[1]} features", f"{len(path.mean)}"
        raise DatasetError("test features have another width than train's", found=found, expected=expected)
    n = len(test_y)
    if n < recipe.folds:
        raise DatasetError("fewer test samples than folds", found=str(n), expected=f"at least {recipe.folds}")
    folds = np.empty(n, dtype=np.int64)
    folds[numpy_generator("probe", "folds", seed).permutation(n)] = np.arange(n) % recipe.folds
    guesses, losses = _judge(path, test_x, test_y.astype(np.int64))
    right = guesses == test_y
    predictions = np.empty(n, dtype=np.int64)
    chosen: list[float] = []
    for fold in range(recipe.folds):
        own = folds == fold
        order = [
            (-int(right[i, ~own].sum()), float(losses[i, ~own].mean()), i) for i in range(len(path.fits))
        ]
        best = min(order)[2]
        predictions[own] = guesses[best, own]
        chosen.append(path.fits[best].lam)
    return ProbeResult(
        predictions=predictions,
        folds=folds,
        lambdas=tuple(chosen),
        evaluations=sum(fit.evaluations for fit in path.fits),
        unconverged=tuple(fit.lam for fit in path.fits if not fit.converged),
        seconds=path.seconds + time.perf_counter() - began,
    )


def _judge(path: ProbePath, x: npt.NDArray[Any], y: Labels) -> tuple[npt.NDArray[np.int64], Doubles]:
    """Predicted label and log-loss of each sample under each λ, both (num λ, n)."""
    place = np.searchsorted(path.classes, y).clip(max=len(path.classes) - 1)
    known = path.classes[place] == y
    guesses = np.empty((len(path.fits), len(y)), dtype=np.int64)
    losses = np.empty((len(path.fits), len(y)), dtype=np.float64)
    for i, fit in enumerate(path.fits):
        logits = path.logits(x, fit)
        guesses[i] = path.classes[logits.argmax(axis=1)]
        own = np.take_along_axis(logits, place[:, None], axis=1)[:, 0]
        losses[i] = np.where(known, _log_sum_exp(logits) - own, _ABSENT_LOG_LOSS)
    return guesses, losses


class _Problem:
    """The training split in the eigen-coordinates of its Gram matrix."""

    def __init__(self, x: Floats, y: Labels, num_classes: int) -> None:
        gram = (x.T @ x).astype(np.float64) / len(x)
        values, vectors = np.linalg.eigh(gram)
        self.curvature: Doubles = values.clip(min=0.0)
        self.basis: Floats = vectors.astype(np.float32)
        self.z: Floats = x @ self.basis
        self.y, self.num_classes = y, num_classes
        self._row = np.arange(len(y))

    def fit(self, lam: float, recipe: ProbeRecipe, start: LambdaFit | None) -> LambdaFit:
        """Minimise for one λ by L-BFGS."""
        from scipy.optimize import minimize

        D, C = self.z.shape[1], self.num_classes
        rotated, bias, spread = self._start(lam, start)
        scale = 1.0 / np.sqrt(spread * self.curvature + lam)
        bias_scale = 1.0 / np.sqrt(spread)
        first = np.concatenate([(rotated / scale[:, None]).ravel(), bias / bias_scale])

        def unpack(flat: Doubles) -> tuple[Doubles, Doubles]:
            return flat[: D * C].reshape(D, C) * scale[:, None], flat[D * C :] * bias_scale

        def objective(flat: Doubles) -> tuple[float, Doubles]:
            weights, offset = unpack(flat)
            loss, residual = self._loss(weights, offset)
            slope = (self.z.T @ residual).astype(np.float64) + lam * weights
            fall = residual.sum(axis=0, dtype=np.float64) * bias_scale
            value = loss + 0.5 * lam * float(np.vdot(weights, weights))
            return value, np.concatenate([(slope * scale[:, None]).ravel(), fall])

        options = {
            "maxiter": recipe.max_iter,
            "gtol": recipe.tolerance,
            "ftol": recipe.tolerance / 100,
            "maxcor": 10,
        }
        found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
        weights, offset = unpack(found.x)
        return LambdaFit(
            lam=lam,
            weights=(self.basis @ weights).astype(np.float32),
            bias=offset.astype(np.float32),
            train_loss=float(found.fun) - 0.5 * lam * float(np.vdot(weights, weights)),
            objective=float(found.fun),
            evaluations=int(found.nfev),
            converged=int(found.nit) < recipe.max_iter,
        )

    def _start(self, lam: float, start: LambdaFit | None) -> tuple[Doubles, Doubles, float]:
        """Weights in eigen-coordinates, bias, and the curvature constant c there."""
        if start is not None:
            rotated = (self.basis.T @ start.weights).astype(np.float64)
            bias = start.bias.astype(np.float64)
            return rotated, bias, self._spread(rotated, bias)
        share = np.bincount(self.y, minlength=self.num_classes) / len(self.y)
        bias = np.log(share)
        rotated = np.zeros((self.z.shape[1], self.num_classes))
        spread = self._spread(rotated, bias)
        _, residual = self._loss(rotated, bias)
        step = (self.z.T @ residual).astype(np.float64)
        return -step / (spread * self.curvature + lam)[:, None], bias, spread

    def _spread(self, weights: Doubles, bias: Doubles) -> float:
        p = _softmax(self.z @ weights.astype(np.float32) + bias.astype(np.float32))
        return max(float((p * (1.0 - p)).mean(dtype=np.float64)), _MIN_CURVATURE)

    def _loss(self, weights: Doubles, bias: Doubles) -> tuple[float, Floats]:
        """Mean log-loss, and its derivative by the logits, (n, C)."""
        logits = self.z @ weights.astype(np.float32)
        logits += bias.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        own = logits[self._row, self.y].astype(np.float64)
        p = np.exp(logits, out=logits)
        total = p.sum(axis=1)
        loss = float((np.log(total.astype(np.float64)) - own).mean())
        p *= (1.0 / (total * len(self.y)))[:, None]
        p[self._row, self.y] -= np.float32(1.0 / len(self.y))
        return loss, p


def _standardise(x: npt.NDArray[Any], mean: Floats, scale: Floats) -> Floats:
    return np.asarray((x.astype(np.float32) - mean) / scale, dtype=np.float32)


def _softmax(logits: Floats) -> Floats:
    p: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def _log_sum_exp(logits: Floats) -> Doubles:
    top = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    return np.asarray(np.log(total) + top[:, 0], dtype=np.float64)


def _check_recipe(recipe: ProbeRecipe) -> None:
    bad: Sequence[float] = [lam for lam in recipe.lambdas if not lam > 0]
    if not recipe.lambdas or bad:
        raise UsageError(
            "probe needs positive ridge strengths", where="protocol: probe.lambdas", found=str(recipe.lambdas)
        )
    if recipe.folds < 2:
        raise UsageError(
            "cross-fitting needs two folds or more", where="protocol: probe.folds", found=str(recipe.folds)
        )


def _check_split(x: npt.NDArray[Any], y: npt.NDArray[Any], split: str) -> None:
    where = f"{split} split"
    if len(x) == 0:
        raise DatasetError("split is empty", where=where)
    if x.ndim != 2 or y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer):
        found = f"features {x.shape}, labels {y.shape} {y.dtype}"
        raise DatasetError(
            "features and labels disagree", where=where, found=found, expected="(n, D) and (n,) integers"
        )
    if not bool(np.isfinite(x).all()):
        raise DatasetError("features hold NaN or infinity", where=where)
