"""What a blend will score on the hidden test: one figure, a 90 % interval, and what both are made of.

The forecast is the nested OOF score of the whole way to the blend (blend.Chooser.whole), in which no image had a say in
what predicted it, plus what the zip does that the OOF does not: it averages k fold models for every image, where an
image's OOF comes from one. The interval adds up, as variances, what chance does to the OOF score, to the estimate of
that gain, and to the hidden test.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from competition import files, heads, oof
from competition.files import InputError, read_json, sha256_file, write_npz
from competition.folds import whole_number
from competition.metrics import METRICS, bootstrap, cluster_error, score_error

LEVEL = 0.9
LEAST_WEIGHT = 0.1  # of a member whose gain from averaging is worth the minute that measuring it takes
WIDE = 1.6449  # standard deviations of a normal distribution on either side that hold 90 %
HIDDEN = ("random", "groups")


def check_hidden(count, hidden):
    """HIDDEN_N as an int or None, and HIDDEN; InputError for what they cannot be."""
    if hidden not in HIDDEN:
        raise InputError(f"HIDDEN={hidden}: expected {' or '.join(HIDDEN)}")
    return None if count in (None, "") else whole_number("HIDDEN_N", count, 1, 10**9), hidden


def forecast_blend(table, oofs, chooser, winner, hidden_n=None, hidden="random"):
    """The forecast (make_forecast) of the Candidate that a Chooser over the runs {name: OOF} chose."""
    metric, labels = chooser.metric, chooser.labels
    variants, unmeasured = {}, []
    for run, weight in winner.weights.items():
        folder = files.RUNS / table.name / run
        apart = train_apart(folder, table, winner.views) if weight >= LEAST_WEIGHT else None
        if apart is None:
            unmeasured.append(run)
        variants[run] = oofs[run].mean(winner.views)[None] if apart is None else apart
    gain = averaging_gain(metric, winner.weights, variants, labels, chooser.groups, table.k)
    stopped = {run: stop_apart(files.RUNS / table.name / run, table) for run in winner.weights}
    early = 0.0
    if any(probs is not None for probs in stopped.values()):
        as_is = {run: oofs[run].mean(["identity"]) for run in winner.weights}
        apart = {run: as_is[run] if stopped[run] is None else stopped[run] for run in winner.weights}
        early = metric.score(_average(winner.weights, as_is), labels) - metric.score(
            _average(winner.weights, apart), labels)
    found = make_forecast(metric, chooser.whole(), labels, chooser.groups, table.fold, winner.in_sample,
                          hidden_n or len(labels) // table.k, hidden, gain, early)
    missing = [run for run, probs in stopped.items() if probs is None and stops_early(files.RUNS / table.name / run)]
    return found | {"not_measured": unmeasured, "stop_not_measured": missing}


def make_forecast(metric, probs, labels, groups, fold, in_sample, count, hidden="random", gain=(0.0, 0.0), early=0.0):
    """Expected score of a hidden test of `count` images, its 90 % interval, and the parts of both, as a dict.

    metric     metrics.Metric
    probs      [n, C], nested over all that was chosen; labels, groups, fold: int [n]
    in_sample  the naive score, of the predictions that chose the blend
    hidden     "random": the hidden images are drawn one by one; "groups": whole new groups, so that where images of a
               group stand or fall together there are fewer independent ones
    gain       of averaging k fold models over one, and its standard error (averaging_gain)
    early      by how much stopping early on the scored images flatters

    What stratified folds flatter by (stratified_gain) is taken off as well. Where the score has bounds, the interval is
    that of a beta distribution of the same mean and variance.
    """
    n = len(labels)
    nested = metric.score(probs, labels)
    alone = np.arange(n)
    error = score_error(metric, probs, labels, groups)
    spread = score_error(metric, probs, labels, groups if hidden == "groups" else alone)
    least = _least_error(metric, nested, n)
    error, spread = max(error, least), max(spread, least)
    scores = [metric.score(probs[fold == f], labels[fold == f]) for f in np.unique(fold)]
    beyond = _excess(scores, error, n)
    stratified = stratified_gain(metric, probs, labels, groups)
    expected = float(np.clip(nested + gain[0] - early - stratified, metric.low, metric.high))
    parts = {
        "oof_noise": error,
        "hidden_noise": spread * np.sqrt(n / count),
        "gain_noise": gain[1],
        "fold_spread": beyond,
    }
    low, high = _interval(metric, expected, float(np.sqrt(sum(value**2 for value in parts.values()))))
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
        "averaging_gain": gain[0],
        "early_stop": early,
        "stratified": stratified,
        "standard_errors": {key: float(value) for key, value in parts.items()},
        "folds": scores,
        "groups": int(len(np.unique(groups))),
        "grouped_images": int((np.bincount(groups)[groups] > 1).sum()),
        "classes": _each_class(probs, labels, groups, count),
    }


def stratified_gain(metric, probs, labels, groups):
    """By how much stratified folds flatter probs [n, C], in the metric's units: a float.

    In stratified folds an image is predicted by models whose training images hold its class in the very share that it
    has where they are scored. A hidden test knows nothing of that: what chance gave a class more of here, it does not
    give there. Without stratification the n_c images of a class would train as n_c - 1, or less the images of the whole
    group, whenever one of them is predicted. A classifier answers a change of the prior by its logarithm in the logit
    (Saerens, Latinne & Decaestecker, Neural Computation 14, 2002), so the logit of each image's own class is lowered by
    that of the share that is left, and the score is taken again. The effect goes with classes / images: 0.5 points for
    8 classes of 300 images. It is a first-order estimate, on the low side: a head on frozen features showed 0.8 there.
    Classes of one size, but for one image, were counted out and not drawn, here and there alike: 0 then.
    """
    counts, sizes = np.bincount(labels), np.bincount(groups)
    if np.ptp(counts) <= 1:
        return 0.0
    left = np.maximum(1 - sizes[groups] / counts[labels], 1 / counts[labels])
    lowered = probs.astype(np.float64)
    lowered[np.arange(len(labels)), labels] *= left
    return float(metric.score(probs, labels) - metric.score(lowered / lowered.sum(1, keepdims=True), labels))


def averaging_gain(metric, weights, variants, labels, groups, k):
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
    together = _average(weights, {run: probs.mean(0) for run, probs in variants.items()})
    alone = [_average(weights, {run: probs[i % len(probs)] for run, probs in variants.items()}) for i in range(count)]
    factor = (k - 2) / k

    def gain(rows):
        return metric.score(together[rows], labels[rows]) - np.mean(
            [metric.score(probs[rows], labels[rows]) for probs in alone])

    if metric.each:
        values = metric.each(together, labels) - np.mean([metric.each(probs, labels) for probs in alone], axis=0)
        error = cluster_error(values, groups)
    else:
        error = bootstrap(gain, groups, 100).std()
    return float(factor * gain(slice(None))), float(factor * error)


def train_apart(run_dir, table, views):
    """Probabilities float32 [k - 1, n, C] of heads that never saw an image nor its fold; None where that cannot be had.

    For each fold, heads are trained on all folds but that one and, each, one more: as the run's own, on the cached
    features of its frozen backbone, on (k - 2) / k of the images. What they give an image of that fold is what fold
    models give a new one: the same recipe, other data. The result is kept in `runs/<name>/blend/`. A run that trained
    its backbone is not measured so, as that would mean k - 1 times its training.
    """
    settings = features = None
    record = read_json(Path(run_dir) / "run.json")
    if table.k > 2 and record.get("frozen"):
        from competition.recipes import Recipe

        try:
            settings = Recipe(**record["config"]["recipe"])
        except TypeError:  # of another version
            return None
        plain = not (settings.frozen_copies or settings.oversample_count or settings.synthetic
                     or "teacher" in record["config"])
        features = _cached_features(record, settings, table) if plain else None
    if features is None:
        return None
    run_dir = Path(run_dir)
    path = run_dir.parent / oof.BLEND / f"apart-{run_dir.name}.npz"
    key = f"{sha256_file(run_dir / 'oof.npz')} {','.join(views)}"
    if path.exists():
        with np.load(path) as saved:
            if str(saved["key"]) == key:
                return saved["probs"]
    probs = np.zeros((table.k - 1, len(table.labels), len(table.classes)), np.float32)
    for fold in tqdm(range(table.k), desc=f"{run_dir.name}: what averaging gives", unit="fold", leave=False):
        kept, asked = np.flatnonzero(table.fold != fold), np.flatnonzero(table.fold == fold)
        pool = [np.asarray(values[kept]) for values in features.values()]
        inner = table.fold[kept] - (table.fold[kept] > fold)
        state = heads.start_heads(1, table.k - 1, pool[0].shape[1], len(table.classes), settings.head, settings.seed)
        while len(state.log) < settings.frozen_epochs and not state.stopped(settings.patience).all():
            heads.train_epoch(state, [settings], pool, pool[0], table.labels[kept], inner, range(table.k - 1))
        for view in views:
            each = [layer.best[0] for layer in state.layers]
            probs[:, asked] += heads.predict_heads(each, np.asarray(features[view][asked])) / len(views)
    write_npz(path, key=np.array(key), probs=probs)
    return probs


def stops_early(run_dir):
    """Whether a run's folds keep the epoch that is best on the very images that are scored: it has `patience`."""
    config = read_json(Path(run_dir) / "run.json").get("config") or {}
    return bool(config.get("recipe", {}).get("patience"))


