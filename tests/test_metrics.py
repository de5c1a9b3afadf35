import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from competition.base.files import InputError
from competition.base.metrics import METRICS, calibration_error, chosen_by, find_metric, say_scores
from competition.base.statistics import behind_best, bootstrap, cluster_error, score_error


def some(n=200, classes=4, seed=0):
    """Labels of grades, and probabilities that know something of them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    odds = np.exp(random.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[labels])
    return odds / odds.sum(1, keepdims=True), labels


@pytest.mark.parametrize(
    "name, expected",
    [
        ("accuracy", lambda p, y: reference.accuracy_score(y, p.argmax(1))),
        ("balanced_accuracy", lambda p, y: reference.balanced_accuracy_score(y, p.argmax(1))),
        ("macro_f1", lambda p, y: reference.f1_score(y, p.argmax(1), average="macro")),
        ("log_loss", lambda p, y: reference.log_loss(y, p)),
        ("quadratic_kappa", lambda p, y: reference.cohen_kappa_score(y, p.argmax(1), weights="quadratic")),
        ("auc", lambda p, y: reference.roc_auc_score(y, p, multi_class="ovr")),
    ],
)
def test_scores_are_scikit_learn_s(name, expected):
    probs, labels = some()
    metric = find_metric(name)
    assert metric.score(probs, labels) == pytest.approx(expected(probs, labels))
    if metric.each:
        assert metric.each(probs, labels).mean() == pytest.approx(metric.score(probs, labels))
    worse = np.roll(probs, 1, axis=1)
    assert metric.quality(probs, labels) > metric.quality(worse, labels)
    assert np.isfinite(metric.score(probs[labels < 2], labels[labels < 2]))  # classes without an image


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match="METRIC=f1: expected one of accuracy, balanced_accuracy"):
        find_metric("f1")


def test_errors_are_of_the_sizes_that_repetition_shows():
    random = np.random.default_rng(0)
    values = random.normal(size=300)
    assert cluster_error(values, np.arange(300)) == pytest.approx(values.std(ddof=1) / np.sqrt(300))
    groups = np.repeat(np.arange(100), 3)
    means = [np.repeat(random.normal(size=100), 3).mean() for _ in range(500)]
    assert cluster_error(np.repeat(random.normal(size=100), 3), groups) == pytest.approx(np.std(means), rel=0.2)
    shuffled = random.permutation(300)
    assert cluster_error(values[shuffled], groups[shuffled]) == pytest.approx(cluster_error(values, groups))


def test_the_bootstrap_agrees_with_the_formula():
    probs, labels = some(400)
    groups = np.arange(400) // 2
    accuracy = METRICS["accuracy"]
    drawn = bootstrap(lambda rows: accuracy.score(probs[rows], labels[rows]), groups)
    assert drawn.std() == pytest.approx(score_error(accuracy, probs, labels, groups), rel=0.15)
    assert score_error(METRICS["balanced_accuracy"], probs, labels, groups) == pytest.approx(drawn.std(), rel=0.2)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1"])
def test_differences_are_paired(name):
    probs, labels = some(500)
    other = probs.copy()
    other[:10] = np.roll(other[:10], 1, axis=1)
    behind, error = behind_best(METRICS[name], [other, probs, probs], labels, np.arange(500))
    assert behind[1] == behind[2] == error[1] == error[2] == 0 < behind[0]
    assert 0 < error[0] < score_error(METRICS[name], probs, labels, np.arange(500)) / 2


def test_calibration_error():
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 20_000)
    probs = np.stack([sure, 1 - sure], 1)
    labels = (random.random(20_000) > sure).astype(int)
    assert calibration_error(probs, labels) < 0.02
    assert calibration_error(np.tile([0.95, 0.05], (1000, 1)), np.arange(1000) % 2) == pytest.approx(0.45)


def test_what_stands_beside_accuracy_and_what_a_config_says():
    probs, labels = some()
    accuracy, loss = METRICS["accuracy"], METRICS["log_loss"]
    assert accuracy.besides == [] and accuracy.beside(probs, labels) == accuracy.chooses(3) == {}
    assert say_scores({}) == "" and say_scores({"auc": 0.5}) == ", auc 0.5000"
    assert loss.beside(probs, labels) == {"log_loss": loss.score(probs, labels)}
    assert loss.chooses(3) == {"metric": "log_loss"} and loss.chooses(0) == {}
    assert chosen_by(None) == chosen_by({}) == accuracy and chosen_by({"metric": "log_loss"}) == loss


def test_tables_are_sorted_by_the_metric():
    frame = pd.DataFrame({"accuracy": [0.8, 0.9, 0.8], "log_loss": [0.4, 0.5, 0.3], "auc": [0.7, 0.6, 0.7]})
    for name, order in (("accuracy", [1, 2, 0]), ("log_loss", [2, 0, 1]), ("auc", [2, 0, 1])):
        assert METRICS[name].sort(frame).index.tolist() == order, name


def test_diverged_training_has_no_auc():
    assert np.isnan(METRICS["auc"].score(np.full((4, 2), np.nan), np.array([0, 1, 0, 1])))
