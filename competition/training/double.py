"""Train a double run (runs/tree.py): a tree of models, each of which decides between some classes.

A node of the tree is an ordinary training, with the same recipe, on the images of its classes, whose labels are its
branches. It keeps the folds, so that what a fold holds out is in no node's training part. The probability of a class is
the product of the probabilities of the branches that lead to it, P(class) = P(branch) * P(class | branch), so that
those of all classes add up to 1. Each node answers for every image that the fold holds out, also for those of classes
that it never saw. A double run is a run like any other: it blends, and is packed as one network, with one backbone for
all nodes and folds where that was frozen.

Plants (2835 photographs of 96x96 in 8 classes, 149 of them Species1, often taken for Species8), 5 folds,
`make double MODEL=efficientnet_lite0 SPLITS=Species1`, recipe quick: merged, its OOF accuracy is the plain run's to
within noise (`make study` has both). Alone, each on its own images, the first node has 0.951 (to say never Species1
has 0.947) and the second, of seven classes, 0.764. Both are better than the merged one, as the original report found
(92 % and 90 % alone, 84 % merged), since their errors add up; and no gain.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from competition.base import metrics
from competition.base.arrays import Room, read_memory
from competition.base.backend import make_repeatable, start_keras
from competition.base.metrics import find_metric, per_class_accuracy
from competition.base.workers import read_workers
from competition.base.workspace import FOLD_JSON, Workspace, fold_dir, node_dir
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features.extract import MS
from competition.features.frozen import frozen_features
from competition.models.classifier import build_recipe_backbone
from competition.models.fuse import fuse_batchnorm
from competition.models.presets import file_name
from competition.recipes.settle import settle
from competition.runs import oof
from competition.runs.finish_run import finish_run, print_folds, write_fold_end
from competition.runs.folder import has_oof, is_predicted, read_end
from competition.runs.kinds import read_run
from competition.runs.predict import held_out_folds
from competition.runs.record import locked, open_run_record
from competition.runs.splits import read_splits
from competition.runs.tree import take_part
from competition.training import train
from competition.training.callbacks import check_callbacks
from competition.training.gan.gan import check_synthetic
from competition.training.job import prepare_job
from competition.training.train_folds import train_table


def double(
    model,
    splits,
    recipe="quick",
    name=None,
    weights="imagenet",
    run=None,
    only_fold=None,
    overrides=(),
    memory=None,
    callbacks=(),
    workers=None,
    cluster=None,
    workspace=Workspace(),
):
    """Train a tree of models on the folds of the table `name` and merge their OOF; returns the run's folder.

    splits   "Species1": it against the rest, then the rest among themselves; read_splits says what else
    run      name of the run; default <model>-<recipe>-double

    The others are as for train.train; callbacks are told of the epochs of each node. A class_weight or an
    oversample_count counts for the branches of each node: where a branch is several classes it weighs what these do on
    average, and `oversample_classes` leaves it alone. Of `synthetic` images a node gets those of its classes.
    `runs/<table>/<run>/node_<i>/` is the run of a node, with an OOF of its own, on its own task. Raises InputError for
    anything that cannot be used, and for a run folder made from another config, fold table or other images.
    """
    callbacks, memory, workers = check_callbacks(callbacks), read_memory(memory), read_workers(workers, cluster)
    table = read_folds(name, workspace)
    tree = read_splits(splits, table)
    make_repeatable()
    settled = settle(table, model, weights, recipe, overrides)
    job = prepare_job(settled, only_fold, run or f"{file_name(settled.model)}-{Path(recipe).stem}-double", memory)
    job = replace(job, callbacks=callbacks, workers=workers)
    folder, settings = job.folder, job.recipe
    if settings.synthetic:
        check_synthetic(table, job.folds)  # refuses before a run is begun
    parts = [take_part(table, node) for node in tree.nodes]
    config = job.config | tree.config | find_metric(table.metric).chooses(settings.patience)
    with locked(folder):
        record = open_run_record(folder, table, config, settings)
        for number, part in enumerate(parts):
            print(f"\nnode {number} of {len(parts)}: {' | '.join(part.classes)}")
            fitting = fit_recipe(settings, table, part, tree.nodes[number])
            train_table(replace(job, folder=node_dir(folder, number), table=part, recipe=fitting))
        _merge_folds(job)
        done = _merged(folder, table)
        if len(done) == table.k and not (record["finished"] and has_oof(folder)):
            finish_run(folder, table, settings, record)
        print("\nall nodes together")
        print_folds(folder, table, done)
        if len(done) == table.k:
            _report_nodes(folder, parts)
    return folder


def double_seeds(
    seeds, model, recipe="quick", run=None, overrides=(), again=1, callbacks=(), tensorboard=False, **options
):
    """`double` with several seeds; parameters and what it returns and raises are as of train.train_seeds."""
    return train.train_seeds(seeds, model, recipe, run, overrides, double, again, callbacks, tensorboard, **options)


def fit_recipe(settings, table, part, node):
    """The Recipe of a node. Settings that name classes are translated to the node's branches."""
    changed = {}
    if isinstance(weights := settings.class_weight, dict):
        classes, labels = table.everything.frame.set_index("image")["label"], part.everything.labels
        each = np.array([weights[classes[image]] for image in part.everything.images])
        changed["class_weight"] = {name: float(each[labels == b].mean()) for b, name in enumerate(part.classes)}
    if named := settings.oversample_classes:
        alone = [branch[0] for branch in node if len(branch) == 1 and branch[0] in named]
        changed["oversample_classes"] = alone
        if not alone:
            changed |= {"oversample_count": 0, "oversample_augment": []}
    return replace(settings, **changed)


