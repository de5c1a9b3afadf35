"""Shares of the runs in a blend, from their OOF: single, mean, greedy, convex."""

import numpy as np

from competition.base.metrics import METRICS

PICKS = 50  # enough for weights in steps of 2 %
BAGS, BAG_PICKS = 5, 20  # of the greedy choice on half of the images each, whose weights are averaged
LEAST_SHARE = 0.02  # a member that counts less is not worth its time
STACKED = 1e8  # images x runs x classes^2 from which on stacking takes minutes, and is left out


def select_greedily(probs, labels, picks=PICKS, metric=METRICS["accuracy"]):
    """How often each run is picked, int64 [R]. probs [R, n, C], labels int [n].

    Ensemble selection with replacement and sorted initialisation (Caruana, Niculescu-Mizil, Crew, Ksikes:
    Ensemble Selection from Libraries of Models, ICML 2004): the bag starts as the best N runs, for the N that
    scores best; then the run that helps most is added, again and again, until the bag holds `picks`. The best
    bag on the way counts, the smallest of equals. Ties in the score go by log-loss, then to the first run.
    """
    count, objective = len(probs), metric.objective()
    score = objective.quality
    order = sorted(range(count), key=lambda i: score(probs[i], labels), reverse=True)
    bag = np.zeros(probs.shape[1:])
    best = None
    for size, i in enumerate(order, 1):
        bag += probs[i]
        quality = score(bag / size, labels)
        if best is None or quality > best[0]:
            best = quality, np.bincount(order[:size], minlength=count)
    picked = best[1].copy()
    bag = np.tensordot(picked, probs, 1)
    for size in range(picked.sum() + 1, picks + 1):
        i, quality = objective.pick([(bag + run) / size for run in probs], labels)
        bag += probs[i]
        picked[i] += 1
        if quality > best[0]:
            best = quality, picked.copy()
    return best[1]


def weigh_single(probs, labels, metric):
    """All on the best run, float64 [R]."""
    best = max(range(len(probs)), key=lambda i: metric.quality(probs[i], labels))
    return np.eye(len(probs))[best]


def weigh_mean(probs, labels, metric):
    """Equal shares, float64 [R]."""
    return np.full(len(probs), 1 / len(probs))


def weigh_greedily(probs, labels, metric):
    """The mean of the shares of BAGS greedy choices on half of the images each, float64 [R]."""
    random, shares = np.random.default_rng(0), np.zeros(len(probs))
    for _ in range(BAGS):
        rows = np.sort(random.permutation(len(labels))[: (len(labels) + 1) // 2])
        counts = select_greedily(probs[:, rows], labels[rows], BAG_PICKS, metric)
        shares += counts / counts.sum()
    return _without_small(shares / BAGS)


def weigh_by_likelihood(probs, labels, metric, steps=300):
    """The convex shares of least log-loss, float64 [R], by EM for the proportions of a mixture of known parts.

    Dempster, Laird and Rubin 1977; each step multiplies a run's share by the mean of its share in the probability of
    the true class. Log-loss is convex in the shares, so that there is one optimum.
    """
    true = np.clip(probs[:, np.arange(len(labels)), labels], 1e-7, 1)
    shares = np.full(len(probs), 1 / len(probs))
    for _ in range(steps):
        shares = shares * (true / (shares @ true)).mean(1)
    return _without_small(shares / shares.sum())


WEIGH = {"single": weigh_single, "mean": weigh_mean, "greedy": weigh_greedily, "convex": weigh_by_likelihood}


def blend_logs(kind, logs, labels, parts):
    """Nested and in-sample probabilities [n, C] of blends that work on logarithms [R, n, C]."""
    if kind == "geometric":  # nothing is chosen
        mean = logs.mean(0)
        probs = np.exp(mean - mean.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        return probs, probs
    from sklearn.linear_model import LogisticRegression

    count, n, classes = logs.shape
    inputs = logs.transpose(1, 0, 2).reshape(n, -1)
    inputs = inputs - inputs.mean(0)

    def fit(rows, asked):
        probs = np.zeros((asked.sum(), classes))
        found = LogisticRegression(C=0.01 / count, max_iter=200).fit(inputs[rows], labels[rows])
        probs[:, found.classes_] = found.predict_proba(inputs[asked])
        return probs

    nested, everything = np.zeros((n, classes)), np.full(n, True)
    for part in np.unique(parts):
        nested[parts == part] = fit(parts != part, parts == part)
    return nested, fit(everything, everything)


def _without_small(shares):
    kept = np.where(shares < min(LEAST_SHARE, shares.max()), 0, shares)
    return kept / kept.sum()
