"""Play whole competitions on frozen features, hundreds of them: is the forecast what the hidden part then says?

A round hides a part of the data, deals folds on the rest, trains runs, blends, forecasts, and only then opens what is
hidden. A run is a linear head on frozen features, fitted by ridge regression: its k fold models, and those that leave
two folds out (gains.averaging_gain), follow from the sums of products of each fold, in milliseconds.

The naive way plays the same rounds: folds at random whatever the groups, copies made before the split, the blend that
is best on the predictions that it is scored on, and an interval of the hidden test's sampling noise alone.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from competition.base.bars import tqdm
from competition.base.files import csv_bytes, hash_json, read_csv, sha256_bytes, write_bytes
from competition.base.metrics import METRICS
from competition.base.option_values import whole_number
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.blending.chooser import Chooser
from competition.blending.forecast import WIDE, check_hidden, make_forecast
from competition.blending.gains import averaging_gain, scenes_gain
from competition.data.folds import assign_folds, make_folds
from competition.data.table import default_name, group_ids, read_folds
from competition.features.extract import is_usable
from competition.features.frozen import find_features
from competition.features.heads import softmax_and_log
from competition.trials.rank import rank

FORMAT = 5  # raise it when a round comes out differently
FOLDS = 5
DIMENSION = 96  # of the features that a run gets
FRAMES = 3  # pictures of a scene, where the data has no groups
LEAST_SHARED = 0.1  # of the images are in a group with others; with fewer the data counts as one without groups
WRITTEN = 20  # rounds at a time
JITTER = 0.2  # of a copy's features, in standard deviations
ACCURACY = METRICS["accuracy"]


@dataclass(frozen=True)
class Condition:
    """What is special about a competition."""

    runs: int = 4
    duplicates: bool = False  # 5 to 30 % of the visible images are near-copies of others
    label_noise: float = 0.0  # share of wrong labels, visible and hidden
    rare: bool = False  # a class has a quarter of its images, and counts four times in training
    small: bool = False  # 300 visible images at most
    scenes: bool = False  # played on a pool of scenes: where hidden="random", some of a scene's pictures are hidden

    def assumed(self, hidden):
        """What a forecast is to assume: copies that lie in the visible part alone tell nothing of what is hidden."""
        return "groups" if self.duplicates else hidden


CONDITIONS = {
    "plain": Condition(),
    "duplicates": Condition(duplicates=True),
    "label noise": Condition(label_noise=0.1),
    "oversampling": Condition(rare=True),
    "15 runs": Condition(runs=15),
    "few images": Condition(small=True),
    "scenes": Condition(scenes=True),
}


@dataclass(frozen=True)
class Pool:
    """What competitions are made of: features {backbone: float32 [n, d]}, labels int [n], groups int [n]."""

    name: str
    features: dict
    labels: np.ndarray
    groups: np.ndarray

    @property
    def fingerprint(self):
        """A hash of all that is in it."""
        parts = [self.labels, self.groups, *self.features.values()]
        return sha256_bytes(b"".join(np.asarray(part, np.float64).tobytes() for part in parts))


def simulate(name=None, n=20, hidden="random", seed=0, data=None, workspace=Workspace()):
    """Play `n` rounds of each condition; prints a line for each and returns them all as a DataFrame.

    name    "a,b,c": fold tables; of one without features in `runs/<name>/features` these are computed, by the backbones
            whose weights are at hand; "digits" are scikit-learn's 1797, the default
    hidden  "random": single images are hidden; "groups": whole groups, or scenes of FRAMES pictures where the data has
            no groups, or next to none
    seed    of the first round; the others follow
    data    "a.zip,b.zip": what to make fold tables of, called after it, and take these as well
    workspace  where the tables lie and the rounds are written

    Every round lies in `runs/simulate/<name>-<hidden>.csv` when it is played, and is not played again. InputError for a
    table or data that cannot be read.
    """
    _, hidden = check_hidden(None, hidden)
    count, seed = whole_number("N", n, 1, 100_000), whole_number("SEED", seed, 0, 2**31)
    names = [part.strip() for part in (name or "").split(",") if part.strip()]
    for source in [part.strip() for part in (data or "").split(",") if part.strip()]:
        make_folds(source, workspace=workspace)
        names.append(default_name(source))
    pools = (
        read_digits() if one == "digits" else read_pool(one, workspace) for one in dict.fromkeys(names or ["digits"])
    )
    rounds = [_play_all(pool, count, hidden, seed, workspace.simulate) for pool in pools]
    rounds = pd.concat(rounds, ignore_index=True)
    print(text_table(summarise(rounds), 2))
    print(
        f"{workspace.simulate}/: {len(rounds)} rounds, hidden: {hidden}; bias in points, forecast less truth, and "
        "its standard error; a 90 % interval should hold in 90 % of the rounds"
    )
    return rounds


def _play_all(pool, count, hidden, seed, folder):
    """`count` rounds of each condition on a pool, on all cores; `folder` keeps them, and none is played again."""
    if hidden == "groups" and (np.bincount(pool.groups)[pool.groups] > 1).mean() < LEAST_SHARED:
        pool = _in_scenes(pool)
    scenes = _in_scenes(pool) if hidden == "random" else pool
    path = folder / f"{pool.name}-{hidden}.csv"
    known = read_csv(path).to_dict("records") if path.exists() else []
    known = {(row["key"], row["seed"]): row for row in known}
    fingerprint = pool.fingerprint
    wanted = [
        (label, hash_json([FORMAT, fingerprint, asdict(condition)])[:16], seed + i)
        for label, condition in CONDITIONS.items()
        for i in range(count)
    ]
    missing = [job for job in wanted if job[1:] not in known]
    played = Parallel(n_jobs=-1, return_as="generator")(
        delayed(play_round)(scenes if CONDITIONS[label].scenes else pool, CONDITIONS[label], hidden, number)
        for label, _, number in missing
    )
    bar = tqdm(played, f"{pool.name}: competitions", len(missing), leave=False)
    for done, (found, (label, key, number)) in enumerate(zip(bar, missing), 1):
        known[key, number] = {"data": pool.name, "condition": label, "key": key, "seed": number, **found}
        if done % WRITTEN == 0 or done == len(missing):
            write_bytes(path, csv_bytes(pd.DataFrame(known.values())))
    return pd.DataFrame([known[key, number] | {"condition": label} for label, key, number in wanted])


def summarise(rounds):
    """A line for each cell and one for all: visible images (mean), bias in points with its standard error, and how often
    the interval held."""
    cells = [((data, label), cell) for (data, label), cell in rounds.groupby(["data", "condition"], sort=False)]
    lines = []
    for (data, label), cell in [*cells, (("all", ""), rounds)]:
        line = {
            "data": data,
            "condition": label,
            "rounds": len(cell),
            "images": round(cell["images"].mean()),
            "hidden score": 100 * cell["truth"].mean(),
        }
        for way in ("", "naive "):
            off = 100 * (cell[f"{way}expected"] - cell[f"{way}truth"])
            line |= {
                f"{way}bias": off.mean(),
                f"{way}error": off.std() / np.sqrt(len(cell)),
                f"{way}held %": 100 * cell[f"{way}held"].mean(),
            }
        lines.append(line)
    return pd.DataFrame(lines)


def play_round(pool, condition, hidden, seed):
    """One competition, the honest and the naive way: expected, low, high, truth and held of each, as a dict."""
    random = np.random.default_rng([seed, *hash_json(asdict(condition)).encode()])  # rounds of each cell of their own
    visible, opened, labels, groups = _deal(pool, condition, hidden, random)
    runs = [_make_run(pool, random) for _ in range(condition.runs)]
    visible, groups, jitter = _duplicate(visible, groups, condition, random)
    times = np.where((labels[visible] == 0) & condition.rare, 4, 1)

    def enter(rows, groups, jitter, times, fold):
        oofs, apart, answers = [], [], []
        for features in runs:
            inputs = features[rows] + JITTER * jitter[:, : features.shape[1]]
            found = train_ridge(inputs, labels[rows], fold, times, features[opened], labels.max() + 1)
            for kept, probs in zip((oofs, apart, answers), found):
                kept.append(probs)
        chooser = Chooser({("identity",): np.stack(oofs)}, labels[rows], fold, groups)
        return chooser, apart, lambda shares: ACCURACY.score(np.tensordot(shares, answers, 1), labels[opened])

    alone, assumed = np.arange(len(visible)), condition.assumed(hidden)
    fold = assign_folds(labels[visible].astype(str), groups.astype(str), FOLDS, seed)
    chooser, apart, score = enter(visible, groups, jitter, times, fold)
    loose = None
    if assumed == "random" and len(np.unique(groups)) < len(groups):
        fold = assign_folds(labels[visible].astype(str), alone.astype(str), FOLDS, seed)
        loose = enter(visible, alone, jitter, times, fold)[0].stacks[("identity",)]
    found = forecast_round(chooser, apart, len(opened), assumed, loose)
    truth = score(chooser.shares(*chooser.choose()))

    # copies before the split, and a group is nothing
    rows = np.repeat(np.arange(len(visible)), times)
    fold = assign_folds(labels[visible[rows]].astype(str), np.arange(len(rows)).astype(str), FOLDS, seed)
    chooser, _, score = enter(visible[rows], np.arange(len(rows)), jitter[rows], np.ones(len(rows)), fold)
    best = max(chooser.keys, key=lambda key: ACCURACY.quality(chooser.predict(*key), chooser.labels))
    naive, naive_truth = ACCURACY.score(chooser.predict(*best), chooser.labels), score(chooser.shares(*best))
    half = WIDE * np.sqrt(naive * (1 - naive) / len(opened))
    return {
        "images": len(visible),
        "hidden images": len(opened),
        "nested": found["nested"],
        "gain": found["averaging_gain"],
        "scenes": found["scenes"] if assumed == "random" else 0.0,
        "expected": found["expected"],
        "low": found["low"],
        "high": found["high"],
        "truth": truth,
        "held": found["low"] <= truth <= found["high"],
        "naive expected": naive,
        "naive truth": naive_truth,
        "naive held": abs(naive - naive_truth) <= half,
    }


def forecast_round(chooser, apart, count, hidden="random", loose=None):
    """The forecast for the blend that a Chooser chooses.

    apart  of each run [k - 1, n, C] (gains.averaging_gain); loose: OOF [R, n, C] on folds that know of no groups
    """
    kind, views = chooser.choose()
    shares = chooser.shares(kind, views)
    used = np.flatnonzero(shares).tolist()
    gain = averaging_gain(
        chooser.metric,
        {i: shares[i] for i in used},
        {i: apart[i] for i in used},
        chooser.labels,
        chooser.groups,
        chooser.parts.max() + 1,
    )
    plain, scenes = chooser.predict(kind, views), (0.0, 0.0)
    if loose is not None:
        scenes = (
            scenes_gain(chooser.metric, np.tensordot(shares, loose, 1), plain, chooser.labels, chooser.groups)[0],
            0.0,
        )
    return make_forecast(
        chooser.metric,
        chooser.whole(),
        chooser.labels,
        chooser.groups,
        chooser.parts,
        chooser.metric.score(plain, chooser.labels),
        count,
        hidden,
        gain,
        scenes=scenes,
    )


def train_ridge(inputs, labels, fold, times, hidden, classes, penalty=0.03, sharpness=6.0):
    """Probabilities of heads by ridge regression on one-hot labels: [n, C] OOF, [k - 1, n, C] apart, [h, C] hidden.

    times   how often an image counts in training
    apart   of each image by the models that leave out its fold and one other
    hidden  float [h, d]; their probabilities are the mean over the k fold models
    """

    def extend(values):
        return np.concatenate([values, np.ones((len(values), 1), values.dtype)], 1)

    inputs, hidden, targets = extend(inputs), extend(hidden), np.eye(classes)[labels]
    k = int(fold.max()) + 1
    weighted = inputs * times[:, None]
    products = np.stack([weighted[fold == f].T @ inputs[fold == f] for f in range(k)])
    answers = np.stack([weighted[fold == f].T @ targets[fold == f] for f in range(k)])

    def head(*left_out):
        kept = [f for f in range(k) if f not in left_out]
        square = products[kept].sum(0)
        return np.linalg.solve(
            square + penalty * times[~np.isin(fold, left_out)].sum() * np.eye(len(square)), answers[kept].sum(0)
        )

    def predict(values, head):
        return softmax_and_log(sharpness * (values @ head))[0]

    oof, apart = np.zeros((len(labels), classes)), np.zeros((k - 1, len(labels), classes))
    singles = [head(f) for f in range(k)]
    pairs = {(f, g): head(f, g) for f in range(k) for g in range(f)}
    for f in range(k):
        rows = fold == f
        oof[rows] = predict(inputs[rows], singles[f])
        for place, g in enumerate(g for g in range(k) if g != f):
            apart[place, rows] = predict(inputs[rows], pairs[max(f, g), min(f, g)])
    return oof, apart, np.mean([predict(hidden, single) for single in singles], axis=0)


def read_digits():
    """scikit-learn's handwritten digits, as three random layers of rectified units see them."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    pixels = (pixels - 8) / 8
    features = {
        f"layer {i}": np.maximum(pixels @ random.normal(0, 0.3, (64, 192)) + random.normal(0, 0.5, 192), 0)
        for i in range(3)
    }
    return Pool("digits", {key: _reduce(values) for key, values in features.items()}, labels, np.arange(len(labels)))


