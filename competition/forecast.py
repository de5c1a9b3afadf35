"""What a blend will score on the hidden test: one figure, a 90 % interval, and what both are made of.

The forecast is the nested OOF score of the whole way to the blend (blend.Chooser.whole), in which no image had a say in
what predicted it, plus what the zip does that the OOF does not: it averages k fold models for every image, where an
image's OOF comes from one. The interval adds up, as variances, what chance does to the OOF score, to the estimate of
that gain, and to the hidden test.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from competition import heads, oof
from competition.blend import gather_seeds, seedless, sharpen
from competition.files import InputError, read_json, sha256_file, write_npz
from competition.folds import assign_folds, whole_number
from competition.frozen import features_key, find_features
from competition.metrics import METRICS, bootstrap, chosen_by, cluster_error, score_error
from competition.runs_kinds import kind_of

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

    temperature  of the blend (blend.sharpen); other than 1, each part's is found without it
    """
    metric, labels, groups, folder = chooser.metric, chooser.labels, chooser.groups, table.paths.runs

    plain = {run: oofs[run].mean(winner.views) for run in winner.weights}
    apart = {run: train_apart(folder / run, table, winner.views) for run in heaviest(winner.weights)}
    measured = [run for run, probs in apart.items() if probs is not None]
    gain = averaging_gain(metric, winner.weights, {run: probs[None] for run, probs in plain.items()}
                          | {run: apart[run] for run in measured}, labels, groups, table.k, temperature)
    seeds = [runs for runs in gather_seeds(folder, {run: oofs[run] for run in winner.weights})
             if len(runs) > 1 and not set(runs) & set(measured)]
    gain = np.array([gain, *(seeds_gain(metric, winner.weights, plain, runs, labels, groups, table.k, temperature)
                             for runs in seeds)])
    unmeasured = [run for run in winner.weights if run not in {*measured, *sum(seeds, [])}]
    again = {run: found for run in unmeasured if (found := trained_again(folder / run, table, winner.views))}
    gain = np.array([*gain, *(again_gain(metric, winner.weights, plain, run, rows, others, labels, groups, table.k,
                                         temperature) for run, (rows, others) in again.items())])
    unmeasured = [run for run in unmeasured if run not in again]

    early = (0.0, 0.0)
    stopped = {run: stop_apart(folder / run, table) for run in winner.weights}
    if any(probs is not None for probs in stopped.values()):
        as_is = {run: oofs[run].mean(["identity"]) for run in winner.weights}
        elsewhere = {run: as_is[run] if stopped[run] is None else stopped[run] for run in winner.weights}
        better, others = (_average(winner.weights, probs, temperature) for probs in (as_is, elsewhere))
        early = score_gain(metric, better, others, labels, groups)

    scenes, heads_of = (0.0, 0.0), []
    if (np.bincount(groups)[groups] > 1).mean() >= LEAST_GROUPED:
        candidates = measured or [run for run in oofs if set(winner.views) <= set(oofs[run].views)]
        loose = {run: probs for run in candidates[:MOST_HEADS]
                 if (probs := train_loose(folder / run, table, winner.views)) is not None}
        heads_of = list(loose)
        if loose:
            tied = np.mean([oofs[run].mean(winner.views) for run in loose], axis=0)
            scenes = scenes_gain(metric, np.mean(list(loose.values()), axis=0), tied, labels, groups)
            if set(winner.weights) <= set(loose):
                scenes = scenes[0], 0.0
    found = make_forecast(metric, chooser.whole(tempered=temperature != 1), labels, groups, table.fold,
                          metric.score(sharpen(chooser.predict(winner.kind, tuple(winner.views)), temperature), labels),
                          hidden_n or len(labels) // table.k, hidden,
                          (gain[:, 0].sum(), np.hypot.reduce(gain[:, 1])), early, scenes)
    missing = [run for run, probs in stopped.items() if probs is None and stops_early(folder / run)]
    return found | {"not_measured": unmeasured, "measured_on_seeds": {run: len(rows) for run, (rows, _) in again.items()},
                    "scenes_measured_on": heads_of, "stop_not_measured": missing}


def heaviest(weights):
    """The runs {run: share} that together have ENOUGH of the weight, most first, MOST_APART at most."""
    order = sorted(weights, key=lambda run: -weights[run])[:MOST_APART]
    before = np.cumsum([0.0, *(weights[run] for run in order)])
    return [run for run, share in zip(order, before) if share < ENOUGH - 1e-9]


