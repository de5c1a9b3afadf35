"""Rank backbones, and settings of their heads, by the OOF score of a head on their frozen features.

A first answer in minutes to which backbones are worth fine-tuning: each sees every image once a view, and the heads of
all folds and settings train as one program. The features are those that `make train RECIPE=quick` takes as well.
"""

import itertools
import re
import time
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.arrays import Room, Rows, read_memory
from competition.base.backend import make_repeatable, start_keras
from competition.base.bars import tqdm
from competition.base.files import InputError
from competition.base.metrics import accuracy, find_metric, log_loss
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.data.images import load_images, warn_of_others
from competition.data.table import read_folds
from competition.features import heads
from competition.features.extract import BATCH, predict
from competition.features.frozen import copies_features, frozen_features
from competition.models.backbones import (
    build_backbone,
    find_backbone,
    find_weights_at_hand,
    is_pretrained,
    resolve_weights,
)
from competition.models.fuse import fuse_batchnorm
from competition.recipes.recipe import read_recipe, split_values
from competition.recipes.settle import fit_to_table

TIMED = 5  # batches, of which the median counts


def rank(name=None, models=None, recipe="quick", weights="imagenet", grid="", memory=None, workspace=Workspace()):
    """Print the backbones by OOF score, write that table as `runs/<name>/rank.csv` and `.json`, return it.

    models   "a,b,c"; default: every pretrained backbone whose weights are on this machine, nothing is downloaded
    recipe   its frozen phase is what is measured; its phase in which everything trains is left out
    weights  "imagenet", or a file or folder as for `train`
    grid     "key=value,value key=value|value": settings of the head (heads.SWEPT), of which all combinations are tried;
             bars part values that are lists themselves: "class_weight=balanced|A:3,B:2"
    memory   "4G", as for `train`

    A row for each backbone and setting, the best first by the table's metric: accuracy, the metric where that is
    another, and log-loss of the OOF of the images as they are, size of the backbone's weights in MB, ms the backbone
    takes for an image (a batch of 64, once it is warm), and seconds: what the features of all images, views and copies
    take at that rate, whether they were kept from before or not, and what training the heads of all settings took here.
    Raises InputError for whatever cannot be used; a backbone that is chosen by default and cannot take these images is
    left out with a warning.
    """
    memory = read_memory(memory)
    table = read_folds(name, workspace)
    settings = [fit_to_table(table, setting) for setting in read_grid(recipe, grid)]
    make_repeatable()
    chosen = _choose(models, weights)
    start_keras(settings[0].seed)
    warn_of_others(table)
    images = load_images(table, memory)
    rows = []
    with tqdm(chosen.items(), desc="backbones", unit="backbone") as bar:
        for model, found in bar:
            bar.set_postfix_str(model)
            try:
                rows += _measure(table, images, model, found, settings, memory)
            except InputError as error:
                if models or isinstance(error, files.NoRoom):
                    raise
                files.warn(f"{model} is left out: {error}")
    if not rows:
        raise InputError(f"WEIGHTS={weights}: no backbone that takes images of {table.size[0]}x{table.size[1]}")
    metric = find_metric(table.metric)
    frame = metric.sort(pd.DataFrame(rows)).reset_index(drop=True)
    path = table.paths.rank_csv
    files.write_bytes(path, files.csv_bytes(frame))
    files.write_json(
        table.paths.rank_json,
        {
            "table": table.hash,
            "data": table.data_hash,
            "classes": table.classes,
            "size": list(table.size),
            "weights": {model: found.sha256 for model, found in chosen.items()},
            "recipes": [asdict(setting) for setting in settings],
            "versions": files.versions(),
        },
    )
    print("\n" + text_table(frame))
    noise = 100 * np.sqrt(frame["accuracy"][0] * (1 - frame["accuracy"][0]) / len(table.labels))
    error = f"standard error {'of accuracy ' * len(metric.besides)}{noise:.1f} points"
    print(f"\n{path}: OOF {metric.name} of frozen backbones, {error}; the best of many flatters")
    return frame