def read_pool(name, workspace=Workspace()):
    """The Pool of a fold table, of the features without augmentation that its frozen runs or `make rank` left."""
    table = read_folds(name, workspace)
    features = _read_features(table)
    if not features:
        rank(table.name, workspace=workspace)
        features = _read_features(table)
    return Pool(table.name, features, table.labels, group_ids(table))


def _read_features(table):
    found = [(key, path) for key, path in find_features(table, "identity") if is_usable(path)]
    return {f"{key['model']} {path.stem}": _reduce(np.load(path)) for key, path in found}


def _reduce(features):
    """The first principal components, float64 [n, DIMENSION at most], scaled to a mean square of 1."""
    from sklearn.decomposition import PCA

    features = np.asarray(features, np.float64)
    found = PCA(min(DIMENSION, *features.shape), random_state=0).fit_transform(features)
    return found / np.sqrt((found**2).mean())


def _in_scenes(pool):
    """A part of the images, each as a scene of FRAMES pictures that differ a little: as many pictures as before."""
    random, n = np.random.default_rng(0), len(pool.labels)
    rows = np.repeat(np.sort(random.permutation(n)[: n // FRAMES]), FRAMES)
    features = {
        key: values[rows] + JITTER * random.normal(size=(len(rows), values.shape[1]))
        for key, values in pool.features.items()
    }
    return Pool(pool.name, features, pool.labels[rows], rows)


def _make_run(pool, random):
    """Another run: a backbone's features, of which it sees some, float64 [n, d]."""
    features = pool.features[list(pool.features)[random.integers(len(pool.features))]]
    count = features.shape[1]
    return features[:, np.sort(random.permutation(count)[: max(2, int(count * random.uniform(0.4, 0.9)))])]


def _deal(pool, condition, hidden, random):
    """Rows that are seen and rows that are hidden, a fifth (300 where 300 are seen); labels and groups of all."""
    labels, groups = pool.labels.copy(), pool.groups
    rows = np.arange(len(labels))
    if condition.rare:
        rows = rows[(labels != 0) | (random.random(len(labels)) < 0.25)]
    if condition.label_noise:
        classes = labels.max() + 1
        wrong = random.random(len(labels)) < condition.label_noise
        labels = np.where(wrong, (labels + random.integers(1, classes, len(labels))) % classes, labels)
    units = groups if hidden == "groups" else np.arange(len(labels))
    order = random.permutation(np.unique(units[rows]))
    share = 0.5 if condition.small else 0.2
    opened = np.isin(units[rows], order[: int(share * len(order))])
    visible, opened = random.permutation(rows[~opened]), random.permutation(rows[opened])
    if condition.small:
        visible, opened = _first_of_each(visible, labels, 300), opened[:300]
    return visible, opened, labels, groups


def _first_of_each(rows, labels, count):
    """The first `count` rows, but FOLDS of each class among them, as `make folds` asks for."""
    turn = pd.Series(labels[rows]).groupby(labels[rows]).cumcount().to_numpy()
    order = np.argsort(turn >= FOLDS, kind="stable")
    return rows[order[:count]]


def _duplicate(rows, groups, condition, random):
    """Rows with copies of some behind them, all their groups, and how far each is off its source [n, DIMENSION]."""
    share = random.uniform(0.05, 0.3) if condition.duplicates else 0.0
    sources = random.integers(len(rows), size=int(len(rows) * share / (1 - share)))
    jitter = np.zeros((len(rows) + len(sources), DIMENSION))
    jitter[len(rows) :] = random.normal(size=(len(sources), DIMENSION))
    rows = np.concatenate([rows, rows[sources]])
    return rows, groups[rows], jitter
