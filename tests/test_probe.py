from __future__ import annotations

import numpy as np
import pytest

from harness.errors import DatasetError, UsageError
from harness.probe import cross_fit, fit_path, fit_probe
from harness.recipes import ProbeRecipe

LAMBDAS = (1.0, 0.1, 0.01, 0.001)


def recipe(**changes):
    return ProbeRecipe(**{"lambdas": LAMBDAS, "max_iter": 500, "tolerance": 1e-6, "folds": 2, **changes})


def problem(n=400, D=12, C=5, *, noise=1.5, seed=0):
    """Overlapping Gaussian classes of unequal size, features of very different scales."""
    rng = np.random.default_rng(seed)
    y = rng.choice(C, size=n, p=np.arange(1, C + 1) / (C * (C + 1) / 2))
    centres = np.random.default_rng(99).normal(size=(C, D))
    mixing = np.random.default_rng(98).normal(size=(D, D))
    x = ((centres[y] + noise * rng.normal(size=(n, D))) @ mixing) * np.logspace(-2, 2, D) + 3.0
    return x.astype(np.float32), y


def log_loss(logits, y):
    top = logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(y)), y]).mean())


def test_each_point_of_the_path_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train_x, train_y = problem()
    test_x, test_y = problem(seed=1)
    path = fit_path(train_x, train_y, recipe())
    scaler = StandardScaler().fit(train_x.astype(np.float64))
    for fit in path.fits:
        reference = LogisticRegression(C=1 / (fit.lam * len(train_y)), tol=1e-10, max_iter=20_000)
        reference.fit(scaler.transform(train_x.astype(np.float64)), train_y)
        for x, y in ((train_x, train_y), (test_x, test_y)):
            wanted = log_loss(reference.decision_function(scaler.transform(x.astype(np.float64))), y)
            found = log_loss(path.logits(x, fit).astype(np.float64), y)
            assert found == pytest.approx(wanted, rel=1e-3)
        assert fit.train_loss == pytest.approx(log_loss(path.logits(train_x, fit), train_y), rel=1e-4)
        assert fit.converged


def test_path_runs_from_the_largest_lambda_down():
    path = fit_path(*problem(), recipe(lambdas=(0.01, 1.0, 0.1)))
    assert [fit.lam for fit in path.fits] == [1.0, 0.1, 0.01]
    losses = [fit.train_loss for fit in path.fits]
    assert losses == sorted(losses, reverse=True)


def test_warm_starts_save_passes():
    train = problem(n=1500, D=40, C=30)
    lambdas = tuple(10.0**-k for k in range(6))
    warm = fit_path(*train, recipe(lambdas=lambdas, tolerance=1e-4)).fits
    cold = [fit_path(*train, recipe(lambdas=(lam,), tolerance=1e-4)).fits[0] for lam in lambdas]
    assert sum(fit.evaluations for fit in warm) < 0.9 * sum(fit.evaluations for fit in cold)
    for a, b in zip(warm, cold, strict=True):
        assert a.objective == pytest.approx(b.objective, rel=2e-2)


def test_separable_data_is_solved():
    y = np.repeat(np.arange(6), 30)
    x = np.eye(6, dtype=np.float32)[y] + 0.01 * np.random.default_rng(0).normal(size=(180, 6)).astype(
        np.float32
    )
    result = fit_probe(x, y, x, y, recipe(), seed=0)
    assert (result.predictions == y).all()


def test_labels_keep_their_names():
    x, y = problem()
    result = fit_probe(x, y * 10 - 7, x, y * 10 - 7, recipe(), seed=0)
    assert set(result.predictions) <= set(y * 10 - 7)
    assert (result.predictions == y * 10 - 7).mean() > 0.5


def test_predictions_of_a_fold_never_see_its_labels():
    train = problem(n=150, D=40, noise=4.0)
    test_x, test_y = problem(n=120, D=40, noise=4.0, seed=1)
    rule = recipe(lambdas=(10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4), folds=3)
    path = fit_path(*train, rule)
    before = cross_fit(path, test_x, test_y, rule, seed=0)
    changed_elsewhere = False
    for fold in range(3):
        flipped = test_y.copy()
        own = before.folds == fold
        flipped[own] = (flipped[own] + 1) % 5
        after = cross_fit(path, test_x, flipped, rule, seed=0)
        np.testing.assert_array_equal(after.predictions[own], before.predictions[own])
        assert after.lambdas[fold] == before.lambdas[fold]
        changed_elsewhere |= after.lambdas != before.lambdas
    # The labels do matter to the other folds, or this test would prove nothing.
    assert changed_elsewhere


