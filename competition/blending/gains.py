"""What averaging fold models, seeds and known scenes add to the OOF score, with standard errors."""

import numpy as np

from competition.base.statistics import bootstrap, cluster_error
from competition.blending.temperature import sharpen


def averaging_gain(metric, weights, variants, labels, groups, k, temperature=1.0):
    """What averaging k fold models of each run adds to the score of one, and its standard error: two floats.

    weights   {run: share}
    variants  {run: probabilities [k - 1, n, C]} of models that lack an image's fold and one other (train_apart); or
              [1, n, C], the OOF, where there are none, which counts as no gain. Models of runs are paired by number

    What the mean of these k - 1 gains over one of them is measured. The mean of models that each lack one part of some
    images is, to first order, the model that lacks none (the jackknife), and the variance of a model falls as one over
    its images. So the measured gain stands for k / (k - 2) - k / (k - 1), that of the k fold models over one of them
    for k / (k - 1) - 1: (k - 2) / k of it. What differs by chance and not by data alone gains more than that.
    """
    count = max(len(probs) for probs in variants.values())
    if count < 2:
        return 0.0, 0.0
    together = average_members(weights, {run: probs.mean(0) for run, probs in variants.items()}, temperature)
    alone = [
        average_members(weights, {run: probs[i % len(probs)] for run, probs in variants.items()}, temperature)
        for i in range(count)
    ]
    return score_gain(metric, together, alone, labels, groups, (k - 2) / k)


def seeds_gain(metric, weights, plain, runs, labels, groups, k, temperature=1.0):
    """What averaging the k fold models of S `runs` that differ in their seed adds, and its standard error: two floats.

    weights  {run: share}; plain: {run: OOF [n, C]}, of all of the blend's

    What the mean of S models over one of them gains is measured, 1 - 1 / S of what chance in training costs; the k S
    fold models of the zip save 1 / S - 1 / (k S) more: (1 - 1 / k) / (S - 1) times the measured gain. That fold models
    differ in their training images as well comes on top, and is not counted.
    """
    alone = [average_members(weights, plain | dict.fromkeys(runs, plain[run]), temperature) for run in runs]
    return score_gain(
        metric, average_members(weights, plain, temperature), alone, labels, groups, (1 - 1 / k) / (len(runs) - 1)
    )


def again_gain(metric, weights, plain, run, rows, others, labels, groups, k, temperature=1.0):
    """What averaging the k fold models of a `run` adds, measured on folds that S - 1 other seeds trained as well.

    rows    int [m], images of these folds; others: probabilities of them by the other seeds' models, [S - 1, m, C]

    As seeds_gain, but one model stands behind the OOF and not S: S times as much is still to be gained.
    """
    names = [run, *((run, i) for i in range(len(others)))]
    shares = weights | dict.fromkeys(names, weights[run] / len(names))
    probs = {name: values[rows] for name, values in plain.items()} | dict(zip(names[1:], others))
    found = seeds_gain(metric, shares, probs, names, labels[rows], groups[rows], k, temperature)
    return tuple(len(names) * value for value in found)


def scenes_gain(metric, loose, tied, labels, groups):
    """What other pictures of a scene tell, and its standard error: probabilities [n, C] of folds that know of no groups
    beside those of folds that do. Of images that share no group the difference is that of other folds, and left out."""
    shared = (np.bincount(groups)[groups] > 1)[:, None]
    return score_gain(metric, np.where(shared, loose, tied), tied, labels, groups)


def score_gain(metric, better, others, labels, groups, factor=1.0):
    """`factor` times by how much the score of `better` [n, C] is above (the mean of) others', and its standard error."""
    others = others if isinstance(others, list) else [others]

    def gain(rows):
        return metric.score(better[rows], labels[rows]) - np.mean(
            [metric.score(probs[rows], labels[rows]) for probs in others]
        )

    if metric.each:
        values = metric.each(better, labels) - np.mean([metric.each(probs, labels) for probs in others], axis=0)
        error = cluster_error(values, groups)
    else:
        error = bootstrap(gain, groups, 100).std()
    return float(factor * gain(slice(None))), float(factor * error)


def average_members(weights, probs, temperature=1.0):
    """The mean of runs {run: probabilities [n, C]} by their weights {run: share}, sharpened with the temperature."""
    mean = sum(weight * probs[run] for run, weight in weights.items())
    return mean if temperature == 1 else sharpen(mean, temperature)
