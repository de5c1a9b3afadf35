"""The second phase: all layers train, one fold after the other, in one compiled model."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from competition.base import metrics
from competition.base.arrays import Rows
from competition.base.backend import layers_of, write_weights
from competition.base.files import InputError
from competition.base.metrics import find_metric
from competition.base.workspace import MODEL_FILE, fold_dir
from competition.data.table import held_out_images
from competition.features import heads
from competition.features.extract import predict
from competition.features.views import VIEWS
from competition.models.backbones import Weights
from competition.models.classifier import build_classifier, set_head
from competition.recipes.settle import size_inside
from competition.runs.finish_run import save_fold
from competition.runs.single import read_head
from competition.training.batches import count_steps, make_batches, prefetch
from competition.training.frozen_phase import read_head_progress
from competition.training.job import Job
from competition.training.optimizer import compile_model, layer_rates
from competition.training.progress import (
    Progress,
    history_row,
    read_fold_state,
    write_epoch,
    write_fold_state,
    write_history,
)

GROWTH = 0.5, 0.75  # shares of the full side at which `progressive` begins; each is a graph of its own


class Phase:
    """The second phase: one compiled model that every fold trains in turn.

    `batches(fold, epoch)` yields float32 inputs, float32 targets and the weights of their images, always as many rows.
    `smaller` are the same network for smaller images, in whose place they train in the first `small` epochs.
    """

    def __init__(self, model, epochs, rate_of, batches, smaller=(), small=0):
        self.model, self.epochs = model, epochs
        self.rate_of, self.batches = rate_of, batches
        self.smaller, self.small = smaller, small
        self.start = self.read()

    @property
    def variables(self):
        return _variables(self.model)

    def read(self):
        return [np.asarray(variable).copy() for variable in self.variables]

    def write(self, values):
        """Set the first variables to `values`: the model's come first, so that these alone may be given."""
        for variable, value in zip(self.variables, values):
            variable.assign(value)

    def read_model(self):
        return [np.asarray(variable).copy() for variable in self.model.variables]

    def average(self):
        """Give the model the moving average of its weights where the recipe keeps one; returns those before."""
        if not self.model.optimizer.use_ema:
            return []
        before = self.read_model()
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        self.write(
            self.read_model()
        )  # arrays of its own: JAX gives away those that a step takes, and the average stays
        return before

    def train_epoch(self, fold, epoch, steps, tick):
        """Train one epoch (0-based); mean loss and accuracy over its batches."""
        from keras import ops

        model, sums = self.model, np.zeros(2)
        if epoch < self.small:
            model = self.smaller[epoch * len(self.smaller) // self.small]
            _copy_variables(self.model, model)
        for step, (inputs, targets, weights) in enumerate(prefetch(self.batches(fold, epoch)), 1):
            model.optimizer.learning_rate = self.rate_of((epoch * steps + step) / (self.epochs * steps))
            if model is not self.model:
                inputs = ops.image.resize(inputs, model.input_shape[1:3], antialias=True)
            sums += model.train_on_batch(inputs, targets, weights)
            tick(1 / steps, *sums / step)
        if model is not self.model:
            _copy_variables(model, self.model)
        return sums / steps


class Work(NamedTuple):
    """What the second phase of a Job's folds is given."""

    job: Job
    images: Any  # uint8 [n, h, w, 3], those of its table
    taught: dict  # {fold: Taught}
    start: list  # the weights that the backbone begins with
    tell: Callable  # called with a fold and the row of each epoch of its history, when all of that epoch is on disk
    bar: Any  # tqdm, which counts epochs
    drawn: tuple  # the state of `random`, of which Keras draws the seeds of new layers


def train_whole(work):
    """Train everything, one fold after the other; writes what each fold leaves."""
    phase = WholePhase(work.job, work.images, work.taught, work.start)
    for fold in work.job.folds:
        phase.train(work.job, fold, work.tell, work.bar)


class WholePhase:
    """A Phase with all that its folds share, one of which it trains at a time; parameters as in Work."""

    def __init__(self, job, images, taught, start):
        self.images, self.taught = images, taught
        self.phase = _build_phase(job, images, taught, start)
        self.scored = _build_scored(job, self.phase)

    def train(self, job, fold, tell, bar):
        """Train a fold of the Job and write what it leaves."""
        table, phase, directory = job.table, self.phase, fold_dir(job.folder, fold)
        progress = _train_fold(job, self.taught[fold], phase, fold, tell, bar)
        held_out, taken = np.flatnonzero(table.fold == fold), []
        if self.scored is not phase.model:
            self.scored.set_weights(phase.model.get_weights())
        views = {
            view: predict_probabilities(self.scored, Rows(self.images, held_out, VIEWS[view]), taken)
            for view in job.recipe.views
        }
        write_weights(directory / MODEL_FILE, phase.model)
        save_fold(directory, table, fold, progress, views, min(taken))


def predict_probabilities(model, images, taken=None):
    return heads.softmax_and_log(predict(model, images, taken=taken))[0]


def _build_phase(job, images, taught, start):
    """The second phase, in which everything trains, from the backbone's weights `start`."""
    table, settings, model = job.table, job.recipe, job.model

    def build(table, settings):
        with layers_of(settings.precision):
            built = build_classifier(model, table.size, len(table.classes), settings, Weights("none"))
        compile_model(
            built, settings.weight_decay, settings.label_smoothing, layer_rates(built, settings), settings.ema
        )
        return built

    whole = build(table, settings)
    whole.get_layer("backbone").set_weights(start)
    small, smaller = round(settings.progressive * settings.epochs), []
    if small:
        full = size_inside(model, table, settings)
        sizes = [tuple(max(1, round(share * side)) for side in full) for share in GROWTH]
        smaller = [build(replace(table, size=size), replace(settings, image_size=0, least_size=0)) for size in sizes]
        if any([v.shape for v in _variables(other)] != [v.shape for v in _variables(whole)] for other in smaller):
            raise InputError(
                f"progressive is {settings.progressive:g}, expected 0: the number of weights of {model} "
                "depends on the size of its images"
            )
    share = heads.schedule(settings.schedule, settings.warmup)
    batches = make_batches(settings, images, taught)
    return Phase(whole, settings.epochs, lambda done: settings.rate * share(done), batches, smaller, small)


def _build_scored(job, phase):
    """The model that OOF predictions come from: in float32, as the zip computes, whatever training computes in."""
    if job.recipe.precision == "float32":
        return phase.model
    plain = replace(job.recipe, batchnorm="train")
    return build_classifier(job.model, job.table.size, len(job.table.classes), plain, Weights("none"))


def _train_fold(job, taught, phase, fold, tell, bar):
    """The second phase of one fold, to its end, from wherever its state says it is; returns its Progress.

    taught   the fold's own, a Taught; tell: as for train_whole
    """
    directory, table, images, settings = fold_dir(job.folder, fold), taught.table, taught.images, job.recipe
    held_out = table.fold == fold
    labels, names, metric = table.labels[held_out], held_out_images(table, fold), find_metric(table.metric)
    validation = Rows(images, np.flatnonzero(held_out))
    steps = count_steps(table, fold, settings)
    progress, variables, best = read_fold_state(directory) or (Progress(), phase.start, [])
    phase.write(variables)
    bar.update(progress.epoch)
    if settings.frozen_epochs and not progress.epoch:
        set_head(phase.model, read_head(directory.parent, fold))
        progress.history = read_head_progress(directory.parent, fold).history
    write_history(directory, progress.history)  # a kill may have come between the state and its line
    if progress.epoch:
        tell(fold, progress.history[-1])  # or before that epoch was told
    while progress.epoch < phase.epochs and not _is_stopped(settings, progress):

        def tick(share, loss, accuracy):
            bar.update(min(share, bar.total - bar.n))  # sums of shares may come to a little more than 1
            reached = f" val {metric.sign * progress.best_score[0]:.3f}" if progress.best_epoch else ""
            bar.set_postfix_str(f"fold {fold} loss {loss:.3f} acc {accuracy:.3f}{reached}", refresh=False)

        before = time.time()
        loss, accuracy = phase.train_epoch(fold, progress.epoch, steps, tick)
        going = phase.average()
        probabilities = predict_probabilities(phase.model, validation)
        quality = metric.quality(probabilities, labels)
        progress.epoch += 1
        if not settings.patience or not progress.best_epoch or quality > tuple(progress.best_score):
            progress.best_epoch, progress.best_score = progress.epoch, quality
            best = phase.read_model() if settings.patience else []
        phase.write(going)
        row = history_row(
            len(progress.history) + 1,
            "full",
            loss,
            accuracy,
            -quality[1],
            metrics.accuracy(probabilities, labels),
            time.time() - before,
        )
        progress.history = (*progress.history, row)
        write_epoch(directory, row["epoch"], names, probabilities)
        write_fold_state(directory, progress, phase.read(), best)
        write_history(directory, progress.history)
        tell(fold, row)
    bar.total -= phase.epochs - progress.epoch
    phase.average()
    if best:
        phase.write(best)
    return progress


def _is_stopped(settings, progress):
    return settings.patience and progress.epoch - progress.best_epoch >= settings.patience and progress.epoch > 0


def _variables(model):
    return model.variables + model.optimizer.variables


def _copy_variables(model, other):
    for old, new in zip(_variables(other), _variables(model), strict=True):
        old.assign(new)
