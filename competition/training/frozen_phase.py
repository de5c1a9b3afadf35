"""The first phase: the heads of all folds learn together on frozen features."""

import json
import time
from dataclasses import replace

import numpy as np

from competition.base import files
from competition.base.arrays import Rows
from competition.base.metrics import find_metric
from competition.base.workspace import HEAD_FILE, HEADS_NPZ, epoch_file, fold_dir
from competition.data.table import held_out_images
from competition.features import heads
from competition.features.extract import read_ms
from competition.features.frozen import open_shelf
from competition.runs.finish_run import save_fold
from competition.runs.folder import read_weights
from competition.runs.single import read_head, write_head
from competition.training.progress import Progress, history_row, read_or_anew, write_epoch, write_history


def train_heads(job, lesson, tell, bar):
    """The first phase: train the heads of those folds that have none yet; those that were interrupted first.

    tell   called with a fold and the row of each epoch of its history, when all of that epoch is on disk
    """
    folder, settings = job.folder, job.recipe

    def headless(folds):
        return [fold for fold in folds if not (fold_dir(folder, fold) / HEAD_FILE).exists()]

    interrupted, state, seconds = read_interrupted(folder)
    if going := headless(interrupted):
        state = state.of([interrupted.index(fold) for fold in going])
        _train_heads_of(replace(job, folds=going), lesson, state, seconds, tell, bar)
    if fresh := headless(job.folds):
        state = heads.start_heads(
            1, len(fresh), lesson.plain.shape[-1], len(job.table.classes), settings.head, settings.seed
        )
        _train_heads_of(replace(job, folds=fresh), lesson, state, [], tell, bar)
    (folder / HEADS_NPZ).unlink(missing_ok=True)
    if not settings.epochs:
        # what was done before, and what an early stop spared
        bar.update(max(0, len(job.folds) * settings.frozen_epochs - bar.n))


def save_heads(job, features):
    """Write what each fold leaves where heads are all that is trained; features of the TTA views, a list of [n, d]."""
    table, settings, folder = job.table, job.recipe, job.folder
    whole = table.whole or table
    took = read_ms(open_shelf(whole, settings, job.model, job.weights, whole.frame["sha256"].array))
    for fold in job.folds:
        head, progress = read_head(folder, fold), read_head_progress(folder, fold)
        views = {
            view: heads.predict_heads(head, Rows(features[i], np.flatnonzero(table.fold == fold)))
            for i, view in enumerate(settings.views)
        }
        save_fold(fold_dir(folder, fold), table, fold, progress, views, took)


def read_interrupted(folder):
    """Of an interrupted frozen phase: its folds, their Heads and the seconds of its epochs."""

    def read(saved):
        return saved["folds"].tolist(), heads.read_heads(saved), saved["seconds"].tolist()

    found = read_or_anew(folder / HEADS_NPZ, read, "the frozen phase")
    # whole: the user has removed no epoch
    whole = found and all(epoch_file(fold_dir(folder, fold), 1).exists() for fold in found[0])
    return found if whole else ([], None, [])


def read_head_progress(run_dir, fold):
    """The Progress that a fold has made when its head is trained."""

    def read(path):
        with np.load(files.plain_file(path)) as saved:
            history = tuple(json.loads(str(saved["history"])))
            return Progress(epoch=len(history), best_epoch=int(saved["best_epoch"]), history=history)

    return read_weights(read, fold_dir(run_dir, fold) / HEAD_FILE)


def _train_heads_of(job, lesson, state, seconds, tell, bar):
    """Train the heads of a Job's folds together, from their state on."""
    folder, table, settings, folds = job.folder, job.table, job.recipe, job.folds
    metric, names = find_metric(table.metric), [held_out_images(table, fold) for fold in folds]

    def finish_epoch():
        histories = {fold: _heads_history(state, seconds, f, settings) for f, fold in enumerate(folds)}
        for fold, history in histories.items():
            write_history(fold_dir(folder, fold), history)
        for fold, history in histories.items():
            if len(history) == len(state.log):  # else it had stopped before
                tell(fold, history[-1])

    if len(state.log):
        finish_epoch()  # a kill may have come before its end
    while len(state.log) < settings.frozen_epochs and not (stopped := state.stopped(settings.patience)[0]).all():
        before = time.time()
        probabilities = heads.train_epoch(
            state,
            [settings],
            lesson.pool,
            lesson.plain,
            table.labels,
            table.fold,
            folds,
            lesson.copies,
            lesson.soft,
            metric,
        )
        for f, fold in enumerate(folds):
            if not stopped[f]:
                write_epoch(fold_dir(folder, fold), len(state.log), names[f], probabilities[f][0])
        seconds = [*seconds, round((time.time() - before) / len(folds), 3)]
        files.write_npz(folder / HEADS_NPZ, folds=folds, seconds=seconds, **state.arrays())
        finish_epoch()
        bar.set_postfix_str(
            f"frozen loss {state.log[-1, 0, :, 0].mean():.3f} acc {state.log[-1, 0, :, 1].mean():.3f} "
            f"val {metric.sign * state.best_score[0, :, 0].mean():.3f}",
            refresh=False,
        )
        bar.update(0 if settings.epochs else len(folds))
    for f, fold in enumerate(folds):
        history = _heads_history(state, seconds, f, settings)
        write_history(fold_dir(folder, fold), history)
        write_head(
            fold_dir(folder, fold) / HEAD_FILE,
            [matrices[0] for matrices in state.best_of(f)],
            history=np.array(json.dumps(history)),
            best_epoch=state.best_epoch[0, f],
        )


def _heads_history(state, seconds, f, settings):
    epochs = len(state.log)
    if settings.patience:
        epochs = min(epochs, state.best_epoch[0, f] + settings.patience)
    rows = (state.log[epoch, 0, f] for epoch in range(epochs))
    return [
        history_row(epoch, "frozen", loss, accuracy, val_loss, val_accuracy, seconds[epoch - 1])
        for epoch, (loss, accuracy, val_loss, val_accuracy) in enumerate(rows, 1)
    ]
