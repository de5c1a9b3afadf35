"""What each fold learns from: its images, generated ones, and what a teacher says."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from competition.base.arrays import Joined, Room, Rows, bytes_held
from competition.base.backend import start_keras
from competition.data.images import load_images
from competition.data.table import FoldTable
from competition.features.frozen import copies_features, frozen_features
from competition.training.frozen_phase import read_interrupted
from competition.training.gan.gan import add_synthetic


class Taught(NamedTuple):
    """What a fold is trained by."""

    table: FoldTable
    images: object  # uint8 [n, h, w, 3]
    soft: np.ndarray | None = None  # float32 [n, C]: what to learn of each in place of its label
    behind: tuple = ()  # what came after the images of the run's table: a FoldTable, its images, and rows of these


class Lesson(NamedTuple):
    """What heads are trained by: features, with what belongs to them."""

    plain: object  # float32 [n, d], of the images as they are: what they are validated on
    pool: list  # of float32 [n, d], one for each copy or view: what they are trained on
    copies: object  # an augment.Copies
    soft: np.ndarray | None = None  # float32 [n, C], see Taught


def prepare_lessons(job, images):
    """{fold: Taught}: its own where images are generated or there is a teacher, also for interrupted heads."""
    settings, first = job.recipe, _add_train_only(job, images)
    if not (settings.synthetic or job.teaching):
        return dict.fromkeys(job.folds, first)
    taught = dict.fromkeys([*read_interrupted(job.folder)[0], *job.folds], first)
    if settings.synthetic:
        for fold in taught:
            more, joined = add_synthetic(first.table, first.images, fold, settings.synthetic)
            made = replace(more, frame=more.frame.iloc[len(first.table.frame) :])
            behind = (*first.behind, (made, joined.second, np.arange(len(joined.second))))
            taught[fold] = Taught(more, joined, behind=behind)
    if job.teaching:
        if job.memory:  # unlabelled images take what those of the table leave of their half
            job = replace(job, memory=replace(job.memory, total=max(0, job.memory.total - 2 * bytes_held(images))))
        taught = job.teaching.teach(job, images, taught)
    start_keras(settings.seed)  # generators and teachers, as many as there are folds left, drew random numbers
    return taught


def deal_lessons(job, plain, pool, images, taught, fused, room):
    """The Lesson of all folds, or one for each that has images of its own: pairs of a Job of these folds and a Lesson.

    plain, pool   features of the Job's images, as in a Lesson
    images        uint8 [n, h, w, 3], these images
    taught        {fold: Taught}
    fused, room   as of frozen_features
    """
    table, settings, model, weights = job.table, job.recipe, job.model, job.weights
    shared = not (settings.synthetic or job.teaching)
    each = [(job.folds, next(iter(taught.values()), Taught(table, images)))] if shared else None
    for folds, one in each or [([fold], one) for fold, one in taught.items()]:
        own, left = pool, room if shared else Room(room.left)  # what a fold's own take ends with it
        for source, pictures, rows in one.behind:
            found = frozen_features(source, settings, model, weights, pictures, fused, left)[1]
            own = [Joined(values, Rows(more, rows)) for values, more in zip(own, found)]
        copies = copies_features(one.table, settings, model, weights, one.images, fused, left)
        yield replace(job, table=one.table, folds=folds), Lesson(plain, own, copies, one.soft)


def _add_train_only(job, images):
    """The Taught of all folds, with the images behind it that no fold holds out; `images` are those of the Job's table."""
    table = job.table
    if table.train_only is None:
        return Taught(table, images)
    whole = table.whole or table
    source = replace(whole, frame=whole.train_only, train_only=None)
    apart = replace(source, name=f"{whole.name}/images/train_only")  # whose decoded images lie elsewhere
    memory = job.memory and replace(job.memory, total=max(0, job.memory.total - 2 * bytes_held(images)))
    more = load_images(apart, memory)
    rows = np.flatnonzero(source.frame["image"].isin(table.train_only["image"]))
    return Taught(table.everything, Joined(images, Rows(more, rows)), behind=((source, more, rows),))
