"""Metrics: the same values as scikit-learn's, influences whose mean is the error and whose spread is its standard error."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from automl.errors import DataError, UsageError, UsageTypeError
from automl.search.metric import KNOWN, Metric, names


@dataclass(frozen=True)
class Task:
    kind: str
    classes: tuple[Any, ...] = ()


BINARY, MULTI, REGRESSION = Task("binary", ("no", "yes")), Task("multiclass", ("a", "b", "c")), Task("regression")


def binary(n: int = 400, seed: int = 0, ties: bool = True) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(np.int32)
    p = 1 / (1 + np.exp(-(1.5 * y - 0.7 + rng.normal(0, 1.2, n))))
    p = np.round(p, 2).clip(0.01, 0.99) if ties else p
    return y, np.column_stack([1 - p, p]), rng.random(n) + 0.1


def multi(n: int = 400, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = rng.normal(0, 1, (n, 3)) + 1.3 * np.eye(3)[y]
    p = np.exp(logits)
    return y, p / p.sum(axis=1, keepdims=True), rng.random(n) + 0.1


def regression(n: int = 400, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.gamma(2, 3, n)
    return y, y + rng.standard_t(5, n), rng.random(n) + 0.1


SAME = [
    (BINARY, "roc_auc", lambda y, p, w: sk.roc_auc_score(y, p[:, 1], sample_weight=w)),
    (BINARY, "log_loss", lambda y, p, w: sk.log_loss(y, p, sample_weight=w)),
    (BINARY, "brier", lambda y, p, w: sk.brier_score_loss(y, p[:, 1], sample_weight=w)),
    (BINARY, "accuracy", lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w)),
    (BINARY, "balanced_accuracy", lambda y, p, w: sk.balanced_accuracy_score(y, p.argmax(1), sample_weight=w)),
    (BINARY, "f1", lambda y, p, w: sk.f1_score(y, p.argmax(1), sample_weight=w)),
    (BINARY, "average_precision", lambda y, p, w: sk.average_precision_score(y, p[:, 1], sample_weight=w)),
    (MULTI, "roc_auc", lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w, multi_class="ovr")),
    (MULTI, "log_loss", lambda y, p, w: sk.log_loss(y, p, sample_weight=w)),
    (MULTI, "brier", lambda y, p, w: sk.brier_score_loss(y, p, sample_weight=w, scale_by_half=False)),
    (MULTI, "accuracy", lambda y, p, w: sk.accuracy_score(y, p.argmax(1), sample_weight=w)),
    (MULTI, "balanced_accuracy", lambda y, p, w: sk.balanced_accuracy_score(y, p.argmax(1), sample_weight=w)),
    (MULTI, "f1_macro", lambda y, p, w: sk.f1_score(y, p.argmax(1), sample_weight=w, average="macro")),
    (MULTI, "average_precision", lambda y, p, w: sk.average_precision_score(y, p, sample_weight=w)),
    (REGRESSION, "rmse", lambda y, p, w: sk.root_mean_squared_error(y, p, sample_weight=w)),
    (REGRESSION, "mae", lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w)),
    (REGRESSION, "r2", lambda y, p, w: sk.r2_score(y, p, sample_weight=w)),
]
MAKE = {"binary": binary, "multiclass": multi, "regression": regression}


def test_every_metric_of_ours_is_compared() -> None:
    assert {name for _, name, _ in SAME} == set(KNOWN)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "name", "reference"), SAME, ids=[f"{t.kind}-{n}" for t, n, _ in SAME])
def test_values_are_scikit_learns(task: Task, name: str, reference: Any, weighted: bool) -> None:
    y, p, w = MAKE[task.kind]()
    weights = w if weighted else None
    metric = Metric.resolve(name, task)
    assert metric.score(y, p, weights) == pytest.approx(reference(y, p, weights), rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "name"), [(t, n) for t, n, _ in SAME], ids=[f"{t.kind}-{n}" for t, n, _ in SAME])
def test_the_mean_of_the_influences_is_the_error(task: Task, name: str, weighted: bool) -> None:
    y, p, w = MAKE[task.kind]()
    metric = Metric.resolve(name, task)
    influence = metric.influence(y, p, w if weighted else None)
    assert influence.shape == y.shape
    assert influence.mean() == pytest.approx(metric.error(y, p, w if weighted else None), rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "name"), [(t, n) for t, n, _ in SAME], ids=[f"{t.kind}-{n}" for t, n, _ in SAME])
def test_their_spread_is_the_bootstraps_standard_error(task: Task, name: str, weighted: bool) -> None:
    y, p, w = MAKE[task.kind](300)
    w = w if weighted else np.ones(len(y))
    metric = Metric.resolve(name, task)
    rng = np.random.default_rng(1)
    draws = [metric.error(y[i], p[i], w[i]) for i in rng.integers(0, len(y), (250, len(y)))]
    influence = metric.influence(y, p, w if weighted else None)
    assert influence.std(ddof=1) / np.sqrt(len(y)) == pytest.approx(np.std(draws, ddof=1), rel=0.25)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.floats(0.1, 5)), min_size=4, max_size=40))
def test_the_area_counts_pairs_with_ties_as_half(rows: list[tuple[bool, int, float]]) -> None:
    y, score, w = (np.array(column, float) for column in zip(*rows, strict=True))
    metric = Metric.resolve("roc_auc", BINARY)
    if y.min() == y.max():
        with pytest.raises(DataError, match="not defined where all rows are of one class"):
            metric.score(y.astype(int), score / 5, w)
        return
    pairs = [
        (w[i] * w[j], 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
        for i in np.flatnonzero(y == 1)
        for j in np.flatnonzero(y == 0)
    ]
    expected = sum(weight * won for weight, won in pairs) / sum(weight for weight, _ in pairs)
    assert metric.score(y.astype(int), score / 5, w) == pytest.approx(expected)
    assert metric.influence(y.astype(int), score / 5, w).mean() == pytest.approx(1 - expected)


def test_the_areas_standard_error_is_delongs() -> None:
    y, p, _ = binary(200)
    positive, negative = p[y == 1, 1], p[y == 0, 1]
    wins = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    variance = wins.mean(1).var(ddof=0) / len(positive) + wins.mean(0).var(ddof=0) / len(negative)
    influence = Metric.resolve("roc_auc", BINARY).influence(y, p)
    assert influence.std(ddof=0) ** 2 / len(y) == pytest.approx(variance)


def test_rows_of_a_group_count_as_one_for_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    each, mae = rng.normal(1.0, 1.0, 300), Metric.resolve("mae", REGRESSION)
    repeated, codes = np.repeat(np.abs(each), 50), np.repeat(np.arange(300), 50)
    order, zero = rng.permutation(len(codes)), np.zeros(len(codes))
    found = mae.influence(zero, repeated[order], None, codes[order])
    assert found == pytest.approx(np.abs(each))
    assert found.mean() == pytest.approx(np.abs(each).mean())
    sizes = rng.integers(1, 20, 300)  # of unequal groups the mean stays that of the rows
    rows, codes = np.repeat(np.abs(each), sizes), np.repeat(np.arange(300), sizes)
    assert mae.influence(np.zeros(len(rows)), rows, None, codes).mean() == pytest.approx(rows.mean())
    assert len(mae.influence(np.zeros(300), each, None, np.empty(0, np.int64))) == 300


def hits(y: Any, p: Any) -> float:
    return float((y == p).mean())


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", hits])
def test_the_standard_error_of_groups_is_that_of_other_groups_drawn(metric: Any) -> None:
    found = Metric.resolve(metric, Task("binary", (0, 1)))

    def drawn(seed: int) -> tuple[Any, Any, Any]:
        rng = np.random.default_rng(seed)
        codes = np.repeat(np.arange(60), 40)
        y = rng.integers(0, 2, len(codes))
        wrong = rng.random(len(codes)) < np.repeat(rng.choice([0.05, 0.6], 60), 40)  # some groups are hard
        p = np.where(wrong, 1 - y, y).astype(float)
        return y, np.column_stack([1 - p, p]), codes

    true = np.std([found.error(*drawn(seed)[:2]) for seed in range(200)])
    told = []
    for seed in range(5):
        y, p, codes = drawn(seed)
        influence = found.influence(y, p, None, codes)
        told.append(influence.std(ddof=1) / np.sqrt(len(influence)))
    assert np.mean(told) == pytest.approx(true, rel=0.2)


def test_paired_influences_give_a_tighter_difference() -> None:
    y, p, _ = binary(1000)
    other = p + np.random.default_rng(5).normal(0, 0.02, len(y))[:, None] * np.array([-1, 1])
    metric = Metric.resolve(None, BINARY)
    a, b = metric.influence(y, p), metric.influence(y, other)
    paired, apart = (a - b).std() / np.sqrt(len(y)), np.hypot(a.std(), b.std()) / np.sqrt(len(y))
    assert paired < 0.3 * apart


@pytest.mark.parametrize(("task", "name"), [(BINARY, "roc_auc"), (MULTI, "log_loss"), (REGRESSION, "rmse")])
def test_the_default_of_a_task(task: Task, name: str) -> None:
    metric = Metric.resolve(None, task)
    assert metric.name == name
    assert metric.needs_proba == (task is not REGRESSION)
    assert Metric.resolve(metric, task) is metric


def test_errors_and_scores_turn_into_each_other() -> None:
    for name, task, score, error in (
        ("roc_auc", BINARY, 0.9, 0.1),
        ("log_loss", BINARY, 0.3, 0.3),
        ("rmse", REGRESSION, 2.0, 2.0),
    ):
        metric = Metric.resolve(name, task)
        assert metric.error_of(score) == pytest.approx(error)
        assert metric.score_of(error) == pytest.approx(score)


@pytest.mark.parametrize("shape", ["flat", "column"])
def test_a_binary_prediction_may_be_the_second_classs_probability_alone(shape: str) -> None:
    y, p, w = binary()
    alone = p[:, 1] if shape == "flat" else p[:, 1:]
    for name in names(BINARY):
        metric = Metric.resolve(name, BINARY)
        assert metric.score(y, alone, w) == pytest.approx(metric.score(y, p, w))


@pytest.mark.parametrize(
    ("name", "task", "best"),
    [
        ("neg_log_loss", BINARY, 0.0),
        ("roc_auc_ovr", MULTI, 1.0),
        ("matthews_corrcoef", BINARY, 1.0),
        ("precision", BINARY, 1.0),
        ("neg_median_absolute_error", REGRESSION, 0.0),
        ("explained_variance", REGRESSION, 1.0),
        ("positive_likelihood_ratio", BINARY, None),
        ("top_k_accuracy", MULTI, 1.0),
        ("neg_max_error", REGRESSION, 0.0),
    ],
)
def test_any_scorer_of_scikit_learn_works(name: str, task: Task, best: float | None) -> None:
    y, p, w = MAKE[task.kind]()
    metric = Metric.resolve(name, task)
    assert metric.best == best
    score = metric.score(y, p)
    assert metric.error(y, p) == pytest.approx((best or 0.0) - score)
    assert metric.influence(y, p).mean() == pytest.approx(metric.error(y, p))
    assert np.isfinite(metric.score(y, p, None if name == "neg_max_error" else w))


def test_a_scorer_object_works() -> None:
    y, p, _ = binary()
    metric = Metric.resolve(sk.make_scorer(sk.fbeta_score, beta=2), BINARY)
    assert metric.score(y, p) == pytest.approx(sk.fbeta_score(y, p.argmax(1), beta=2))
    assert metric.name == "fbeta_score"


@pytest.mark.parametrize("loss", [sk.mean_absolute_error, sk.log_loss, sk.hamming_loss])
def test_a_loss_of_scikit_learn_is_no_callable_of_which_more_is_better(loss: Any) -> None:
    with pytest.raises(UsageError, match=f"{loss.__name__} is a loss.*greater_is_better=False"):
        Metric.resolve(loss, BINARY)


def share_of_cats_found(y_true: Any, y_pred: Any) -> float:
    return float(np.mean(np.asarray(y_pred)[np.asarray(y_true) == "cat"] == "cat"))


def test_a_scorer_of_ones_own_is_given_labels_as_scikit_learn_gives_them() -> None:
    y, p, _ = binary()
    pets = SimpleNamespace(kind="binary", classes=("cat", "dog"))
    expected = np.mean(p[y == 0].argmax(1) == 0)
    for metric in (share_of_cats_found, sk.make_scorer(share_of_cats_found)):
        assert Metric.resolve(metric, pets).score(y, p) == pytest.approx(expected)
    one_two = SimpleNamespace(kind="binary", classes=(1, 2))
    found, truth = np.array([1, 2])[p.argmax(1)], np.array([1, 2])[y]
    assert Metric.resolve(sk.make_scorer(sk.f1_score), one_two).score(y, p) == pytest.approx(sk.f1_score(truth, found))
    positive = sk.make_scorer(sk.f1_score, pos_label="cat")
    named = np.array(["cat", "dog"])
    expected = sk.f1_score(named[y], named[p.argmax(1)], pos_label="cat")
    assert Metric.resolve(positive, pets).score(y, p) == pytest.approx(expected)
    auc = sk.make_scorer(sk.roc_auc_score, response_method="predict_proba")
    assert Metric.resolve(auc, pets).score(y, p) == pytest.approx(sk.roc_auc_score(y, p[:, 1]))


def test_a_scorer_may_name_its_labels_and_labels_may_be_numbers_and_text() -> None:
    y, p, _ = multi()
    abc = SimpleNamespace(kind="multiclass", classes=("a", "b", "c"))
    named = np.array(["a", "b", "c"])
    scorer = sk.make_scorer(sk.f1_score, average="macro", labels=["a", "b"])
    expected = sk.f1_score(named[y], named[p.argmax(1)], average="macro", labels=["a", "b"])
    assert Metric.resolve(scorer, abc).score(y, p) == pytest.approx(expected)
    mixed = SimpleNamespace(kind="multiclass", classes=(1, "a", "b"))
    assert Metric.resolve(sk.make_scorer(sk.accuracy_score), mixed).score(y, p) == np.mean(p.argmax(1) == y)


@pytest.mark.parametrize("loss", [sk.log_loss, sk.brier_score_loss])
def test_what_is_advised_for_a_loss_works(loss: Any) -> None:
    y, p, _ = binary()
    pets = SimpleNamespace(kind="binary", classes=("cat", "dog"))
    with pytest.raises(UsageError, match='response_method="predict_proba"'):
        Metric.resolve(loss, pets)
    advised = sk.make_scorer(loss, greater_is_better=False, response_method="predict_proba")
    if loss is sk.log_loss:
        assert Metric.resolve(advised, pets).score(y, p) == pytest.approx(-sk.log_loss(y, p))
    else:
        assert Metric.resolve(advised, pets).score(y, p) == pytest.approx(-sk.brier_score_loss(y, p[:, 1]))


def test_labels_of_numbers_and_text_keep_their_types() -> None:
    seen: list[Any] = []

    def kinds(y_true: Any, y_pred: Any) -> float:
        seen.extend({type(label) for label in y_true})
        return 0.0

    y, p, _ = binary()
    Metric.resolve(kinds, SimpleNamespace(kind="binary", classes=(1, "a"))).score(y, p)
    assert set(seen) == {int, str}


def profit(y_true: Any, y_pred: Any) -> float:
    return float(5000.0 * np.mean(np.asarray(y_true) == np.asarray(y_pred)))


def test_a_scorer_of_ones_own_has_no_best_value() -> None:
    assert Metric.resolve(sk.make_scorer(profit), BINARY).best is None
    assert Metric.resolve(sk.make_scorer(sk.fbeta_score, beta=2), BINARY).best == 1.0


def share_of_yes_found(y_true: Any, y_pred: Any) -> float:
    return float(np.mean(y_pred[y_true == "yes"] == "yes"))


def test_a_callable_is_given_labels_and_its_error_is_minus_its_score() -> None:
    y, p, _ = binary()
    metric = Metric.resolve(share_of_yes_found, BINARY)
    assert metric.name == "share_of_yes_found"
    assert metric.best is None
    assert metric.score(y, p) == pytest.approx(sk.recall_score(y, p.argmax(1)))
    assert metric.error(y, p) == -metric.score(y, p)
    assert metric.score_of(metric.error(y, p)) == metric.score(y, p)


def test_a_callable_is_given_weights_if_it_takes_them() -> None:
    y, p, w = regression()

    def worst(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        return float(0 if sample_weight is None else sample_weight.sum())

    metric = Metric.resolve(worst, REGRESSION)
    assert metric.score(y, p, w) == pytest.approx(w.sum())
    assert metric.score(y, p) == 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (float("nan"), "returned nan, not a finite number"),
        (float("inf"), "not a finite number"),
        (1 + 2j, "a complex, not one real number"),
        ("0.9", "returned '0.9', a str"),
        (None, "a NoneType"),
        (np.array([1.0, 2.0]), "an? ndarray"),
        (True, "a bool"),
    ],
)
def test_a_callable_that_returns_no_number_is_named(returned: object, message: str) -> None:
    metric = Metric.resolve(lambda y_true, y_pred: returned, REGRESSION)
    with pytest.raises(DataError, match=rf"metric <lambda>.*{message}"):
        metric.score(*regression()[:2])


def test_a_callable_that_raises_is_named_with_its_reason() -> None:
    def mine(y_true: Any, y_pred: Any) -> float:
        raise ZeroDivisionError("no rows")

    with pytest.raises(DataError, match="metric mine raised ZeroDivisionError: no rows"):
        Metric.resolve(mine, BINARY).score(*binary()[:2])


@pytest.mark.parametrize(
    ("metric", "task", "error", "message"),
    [
        ("rocauc", BINARY, UsageError, "unknown metric 'rocauc'; did you mean 'roc_auc'"),
        ("rmse", BINARY, UsageError, "'rmse' is not for a binary task; there are roc_auc, log_loss"),
        ("f1", MULTI, UsageError, "not for a multiclass task.*f1_macro"),
        (3, BINARY, UsageTypeError, "metric is a int"),
    ],
)
def test_a_metric_that_cannot_be_says_what_can(metric: Any, task: Task, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Metric.resolve(metric, task)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="3 targets and 2 predictions"):
        Metric.resolve("rmse", REGRESSION).score(np.zeros(3), np.zeros(2))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_few_rows_have_influences_too(n: int) -> None:
    y = np.arange(n) % 2
    influence = Metric.resolve("balanced_accuracy", BINARY).influence(y, np.full((n, 2), 0.5))
    assert influence.shape == (n,)
    assert np.isfinite(influence).all()


def test_the_only_row_of_a_class_does_not_break_the_influences() -> None:
    y = np.zeros(60, int)
    y[7] = 1
    p = np.linspace(0.1, 0.9, 60)
    assert np.isfinite(Metric.resolve("average_precision", BINARY).influence(y, p)).all()


def test_a_metric_travels_to_another_process(tmp_path: Any) -> None:
    y, p, _ = binary()
    for metric in ("roc_auc", "neg_log_loss", "f1", share_of_yes_found, lambda y_true, y_pred: 0.5):
        resolved = Metric.resolve(metric, BINARY)
        again = cloudpickle.loads(cloudpickle.dumps(resolved))
        assert again.score(y, p) == resolved.score(y, p)


def test_the_default_metrics_do_not_load_scikit_learn() -> None:
    code = (
        "import sys; from types import SimpleNamespace as T; import numpy as np; from automl.search.metric import Metric;"
        "Metric.resolve(None, T(kind='binary', classes=(0, 1))).influence(np.array([0, 1]), np.array([.2, .7]));"
        "assert not {'sklearn', 'pandas', 'optuna', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
