"""Features of a table's images by a frozen backbone, from disk or computed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from competition.base import files
from competition.base.arrays import Room, Rows
from competition.base.backend import has_gpu
from competition.data.images import IMAGES_FORMAT
from competition.data.table import FoldTable
from competition.features.augment import Copies, plan_copies
from competition.features.extract import Shelf, copy_features, view_features
from competition.models.backbones import Weights, own_graph

COMPUTING = ("tensorflow", "tensorflow-cpu", "jax", "keras", "numpy", "pillow")  # on whose releases features depend
DRAWING = ("albumentations", "opencv-python-headless")  # and on whose those of augmented copies do
FEATURES_FORMAT = 5  # raise it when what a backbone makes of the same image changes


def frozen_features(
    table: FoldTable,
    settings: Any,
    model: str,
    weights: Weights,
    images: Any,
    backbone: Any,
    room: Room | None = None,
) -> tuple[list[Any], list[Any]]:
    """Features of the TTA views, a list of [n, d] (of the plain image alone where a second phase follows), and those
    to train on, of the copies or the views; from `runs/<name>/features/` where they have been computed before.

    `backbone` is fused (fuse.fuse_batchnorm): features of one that is not would differ in their last digits. What finds
    no `room` (arrays.Room) in memory is read from disk as it is needed.
    """
    shelf = open_shelf(table, settings, model, weights, table.frame["sha256"].array)
    views = ["identity"] if settings.epochs else settings.views  # a head that goes on learning needs no more
    room = room or Room()
    features = view_features(backbone, images, views, shelf, room)
    if not settings.frozen_copies or settings.augment_phases == "full":
        return features, features
    return features, copy_features(
        backbone, images, settings.frozen_copies, settings.augment, settings.seed, shelf, room, files.versions(DRAWING)
    )


def features_key(table: FoldTable, settings: Any, model: str, weights: str | None) -> dict[str, Any]:
    """What a run's features depend on besides image, view and what computed them: a JSON-able dict.

    settings: a Recipe; weights: the sha256 of the backbone's, None for random ones
    """
    return {
        "size": list(table.size),
        "model": model,
        "weights": weights,
        "image_size": settings.image_size,
        "least_size": settings.least_size,
        **own_graph(model, table.size),
        **({"ranges": {kind: list(limits) for kind, limits in table.ranges.items()}} if table.ranges else {}),
    }


def open_shelf(table: FoldTable, settings: Any, model: str, weights: Weights, hashes: Sequence[str]) -> Shelf:
    """The features.Shelf for images of these sha256; those of other fold tables, by whatever name, serve as well."""
    from keras import backend

    key = {
        "format": FEATURES_FORMAT,
        "decoded": IMAGES_FORMAT,
        **features_key(table, settings, model, weights.sha256),
        "versions": files.versions(COMPUTING) | {"backend": backend.backend()},
        **({"device": "gpu", "precision": "float32"} if has_gpu() else {}),
    }
    return Shelf(table.paths.features, hashes, key, tuple(table.workspace.features))


def find_features(table: FoldTable, view: str, key: dict[str, Any] | None = None) -> list[tuple[Any, Path]]:
    """Where a view of the table's images lies as features: [(key, path of the .npy)], by name of the file.

    key   features_key of a run; None: of any backbone

    Whatever computed them, they count. Only features of all images of the table, in its order, are found.
    """
    return Shelf(table.paths.features, table.frame["sha256"].array, key or {}).holding(view)


def class_copies(table: FoldTable, settings: Any) -> Copies:
    """The augment.Copies of the classes that the recipe wants more images of."""
    named = settings.oversample_classes or table.classes
    targets = [settings.oversample_count * (name in named) for name in table.classes]
    return plan_copies(table.labels, table.fold, np.array(targets))


def copies_features(
    table: FoldTable,
    settings: Any,
    model: str,
    weights: Weights,
    images: Any,
    backbone: Any,
    room: Room | None = None,
) -> Copies:
    """The augment.Copies with their features, augmented as the recipe says; see frozen_features."""
    copies = class_copies(table, settings)
    sources = copies.sources[len(table.labels) :]
    if not len(sources):
        return copies
    general = settings.augment if settings.frozen_copies and settings.augment_phases != "full" else []
    shelf = open_shelf(table, settings, model, weights, table.frame["sha256"].to_numpy()[sources].tolist())
    (features,) = copy_features(
        backbone,
        Rows(images, sources),
        1,
        [*settings.oversample_augment, *general],
        settings.seed,
        shelf,
        room,
        files.versions(DRAWING),
    )
    return replace(copies, features=features)
