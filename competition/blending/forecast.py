"""What a blend will score on the hidden test: one figure, a 90 % interval, and what both are made of.

The forecast starts from the nested OOF score of the whole way to the blend (chooser.Chooser.whole): no image helped to
choose what predicts it. To this it adds what the zip does and the OOF does not: the zip averages k fold models for
every image, and an image's OOF comes from one. The interval adds up, as variances, what chance does to the OOF score,
to the estimate of that gain, and to the hidden test.
"""

import numpy as np

from competition.base.files import InputError
from competition.base.metrics import METRICS
from competition.base.option_values import whole_number
from competition.base.statistics import cluster_error, score_error
from competition.blending.gains import again_gain, average_members, averaging_gain, scenes_gain, score_gain, seeds_gain
from competition.blending.temperature import sharpen
from competition.blending.trained_apart import stop_apart, stops_early, train_apart, train_loose, trained_again
from competition.runs.seeds import gather_seeds

LEVEL = 0.9
ENOUGH, MOST_APART = 0.9, 10  # share of the weight whose gain from averaging is measured, and members at most
LEAST_GROUPED = 0.01  # of the images that share a scene: fewer do not move the score
MOST_HEADS = 3  # runs of heads on which is measured what other pictures of a group tell
WIDE = 1.6449  # standard deviations of a normal distribution on either side that hold 90 %
HIDDEN = ("random", "groups")


def check_hidden(count, hidden):
    """HIDDEN_N as an int or None, and HIDDEN; InputError for what they cannot be."""
    if hidden not in HIDDEN:
        raise InputError(f"HIDDEN={hidden}: expected {' or '.join(HIDDEN)}")
    return None if count in (None, "") else whole_number("HIDDEN_N", count, 1, 10**9), hidden


def forecast_blend(table, oofs, chooser, winner, hidden_n=None, hidden="random", temperature=1.0):
    """The forecast (make_forecast) of the Candidate that a Chooser over the runs {name: OOF} chose.

    temperature  of the blend (temperature.sharpen); other than 1, each part's is found without it
    """
    metric, labels, groups, folder = chooser.metric, chooser.labels, chooser.groups, table.paths.runs

    plain = {run: oofs[run].mean(winner.views) for run in winner.weights}
    apart = {run: train_apart(folder / run, table, winner.views) for run in heaviest(winner.weights)}
    measured = [run for run, probs in apart.items() if probs is not None]
    gain = averaging_gain(
        metric,
        winner.weights,
        {run: probs[None] for run, probs in plain.items()} | {run: apart[run] for run in measured},
        labels,
        groups,
        table.k,
        temperature,
    )
    seeds = [
        runs
        for runs in gather_seeds(folder, {run: oofs[run] for run in winner.weights})
        if len(runs) > 1 and not set(runs) & set(measured)
    ]
    gain = np.array(
        [
            gain,
            *(seeds_gain(metric, winner.weights, plain, runs, labels, groups, table.k, temperature) for runs in seeds),
        ]
    )
    unmeasured = [run for run in winner.weights if run not in {*measured, *sum(seeds, [])}]
    again = {run: found for run in unmeasured if (found := trained_again(folder / run, table, winner.views))}
    gain = np.array(
        [
            *gain,
            *(
                again_gain(metric, winner.weights, plain, run, rows, others, labels, groups, table.k, temperature)
                for run, (rows, others) in again.items()
            ),
        ]
    )
    unmeasured = [run for run in unmeasured if run not in again]

    early = (0.0, 0.0)
    stopped = {run: stop_apart(folder / run, table) for run in winner.weights}
    if any(probs is not None for probs in stopped.values()):
        as_is = {run: oofs[run].mean(["identity"]) for run in winner.weights}
        elsewhere = {run: as_is[run] if stopped[run] is None else stopped[run] for run in winner.weights}
        better, others = (average_members(winner.weights, probs, temperature) for probs in (as_is, elsewhere))
        early = score_gain(metric, better, others, labels, groups)

    scenes, heads_of = (0.0, 0.0), []
    if (np.bincount(groups)[groups] > 1).mean() >= LEAST_GROUPED:
        candidates = measured or [run for run in oofs if set(winner.views) <= set(oofs[run].views)]
        loose = {
            run: probs
            for run in candidates[:MOST_HEADS]
            if (probs := train_loose(folder / run, table, winner.views)) is not None
        }
        heads_of = list(loose)
        if loose:
            tied = np.mean([oofs[run].mean(winner.views) for run in loose], axis=0)
            scenes = scenes_gain(metric, np.mean(list(loose.values()), axis=0), tied, labels, groups)
            if set(winner.weights) <= set(loose):
                scenes = scenes[0], 0.0
    found = make_forecast(
        metric,
        chooser.whole(tempered=temperature != 1),
        labels,
        groups,
        table.fold,
        metric.score(sharpen(chooser.predict(winner.kind, tuple(winner.views)), temperature), labels),
        hidden_n or len(labels) // table.k,
        hidden,
        (gain[:, 0].sum(), np.hypot.reduce(gain[:, 1])),
        early,
        scenes,
    )
    missing = [run for run, probs in stopped.items() if probs is None and stops_early(folder / run)]
    return found | {
        "not_measured": unmeasured,
        "measured_on_seeds": {run: len(rows) for run, (rows, _) in again.items()},
        "scenes_measured_on": heads_of,
        "stop_not_measured": missing,
    }


