"""Batches of augmented and mixed images, drawn in a thread beside the training."""

import queue
import threading
from functools import partial

import numpy as np

from competition.base.backend import has_gpu
from competition.features import heads
from competition.features.augment import build_policy, draw_numbers, mix_pairs
from competition.features.frozen import class_copies
from competition.features.on_gpu import draw_transforms, keep_on_device
from competition.recipes.recipe import MIXTURES


def make_batches(settings, images, taught):
    """A function from fold and epoch to the batches of that epoch, which full_phase.Phase describes."""
    shares = {key: getattr(settings, key) for key in MIXTURES}
    patch = settings.cutmix_least, settings.cutmix_most
    policy = settings.augment if settings.augment_phases != "frozen" else []
    apart = any(one.images is not images for one in taught.values())
    on_device = None if apart else _draw_on_device(settings, policy, images)

    def batches(fold, epoch):
        table, images, soft, _ = taught[fold]
        targets = np.eye(len(table.classes), dtype=np.float32)
        random = epoch_random(settings, fold, epoch)
        copies = class_copies(table, settings)
        labels = table.labels[copies.sources]
        draw_batch = on_device or _draw_here(policy, settings.oversample_augment, copies, images)
        draw = draw_batch(random.integers(2**31))
        mixing = epoch < settings.epochs - settings.plain_epochs and any(shares.values())
        numbers = draw_numbers(copies, table.labels, table.fold, fold, random)
        class_weight = heads.weigh_classes(settings.class_weight, labels[numbers], len(table.classes))
        for part in _in_batches(numbers, settings.batch_size, random):
            inputs, truth = draw(part), targets[labels[part]]
            if soft is not None:  # mixed as the labels are, by which a class still counts
                truth = np.concatenate([truth, soft[copies.sources[part]]], 1)
            if mixing:
                inputs, truth = mix_pairs(inputs, truth, random, **shares, patch=patch)
            yield inputs, truth[:, -len(targets) :], truth[:, : len(targets)] @ class_weight

    return batches


def epoch_random(settings, fold, epoch):
    """The generator of the random numbers that a fold draws in an epoch of the second phase."""
    return np.random.default_rng([settings.seed, fold, 1, epoch])  # 0 stands for the frozen phase


def count_steps(table, fold, settings):
    """Steps of an epoch of the second phase: the full batches of the fold's training images and copies, at least one."""
    images = (table.fold != fold).sum() + class_copies(table, settings).needed[fold].sum()
    return max(1, int(images) // settings.batch_size)


def prefetch(batches, depth=4):
    """Draw batches in a thread of their own while the network works on those before."""
    ready = queue.Queue(depth)

    def draw():
        try:
            for batch in batches:
                ready.put(batch)
            ready.put(None)
        except BaseException as error:  # raised where the batches are used
            ready.put(error)

    threading.Thread(target=draw, daemon=True).start()
    yield from take_all(ready)


def take_all(ready):
    """Yield what another thread puts into a queue.Queue, up to None; an exception that it puts there is raised here."""
    while (found := ready.get()) is not None:
        if isinstance(found, BaseException):
            raise found
        yield found


def _draw_here(policy, copy_policy, copies, images):
    """seed -> a function from numbers (see augment.Copies) to augmented images, float32 [b, h, w, 3]."""

    def start(seed):
        augment, augment_copy = build_policy(policy, seed), build_policy(copy_policy, seed + 1)
        return lambda numbers: np.stack(
            [
                augment(augment_copy(image) if number >= len(images) else image)
                for number, image in zip(numbers, images[copies.sources[numbers]])
            ]
        ).astype(np.float32)

    return start


def _draw_on_device(settings, policy, images):
    """The same on a GPU, None where there is none or where it cannot be done there."""
    if not has_gpu() or settings.oversample_count or any(getattr(settings, key) for key in MIXTURES):
        return None
    draw = keep_on_device(images, policy)
    return draw and (lambda seed: partial(draw, draw_transforms(policy, seed)))


def _in_batches(numbers, batch_size, random):
    """Batches of the numbers (see augment.Copies), shuffled: every batch is full, so that one trace serves them all.

    What is left over after the last full batch waits for another epoch; fewer images than a batch are repeated.
    """
    steps = max(1, len(numbers) // batch_size)
    return np.resize(random.permutation(numbers), steps * batch_size).reshape(steps, batch_size)