def make_forecast(metric, probs, labels, groups, fold, in_sample, count, hidden="random", gain=(0.0, 0.0),
                  early=(0.0, 0.0), scenes=(0.0, 0.0)):
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
    spread = ((counts - n / classes) ** 2).sum() / (n / classes)
    drawn = min(1.0, chi2.sf(spread, classes - 1) / 0.05)  # 0: the classes are not equal, and 1 is what is expected
    power = drawn * spread / (classes - 1) + 1 - drawn

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
    together = _average(weights, {run: probs.mean(0) for run, probs in variants.items()}, temperature)
    alone = [_average(weights, {run: probs[i % len(probs)] for run, probs in variants.items()}, temperature)
             for i in range(count)]
    return score_gain(metric, together, alone, labels, groups, (k - 2) / k)


def seeds_gain(metric, weights, plain, runs, labels, groups, k, temperature=1.0):
    """What averaging the k fold models of S `runs` that differ in their seed adds, and its standard error: two floats.

    weights  {run: share}; plain: {run: OOF [n, C]}, of all of the blend's

    What the mean of S models over one of them gains is measured, 1 - 1 / S of what chance in training costs; the k S
    fold models of the zip save 1 / S - 1 / (k S) more: (1 - 1 / k) / (S - 1) times the measured gain. That fold models
    differ in their training images as well comes on top, and is not counted.
    """
    alone = [_average(weights, plain | dict.fromkeys(runs, plain[run]), temperature) for run in runs]
    return score_gain(metric, _average(weights, plain, temperature), alone, labels, groups, (1 - 1 / k) / (len(runs) - 1))


def again_gain(metric, weights, plain, run, rows, others, labels, groups, k, temperature=1.0):
    """What averaging the k fold models of a `run` adds, of which some folds were trained S - 1 times more, with other seeds.

    rows    int [m], images of these folds; others: probabilities of them by the other seeds' models, [S - 1, m, C]

    As seeds_gain, but one model stands behind the OOF and not S: S times as much is still to be gained.
    """
    names = [run, *((run, i) for i in range(len(others)))]
    shares = weights | dict.fromkeys(names, weights[run] / len(names))
    probs = {name: values[rows] for name, values in plain.items()} | dict(zip(names[1:], others))
    found = seeds_gain(metric, shares, probs, names, labels[rows], groups[rows], k, temperature)
    return tuple(len(names) * value for value in found)


def trained_again(run_dir, table, views):
    """Images int [m], and what models of other seeds say of them, float64 [S - 1, m, C]; None where there are none.

    The images are those of all folds that each of these seeds has finished, or that one has where that is more. That a
    run has all its folds is not needed: train.train_seeds trains one fold once more for this.
    """
    run_dir = Path(run_dir)
    same, found = seedless(read_json(run_dir / "run.json")), []
    if not same:
        return None
    name = re.sub(r"-seed\d+$", "", run_dir.name)
    for path in sorted(run_dir.parent.glob(f"{name}*/run.json")):
        if path.parent == run_dir or not re.fullmatch(r"(-seed\d+)*", path.parent.name.removeprefix(name)):
            continue
        record = read_json(path)
        if seedless(record) == same and (record.get("table"), record.get("data")) == (table.hash, table.data_hash):
            folds = {fold: probs for fold in range(table.k)
                     if (probs := _fold_probs(path.parent / f"fold_{fold}", table, fold, views)) is not None}
            found += [folds] if folds else []
    if not found:
        return None
    most = max(found, key=len)
    if len(set.intersection(*map(set, found))) * len(found) < len(most):  # little that all of them trained
        found = [most]
    folds = sorted(set.intersection(*map(set, found)))
    rows = np.concatenate([np.flatnonzero(table.fold == fold) for fold in folds])
    return rows, np.stack([np.concatenate([one[fold] for fold in folds]) for one in found])


def _fold_probs(fold_dir, table, fold, views):
    """What a finished fold says of its images, mean over `views`, float64 [m, C]; None where it lacks any of it."""
    try:
        found = oof.read_fold(fold_dir, table, fold) if (fold_dir / "fold.json").exists() else {}
    except InputError:
        return None
    return np.mean([found[view] for view in views], axis=0, dtype=np.float64) if set(views) <= set(found) else None


def train_apart(run_dir, table, views):
    """Probabilities float32 [k - 1, n, C] of heads that never saw an image nor its fold; None where that cannot be had.

    For each fold, heads are trained on all folds but that one and, each, one more: as the run's own, on the cached
    features of its frozen backbone, on (k - 2) / k of the images. What they give an image of that fold is what fold
    models give a new one: the same recipe, other data. The result is kept in `runs/<name>/blend/`. A run that trained
    its backbone is not measured so, as that would mean k - 1 times its training, but by trained_again.
    """
    if table.k < 3:
        return None

    def train(settings, features, metric, answer):
        probs = np.zeros((table.k - 1, len(table.labels), len(table.classes)), np.float32)
        for fold in tqdm(range(table.k), desc=f"{run_dir.name}: what averaging gives", unit="fold", leave=False):
            kept = np.flatnonzero(table.fold != fold)
            inner = table.fold[kept] - (table.fold[kept] > fold)
            each = _train_heads(settings, features, kept, table, inner, metric)
            asked = np.flatnonzero(table.fold == fold)
            probs[:, asked] = answer(each, asked)
        return probs

    run_dir = Path(run_dir)
    return _kept_heads(run_dir, table, views, "apart", train)