def heaviest(weights):
    """The runs {run: share} that together have ENOUGH of the weight, most first, MOST_APART at most."""
    order = sorted(weights, key=lambda run: -weights[run])[:MOST_APART]
    before = np.cumsum([0.0, *(weights[run] for run in order)])
    return [run for run, share in zip(order, before) if share < ENOUGH - 1e-9]


def make_forecast(
    metric,
    probs,
    labels,
    groups,
    fold,
    in_sample,
    count,
    hidden="random",
    gain=(0.0, 0.0),
    early=(0.0, 0.0),
    scenes=(0.0, 0.0),
):
    """Expected score of a hidden test of `count` images, its 90 % interval, and the parts of both, as a dict.

    metric     metrics.Metric
    probs      [n, C], nested over all that was chosen; labels, groups, fold: int [n]
    in_sample  score of the predictions that chose the blend
    hidden     "random": the hidden images are drawn one by one from the same scenes; "groups": whole new groups
    gain       of averaging k fold models over one, and its standard error (averaging_gain, seeds_gain)
    early      by how much stopping early on the scored images flatters, and its standard error
    scenes     what training on other pictures of an image's group adds, and the standard error of taking it from other
               runs than those that are blended (else its noise is that of the OOF): only of "random"

    Groups lie in one fold, so that the OOF is that of new scenes: what their other pictures tell of a hidden image comes
    on top where it has such pictures. Of the same scenes the luck is the same in OOF and hidden test; of new ones images
    of a group stand or fall together in either. What stratified folds flatter by (lower_own_class) is taken off. Where
    the score has bounds, the interval is that of a beta distribution of the same mean and variance.
    """
    n, alone = len(labels), np.arange(len(labels))
    units = groups if hidden == "groups" else alone
    nested = metric.score(probs, labels)
    least = _least_error(metric, nested, n)
    scores = [metric.score(probs[fold == f], labels[fold == f]) for f in np.unique(fold)]
    lowered = lower_own_class(probs, labels, units, fold)
    stratified = metric.score(probs, labels) - metric.score(lowered, labels)
    new_scenes = nested + gain[0] - early[0] - stratified
    if hidden == "groups":
        scenes = scenes[0], 0.0
    expected = float(np.clip(new_scenes + scenes[0] * (hidden == "random"), metric.low, metric.high))
    error = max(score_error(metric, probs, labels, units), least)
    if hidden == "random" and scenes[0]:
        error *= _narrower(metric, nested, expected)
    parts = {
        "oof_noise": error,
        "hidden_noise": error * np.sqrt(n / count),
        "gain_noise": gain[1],
        "early_noise": early[1],
        "scenes_noise": scenes[1],
        "fold_spread": _excess(scores, error, n),
    }
    low, high = _interval(metric, expected, float(np.sqrt(sum(value**2 for value in parts.values()))))
    sizes = np.bincount(groups)
    return {
        "metric": metric.name,
        "expected": expected,
        "low": low,
        "high": high,
        "level": LEVEL,
        "hidden_n": int(count),
        "hidden": hidden,
        "nested": nested,
        "in_sample": in_sample,
        "optimism": metric.sign * (in_sample - nested),
        "averaging_gain": float(gain[0]),
        "early_stop": float(early[0]),
        "stratified": float(stratified),
        "scenes": float(scenes[0]),
        "standard_errors": {key: float(value) for key, value in parts.items()},
        "folds": scores,
        "groups": int((sizes > 1).sum()),
        "grouped_images": int(sizes[sizes > 1].sum()),
        "classes": _each_class(lowered, labels, units, count, metric, expected - (nested - stratified)),
    }


