"""Heads: `make rank` with the models whose weights came by pip, and a grid of head settings as one batched program."""

import contextlib
import time

import numpy as np

from bench.figures import Figure
from bench.tools import call_apart, copy_images, deal
from competition.base.backend import import_tensorflow
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features.frozen import copies_features, frozen_features
from competition.models.backbones import build_backbone, resolve_weights
from competition.models.fuse import fuse_batchnorm
from competition.trials import rank

MODELS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
GRID = "frozen_rate=3e-4,1e-3,3e-3 dropout=0,0.2 class_weight=none,balanced"  # twelve settings
IMAGES, QUICK_IMAGES = 480, 160
FOLDS = 5


def measure(options, models=MODELS, recipe="quick"):
    """Yield the seconds of `make rank`, and those of a grid of head settings beside one after the other.

    QUICK=1 takes the first model and fewer images. The grid's heads are those of the first model, on its features.
    """
    models = models[:1] if options.quick else models
    with contextlib.chdir(options.work):
        images = copy_images(options.data, "heads", QUICK_IMAGES if options.quick else IMAGES, FOLDS)
        table = deal(images, "heads", FOLDS)
        ranked, together, apart = call_apart(_time, str(options.work), models, recipe)
    n, what = len(table.images), f"{len(table.images)} images, {table.k} folds, recipe {recipe}"
    yield Figure(
        f"make rank: {len(models)} backbones",
        "s",
        ranked,
        n=n,
        note=f"without features from before, the import of TensorFlow left out; {', '.join(models)}; {what}",
    )
    yield Figure(
        "a grid of head settings as one program",
        "s",
        together,
        float(np.sum(apart)),
        len(apart),
        "<= 1",
        f"reference: the same {len(apart)} settings one after the other; {GRID}; {models[0]}; {what}",
    )


def _time(work, models, recipe):
    """Seconds of `make rank`, of a grid's heads together, and of each of its settings alone."""
    import_tensorflow()

    def timed(function, *arguments):
        before = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - before

    with contextlib.chdir(work):
        ranked = timed(rank.rank, "heads", ",".join(models), recipe)
        table, settings, found = read_folds("heads"), rank.read_grid(recipe, GRID), resolve_weights(models[0])
        backbone = fuse_batchnorm(
            build_backbone(models[0], table.size, settings[0].image_size or None, found, settings[0].least_size)
        )
        given = table, settings[0], models[0], found, load_images(table), backbone
        features, pool = frozen_features(*given)
        copies = copies_features(*given)

        def train(chosen):
            return timed(rank._train_heads, table, chosen, features[0], pool, copies, range(table.k))

        train(settings[:1])
        return ranked, train(settings), [train([setting]) for setting in settings]
