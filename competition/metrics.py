"""What a competition is scored by, and how far chance moves such a score.

Accuracy is the default; `make folds METRIC=` names another. All are of probabilities [n, C] and labels int [n]; what a
metric reads of the labels predicted (the first of equally probable classes) is a function of the confusion matrix, so
that the hundreds of scores that a greedy choice or a bootstrap takes cost next to nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from competition.files import InputError
from competition.oof import log_loss

DRAWS = 200  # of a bootstrap


@dataclass(frozen=True)
class Metric:
    """One way to score; `each` where the score is the mean of a figure an image, else None."""

    name: str
    score: Callable  # (probs [n, C], labels int [n]) -> float
    sign: int = 1  # 1 where more is better, -1 where less is
    each: Callable | None = None  # (probs, labels) -> float64 [n]
    low: float = 0.0  # bounds of the score
    high: float = 1.0

    def quality(self, probs, labels):
        """Greater is better: the score with its sign, ties by log-loss."""
        return self.sign * self.score(probs, labels), -log_loss(probs, labels)

    def pick(self, candidates, labels):
        """The place of the best of `candidates`, and its quality; the first of equals. Log-loss where scores tie alone."""
        scores = [self.sign * self.score(probs, labels) for probs in candidates]
        tied = [i for i, score in enumerate(scores) if score == max(scores)]
        losses = [-log_loss(candidates[i], labels) for i in tied]
        best = max(range(len(tied)), key=losses.__getitem__)
        return tied[best], (scores[tied[best]], losses[best])

    def objective(self):
        """The metric that a search over weights can afford: itself, but log-loss in place of AUC."""
        return METRICS["log_loss"] if self.name == "auc" else self

    @property
    def besides(self):
        """The columns that tables have of it besides accuracy: its name, none where that is accuracy itself."""
        return [] if self.name == "accuracy" else [self.name]

    def beside(self, probs, labels):
        """{name: score} of these columns."""
        return {name: self.score(probs, labels) for name in self.besides}

    def chooses(self, patience):
        """What the config of a run says of it, {} or {"metric": name}: where it chooses an epoch it is part of it."""
        return {"metric": name for name in self.besides if patience}

    def sort(self, frame):
        """A DataFrame with its column and log_loss, the best row first, ties by log_loss; the index goes along."""
        ascending = {self.name: self.sign < 0} | {"log_loss": True}
        return frame.sort_values(list(ascending), ascending=list(ascending.values()), kind="stable")


def find_metric(name):
    """The Metric of that name; InputError for an unknown one."""
    if name not in METRICS:
        raise InputError(f"METRIC={name}: expected one of {', '.join(METRICS)}")
    return METRICS[name]


def chosen_by(config):
    """The Metric by which the run of this config, a dict or None, chose its epochs; InputError for an unknown one."""
    return find_metric((config or {}).get("metric", "accuracy"))


def say_scores(scores):
    """{name: score} as text behind other figures; nothing for none."""
    return "".join(f", {name} {score:.4f}" for name, score in scores.items())


def cluster_error(values, groups):
    """Standard error of the mean of values float64 [..., n], when images of a group int [n] stand or fall together.

    sqrt(G / (G - 1) * sum over the G groups of (sum of deviations)^2) / n: where every image is its own group that is
    the usual s / sqrt(n). 0 for a single group.
    """
    _, index = np.unique(groups, return_inverse=True)
    count = index.max() + 1
    deviations = values - values.mean(-1, keepdims=True)
    sums = np.zeros((*values.shape[:-1], count))
    order = np.argsort(index, kind="stable")
    sums[...] = np.add.reduceat(deviations[..., order], np.searchsorted(index[order], np.arange(count)), axis=-1)
    return np.sqrt(count / max(count - 1, 1) * (sums**2).sum(-1)) / values.shape[-1] * (count > 1)


def bootstrap(statistic, groups, draws=DRAWS, seed=0):
    """statistic(rows) of `draws` samples of whole groups, with replacement: float64 [draws, ...].

    rows int: the images of as many groups as there are, drawn anew each time.
    """
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(index))[:-1])
    single, random = len(members) == len(index), np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = random.integers(len(members), size=len(members))
        found.append(statistic(order[drawn] if single else np.concatenate([members[i] for i in drawn])))
    return np.array(found)


def score_error(metric, probs, labels, groups):
    """Standard error of the score of these predictions: of the mean of a figure an image, else of a bootstrap."""
    if metric.each:
        return float(cluster_error(metric.each(probs, labels), groups))
    return float(bootstrap(lambda rows: metric.score(probs[rows], labels[rows]), groups).std())


def behind_best(metric, candidates, labels, groups):
    """How far each candidate's score is behind the best one's, and the standard error of that: float64 [K] each.

    candidates: probabilities [n, C] of the same images, so that differences are paired.
    """
    qualities = [metric.quality(probs, labels) for probs in candidates]
    best = max(range(len(candidates)), key=qualities.__getitem__)
    behind = np.array([qualities[best][0] - quality[0] for quality in qualities])
    if metric.each:
        values = np.stack([metric.each(probs, labels) for probs in candidates])
        return behind, cluster_error(values[best] - values, groups)
    distinct = {id(probs): probs for probs in candidates}

    def scores(rows):
        found = {key: metric.score(probs[rows], labels[rows]) for key, probs in distinct.items()}
        return [found[id(probs)] for probs in candidates]

    drawn = bootstrap(scores, groups, DRAWS // 4)
    return behind, (drawn[:, [best]] - drawn).std(0)


def calibration_error(probs, labels, bins=15):
    """Expected calibration error: the mean distance between how sure and how often right, over 15 bins of sureness.

    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017.
    """
    return float(sum(count * abs(right - sure) for count, sure, right in reliability(probs, labels, bins)) / len(labels))


def reliability(probs, labels, bins):
    """Of each bin of sureness from 0 to 1 [images, how sure they are on average, share that is right]; 0s if empty."""
    sure, right = probs.max(1).astype(np.float64), probs.argmax(1) == labels
    index = np.minimum((sure * bins).astype(int), bins - 1)
    count, *sums = (np.bincount(index, weights, bins) for weights in (None, sure, right))
    return [[int(n), *(float(total[i] / max(n, 1)) for total in sums)] for i, n in enumerate(count)]


def _right(probs, labels):
    return (probs.argmax(1) == labels).astype(np.float64)


def _surprise(probs, labels):
    true = np.asarray(probs)[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.clip(true, np.finfo(np.float32).eps, 1))  # as oof.log_loss


def _of_confusion(score):
    def scored(probs, labels):
        classes = probs.shape[1]
        pairs = np.bincount(labels * classes + probs.argmax(1), minlength=classes**2)
        return float(score(pairs.reshape(classes, classes).astype(np.float64)))

    return scored


def _balanced(matrix):
    """Mean recall over the classes that are there."""
    there = matrix.sum(1) > 0
    return (matrix.diagonal()[there] / matrix.sum(1)[there]).mean()


def _macro_f1(matrix):
    """Mean over classes that are there, or predicted, of 2 TP / (2 TP + FP + FN)."""
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
