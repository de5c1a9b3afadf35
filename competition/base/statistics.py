"""How far chance moves a score: standard errors, bootstrap, intervals and tests."""

import numpy as np

DRAWS = 200  # of a bootstrap
CONFIDENCE = 0.9


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


def accuracy_interval(right):
    """Least and most accuracy, Wilson's interval of CONFIDENCE. right bool [n]."""
    from scipy.stats import binomtest

    found = binomtest(int(right.sum()), len(right)).proportion_ci(CONFIDENCE, "wilson")
    return found.low, found.high


def compare_accuracies(right, reference):
    """By how much the first of two accuracies is higher, and p of McNemar's exact two-sided test.

    right, reference   bool [n]: which of the same images either got right
    """
    from scipy.stats import binomtest

    gained, lost = int((right & ~reference).sum()), int((reference & ~right).sum())
    return (gained - lost) / len(right), binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