def stop_apart(run_dir, table):
    """The OOF [n, C] (no view but the identity) of epochs that were chosen on other folds.

    With `patience` a fold keeps the epoch that is best on the very images that are scored. Here each fold takes the
    epoch at which the others' validation accuracy is best on average (a fold that stopped before that, its last one).
    None where none was chosen, and where the epochs are not there: a soup and a double run have none of their own, and
    a kernel takes none along.
    """
    run_dir = Path(run_dir)
    histories = [run_dir / f"fold_{fold}" / "history.csv" for fold in range(table.k)]
    if not stops_early(run_dir) or not all(path.exists() for path in histories):
        return None
    probs, curves = np.zeros((len(table.labels), len(table.classes)), np.float32), []
    for path in histories:
        history = pd.read_csv(path)
        curves.append(history[history["phase"] == history["phase"].iloc[-1]].set_index("epoch")["val_accuracy"])
    longest = max(map(len, curves))
    padded = np.stack([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves])
    for fold, curve in enumerate(curves):
        best = int(np.delete(padded, fold, 0).mean(0).argmax())
        number = curve.index[min(best, len(curve) - 1)]
        path = run_dir / f"fold_{fold}" / "epochs" / f"{number:03d}.npz"
        if not path.exists():
            return None
        with np.load(path) as saved:
            place = {image: row for row, image in enumerate(saved["image"].tolist())}
            rows = np.flatnonzero(table.fold == fold)
            probs[rows] = saved["probs"][[place[table.images[row]] for row in rows]]
    return probs