def train_loose(run_dir, table, views):
    """OOF probabilities float32 [n, C] of heads as the run's own, but on folds that know of no groups; None as above.

    An image's head has seen the other pictures of its group, but for those that fell into its fold, as each fold model
    of the zip has when a hidden image's group has pictures in training. Kept in `runs/<name>/blend/` as well.
    """
    run_dir = Path(run_dir)

    def train(settings, features, metric, answer):
        labels = table.frame["label"].to_numpy()
        fold = assign_folds(labels, np.array(table.images), table.k, table.seed)
        each = _train_heads(settings, features, np.arange(len(labels)), table, fold, metric)
        probs = np.zeros((len(labels), len(table.classes)), np.float32)
        for number in range(table.k):
            asked = np.flatnonzero(fold == number)
            probs[asked] = answer([layer[number] for layer in each], asked)
        return probs

    return _kept_heads(run_dir, table, views, "loose", train)


def _kept_heads(run_dir, table, views, what, train):
    """train(settings, features, metric, answer), of a run of plain heads on frozen features; else None.

    features  {view: float32 [n, d]}; metric: the Metric by which the run chose its epochs; answer(head, rows): the
              head's probabilities for these images, mean over `views`

    Kept as `what`-<run>.npz.
    """
    settings, features = _plain_heads(run_dir, table)
    if settings is None:
        return None
    path = table.paths.blend / f"{what}-{run_dir.name}.npz"
    key = f"{sha256_file(run_dir / 'oof.npz')} {','.join(views)}"
    if path.exists():
        with np.load(path) as saved:
            if str(saved["key"]) == key:
                return saved["probs"]

    def answer(head, rows):
        return np.mean([heads.predict_heads(head, np.asarray(features[view][rows])) for view in views], axis=0)

    probs = train(settings, features, chosen_by(read_json(run_dir / "run.json")["config"]), answer)
    write_npz(path, key=np.array(key), probs=probs)
    return probs


def _plain_heads(run_dir, table):
    """Recipe and {view: features} of a run of plain heads on frozen features; None twice where it is anything else."""
    record = read_json(run_dir / "run.json")
    settings = plain_heads(record)
    features = _read_features(record, settings, table) if settings else None
    return (settings, features) if features else (None, None)


def plain_heads(record):
    """The Recipe of a run.json that is of plain heads on frozen features, which train_apart measures; None of others."""
    if not record.get("frozen") or "teacher" in record["config"] or not kind_of(record["config"]).plain:
        return None
    from competition.recipes import Recipe

    try:
        settings = Recipe(**record["config"]["recipe"])
    except TypeError:  # of another version
        return None
    return None if settings.frozen_copies or settings.oversample_count or settings.synthetic else settings


def _train_heads(settings, features, rows, table, fold, metric):
    """The heads of all of `fold` int [m] on images `rows` int [m]: a list of matrices [k, inputs + 1, outputs]."""
    folds = range(int(fold.max()) + 1)
    pool = [np.asarray(values[rows]) for values in features.values()]
    state = heads.start_heads(1, len(folds), pool[0].shape[1], len(table.classes), settings.head, settings.seed)
    while len(state.log) < settings.frozen_epochs and not state.stopped(settings.patience).all():
        heads.train_epoch(state, [settings], pool, pool[0], table.labels[rows], fold, folds, metric=metric)
    return [layer.best[0] for layer in state.layers]


def stops_early(run_dir):
    """Whether a run's folds keep the epoch that is best on the very images that are scored: it has `patience`."""
    config = read_json(Path(run_dir) / "run.json").get("config") or {}
    return bool(config.get("recipe", {}).get("patience"))


