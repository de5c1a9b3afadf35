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
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from competition import device, files, oof, train
from competition.arrays import Room, Rows, read_memory
from competition.backbones import network_size, pretrained, resolve_weights
from competition.features import MS, predict
from competition.files import InputError
from competition.folds import read_folds
from competition.fuse import fuse_batchnorm
from competition.heads import predict_heads
from competition.images import load_images
from competition.metrics import find_metric
from competition.recipes import read_recipe
from competition.views import VIEWS


@dataclass(frozen=True)
class Tree:
    """Nodes of two or more branches; a branch is the classes below it. Tuples, so that trees can be compared."""

    classes: tuple[str, ...]
    nodes: tuple[tuple[tuple[str, ...], ...], ...]

    @cached_property
    def paths(self):
        """int64 [nodes, C]: the branch of each class in each node; where it has none, their number."""
        return np.array([
            [next((b for b, branch in enumerate(node) if name in branch), len(node)) for name in self.classes]
            for node in self.nodes
        ])

    @property
    def ends(self):
        """Where each node's outputs end in all of them, side by side."""
        return np.cumsum([len(node) for node in self.nodes]).tolist()

    def multiply(self, parts, ops=np):
        """The product rule: probabilities [..., C] of those of each node's branches, a list of [..., branches].

        `ops` is numpy or keras.ops, according to what the parts are.
        """
        product = ops.ones_like(parts[0][..., :1])
        for part, path in zip(parts, self.paths):
            factors = ops.concatenate([part, ops.ones_like(part[..., :1])], -1)  # 1 for classes elsewhere
            product = product * ops.take(factors, path, -1)
        return product


def probabilities_of(tree, logits, ops=np):
    """What logits [..., outputs] of a run's heads say of the classes: of a Tree's nodes side by side, or None's own."""
    if tree is not None:
        ends = tree.ends
        parts = [logits[..., start:end] for start, end in zip([0, *ends], ends)]
        return tree.multiply([probabilities_of(None, part, ops) for part in parts], ops)
    powers = ops.exp(logits - ops.max(logits, -1, keepdims=True))
    return powers / ops.sum(powers, -1, keepdims=True)


def double(model, splits, recipe="quick", name=None, weights="imagenet", run=None, only_fold=None, overrides=(),
           memory=None):
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
    table = read_folds(name)
    tree = read_splits(splits, table)
    device.make_repeatable()
    chosen = resolve_weights(model, weights)
    settings = read_recipe(recipe, overrides, from_random=not pretrained(model, chosen))
    settings = train.fit_classes(table, train.fit_to_shape(table, settings))
    network_size(model, table.size, settings.image_size or None, settings.least_size)
    folds = train.fold_numbers("ONLY_FOLD", only_fold, table)
    folder = files.RUNS / table.name / train._run_name(run or f"{model}-{Path(recipe).stem}-double")
    if settings.synthetic:
        from competition.gan import check_synthetic

        check_synthetic(table, folds)  # refuses before a run is begun
    parts = [take_part(table, node) for node in tree.nodes]
    config = {"model": model, "weights": chosen.sha256, "recipe": asdict(settings), "classes": table.classes,
              "size": list(table.size), "folds": table.k, "splits": _lists(tree.nodes),
              **find_metric(table.metric).chooses(settings.patience)}
    with train.locked(folder):
        record = train._open_record(folder, table, config, settings)
        for number, part in enumerate(parts):
            print(f"\nnode {number} of {len(parts)}: {' | '.join(part.classes)}")
            train.train_table(folder / f"node_{number}", part, fit_recipe(settings, table, part, tree.nodes[number]),
                              model, chosen, folds, memory)
        _merge_folds(folder, table, settings, model, chosen, memory)
        done = _merged(folder, table)
        written = record["finished"] and all((folder / name).exists() for name in ("oof.csv", "oof.npz"))
        if len(done) == table.k and not written:
            train._finish(folder, table, settings, record)
        print("\nall nodes together")
        train._report(folder, table, done)
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
    classes, where = table.classes, files.FOLDS / f"{table.name}.csv"
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