def print_forecast(found, classes):
    """Three lines, and one of the classes."""
    better = {True: "", False: " (less is better)"}[METRICS[found["metric"]].sign > 0]
    drawn = {"random": "drawn at random from the same scenes", "groups": "of new scenes"}[found["hidden"]]
    errors = found["standard_errors"]
    print(f"forecast: {found['metric']} {found['expected']:.4f}{better} on a hidden test, 90 % of such tests between "
          f"{found['low']:.4f} and {found['high']:.4f} ({found['hidden_n']} images {drawn})")
    gain = f"averaging fold models {found['averaging_gain']:+.4f}"
    if missing := found.get("not_measured"):
        gain += f" (not measured, counted as 0: {', '.join(missing)})"
    early = f"stopping early {-found['early_stop']:+.4f}"
    if missing := found.get("stop_not_measured"):
        early += f" (not measured, counted as 0: {', '.join(missing)})"
    print(f"  made of: in-sample {found['in_sample']:.4f}, optimism {found['nested'] - found['in_sample']:+.4f}, "
          f"nested OOF {found['nested']:.4f}; {gain}; {early}; "
          f"stratified folds {-found['stratified']:+.4f}")
    grouped = f"; {found['grouped_images']} images share {found['groups']} groups with others" * bool(
        found["grouped_images"])
    print(f"  noise (standard errors): hidden test {errors['hidden_noise']:.4f}, OOF {errors['oof_noise']:.4f}, gain "
          f"{errors['gain_noise']:.4f}, folds beyond sampling {errors['fold_spread']:.4f}{grouped}")
    if found["hidden"] == "random" and found["grouped_images"]:
        print("  hidden images that have near-copies among the training images will score higher than this")
    rows = [f"{name} {row['expected']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
            for name, row in zip(classes, found["classes"])]
    print("  accuracy of each class (nested): " + ", ".join(rows[:20]) + ", ..." * (len(rows) > 20))


def _average(weights, probs):
    return sum(weight * probs[run] for run, weight in weights.items())


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


def _each_class(probs, labels, groups, count):
    """The recall of each class with its interval, for its share of the hidden images."""
    rows, metric = [], METRICS["accuracy"]
    for c in range(probs.shape[1]):
        there = labels == c
        number = int(there.sum())
        right = metric.each(probs[there], labels[there])
        recall = float(right.mean())
        smooth = (right.sum() + 1) / (number + 2)
        error = max(cluster_error(right, groups[there]), np.sqrt(smooth * (1 - smooth) / number))
        hidden = max(1.0, count * number / len(labels))
        middle = smooth if recall in (0.0, 1.0) else recall
        low, high = _interval(metric, middle, float(np.hypot(error, np.sqrt(smooth * (1 - smooth) / hidden))))
        rows.append({"expected": recall, "low": low, "high": high, "images": number})
    return rows


def _cached_features(record, settings, table):
    """{view: float32 [n, d]} of a frozen run's backbone, as it keeps them; None where any is gone."""
    config, found = record["config"], {}
    wanted = {"data": table.data_hash, "images": files.hash_json(table.images), "size": list(table.size),
              "model": config["model"], "weights": config["weights"], "image_size": settings.image_size,
              "least_size": settings.least_size}
    for path in sorted((files.RUNS / table.name / "features").glob("*.json")):
        key = read_json(path)
        if all(key.get(name) == value for name, value in wanted.items()) and key.get("view") in settings.views:
            if path.with_suffix(".npy").exists():
                found[key["view"]] = np.load(path.with_suffix(".npy"), mmap_mode="r")
    whole = all(view in found and len(found[view]) == len(table.labels) for view in settings.views)
    return {view: found[view] for view in settings.views} if whole else None