def test_lambda_is_the_most_accurate_on_the_other_folds():
    train = problem(n=150, D=40, noise=4.0)
    test_x, test_y = problem(n=120, D=40, noise=4.0, seed=1)
    rule = recipe(lambdas=(10.0, 0.3, 1e-4))
    path = fit_path(*train, rule)
    result = cross_fit(path, test_x, test_y, rule, seed=0)
    guesses = {fit.lam: path.classes[path.logits(test_x, fit).argmax(axis=1)] for fit in path.fits}
    for fold, lam in enumerate(result.lambdas):
        others = result.folds != fold
        right = {key: int((guess == test_y)[others].sum()) for key, guess in guesses.items()}
        assert right[lam] == max(right.values())
        np.testing.assert_array_equal(result.predictions[~others], guesses[lam][~others])


def test_ties_go_to_the_lower_log_loss():
    y = np.repeat(np.arange(2), 40)
    x = (np.where(y == 1, 1.0, -1.0)[:, None] + 0.1 * np.random.default_rng(0).normal(size=(80, 3))).astype(
        np.float32
    )
    result = fit_probe(x, y, x, y, recipe(lambdas=(1.0, 1e-3)), seed=0)
    assert result.lambdas == (1e-3, 1e-3)


def test_folds_are_balanced_and_follow_the_seed():
    x, y = problem(n=101)
    path = fit_path(x, y, recipe())
    results = [cross_fit(path, x, y, recipe(folds=4), seed=seed) for seed in (0, 0, 1)]
    assert sorted(np.bincount(results[0].folds)) == [25, 25, 25, 26]
    np.testing.assert_array_equal(results[0].folds, results[1].folds)
    assert (results[0].folds != results[2].folds).any()


def test_same_inputs_same_bytes():
    x, y = problem()
    first, second = fit_path(x, y, recipe()), fit_path(x, y, recipe())
    for a, b in zip(first.fits, second.fits, strict=True):
        assert a.weights.tobytes() == b.weights.tobytes()
        assert a.bias.tobytes() == b.bias.tobytes()


def test_constant_feature_and_half_precision_do_no_harm():
    x, y = problem()
    x = x / np.abs(x).max(axis=0)
    plain = fit_probe(x, y, x, y, recipe(), seed=0)
    wide = np.concatenate([x, np.full((len(x), 1), 7.3, np.float32)], axis=1)
    np.testing.assert_array_equal(
        fit_probe(wide, y, wide, y, recipe(), seed=0).predictions, plain.predictions
    )
    half = fit_probe(x.astype(np.float16), y, x.astype(np.float16), y, recipe(), seed=0)
    assert (half.predictions == plain.predictions).mean() > 0.98


def test_more_features_than_samples():
    x, y = problem(n=30, D=80)
    result = fit_probe(x, y, x, y, recipe(), seed=0)
    assert (result.predictions == y).mean() > 0.9


def test_class_that_was_never_trained_is_wrong_not_fatal():
    x, y = problem()
    result = fit_probe(x[y != 2], y[y != 2], x, y, recipe(), seed=0)
    assert not (result.predictions == 2).any()


def test_fit_that_ran_out_of_iterations_is_told():
    x, y = problem()
    result = fit_probe(x, y, x, y, recipe(max_iter=1), seed=0)
    assert result.unconverged


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update(train_x=a["train_x"][:0], train_y=a["train_y"][:0]),
            "train split: split is empty",
        ),
        (lambda a: a.update(test_x=a["test_x"][:0], test_y=a["test_y"][:0]), "test split: split is empty"),
        (lambda a: a.update(test_y=a["test_y"][:-1]), "test split: features and labels disagree"),
        (lambda a: a.update(train_y=a["train_y"].astype(float)), "train split: features and labels disagree"),
        (lambda a: a.update(train_y=a["train_y"] * 0), "probe needs two classes"),
        (lambda a: a.update(test_x=a["test_x"][:1], test_y=a["test_y"][:1]), "fewer test samples than folds"),
        (lambda a: a.update(test_x=a["test_x"][:, :-1]), "another width"),
    ],
)
def test_data_without_an_answer_is_a_dataset_error(change, message):
    x, y = problem(n=60)
    arguments = dict(train_x=x, train_y=y, test_x=x, test_y=y)
    change(arguments)
    with pytest.raises(DatasetError, match=message):
        fit_probe(**arguments, recipe=recipe(), seed=0)


def test_nan_features_are_refused():
    x, y = problem(n=60)
    x[5, 3] = np.nan
    with pytest.raises(DatasetError, match="train split: features hold NaN"):
        fit_probe(x, y, x, y, recipe(), seed=0)


@pytest.mark.parametrize(
    "changes", [{"lambdas": ()}, {"lambdas": (0.0,)}, {"lambdas": (-1.0,)}, {"folds": 1}]
)
def test_recipe_without_sense_is_refused(changes):
    x, y = problem(n=60)
    with pytest.raises(UsageError):
        fit_probe(x, y, x, y, recipe(**changes), seed=0)