def take_part(table, node):
    """The part of a FoldTable that a node trains on: the images of its classes, its branches their labels.

    Branches are no grades: where the table is scored by quadratic_kappa, accuracy chooses the epochs of a part. Raises
    InputError where a fold holds out none of them, or leaves none of a branch to train on.
    """
    branch_of = {name: label for label, branch in zip(name_branches(node, table.classes), node) for name in branch}
    rows = np.flatnonzero(table.frame["label"].isin(branch_of))
    frame = table.frame.iloc[rows].reset_index(drop=True)
    frame["label"] = frame["label"].map(branch_of)
    for fold in range(table.k):
        held_out = frame["fold"] == fold
        taught = set(frame["label"][~held_out])
        missing = [label for label in branch_of.values() if label not in taught]
        if missing or not held_out.any():
            found = f"no image of {missing[0]} to train on" if missing else "holds out none of " + ", ".join(branch_of)
            raise InputError(f"{files.FOLDS / table.name}.csv: fold {fold} has {found}, expected some; fewer folds "
                             "would do (make folds FOLDS=)")
    classes = list(dict.fromkeys(branch_of.values()))
    hashes = {key: files.hash_json([getattr(table, key), node]) for key in ("hash", "data_hash")}
    metric = "accuracy" if table.metric == "quadratic_kappa" else table.metric
    return replace(table, frame=frame, classes=classes, whole=table, rows=rows, metric=metric, **hashes)


def name_branches(node, classes):
    """What to call each branch: its class, or the first of them and how many more there are; each another name."""
    names = []
    for branch in node:
        name = branch[0] if len(branch) == 1 else f"{branch[0]} + {len(branch) - 1} more"
        while len(branch) > 1 and (name in classes or name in names):
            name += "'"
        names.append(name)
    return names


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


def read_tree(run):
    """The Tree of a double train.Run; None for another one."""
    if "splits" not in run.config:
        return None
    nodes = tuple(tuple(map(tuple, node)) for node in run.config["splits"])
    return Tree(tuple(run.config["classes"]), nodes)


def model_dirs(run):
    """The folders that hold a train.Run's fold models: its own, or of a double run those of its nodes."""
    tree = read_tree(run)
    return [run.dir] if tree is None else [run.dir / f"node_{number}" for number in range(len(tree.nodes))]


def build_fold_model(run, table, fold):
    """A double run's model of one fold: raw RGB float32 [n, h, w, 3], 0..255 -> probabilities float32 [n, classes].

    Where only heads were trained the nodes share one backbone.
    """
    import keras
    from keras import layers, ops

    tree = read_tree(run)
    image = keras.Input((*table.size, 3), name="image")
    if run.frozen:
        backbone, matrices = build_shared(run, table)
        found = backbone(image)
        for place, matrix in enumerate(matrices, 1):
            last = place == len(matrices)
            dense = layers.Dense(matrix.shape[-1], None if last else "relu", dtype="float32",
                                 name="logits" if last else f"hidden_{place - 1}")
            found = dense(found)
            dense.set_weights([matrix[fold, :-1], matrix[fold, -1]])
        probabilities = probabilities_of(tree, found, ops)
    else:
        parts = []
        for number, (node, part) in enumerate(_read_nodes(run, table)):
            network = train.build_fold_model(node, part, fold)
            parts.append(keras.Model(network.input, network.output, name=f"node_{number}")(image))
        probabilities = tree.multiply(parts, ops)
    return keras.Model(image, probabilities)


def build_shared(run, table):
    """A frozen double run's backbone [n, h, w, 3] -> [n, d], and the heads of its k folds.

    Those of all nodes lie side by side, a list of a float32 [k, inputs + 1, outputs] for each layer whose last row is
    the bias, and probabilities_of makes probabilities of what they give.
    """
    nodes = _read_nodes(run, table)
    backbone, first = train.build_shared(*nodes[0])  # all have the same, pretrained
    others = [[np.stack(layer) for layer in zip(*(train._read_head(node.dir, fold) for fold in range(table.k)))]
              for node, _ in nodes[1:]]
    return backbone, [_side_by_side(layer, place > 0) for place, layer in enumerate(zip(first, *others))]


