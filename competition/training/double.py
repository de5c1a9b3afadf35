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

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from competition.base import files, metrics
from competition.base.arrays import Room, read_memory
from competition.base.backend import make_repeatable, start_keras
from competition.base.metrics import find_metric, log_loss, per_class_accuracy
from competition.base.workspace import (
    FOLD_JSON,
    OOF_CSV,
    OOF_NPZ,
    VIEWS_NPZ,
    Workspace,
    check_run_name,
    fold_dir,
    node_dir,
)
from competition.data.images import load_images
from competition.data.table import fold_numbers, read_folds
from competition.features.extract import MS
from competition.features.frozen import frozen_features
from competition.models.classifier import build_recipe_backbone
from competition.models.fuse import fuse_batchnorm
from competition.recipes.settle import settle
from competition.runs import oof
from competition.runs.finish_run import finish_run, print_folds
from competition.runs.kinds import read_run
from competition.runs.predict import held_out_folds
from competition.runs.record import locked, open_run_record
from competition.runs.splits import read_splits
from competition.runs.tree import take_part
from competition.training import train
from competition.training.gan.gan import check_synthetic
from competition.training.job import Job
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
    workspace=Workspace(),
):
    """Train a tree of models on the folds of the table `name` and merge their OOF; returns the run's folder.

    splits   "Species1": it against the rest, then the rest among themselves; read_splits says what else
    run      name of the run; default <model>-<recipe>-double

    The others are as for train.train. A class_weight or an oversample_count counts for the branches of each node:
    where a branch is several classes it weighs what these do on average, and `oversample_classes` leaves it alone. Of
    `synthetic` images a node gets those of its classes.
    `runs/<table>/<run>/node_<i>/` is the run of a node, with an OOF of its own, on its own task. Raises InputError for
    anything that cannot be used, and for a run folder made from another config, fold table or other images.
    """
    memory = read_memory(memory)
    table = read_folds(name, workspace)
    tree = read_splits(splits, table)
    make_repeatable()
    settled = settle(table, model, weights, recipe, overrides)
    settled.size_inside()  # refuses before a run is begun
    settings = settled.recipe
    folds = fold_numbers("ONLY_FOLD", only_fold, table)
    folder = table.paths.run(check_run_name(run or f"{model}-{Path(recipe).stem}-double"))
    if settings.synthetic:
        check_synthetic(table, folds)  # refuses before a run is begun
    parts = [take_part(table, node) for node in tree.nodes]
    job = Job(folder, table, model, settled.weights, settings, folds, memory)
    config = {
        "model": model,
        "weights": settled.weights.sha256,
        "recipe": asdict(settings),
        "classes": table.classes,
        "size": list(table.size),
        "folds": table.k,
        **tree.config,
        **find_metric(table.metric).chooses(settings.patience),
    }
    with locked(folder):
        record = open_run_record(folder, table, config, settings)
        for number, part in enumerate(parts):
            print(f"\nnode {number} of {len(parts)}: {' | '.join(part.classes)}")
            fitting = fit_recipe(settings, table, part, tree.nodes[number])
            train_table(replace(job, folder=node_dir(folder, number), table=part, recipe=fitting))
        _merge_folds(job)
        done = _merged(folder, table)
        written = record["finished"] and all((folder / name).exists() for name in (OOF_CSV, OOF_NPZ))
        if len(done) == table.k and not written:
            finish_run(folder, table, settings, record)
        print("\nall nodes together")
        print_folds(folder, table, done)
        if len(done) == table.k:
            _report_nodes(folder, parts)
    return folder


def double_seeds(
    model,
    splits,
    recipe="quick",
    name=None,
    weights="imagenet",
    run=None,
    only_fold=None,
    overrides=(),
    memory=None,
    seeds=1,
    again=1,
    workspace=Workspace(),
):
    """`double` with several seeds; seeds, again and what it returns and raises are as of train.train_seeds."""
    return train.train_seeds(
        seeds,
        model,
        recipe,
        run,
        overrides,
        double,
        again,
        splits=splits,
        name=name,
        weights=weights,
        only_fold=only_fold,
        memory=memory,
        workspace=workspace,
    )


def fit_recipe(settings, table, part, node):
    """The Recipe of a node. Settings that name classes are translated to the node's branches."""
    changed = {}
    if isinstance(weights := settings.class_weight, dict):
        each = np.array([weights[name] for name in table.classes])[table.labels[part.rows]]
        changed["class_weight"] = {name: float(each[part.labels == b].mean()) for b, name in enumerate(part.classes)}
    if named := settings.oversample_classes:
        alone = [branch[0] for branch in node if len(branch) == 1 and branch[0] in named]
        changed["oversample_classes"] = alone
        if not alone:
            changed |= {"oversample_count": 0, "oversample_augment": []}
    return replace(settings, **changed)


def _merged(folder, table):
    """The folds whose merged predictions are there."""
    return [
        fold
        for fold in range(table.k)
        if all((fold_dir(folder, fold) / name).exists() for name in (VIEWS_NPZ, FOLD_JSON))
    ]


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
    directory = fold_dir(run.dir, fold)
    nodes = [files.read_json(fold_dir(node, fold) / FOLD_JSON) for node in run.node_dirs]
    oof.write_fold(directory, table, fold, views)
    labels = table.labels[table.fold == fold]
    files.write_json(
        directory / FOLD_JSON,
        {
            "images": len(labels),
            "epochs": sum(node["epochs"] for node in nodes),
            "accuracy": metrics.accuracy(views["identity"], labels),
            "log_loss": log_loss(views["identity"], labels),
            "seconds": round(sum(node["seconds"] for node in nodes), 1),
        }
        | _took(run, nodes),
    )


def _took(run, nodes):
    """What the networks of all nodes take for an image; nodes that are heads share one."""
    each = [node[MS] for node in nodes if MS in node]
    if len(each) < len(nodes):
        return {}
    return {MS: round(min(each) if run.frozen else sum(each), 3)}


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
