"""Heads and folds that are trained apart, so that the forecast can measure what averaging fold models gains.

The OOF of epochs that were chosen on other folds is here as well.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base.bars import tqdm
from competition.base.files import BROKEN, InputError, plain_file, read_json, sha256_file, warn, write_npz
from competition.base.metrics import chosen_by
from competition.base.text import one_line
from competition.base.workspace import BACKBONE_FILE, HISTORY_CSV, OOF_NPZ, RUN_JSON, epoch_file, fold_dir
from competition.data.folds import assign_folds
from competition.features import heads
from competition.features.extract import is_usable
from competition.features.frozen import features_key, find_features
from competition.runs import oof
from competition.runs.folder import is_predicted, say_command
from competition.runs.seeds import plain_heads, seedless


def trained_again(run_dir, table, views):
    """Images int [m], and what models of other seeds say of them, float64 [S - 1, m, C]; None where there are none.

    The images are those of all folds that each of these seeds has finished, or that one has where that is more. That a
    run has all its folds is not needed: train.train_seeds trains one fold once more for this.
    """
    run_dir = Path(run_dir)
    same, found = seedless(read_json(run_dir / RUN_JSON)), []
    if not same:
        return None
    name = re.sub(r"-seed\d+$", "", run_dir.name)
    for path in sorted(run_dir.parent.glob(f"{name}*/{RUN_JSON}")):
        if path.parent == run_dir or not re.fullmatch(r"(-seed\d+)*", path.parent.name.removeprefix(name)):
            continue
        record = read_json(path)
        if seedless(record) == same and (record.get("table"), record.get("data")) == (table.hash, table.data_hash):
            folds = {
                fold: probs
                for fold in range(table.k)
                if (probs := _fold_probs(fold_dir(path.parent, fold), table, fold, views)) is not None
            }
            found += [folds] if folds else []
    if not found:
        return None
    most = max(found, key=len)
    if len(set.intersection(*map(set, found))) * len(found) < len(most):  # little that all of them trained
        found = [most]
    folds = sorted(set.intersection(*map(set, found)))
    rows = np.concatenate([np.flatnonzero(table.fold == fold) for fold in folds])
    return rows, np.stack([np.concatenate([one[fold] for fold in folds]) for one in found])


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


def stops_early(run_dir):
    """Whether a run's folds keep the epoch that is best on the very images that are scored: it has `patience`."""
    config = read_json(Path(run_dir) / RUN_JSON).get("config") or {}
    return bool(config.get("recipe", {}).get("patience"))


def stop_apart(run_dir, table):
    """The OOF [n, C] (no view but the identity) of epochs that were chosen on other folds.

    With `patience` a fold keeps the epoch that is best on the very images that are scored. Here each fold takes the
    epoch at which the others' validation score is best on average (a fold that stopped before that, its last one), in
    the metric by which the run chose. None where none was chosen, and where the epochs are not there: a soup and a
    double run have none of their own, and a kernel takes none along.
    """
    run_dir = Path(run_dir)
    histories = [fold_dir(run_dir, fold) / HISTORY_CSV for fold in range(table.k)]
    if not stops_early(run_dir) or not all(path.exists() for path in histories):
        return None
    metric = chosen_by(read_json(run_dir / RUN_JSON)["config"])
    probs, curves = np.zeros((len(table.labels), len(table.classes)), np.float32), []
    for path in histories:
        history = oof.read_history(path)
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
        path = epoch_file(fold_dir(run_dir, fold), number)
        if not path.exists():
            return None
        names, said = oof.read_epoch(path)
        place = {image: row for row, image in enumerate(names)}
        rows = np.flatnonzero(table.fold == fold)
        probs[rows] = said[[place[table.images[row]] for row in rows]]
    return probs


def _fold_probs(folder, table, fold, views):
    """What a finished fold says of its images, mean over `views`, float64 [m, C]; None where it lacks any of it."""
    try:
        found = oof.read_fold(folder, table, fold) if is_predicted(folder.parent, fold) else {}
    except InputError as error:
        warn(f"{error}; until then that fold tells the forecast nothing")
        return None
    return np.mean([found[view] for view in views], axis=0, dtype=np.float64) if set(views) <= set(found) else None


def _kept_heads(run_dir, table, views, what, train):
    """train(settings, features, metric, answer), of a run of plain heads on frozen features; else None.

    features  {view: float32 [n, d]}; metric: the Metric by which the run chose its epochs; answer(head, rows): the
              head's probabilities for these images, mean over `views`

    Kept as `what`-<run>.npz.
    """
    settings, features = _plain_heads(run_dir, table)
    if settings is None:
        return None
    path = table.paths.blend_heads(what, run_dir.name)
    key = f"{sha256_file(run_dir / OOF_NPZ)} {','.join(views)}"
    if path.exists():
        try:
            with np.load(plain_file(path)) as saved:
                if str(saved["key"]) == key:
                    return saved["probs"]
        except BROKEN as error:
            warn(f"{path}: cannot be read ({one_line(error)}), it is made anew")

    def answer(head, rows):
        return np.mean([heads.predict_heads(head, np.asarray(features[view][rows])) for view in views], axis=0)

    probs = train(settings, features, chosen_by(read_json(run_dir / RUN_JSON)["config"]), answer)
    write_npz(path, key=np.array(key), probs=probs)
    return probs


def _plain_heads(run_dir, table):
    """Recipe and {view: features} of a run of plain heads on frozen features; None twice where it is anything else."""
    record = read_json(run_dir / RUN_JSON)
    settings = plain_heads(record)
    features = _read_features(run_dir, record, settings, table) if settings else None
    return (settings, features) if features else (None, None)


def _train_heads(settings, features, rows, table, fold, metric):
    """The heads of all of `fold` int [m] on images `rows` int [m]: a list of matrices [k, inputs + 1, outputs]."""
    folds = range(int(fold.max()) + 1)
    pool = [np.asarray(values[rows]) for values in features.values()]
    state = heads.start_heads(1, len(folds), pool[0].shape[1], len(table.classes), settings.head, settings.seed)
    while len(state.log) < settings.frozen_epochs and not state.stopped(settings.patience).all():
        heads.train_epoch(state, [settings], pool, pool[0], table.labels[rows], fold, folds, metric=metric)
    return [layer.best[0] for layer in state.layers]


def _read_features(run_dir, record, settings, table):
    """{view: float32 [n, d]} of a frozen run's backbone, as it keeps them; None where any is gone."""
    config, found, backbone = record["config"], {}, run_dir / BACKBONE_FILE
    remedy = f"`rm {backbone}` and the command of this run again ({say_command(backbone)}) make both anew"
    key = features_key(table, settings, config["model"], config["weights"])
    for view in settings.views:
        kept = next((path for _, path in reversed(find_features(table, view, key)) if is_usable(path, remedy)), None)
        if kept is None:
            return None
        found[view] = np.load(plain_file(kept), mmap_mode="r")
        if len(found[view]) != len(table.labels):
            return None
    return found