def _side_by_side(matrices, apart):
    """Matrices [k, inputs + 1, outputs] as one; `apart`: each has inputs of its own, else all have the same."""
    if not apart:
        return np.concatenate(matrices, -1)
    inputs, outputs = (sum(matrix.shape[axis] - extra for matrix in matrices) for axis, extra in ((1, 1), (2, 0)))
    whole = np.zeros((len(matrices[0]), inputs + 1, outputs), np.float32)
    row = column = 0
    for matrix in matrices:
        _, height, width = matrix.shape
        whole[:, row : row + height - 1, column : column + width] = matrix[:, :-1]
        whole[:, -1, column : column + width] = matrix[:, -1]
        row, column = row + height - 1, column + width
    return whole


def _read_nodes(run, table):
    """(Run, part of the table) of each node of a double run."""
    parts = [take_part(table, node) for node in read_tree(run).nodes]
    return [(train.read_run(folder, part), part) for folder, part in zip(model_dirs(run), parts)]


def _lists(value):
    return [_lists(entry) for entry in value] if isinstance(value, tuple) else value


# ---------------------------------------------------------------------------------------------------------- the merging


def _merged(folder, table):
    """The folds whose merged predictions are there."""
    return [fold for fold in range(table.k)
            if all((folder / f"fold_{fold}" / name).exists() for name in ("views.npz", "fold.json"))]


def _merge_folds(folder, table, settings, model, weights, memory):
    """Write the merged predictions of every fold that all nodes have trained and that lacks them."""
    run = train.read_run(folder, table)
    folds = [fold for fold in range(table.k) if fold not in _merged(folder, table)
             and all((node / f"fold_{fold}" / "fold.json").exists() for node in model_dirs(run))]
    if not folds:
        return
    train.start_keras(settings.seed)
    images = load_images(table, memory)
    if run.frozen:
        backbone = fuse_batchnorm(train._build_backbone(model, table, settings, weights))
        room = Room(memory and memory.features)
        features = train.frozen_features(table, settings, model, weights, images, backbone, room)[0]
        predict_fold = _by_heads(run, settings.views, features)
    else:
        predict_fold = _by_models(run, table, settings.views, images)
    for fold in folds:
        held_out = np.flatnonzero(table.fold == fold)
        _save_fold(run, table, fold, dict(zip(settings.views, predict_fold(fold, held_out))))


def _by_heads(run, views, features):
    """fold, rows -> probabilities float32 [n, C] for each view, by the heads of all nodes on `features`, one a view."""
    tree = read_tree(run)

    def predict_fold(fold, rows):
        heads = [train._read_head(node, fold) for node in model_dirs(run)]
        for view in range(len(views)):
            yield tree.multiply([predict_heads(head, Rows(features[view], rows)) for head in heads])

    return predict_fold


def _by_models(run, table, views, images):
    """The same by whole networks: always the same one, traced once, with the weights of one fold after the other."""
    network = None

    def predict_fold(fold, rows):
        nonlocal network
        model = build_fold_model(run, table, fold)
        network = network or model
        network.set_weights(model.get_weights())
        for view in views:
            yield predict(network, Rows(images, rows, VIEWS[view]))

    return predict_fold


def _save_fold(run, table, fold, views):
    """Write what a fold of a double run leaves: its validation predictions a view, and fold.json, its end."""
    directory = run.dir / f"fold_{fold}"
    nodes = [files.read_json(node / f"fold_{fold}" / "fold.json") for node in model_dirs(run)]
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
        probabilities = oof.read_oof(folder / f"node_{number}", part).probs[0]
        each = zip(part.classes, oof.per_class_accuracy(probabilities, part.labels))
        print(f"node {number}: {len(part.labels)} images, OOF accuracy {oof.accuracy(probabilities, part.labels):.4f}; "
              + ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in each))
