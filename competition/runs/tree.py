"""A double run: a tree of models, each of which decides between some classes; training/double.py trains it."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import node_dir
from competition.features.heads import predict_heads
from competition.runs.folder import weight_files
from competition.runs.run import Run, read_checked
from competition.runs.single import SingleRun, read_head, read_heads, softmax


@dataclass(frozen=True)
class Tree:
    """Nodes of two or more branches; a branch is the classes below it. Tuples, so that trees can be compared.

    Called with logits it is the `rule` of a TreeRun: the outputs of all nodes lie side by side.
    """

    classes: tuple[str, ...]
    nodes: tuple[tuple[tuple[str, ...], ...], ...]

    @property
    def config(self):
        """The keys that tell a double run from others in its config, a dict."""
        return {"splits": [[list(branch) for branch in node] for node in self.nodes]}

    @cached_property
    def paths(self):
        """int64 [nodes, C]: the branch of each class in each node; where it has none, their number."""
        return np.array(
            [
                [next((b for b, branch in enumerate(node) if name in branch), len(node)) for name in self.classes]
                for node in self.nodes
            ]
        )

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

    def __call__(self, logits, ops=np):
        """Probabilities [..., C] of the logits [..., outputs] of all nodes, side by side."""
        ends = self.ends
        parts = [logits[..., start:end] for start, end in zip([0, *ends], ends)]
        return self.multiply([softmax(part, ops) for part in parts], ops)


class TreeRun(Run):
    """A double run. Its folder has a folder for each node, the SingleRun of its own task."""

    kind = "a double run"
    plain = False

    @staticmethod
    def fits(config):
        return "splits" in config

    @staticmethod
    def count_models(config):
        return len(config["splits"])

    @property
    def tree(self):
        """Its Tree."""
        nodes = tuple(tuple(map(tuple, node)) for node in self.config["splits"])
        return Tree(tuple(self.config["classes"]), nodes)

    @property
    def rule(self):
        return self.tree

    @property
    def node_dirs(self):
        """The folders of its nodes."""
        return [node_dir(self.dir, number) for number in range(self.count_models(self.config))]

    def weight_files(self, k):
        return [path for folder in self.node_dirs for path in weight_files(folder, self.frozen, k)]

    def build_fold_model(self, table, fold):
        """As of Run. Where only heads were trained the nodes share one backbone."""
        import keras
        from keras import layers, ops

        image = keras.Input((*table.size, 3), name="image")
        if self.frozen:
            backbone, matrices = self.build_shared(table)
            found = backbone(image)
            for place, matrix in enumerate(matrices, 1):
                last = place == len(matrices)
                dense = layers.Dense(
                    matrix.shape[-1],
                    None if last else "relu",
                    dtype="float32",
                    name="logits" if last else f"hidden_{place - 1}",
                )
                found = dense(found)
                dense.set_weights([matrix[fold, :-1], matrix[fold, -1]])
            probabilities = self.tree(found, ops)
        else:
            parts = []
            for number, (node, part) in enumerate(self.read_nodes(table)):
                network = node.build_fold_model(part, fold)
                parts.append(keras.Model(network.input, network.output, name=f"node_{number}")(image))
            probabilities = self.tree.multiply(parts, ops)
        return keras.Model(image, probabilities)

    def build_shared(self, table):
        """As of Run. The heads of all nodes lie side by side."""
        nodes = self.read_nodes(table)
        backbone, first = nodes[0][0].build_shared(nodes[0][1])  # all have the same, pretrained
        others = [read_heads(node.dir, table.k) for node, _ in nodes[1:]]
        return backbone, [_side_by_side(layer, place > 0) for place, layer in enumerate(zip(first, *others))]

    def predict_heads(self, fold, features):
        return self.tree.multiply([predict_heads(read_head(folder, fold), features) for folder in self.node_dirs])

    def read_nodes(self, table):
        """(SingleRun, part of the table) of each node. Raises InputError for a node that is none of this table."""
        parts = [take_part(table, node) for node in self.tree.nodes]
        return [
            (SingleRun.from_record(folder, read_checked(folder, part)), part)
            for folder, part in zip(self.node_dirs, parts)
        ]


def take_part(table, node):
    """The part of a FoldTable that a node trains on: the images of its classes, its branches their labels.

    Branches are no grades: where the table is scored by quadratic_kappa, accuracy chooses the epochs of a part. Raises
    InputError where a fold holds out none of them, or leaves none of a branch to train on.
    """
    branch_of = {name: label for label, branch in zip(name_branches(node, table.classes), node) for name in branch}
    rows = np.flatnonzero(table.frame["label"].isin(branch_of))

    def take(frame):
        taken = frame[frame["label"].isin(branch_of)].reset_index(drop=True)
        return taken.assign(label=taken["label"].map(branch_of))

    frame, train_only = take(table.frame), None if table.train_only is None else take(table.train_only)
    if train_only is not None and not len(train_only):
        train_only = None
    always = set() if train_only is None else set(train_only["label"])
    for fold in range(table.k):
        held_out = frame["fold"] == fold
        taught = always | set(frame["label"][~held_out])
        missing = [label for label in branch_of.values() if label not in taught]
        if missing or not held_out.any():
            found = f"no image of {missing[0]} to train on" if missing else "holds out none of " + ", ".join(branch_of)
            raise InputError(
                f"{table.paths.csv}: fold {fold} has {found}, expected some; fewer folds would do (make folds FOLDS=)"
            )
    classes = list(dict.fromkeys(branch_of.values()))
    hashes = {key: files.hash_json([getattr(table, key), node]) for key in ("hash", "data_hash")}
    metric = "accuracy" if table.metric == "quadratic_kappa" else table.metric
    return replace(
        table, frame=frame, train_only=train_only, classes=classes, whole=table, rows=rows, metric=metric, **hashes
    )


def name_branches(node, classes):
    """What to call each branch: its class, or the first of them and how many more there are; each another name."""
    names = []
    for branch in node:
        name = branch[0] if len(branch) == 1 else f"{branch[0]} + {len(branch) - 1} more"
        while len(branch) > 1 and (name in classes or name in names):
            name += "'"
        names.append(name)
    return names


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
