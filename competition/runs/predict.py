"""The one loop that predicts with the fold models of a run.

Fold models of one run are the same network with other weights. So one of them is built to stay, is traced once, and
gets the weights of one fold after the other. Where only heads were trained, all folds share the backbone's features.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from competition.base.arrays import Rows
from competition.data.table import FoldTable
from competition.features.extract import predict
from competition.features.heads import head_logits
from competition.features.views import VIEWS
from competition.models.fuse import fuse_batchnorm
from competition.runs.run import Run


def fold_models(run: Run, table: FoldTable, folds: Iterable[int], fused: bool = True) -> Iterator[tuple[int, Any]]:
    """Yield (fold, keras.Model [n, h, w, 3] -> probabilities [n, C]) for each of these folds of a Run.

    It is always the same model, with the weights of that fold until the next one is asked for.

    fused   whether BatchNormalization is folded into the layers before it (fuse.fuse_batchnorm): half as fast again
    """
    network = None
    for fold in folds:
        model = run.build_fold_model(table, fold)
        if fused:
            model = fuse_batchnorm(model)
        if network is None:
            network = model
        else:
            network.set_weights(model.get_weights())
        yield fold, network


def each_fold(
    run: Run,
    table: FoldTable,
    folds: Iterable[int],
    views: Sequence[str],
    images: Any,
    fused: bool = True,
    part: int | None = None,
    bar: Any = None,
) -> Iterator[tuple[int, slice, dict[str, np.ndarray]]]:
    """Yield (fold, rows, {view: probabilities float32 [m, C]}): what the models of these folds say of images.

    images   uint8 [n, h, w, 3], or what arrays.Rows can take rows of
    part     of how many images the features of a shared backbone are in memory at a time; None: of all
    bar      a tqdm bar, which counts images and views that a network has seen

    `rows` is the slice of the images that the probabilities are of. It is all of them, unless the run is frozen and
    `part` is given: then every fold comes once for each part. Raises InputError for a file of weights that is broken.
    """
    by = _by_heads if run.frozen else _by_models
    return by(run, table, list(folds), views, images, fused, part, bar)


def predict_folds(
    run: Run,
    table: FoldTable,
    views: Sequence[str],
    images: Any,
    folds: Sequence[int] | None = None,
    fused: bool = False,
    bar: Any = None,
) -> np.ndarray:
    """What a run's models of `folds`, None for all, say of each view of images uint8 [n, h, w, 3].

    Returns probabilities float32 [folds, views, n, C]; the others are as for each_fold.
    """
    folds = list(folds or range(table.k))
    return np.stack(
        [
            np.stack([said[view] for view in views])
            for _, _, said in each_fold(run, table, folds, views, images, fused, bar=bar)
        ]
    )


def held_out_folds(
    run: Run,
    table: FoldTable,
    folds: Iterable[int],
    views: Sequence[str],
    images: Any,
    features: Sequence[Any] | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (fold, {view: probabilities float32 [m, C]}): what each fold's model says of the images that it holds out.

    images    uint8 [n, h, w, 3], the table's
    features  those of the images in each view by a frozen run's backbone, a list of float32 [n, d]; None: whole
              networks predict, and nothing of them is fused
    """
    if features is not None:
        for fold in folds:
            rows = np.flatnonzero(table.fold == fold)
            yield fold, {view: run.predict_heads(fold, Rows(seen, rows)) for view, seen in zip(views, features)}
        return
    for fold, model in fold_models(run, table, folds, fused=False):
        yield fold, predict_held_out(model, table, fold, views, images)


def predict_held_out(model, table, fold, views, images):
    """{view: float32 [m, C]}: what a keras.Model answers for the images, the table's, that a fold holds out."""
    rows = np.flatnonzero(table.fold == fold)
    return {view: predict(model, Rows(images, rows, VIEWS[view])) for view in views}


def _by_models(run, table, folds, views, images, fused, part, bar):
    rows = np.arange(len(images))
    for fold, model in fold_models(run, table, folds, fused):
        said = {view: predict(model, Rows(images, rows, VIEWS[view]), bar=bar) for view in views}
        yield fold, slice(0, len(images)), said


def _by_heads(run, table, folds, views, images, fused, part, bar):
    if not folds:
        return
    backbone, layers = run.build_shared(table)
    backbone, layers = fuse_batchnorm(backbone) if fused else backbone, [layer[folds] for layer in layers]
    step = part or max(1, len(images))
    for start in range(0, max(1, len(images)), step):
        rows = np.arange(start, min(start + step, len(images)))
        said = {}
        for view in views:
            features = predict(backbone, Rows(images, rows, VIEWS[view]), bar=bar)
            said[view] = run.rule(head_logits(layers, features))
        for place, fold in enumerate(folds):
            yield fold, slice(start, start + len(rows)), {view: probs[place] for view, probs in said.items()}