def _merged(folder, table):
    """The folds whose merged predictions are there."""
    return [fold for fold in range(table.k) if is_predicted(folder, fold)]


def _merge_folds(job):
    """Write the merged predictions of every fold that all nodes have trained and that lacks them."""
    folder, table, settings, model, weights = job.folder, job.table, job.recipe, job.model, job.weights
    run = read_run(folder, table)
    folds = [
        fold
        for fold in range(table.k)
        if fold not in _merged(folder, table)
        and all((fold_dir(node, fold) / FOLD_JSON).exists() for node in run.node_dirs)
    ]
    if not folds:
        return
    start_keras(settings.seed)
    images, features = load_images(table, job.memory), None
    if run.frozen:
        backbone = fuse_batchnorm(build_recipe_backbone(model, table.size, settings, weights))
        room = Room(job.memory and job.memory.features)
        features = frozen_features(table, settings, model, weights, images, backbone, room)[0]
    for fold, views in held_out_folds(run, table, folds, settings.views, images, features):
        _save_fold(run, table, fold, views)


def _save_fold(run, table, fold, views):
    """Write what a fold of a double run leaves: its validation predictions a view, and fold.json, its end."""
    nodes = [read_end(fold_dir(node, fold)) for node in run.node_dirs]
    epochs, seconds = {"epochs": sum(node["epochs"] for node in nodes)}, sum(node["seconds"] for node in nodes)
    write_fold_end(fold_dir(run.dir, fold), table, fold, views, epochs, seconds, _took(run, nodes))


def _took(run, nodes):
    """Milliseconds that the networks of all nodes take for an image, None where unknown; heads share a network."""
    each = [node[MS] for node in nodes if MS in node]
    if len(each) < len(nodes):
        return None
    return min(each) if run.frozen else sum(each)


def _report_nodes(folder, parts):
    """Print how well each node does on its own task, the images of its classes."""
    print("\neach node alone, on the images of its classes")
    for number, part in enumerate(parts):
        probabilities = oof.read_oof(node_dir(folder, number), part).probs[0]
        each = zip(part.classes, per_class_accuracy(probabilities, part.labels))
        print(
            f"node {number}: {len(part.labels)} images, OOF accuracy {metrics.accuracy(probabilities, part.labels):.4f}; "
            + ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in each)
        )
