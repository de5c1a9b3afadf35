"""Fine-tuning: how much of the compiled train step's speed is left once images are drawn, augmented and fed to it."""

import contextlib
import itertools
import time
from unittest import mock

import numpy as np

from bench.figures import Figure
from bench.tools import copy_images, deal
from competition.base.backend import import_tensorflow
from competition.training import train as training
from competition.training.full_phase import Phase

MODEL = "efficientnet_lite0"
FOLDS = 5
BATCH = 32
WARM_UP = 3  # steps that trace, compile and fill caches


def measure(options, model=MODEL, recipe="best", overrides=("least_size=0", "frozen_epochs=0")):
    """Yield the images a second of a whole epoch beside those of the same step fed one ready tensor over and over.

    The epoch is the toolkit's own (`Phase.train_epoch`), in a run of its own `train`: from the first draw to the last
    metric. After each epoch the same compiled function gets as many ready batches. The model enlarges nothing, which
    makes the step quick, and so the share that feeding may take small.
    """
    rounds, images = (3, 320) if options.quick else (5, 960)
    with contextlib.chdir(options.work):
        table = deal(copy_images(options.data, "finetune", images, FOLDS), folds=FOLDS)
        fed, ready = _time_epochs(table, model, recipe, overrides, rounds)
    shares = np.array(fed) / ready
    middle = np.argsort(shares)[len(shares) // 2]
    yield Figure(
        f"fine-tuning {model}, whole epochs",
        "images/s",
        fed[middle],
        ready[middle],
        len(fed),
        ">= 0.95",
        f"the round of the median share, of shares from {shares.min():.3f} to {shares.max():.3f}; reference: the same "
        f"compiled train step fed one ready batch of {BATCH}; {table.size[0]}x{table.size[1]}, augmented as {recipe}",
    )


def _time_epochs(table, model, recipe, overrides, rounds):
    """Images a second, one a round: of the toolkit's epoch, and of the train step alone."""
    fed, ready, train_epoch = [], [], Phase.train_epoch

    def timed_epoch(phase, fold, epoch, steps, tick):
        import tensorflow as tf

        batch = tuple(tf.constant(values) for values in next(iter(phase.batches(fold, epoch))))
        batches = itertools.repeat(batch)
        if epoch == 0:
            phase.model.train_on_batch(*batch)
            for _ in range(WARM_UP):
                phase.model.train_function(batches)
        before = time.perf_counter()
        result = train_epoch(phase, fold, epoch, steps, tick)
        between = time.perf_counter()
        for _ in range(steps):
            logs = phase.model.train_function(batches)
        float(logs["loss"])  # waits for a device that works on its own
        ready.append(steps * BATCH / (time.perf_counter() - between))
        fed.append(steps * BATCH / (between - before))
        return result

    import_tensorflow()
    overrides = [*overrides, f"epochs={rounds}", f"batch_size={BATCH}"]
    with mock.patch.object(Phase, "train_epoch", timed_epoch):
        training.train(model, recipe, table.name, run="finetune", only_fold=0, overrides=overrides)
    return fed, ready