def stop_apart(run_dir, table):
    """The OOF [n, C] (no view but the identity) of epochs that were chosen on other folds.

    With `patience` a fold keeps the epoch that is best on the very images that are scored. Here each fold takes the
    epoch at which the others' validation score is best on average (a fold that stopped before that, its last one), in
    the metric by which the run chose. None where none was chosen, and where the epochs are not there: a soup and a
    double run have none of their own, and a kernel takes none along.
    """
    run_dir = Path(run_dir)
    histories = [run_dir / f"fold_{fold}" / "history.csv" for fold in range(table.k)]
    if not stops_early(run_dir) or not all(path.exists() for path in histories):
        return None
    metric = chosen_by(read_json(run_dir / "run.json")["config"])
    probs, curves = np.zeros((len(table.labels), len(table.classes)), np.float32), []
    for path in histories:
        history = pd.read_csv(path)
        last = history[history["phase"] == history["phase"].iloc[-1]]
        try:
            curves.append(pd.Series(metric.sign * oof.epoch_scores(path.parent, last, table, metric), last["epoch"]))
        except FileNotFoundError:
            return None
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
    """Some lines: the forecast, what it is made of, its noise, what depends on what the hidden images are, classes."""
    better = {True: "", False: " (less is better)"}[METRICS[found["metric"]].sign > 0]
    random = found["hidden"] == "random"
    drawn = "drawn at random from the same scenes" if random else "of new scenes"
    errors, sizes = found["standard_errors"], found["grouped_images"]
    print(f"forecast: {found['metric']} {found['expected']:.4f}{better} on a hidden test, 90 % of such tests between "
          f"{found['low']:.4f} and {found['high']:.4f} ({found['hidden_n']} images {drawn})")
    notes = [f"of {run} by another seed, on {images} images" for run, images in
             found.get("measured_on_seeds", {}).items()]
    if missing := found.get("not_measured"):
        notes += [f"not measured, counted as 0: {', '.join(missing)}; the same `make train` (or `make double`) with "
                  "SEEDS=2 ONLY_FOLD=0 tells the next `make blend`, and nothing does of a soup"]
    gain = f"averaging fold models {found['averaging_gain']:+.4f}" + f" ({'; '.join(notes)})" * bool(notes)
    early = f"stopping early {-found['early_stop']:+.4f}"
    if missing := found.get("stop_not_measured"):
        early += f" (not measured, counted as 0: {', '.join(missing)})"
    fit = (f"; made to fit {found['fit']:+.4f} (that it is the best of several flatters by {found['fit_optimism']:.4f}, taken "
           "off)" if "fit" in found else "")
    scenes = f"; other pictures of a scene in training {found['scenes']:+.4f}" * bool(sizes and random)
    print(f"  made of: in-sample {found['in_sample']:.4f}, optimism {found['nested'] - found['in_sample']:+.4f}, "
          f"nested OOF {found['nested']:.4f} (of the whole way, the choice of the candidate included); {gain}; {early}; "
          f"stratified folds {-found['stratified']:+.4f}{scenes}{fit}")
    noise = {"hidden test": "hidden_noise", "OOF": "oof_noise", "gain": "gain_noise", "stopping early": "early_noise",
             "scenes": "scenes_noise", "folds beyond sampling": "fold_spread"}
    print("  noise (standard errors): " + ", ".join(f"{name} {errors[key]:.4f}" for name, key in noise.items()
                                                    if errors[key] or not key.startswith(("early", "scenes"))))
    if sizes:
        measured = found.get("scenes_measured_on")
        few = sizes < LEAST_GROUPED * sum(row["images"] for row in found["classes"])
        tell = (f"measured on {', '.join(measured)}" if measured else "too few to move the score" if few else
                "not measured, as there is no run of heads whose features are kept; more than this, if anything")
        other = f"of new scenes (HIDDEN=groups) {found['expected'] - found['scenes']:.4f}" if random else \
            f"drawn at random from the same scenes (HIDDEN=random) {found['expected'] + found['scenes']:.4f}"
        print(f"  {sizes} images share {found['groups']} scenes with others; were the hidden images {other} ({tell})")
    if left := found.get("left_out"):
        print(f"  {left} other finished runs were left out by hand: if their scores were why, this is too good by what "
              "that gained")
    rows = [f"{name} {row['expected']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
            for name, row in zip(classes, found["classes"])]
    print("  accuracy of each class: " + "; ".join(rows[:20]) + "; ..." * (len(rows) > 20))


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
            [metric.score(probs[rows], labels[rows]) for probs in others])

    if metric.each:
        values = metric.each(better, labels) - np.mean([metric.each(probs, labels) for probs in others], axis=0)
        error = cluster_error(values, groups)
    else:
        error = bootstrap(gain, groups, 100).std()
    return float(factor * gain(slice(None))), float(factor * error)


def _average(weights, probs, temperature=1.0):
    mean = sum(weight * probs[run] for run, weight in weights.items())
    return mean if temperature == 1 else sharpen(mean, temperature)


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


def _read_features(record, settings, table):
    """{view: float32 [n, d]} of a frozen run's backbone, as it keeps them; None where any is gone."""
    config, found = record["config"], {}
    key = features_key(table, settings, config["model"], config["weights"])
    for view in settings.views:
        if not (kept := find_features(table, view, key)):
            return None
        found[view] = np.load(kept[-1][1], mmap_mode="r")
        if len(found[view]) != len(table.labels):
            return None
    return found
