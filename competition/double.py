"""A double model: a tree of models, each of which decides between some classes; one class against the rest, say.

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

import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from competition import device, files, oof, train
from competition.arrays import Room, read_memory
from competition.classifier import build_recipe_backbone
from competition.features import MS
from competition.files import InputError
from competition.folds import read_folds
from competition.fuse import fuse_batchnorm
from competition.images import load_images
from competition.job import Job
from competition.metrics import find_metric
from competition.predict_folds import held_out_folds
from competition.record import locked, open_run_record
from competition.runs_folder import fold_dir
from competition.runs_kinds import read_run
from competition.runs_tree import Tree, node_dir, take_part
from competition.settle import settle
from competition.workspace import Workspace, check_run_name


def double(model, splits, recipe="quick", name=None, weights="imagenet", run=None, only_fold=None, overrides=(),
           memory=None, workspace=Workspace()):
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
    device.make_repeatable()
    settled = settle(table, model, weights, recipe, overrides)
    settled.size_inside()  # refuses before a run is begun
    settings = settled.recipe
    folds = train.fold_numbers("ONLY_FOLD", only_fold, table)
    folder = table.paths.run(check_run_name(run or f"{model}-{Path(recipe).stem}-double"))
    if settings.synthetic:
        from competition.gan import check_synthetic

        check_synthetic(table, folds)  # refuses before a run is begun
    parts = [take_part(table, node) for node in tree.nodes]
    job = Job(folder, table, model, settled.weights, settings, folds, memory)
    config = {"model": model, "weights": settled.weights.sha256, "recipe": asdict(settings), "classes": table.classes,
              "size": list(table.size), "folds": table.k, **tree.config,
              **find_metric(table.metric).chooses(settings.patience)}
    with locked(folder):
        record = open_run_record(folder, table, config, settings)
        for number, part in enumerate(parts):
            print(f"\nnode {number} of {len(parts)}: {' | '.join(part.classes)}")
            fitting = fit_recipe(settings, table, part, tree.nodes[number])
            train.train_table(replace(job, folder=node_dir(folder, number), table=part, recipe=fitting))
        _merge_folds(job)
        done = _merged(folder, table)
        written = record["finished"] and all((folder / name).exists() for name in ("oof.csv", "oof.npz"))
        if len(done) == table.k and not written:
            train.finish_run(folder, table, settings, record)
        print("\nall nodes together")
        train.print_folds(folder, table, done)
        if len(done) == table.k:
            _report_nodes(folder, parts)
    return folder


def double_seeds(model, splits, recipe="quick", name=None, weights="imagenet", run=None, only_fold=None, overrides=(),
                 memory=None, seeds=1, again=1):
    """`double` with several seeds; seeds, again and what it returns and raises are as of train.train_seeds."""
    return train.train_seeds(seeds, model, recipe, run, overrides, double, again, splits=splits, name=name,
                             weights=weights, only_fold=only_fold, memory=memory)


_TOKENS = re.compile(r'\s*"((?:[^"]|"")*)"\s*|([;|,])|([^;|,"]+)')  # a name in quotes, a sign, a plain name


def quote_name(name):
    """A class name as SPLITS= takes it: in double quotes, its own doubled, where it has signs or outer spaces."""
    plain = re.fullmatch('[^;|,"]+', name) and name == name.strip()
    return name if plain else '"' + name.replace('"', '""') + '"'


def read_splits(text, table):
    """The Tree that a text such as "A" or "A; B,C; C" means.

    Each split, between semicolons, takes the classes that it names out of the group that they are in, at first all:
    they are one branch of a node, and what is left is the other. With bars it makes more than two: "A,B|C". In the end
    every group of several classes has a node that decides between them. A class name that has one of these signs, a
    quote or a space at an end goes in double quotes, its own doubled, as in a CSV. Raises InputError for classes that
    are unknown, named twice or not in one group, for a split that leaves nothing, and for a quote that has no end.
    """
    classes, where = table.classes, table.paths.csv
    if _TOKENS.sub("", text):
        raise InputError(f"SPLITS={text}: a quote has no end, expected names in double quotes, their own doubled")
    splits = [[[]]]
    for quoted, sign, plain in _TOKENS.findall(text):
        if sign == ";":
            splits.append([[]])
        elif sign == "|":
            splits[-1].append([])
        elif quoted or plain.strip():
            splits[-1][-1].append(quoted.replace('""', '"') or plain.strip())
    groups, nodes = [tuple(classes)], []
    for split in splits if splits[-1] != [[]] or len(splits) == 1 else splits[:-1]:  # it may end with a semicolon
        named = [name for branch in split for name in branch]
        if not all(split):
            raise InputError(f"SPLITS={text}: a split names no class, expected some of {', '.join(classes)}")
        if unknown := [name for name in named if name not in classes]:
            raise InputError(f"SPLITS={text}: unknown class {unknown[0]!r}, expected classes of {where}: "
                             f"{', '.join(classes)}")
        if doubled := [name for name in named if named.count(name) > 1]:
            raise InputError(f"SPLITS={text}: {doubled[0]!r} is named twice in one split, expected once")
        group = next(group for group in groups if named[0] in group)
        if apart := [name for name in named if name not in group]:
            raise InputError(f"SPLITS={text}: {named[0]!r} and {apart[0]!r} are parted before, expected classes that "
                             "are still together")
        rest = [name for name in group if name not in named]
        branches = tuple(tuple(name for name in classes if name in branch) for branch in [*split, rest] if branch)
        if len(branches) < 2:
            raise InputError(f"SPLITS={text}: {', '.join(named)} leaves nothing to be told from, expected some of "
                             f"{', '.join(group)}, not all")
        groups.remove(group)
        groups += branches
        nodes.append(branches)
    nodes += [tuple((name,) for name in group) for group in groups if len(group) > 1]
    return Tree(tuple(classes), tuple(nodes))


def fit_recipe(settings, table, part, node):
    """The Recipe of a node: what `settings` says of classes said of branches, with which it may share names."""
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


# ---------------------------------------------------------------------------------------------------------- the merging


def _merged(folder, table):
    """The folds whose merged predictions are there."""
    return [fold for fold in range(table.k)
            if all((fold_dir(folder, fold) / name).exists() for name in ("views.npz", "fold.json"))]


def _merge_folds(job):
    """Write the merged predictions of every fold that all nodes have trained and that lacks them."""
    folder, table, settings, model, weights = job.folder, job.table, job.recipe, job.model, job.weights
    run = read_run(folder, table)
    folds = [fold for fold in range(table.k) if fold not in _merged(folder, table)
             and all((fold_dir(node, fold) / "fold.json").exists() for node in run.node_dirs)]
    if not folds:
        return
    train.start_keras(settings.seed)
    images, features = load_images(table, job.memory), None
    if run.frozen:
        backbone = fuse_batchnorm(build_recipe_backbone(model, table.size, settings, weights))
        room = Room(job.memory and job.memory.features)
        features = train.frozen_features(table, settings, model, weights, images, backbone, room)[0]
    for fold, views in held_out_folds(run, table, folds, settings.views, images, features):
        _save_fold(run, table, fold, views)


def _save_fold(run, table, fold, views):
    """Write what a fold of a double run leaves: its validation predictions a view, and fold.json, its end."""
    directory = fold_dir(run.dir, fold)
    nodes = [files.read_json(fold_dir(node, fold) / "fold.json") for node in run.node_dirs]
    oof.write_fold(directory, table, fold, views)
    labels = table.labels[table.fold == fold]
    files.write_json(directory / "fold.json", {
        "images": len(labels),
        "epochs": sum(node["epochs"] for node in nodes),
        "accuracy": oof.accuracy(views["identity"], labels),
        "log_loss": oof.log_loss(views["identity"], labels),
        "seconds": round(sum(node["seconds"] for node in nodes), 1),
    } | _took(run, nodes))


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
        each = zip(part.classes, oof.per_class_accuracy(probabilities, part.labels))
        print(f"node {number}: {len(part.labels)} images, OOF accuracy {oof.accuracy(probabilities, part.labels):.4f}; "
              + ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in each))
