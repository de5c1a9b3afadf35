"""Time to accuracy: what `best` needs until a fold is as good as what the report's recipe ends with."""

import contextlib
import time
from dataclasses import dataclass
from unittest import mock

import numpy as np

from bench.figures import Figure
from bench.tools import call_apart, copy_images, deal
from competition.base import files
from competition.base.backend import import_tensorflow
from competition.base.workspace import FOLD_JSON, RUN_JSON, Workspace, fold_dir
from competition.features.frozen import frozen_features
from competition.recipes.recipe import read_recipe
from competition.training import full_phase, progress, train_folds
from competition.training import train as training
from competition.training.full_phase import Phase

MODEL = "efficientnet_lite0"
IMAGES = 320  # of the data unless LONG=1 takes all: the report's recipe trains up to 225 epochs
TARGET = "<= 0.125"


@dataclass(frozen=True)
class Effort:
    """What a fold took until its validation accuracy was reached: an image forward is a pass, backward another."""

    passes: int
    seconds: float  # of training, without start-up and validation
    accuracy: float
    epochs: int


class _Reached(Exception):
    pass


def measure(options, model=MODEL):
    """Yield image passes and seconds of `best` beside those of `report`, both for the first fold alone.

    `report` trains to its end, `best` until a validation accuracy is at least what the fold of `report` was left with,
    on a cycle (`epochs`) that is as long as the target allows: one cycle is at its best where it ends. QUICK=1 measures
    nothing here: the shortest honest run of `report` takes minutes.
    """
    names = [
        f"time to the accuracy of report, {what}: best, {model}, first fold" for what in ("image passes", "seconds")
    ]
    if options.quick:
        for name, unit in zip(names, ("passes", "s")):
            yield Figure(name, unit, None, target=TARGET, note="QUICK=1 has no time for it")
        return
    with contextlib.chdir(options.work):
        data = options.data if options.long else copy_images(options.data, "accuracy", IMAGES, 5)
        table = deal(data, "accuracy")
        report = call_apart(train_until, str(options.work), model, "report", None)
        epochs = count_epochs(table, report.passes / 8)
        best = call_apart(train_until, str(options.work), model, "best", report.accuracy, (f"epochs={epochs}",))
    reached = best.accuracy >= report.accuracy
    note = (
        f"{len(table.images)} images; report ends at {report.accuracy:.4f} after {report.epochs} epochs of all "
        f"layers; best with epochs={epochs} {'is' if reached else 'does not reach it, it is'} at {best.accuracy:.4f} "
        f"after {best.epochs}"
    )
    n = int((table.fold == 0).sum())
    yield Figure(
        names[0],
        "passes",
        best.passes if reached else np.inf,
        report.passes,
        n,
        TARGET,
        f"forward and backward counted, n: images validated on; {note}",
    )
    yield Figure(
        names[1],
        "s",
        best.seconds if reached else np.inf,
        report.seconds,
        n,
        TARGET,
        f"of the epochs and the features, validation and tracing left out, images of best larger; {note}",
    )


def count_epochs(table, passes):
    """How many epochs of `best` for the first fold, features included, are at most so many image passes; at least 1."""
    recipe, images = read_recipe("best"), int((table.fold != 0).sum())
    return max(1, int((passes - images) / (2 * recipe.batch_size * max(1, images // recipe.batch_size))))


def train_until(work, model, recipe, accuracy, overrides=()):
    """The Effort of the first fold of the table "accuracy": to the recipe's end, or to a validation accuracy."""
    import_tensorflow()
    fold_features, train_epoch, write_history = (frozen_features, Phase.train_epoch, progress.write_history)
    seconds, counts, reached = [], {"features": 0, "steps": 0}, []

    def timed(function, *arguments):
        before = time.perf_counter()
        result = function(*arguments)
        seconds.append(time.perf_counter() - before)
        return result

    def timed_features(table, settings, *arguments):
        views = 1 if settings.epochs else len(settings.views)
        counts["features"] = (views + settings.frozen_copies) * int((table.fold != 0).sum())  # others: validation
        return timed(fold_features, table, settings, *arguments)

    def timed_epoch(phase, fold, epoch, steps, tick):
        if not counts["steps"]:  # tracing is start-up, which has figures of its own
            before = phase.read()
            phase.model.train_on_batch(*next(iter(phase.batches(fold, epoch))))
            phase.write(before)
        counts["steps"] += steps
        return timed(train_epoch, phase, fold, epoch, steps, tick)

    def noted_history(directory, history):
        write_history(directory, history)
        reached[:] = [row["val_accuracy"] for row in history if row["phase"] == "full"]
        if accuracy is not None and reached and reached[-1] >= accuracy:
            raise _Reached

    folder = Workspace().runs / "accuracy" / recipe
    with contextlib.chdir(work):
        with (
            contextlib.suppress(_Reached),
            mock.patch.object(train_folds, "frozen_features", timed_features),
            mock.patch.object(Phase, "train_epoch", timed_epoch),
            mock.patch.object(full_phase, "write_history", noted_history),
        ):
            training.train(model, recipe, "accuracy", run=recipe, only_fold=0, overrides=overrides)
        size = files.read_json(folder / RUN_JSON)["config"]["recipe"]["batch_size"]
        kept = files.read_json(fold_dir(folder, 0) / FOLD_JSON)["accuracy"] if accuracy is None else max(reached)
    return Effort(counts["features"] + 2 * size * counts["steps"], sum(seconds), kept, len(reached))