def lower_own_class(probs, labels, groups, fold):
    """Probabilities float64 [n, C] as they would be had the folds not been stratified.

    In stratified folds an image is predicted by models whose training images hold its class in the very share that it
    has where they are scored. A hidden test knows nothing of that: what chance gave a class more of here, it does not
    give there. Without stratification the n_c images of a class would train as n_c - 1, or less the images of the whole
    group, whenever one of them is predicted. A classifier answers a change of the prior by its logarithm in the logit
    (Saerens, Latinne & Decaestecker, Neural Computation 14, 2002), so each probability is multiplied by the share that
    its class has without the image's group, over the share that it had in training without the image's fold. The effect
    goes with classes / images: 0.5 points for 8 classes of 300 images. It is a first-order estimate, on the low side: a
    head on frozen features showed 0.8 there.

    Where images may have been drawn from equal classes, it is known how far chance took the shares: what they flatter
    by goes with the chi-square of the counts, and the logarithms are scaled by this over its degrees of freedom. Classes
    that were counted out, of one size, were not drawn at all, here and there alike: then that is 0.
    """
    from scipy.stats import chi2

    n, classes = probs.shape
    counts = np.bincount(labels, minlength=classes)
    occurring = int((counts > 0).sum())  # rare classes are only trained on
    spread = ((counts[counts > 0] - n / occurring) ** 2).sum() / (n / occurring)
    drawn = min(
        1.0, chi2.sf(spread, max(occurring - 1, 1)) / 0.05
    )  # 0: the classes are not equal, and 1 is what is expected
    power = drawn * spread / max(occurring - 1, 1) + 1 - drawn

    def without(units):
        index = np.unique(units, return_inverse=True)[1]
        inside = np.zeros((index.max() + 1, classes), np.int32)
        np.add.at(inside, (index, labels), 1)
        left = np.maximum(counts - inside, np.minimum(1, counts)) / np.maximum(n - inside.sum(1, keepdims=True), 1)
        return left, inside == counts, index

    own, _, group = without(groups)
    trained, absent, part = without(fold)
    with np.errstate(invalid="ignore"):
        ratio = np.where(absent[part], 1.0, own[group] / trained[part])  # a class that the fold's models never saw
    lowered = probs.astype(np.float64) * np.where(ratio > 0, ratio, 1.0) ** power
    return lowered / lowered.sum(1, keepdims=True)


def _narrower(metric, score, expected):
    """By how much the noise of a score changes from one value to another, where it has bounds: sqrt(p (1 - p))."""
    if not np.isfinite(metric.high):
        return 1.0
    before, after = ((value - metric.low) / (metric.high - metric.low) for value in (score, expected))
    return float(np.sqrt(max(after * (1 - after), 1e-4) / max(before * (1 - before), 1e-4)))


def _least_error(metric, score, n):
    """Where no image is wrong nothing varies: the error that one more right and one more wrong would show."""
    if not np.isfinite(metric.high):
        return 0.0
    share = (score - metric.low) / (metric.high - metric.low)
    share = min(max(share, 1 / (n + 2)), 1 - 1 / (n + 2))
    near = share in (1 / (n + 2), 1 - 1 / (n + 2))
    return float(near * (metric.high - metric.low) * np.sqrt(share * (1 - share) / n))


def _excess(scores, error, n):
    """Standard error of the mean of k folds from what spreads their scores beyond sampling; 0 unless significant.

    error: of the score of all n images; a fold's is sqrt(k) times that. A chi-square test at 5 %.
    """
    from scipy.stats import chi2

    k = len(scores)
    if not error:
        return 0.0
    found, expected = np.var(scores, ddof=1), error**2 * k
    significant = chi2.sf((k - 1) * found / expected, k - 1) < 0.05
    return float(np.sqrt(max(0.0, found - expected) / k)) if significant else 0.0


def _interval(metric, mean, deviation):
    """The 5 % and 95 % quantiles of a beta distribution on the score's bounds, of a normal one where it has none."""
    from scipy.stats import beta

    width = metric.high - metric.low
    share, variance = (mean - metric.low) / width, (deviation / width) ** 2
    if np.isfinite(width) and 0 < variance < share * (1 - share):
        weight = share * (1 - share) / variance - 1
        quantiles = beta.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], share * weight, (1 - share) * weight)
        return tuple(float(metric.low + width * value) for value in quantiles)
    bounds = mean - WIDE * deviation, mean + WIDE * deviation
    return tuple(float(np.clip(value, metric.low, metric.high)) for value in bounds)


def _each_class(probs, labels, groups, count, metric, more):
    """The recall of each class with its interval, for its share of the hidden images; of a class without images none.

    `more` is what the score of all is expected to gain besides, shared out by the classes' errors where it is accuracy or
    its mean over the classes; no other metric says what a class gains.
    """
    rows, right = [], METRICS["accuracy"].each(probs, labels)
    mean = {"accuracy": right.mean(), "balanced_accuracy": METRICS["balanced_accuracy"].score(probs, labels)}
    factor = more / max(1 - mean[metric.name], 1e-9) if metric.name in mean else 0.0
    for c in range(probs.shape[1]):
        there = labels == c
        number = int(there.sum())
        recall = float(right[there].mean()) if number else 0.0
        smooth = (right[there].sum() + 1) / (number + 2)
        error = np.sqrt(smooth * (1 - smooth) / max(number, 1))
        if number:
            error = max(cluster_error(right[there], groups[there]), error)
        hidden = max(1.0, count * number / len(labels))
        expected = float(np.clip(recall + factor * (1 - recall), 0, 1))
        middle = smooth if expected in (0.0, 1.0) else expected
        low, high = _interval(METRICS["accuracy"], middle, float(error * np.sqrt(1 + number / hidden)))
        rows.append({"expected": expected, "low": low, "high": high, "images": number})
    return rows