def read_grid(recipe, grid):
    """The Recipes of all combinations in `grid`, without their second phase; InputError for what is no head's key."""
    choices = []
    for part in filter(None, re.split(r"\s+(?=\w+\s*=)", grid.strip())):
        key, sign, values = (word.strip() for word in part.partition("="))
        if not sign or key not in heads.SWEPT:
            known = ", ".join(heads.SWEPT)
            raise InputError(f"GRID={grid}: found {part}, expected key=value,value with a key of {known}")
        choices.append([f"{key}={value}" for value in split_values(values)])
    # a recipe with a second phase trains its heads on the images as they are, see frozen_features
    first = ["epochs=0", "plain_epochs=0", "synthetic=0", *(["views=identity"] if read_recipe(recipe).epochs else [])]
    return [read_recipe(recipe, [*first, *setting]) for setting in itertools.product(*choices)]


class Trained(NamedTuple):
    """Heads of a grid."""

    backbone: Any  # fused
    probabilities: np.ndarray  # float32 [S, n, classes] of the images as they are, each by the head that never saw it
    passes: int  # images that the backbone has to see for the features
    seconds: float  # that the heads took


def train_grid(table, images, model, found, settings, folds, memory=None):
    """Train the heads of S `settings`, which differ in nothing but heads.SWEPT, on these folds at once.

    Returns a Trained, whose probabilities are 0 for images whose fold is not among `folds`.
    """
    recipe = settings[0]
    backbone = fuse_batchnorm(build_backbone(model, table.size, recipe.image_size or None, found, recipe.least_size))
    room = Room(memory and memory.features)
    features, pool = frozen_features(table, recipe, model, found, images, backbone, room)
    copies = copies_features(table, recipe, model, found, images, backbone, room)
    before = time.perf_counter()
    state = _train_heads(table, settings, features[0], pool, copies, folds)
    probabilities = np.zeros((len(settings), len(table.labels), len(table.classes)), np.float32)
    for place, fold in enumerate(folds):
        held_out = np.flatnonzero(table.fold == fold)
        probabilities[:, held_out] = heads.predict_heads(state.best_of(place), Rows(features[0], held_out))
    arrays = {id(array): array for array in (*features, *pool)}
    passes = sum(map(len, arrays.values())) + len(copies.sources) - len(table.labels)
    return Trained(backbone, probabilities, passes, time.perf_counter() - before)


def _choose(models, weights):
    """{model: Weights} to measure."""
    if models:
        named = [find_backbone(model.strip(), weights) for model in models.split(",")]
        found = {model: resolve_weights(model, weights) for model in dict.fromkeys(named)}
        if random := [model for model, weight in found.items() if not is_pretrained(model, weight)]:
            raise InputError(f"MODELS={models}: {random[0]} starts from random weights, expected pretrained ones")
        return found
    if not (found := find_weights_at_hand(weights)):
        raise InputError(f"WEIGHTS={weights}: no weights of any backbone there")
    return found


def _measure(table, images, model, found, settings, memory):
    """The rows of one backbone."""
    trained = train_grid(table, images, model, found, settings, range(table.k), memory)
    backbone, probabilities = trained.backbone, trained.probabilities
    batch = np.resize(images[: min(BATCH, len(images))], (BATCH, *table.size, 3))
    ends = []
    for _ in range(2 + TIMED):  # the first may trace
        predict(backbone, batch)
        ends.append(time.perf_counter())
    cost = float(np.median(np.diff(ends))) / BATCH
    seconds = trained.passes * cost + trained.seconds
    megabytes = backbone.count_params() * 4 / 1e6
    return [
        {
            "backbone": model,
            **{key: getattr(setting, key) for key in _varied(settings)},
            "accuracy": accuracy(probs, table.labels),
            **find_metric(table.metric).beside(probs, table.labels),
            "log_loss": log_loss(probs, table.labels),
            "weights_mb": megabytes,
            "ms_an_image": 1000 * cost,
            "seconds": seconds,
        }
        for setting, probs in zip(settings, probabilities)
    ]


def _train_heads(table, settings, plain, pool, copies, folds):
    """The trained heads.Heads of S settings for these folds; plain, pool and copies as for heads.train_epoch."""
    recipe, metric = settings[0], find_metric(table.metric)
    state = heads.start_heads(len(settings), len(folds), plain.shape[-1], len(table.classes), recipe.head, recipe.seed)
    while len(state.log) < recipe.frozen_epochs and not state.stopped(recipe.patience).all():
        heads.train_epoch(state, settings, pool, plain, table.labels, table.fold, folds, copies, metric=metric)
    return state


def _varied(settings):
    """The keys in which settings differ."""
    return [key for key in heads.SWEPT if len({str(getattr(setting, key)) for setting in settings}) > 1]
