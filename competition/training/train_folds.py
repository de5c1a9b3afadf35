"""Train the folds of a table, or of a part of one, through both phases."""

import random
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

from competition.base.arrays import Room
from competition.base.backend import start_keras, write_weights
from competition.base.bars import EPOCHS_BAR, tqdm
from competition.base.files import InputError, check_room, warn
from competition.base.metrics import find_metric
from competition.base.workspace import BACKBONE_FILE, STATE_NPZ, fold_files
from competition.data.images import load_images, warn_of_others
from competition.features.frozen import frozen_features
from competition.models.classifier import build_recipe_backbone
from competition.models.fuse import fuse_batchnorm
from competition.runs.finish_run import finish_run, print_folds
from competition.runs.folder import begin_folds, is_done, is_sealed, is_whole, remove_states
from competition.runs.record import locked, open_run_record
from competition.runs.trained_run import TrainedRun
from competition.training.callbacks import tell_epoch, telling_end
from competition.training.frozen_phase import save_heads, train_heads
from competition.training.full_phase import Work, train_whole
from competition.training.gan.gan import check_synthetic
from competition.training.lessons import deal_lessons, prepare_lessons
from competition.training.side_by_side import train_side_by_side


def train_table(job):
    """Train the folds of a Job, write the OOF once all folds of its table are done, and return the run's folder."""
    return train_tables([job])[0]


def train_tables(jobs):
    """Do that for several Jobs; where they have workers, the folds of all of them side by side.

    A Job behind the first that cannot be begun is left out with a warning, if it only serves the forecast (`spare`).
    """
    with ExitStack() as stack:
        begun, ends, works = [], [], []
        for job in jobs:
            end = stack.enter_context(ExitStack())
            try:
                work = end.enter_context(_begun(job))
            except InputError as error:
                if not job.spare:
                    raise
                warn(f"{error}. {jobs[0].folder} is whole without it; AGAIN=0 leaves it out")
                continue
            ends.append(end)
            begun.append(job)
            if work and jobs[0].workers:
                works.append(work)
            elif work:
                train_whole(work)
        if works:
            train_side_by_side(jobs[0].workers, works)
        for job, end in zip(begun, ends):
            end.close()
            if job.spare:
                print(f"{jobs[0].folder} is whole, and the forecast needs no other fold of {job.folder}")
    return [job.folder for job in begun]


@contextmanager
def _begun(job):
    """The Work that is left of a Job after the first phase, or None; behind the block its end is written and printed."""
    folder, table, settings = job.folder, job.table, job.recipe
    run = TrainedRun(table, folder)
    config = job.config | find_metric(table.metric).chooses(settings.patience)
    if settings.synthetic:
        config["gan"] = check_synthetic(table.whole or table, job.folds)
    if job.teaching:
        config |= job.teaching.config
    with locked(folder):
        record = open_run_record(folder, table, config, settings)
        remove_states(folder, [fold for fold in range(table.k) if is_done(folder, fold, settings)])
        with telling_end(run, job.callbacks):
            if record["finished"] and is_whole(folder, table, settings):
                print(f"{folder}: finished before, nothing to do")
                yield None
            else:
                settings = replace(settings, precision=record.get("precision", "float32"))  # that it was begun with
                folds = [fold for fold in job.folds if not is_done(folder, fold, settings)]
                with _first_phase(replace(job, recipe=settings, folds=folds), run) as work:
                    yield work
                if all(is_done(folder, k, settings) for k in range(table.k)):
                    finish_run(folder, table, settings, record)
        print_folds(folder, table, [fold for fold in range(table.k) if is_done(folder, fold, settings)])


@contextmanager
def _first_phase(job, run):
    """Train the heads of the folds of a Job; the Work of the second phase, None where there is none.

    run   the TrainedRun that the Job's callbacks are told of
    """
    folder, table, settings = job.folder, job.table, job.recipe
    if not job.folds and (settings.epochs or (folder / BACKBONE_FILE).exists()):
        yield None
        return
    begin_folds(folder, job.folds)
    tell = partial(tell_epoch, run, job.callbacks)
    start_keras(settings.seed)
    whole = table.whole or table  # whose images and features serve all parts
    warn_of_others(whole)
    images = table.take(every := load_images(whole, job.memory))
    taught = prepare_lessons(job, images)
    backbone = build_recipe_backbone(job.model, table.size, settings, job.weights)
    _ask_room(job, backbone)
    if settings.frozen_epochs:
        fused = fuse_batchnorm(backbone)  # half as fast again
        room = Room(job.memory and job.memory.features)
        found = frozen_features(whole, settings, job.model, job.weights, every, fused, room)
        features, pool = ([table.take(part) for part in parts] for parts in found)
    if not settings.epochs and not is_sealed(folder / BACKBONE_FILE):
        write_weights(folder / BACKBONE_FILE, backbone)
    # where all layers train as well, the heads take no time worth a place on the bar
    with tqdm(
        total=len(job.folds) * (settings.epochs or settings.frozen_epochs),
        desc=folder.name,
        unit="epoch",
        bar_format=EPOCHS_BAR,
    ) as bar:
        if settings.frozen_epochs:
            for some, lesson in deal_lessons(job, features[0], pool, images, taught, fused, room):
                train_heads(some, lesson, tell, bar)
                del lesson  # whose features make room for those of the next
        if settings.epochs:
            yield Work(job, images, taught, backbone.get_weights(), tell, bar, random.getstate())
        else:
            save_heads(job, features)
            yield None


def _ask_room(job, backbone):
    """InputError, before what takes long, where the disk has no room for what the training of a Job leaves."""
    head = pairwise([backbone.output_shape[-1], *job.recipe.head, len(job.table.classes)])
    size = 4 * (backbone.count_params() + sum((before + 1) * units for before, units in head))  # float32
    if not job.recipe.epochs:
        check_room(job.folder, size, "its backbone")
        return
    # the weights, two moments of Adam and the best weights; the old state is there until the new one is whole
    state = size * (3 + bool(job.recipe.patience))
    there = sum(path.stat().st_size for path in fold_files(job.folder, STATE_NPZ))
    what = f"the training of {len(job.folds)} folds (weights of each, and its state twice)"
    check_room(job.folder, len(job.folds) * size + 2 * state - there, what)
