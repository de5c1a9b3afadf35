"""What a competition is scored by, and other measures of predictions.

Accuracy is the default; `make folds METRIC=` names another. All are of probabilities [n, C] and labels int [n]; what a
metric reads of the labels predicted (the first of equally probable classes) is a function of the confusion matrix, so
that the hundreds of scores that a greedy choice or a bootstrap takes cost next to nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from competition.base.files import InputError


@dataclass(frozen=True)
class Metric:
    """One way to score; `each` where the score is the mean of a figure an image, else None."""

    name: str
    score: Callable[[np.ndarray, np.ndarray], float]  # (probs [n, C], labels int [n]) -> float
    sign: int = 1  # 1 where more is better, -1 where less is
    each: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # (probs, labels) -> float64 [n]
    low: float = 0.0  # bounds of the score
    high: float = 1.0

    def quality(self, probs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Greater is better: the score with its sign, ties by log-loss."""
        return self.sign * self.score(probs, labels), -log_loss(probs, labels)

    def pick(self, candidates: Sequence[np.ndarray], labels: np.ndarray) -> tuple[int, tuple[float, float]]:
        """The place of the best of `candidates`, and its quality; the first of equals. Log-loss where scores tie alone."""
        scores = [self.sign * self.score(probs, labels) for probs in candidates]
        tied = [i for i, score in enumerate(scores) if score == max(scores)]
        losses = [-log_loss(candidates[i], labels) for i in tied]
        best = max(range(len(tied)), key=losses.__getitem__)
        return tied[best], (scores[tied[best]], losses[best])

    def objective(self) -> "Metric":
        """The metric that a search over weights can afford: itself, but log-loss in place of AUC."""
        return METRICS["log_loss"] if self.name == "auc" else self

    @property
    def besides(self) -> list[str]:
        """The columns that tables have of it besides accuracy: its name, none where that is accuracy itself."""
        return [] if self.name == "accuracy" else [self.name]

    def beside(self, probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """{name: score} of these columns."""
        return {name: self.score(probs, labels) for name in self.besides}

    def chooses(self, patience: int) -> dict[str, str]:
        """The entry of the metric in a run's config: {"metric": name} if it chooses the epoch, else {}."""
        return {"metric": name for name in self.besides if patience}

    def sort(self, frame: Any) -> Any:
        """A DataFrame with its column and log_loss, the best row first, ties by log_loss; the index goes along."""
        ascending = {self.name: self.sign < 0} | {"log_loss": True}
        return frame.sort_values(list(ascending), ascending=list(ascending.values()), kind="stable")


def _right(probs, labels):
    return (probs.argmax(1) == labels).astype(np.float64)


def _surprise(probs, labels):
    true = np.asarray(probs)[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.clip(true, np.finfo(np.float32).eps, 1))  # as log_loss


def _of_confusion(score):
    def scored(probs, labels):
        classes = probs.shape[1]
        pairs = np.bincount(labels * classes + probs.argmax(1), minlength=classes**2)
        return float(score(pairs.reshape(classes, classes).astype(np.float64)))

    return scored


def _balanced(matrix):
    """Mean recall over the classes that occur."""
    there = matrix.sum(1) > 0
    return (matrix.diagonal()[there] / matrix.sum(1)[there]).mean()


def _macro_f1(matrix):
    """Mean over the classes that occur or are predicted of 2 TP / (2 TP + FP + FN)."""
    total = matrix.sum(0) + matrix.sum(1)
    return (2 * matrix.diagonal()[total > 0] / total[total > 0]).mean()


def _kappa(matrix):
    """Cohen's kappa with quadratic weights: classes are grades, in the order of the fold table."""
    grade = np.arange(len(matrix))
    distance = (grade[:, None] - grade) ** 2.0
    expected = np.outer(matrix.sum(1), matrix.sum(0)) / matrix.sum()
    total = (distance * expected).sum()
    return 1 - (distance * matrix).sum() / total if total else 1.0


def _auc(probs, labels):
    """Mean over the classes of the area under the curve of one class against the rest; NaN where training diverged."""
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(probs).all():
        return float("nan")
    there = [c for c in range(probs.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    return float(np.mean([roc_auc_score(labels == c, probs[:, c]) for c in there])) if there else 0.5


def log_loss(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln(probability of the true class). probs [n, C], labels int [n].

    Plain numpy; probabilities are clipped to float32's machine epsilon 1.2e-7 from below, as scikit-learn's
    `log_loss` does with float32 input: one image costs 15.9 at most.
    """
    true = np.asarray(probs)[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(true, np.finfo(np.float32).eps, 1)).mean())


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", lambda probs, labels: float(_right(probs, labels).mean()), each=_right),
        Metric("balanced_accuracy", _of_confusion(_balanced)),
        Metric("macro_f1", _of_confusion(_macro_f1)),
        Metric("log_loss", log_loss, -1, _surprise, high=np.inf),
        Metric("quadratic_kappa", _of_confusion(_kappa), low=-1.0),
        Metric("auc", _auc),
    )
}


def find_metric(name: str) -> Metric:
    """The Metric of that name; InputError for an unknown one."""
    if name not in METRICS:
        raise InputError(f"METRIC={name}: expected one of {', '.join(METRICS)}")
    return METRICS[name]


def chosen_by(config: Mapping[str, Any] | None) -> Metric:
    """The Metric by which the run of this config, a dict or None, chose its epochs; InputError for an unknown one."""
    return find_metric((config or {}).get("metric", "accuracy"))


def say_scores(scores: Mapping[str, float]) -> str:
    """{name: score} as text behind other figures; nothing for none."""
    return "".join(f", {name} {score:.4f}" for name, score in scores.items())


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: the mean distance between how sure and how often right, over 15 bins of sureness.

    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017.
    """
    return float(
        sum(count * abs(right - sure) for count, sure, right in reliability(probs, labels, bins)) / len(labels)
    )


def reliability(probs: np.ndarray, labels: np.ndarray, bins: int) -> list[list[Any]]:
    """Of each bin of sureness from 0 to 1 [images, how sure they are on average, share that is right]; 0s if empty."""
    sure, right = probs.max(1).astype(np.float64), probs.argmax(1) == labels
    index = np.minimum((sure * bins).astype(int), bins - 1)
    count, *sums = (np.bincount(index, weights, bins) for weights in (None, sure, right))
    return [[int(n), *(float(total[i] / max(n, 1)) for total in sums)] for i, n in enumerate(count)]


def accuracy(probs: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose most probable class, the first of equals, is right; probs [n, C], labels int."""
    return float(np.mean(probs.argmax(1) == labels))


def per_class_accuracy(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Recall of each class, float64 [C]; NaN for a class without images. probs [n, C], labels int [n]."""
    matrix = confusion(probs, labels)
    counts = matrix.sum(1)
    return np.divide(matrix.diagonal(), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def confusion(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int64 [C, C]: rows the true classes, columns the predicted. probs [n, C], labels int [n]."""
    from sklearn.metrics import confusion_matrix

    if not len(labels):  # which scikit-learn refuses
        return np.zeros((probs.shape[1], probs.shape[1]), np.int64)
    return confusion_matrix(labels, probs.argmax(1), labels=np.arange(probs.shape[1])).astype(np.int64)
