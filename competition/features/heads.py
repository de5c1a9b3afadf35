"""Heads on the features of a frozen backbone: those of all folds, and of a grid of settings, train as one program.

A head is one dense layer, or a few with ReLU between (the recipe's `head`), so that an epoch of it is a few small
matrix products: plain numpy, batched over settings and folds, costs seconds where a compiled model for each fold costs
minutes, and gives every head bit for bit what it would have got alone. A grid of settings costs less than as many runs,
because a batch's features are fetched once for all.
"""

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from competition.base.arrays import Rows
from competition.base.metrics import METRICS, accuracy
from competition.features.augment import draw_numbers, plan_copies

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # Adam: Kingma and Ba 2015, with Keras' epsilon
SWEPT = ("frozen_rate", "frozen_weight_decay", "dropout", "label_smoothing", "class_weight")  # what a grid may vary


@dataclass
class Layer:
    """A dense layer of S settings x F folds of heads: matrices whose last row is the bias."""

    weights: np.ndarray  # float32 [S, F, inputs + 1, outputs]
    mean: np.ndarray  # float32, like weights: Adam's mean of the gradients
    square: np.ndarray  # float32, like weights: Adam's mean of their squares
    best: np.ndarray  # float32, like weights: after each head's best epoch


@dataclass
class Heads(Layer):
    """S settings x F folds of heads after some epochs: all that their next epoch depends on.

    It is their last layer, [d + 1, C] each, and holds those before it.
    """

    best_epoch: np.ndarray  # int64 [S, F], 1-based
    best_score: np.ndarray  # float64 [S, F, 2]: Metric.quality of its validation predictions
    log: np.ndarray  # float64 [epochs done, S, F, 4]: loss, accuracy, validation loss, validation accuracy
    hidden: tuple = ()  # Layers, from the features on

    @property
    def layers(self):
        return [*self.hidden, self]

    def of(self, folds):
        """The Heads of some of the F folds, by their places."""
        return read_heads(
            {name: values[:, :, folds] if name == "log" else values[:, folds] for name, values in self.arrays().items()}
        )

    def best_of(self, place):
        """The best head of each setting for the fold at this place: a list of matrices [S, inputs + 1, outputs]."""
        return [layer.best[:, place] for layer in self.layers]

    def arrays(self):
        """{name: array}, of which read_heads makes it again."""
        hidden = {
            f"hidden_{i}_{name}": values for i, layer in enumerate(self.hidden) for name, values in vars(layer).items()
        }
        return {name: values for name, values in vars(self).items() if name != "hidden"} | hidden

    def stopped(self, patience):
        """bool [S, F]: which heads have had `patience` epochs without a better one; none where patience is 0."""
        return (len(self.log) - self.best_epoch >= patience) & (patience > 0)


def start_heads(settings, folds, dimension, classes, hidden=(), seed=0):
    """Heads whose last layer starts at zero: before the first step every class is equally likely.

    hidden   units of the layers before it, which all heads start with the same random weights of (He et al. 2015)
    """
    shape, random = (settings, folds), np.random.default_rng([seed, 0, 3])  # of a kind that train_epoch does not draw
    layers = []
    for before, units in pairwise([dimension, *hidden, classes]):
        layers.append([np.zeros((*shape, before + 1, units), np.float32) for _ in range(4)])
        if len(layers) <= len(hidden):
            layers[-1][0][..., :-1, :] = random.normal(0, np.sqrt(2 / before), (before, units))
    return Heads(
        *layers.pop(),
        best_epoch=np.zeros(shape, np.int64),
        best_score=np.tile([-1.0, 0.0], (*shape, 1)),
        log=np.zeros((0, *shape, 4)),
        hidden=tuple(Layer(*layer) for layer in layers),
    )


def read_heads(arrays):
    """The Heads of {name: array}, see Heads.arrays; KeyError for an array that is missing."""
    hidden = []
    while f"hidden_{len(hidden)}_weights" in arrays:
        hidden.append(Layer(*(arrays[f"hidden_{len(hidden)}_{f.name}"] for f in fields(Layer))))
    return Heads(*(arrays[f.name] for f in fields(Heads) if f.name != "hidden"), hidden=tuple(hidden))


def train_epoch(
    heads, settings, pool, plain, labels, fold_of, folds, copies=None, soft=None, metric=METRICS["accuracy"]
):
    """Train every head for one more epoch, in place; the validation probabilities, for each fold float32 [S, n_f, C].

    heads     Heads of S settings x F folds
    settings  S Recipes that differ in nothing but SWEPT
    pool      V arrays float32 [n, d]: features of the views or copies to train on; of each image one is drawn each time
    plain     float32 [n, d]: features of the images as they are, for validation; these may be arrays.Stored as well
    labels    int [n]; fold_of: int [n], the fold in which an image is held out; folds: F numbers of folds to train
    copies    augment.Copies, with their features, to train on as well
    soft      float32 [n, C]: what to learn of an image in place of its label (lessons.Taught)
    metric    metrics.Metric: whose validation score tells the best epoch, where the recipe has `patience`

    What is drawn follows from seed, fold and epoch alone. A head that has stopped goes on, but its best stays.
    """
    recipe, epoch = settings[0], len(heads.log)
    classes, size = heads.weights.shape[-1], recipe.batch_size
    copies = copies or plan_copies(labels, fold_of, np.zeros(classes, np.int64))
    steps = head_steps(fold_of, size, copies.needed)
    draws = [np.random.default_rng([recipe.seed, fold, 0, epoch]) for fold in folds]
    rows = [draw_numbers(copies, labels, fold_of, fold, random) for fold, random in zip(folds, draws)]
    orders = np.stack([_order(r, steps * size, random).reshape(steps, size) for r, random in zip(rows, draws)], 1)
    noises = [np.random.default_rng([recipe.seed, fold, 2, epoch]) for fold in folds]  # 1 stands for the second phase
    taught = [labels[copies.sources[r]] for r in rows]
    class_weight = np.stack([[weigh_classes(s.class_weight, truth, classes) for truth in taught] for s in settings])
    dropout, smoothing, rate, decay = (
        np.array([getattr(s, key) for s in settings], np.float32)[:, None, None, None]
        for key in ("dropout", "label_smoothing", "frozen_rate", "frozen_weight_decay")
    )
    decays = [
        decay * np.append(np.ones(layer.weights.shape[2] - 1, np.float32), 0)[:, None]  # not of the bias
        for layer in heads.layers
    ]
    rate_of = schedule(recipe.frozen_schedule, recipe.warmup)
    fold, sums = np.arange(len(folds))[:, None], np.zeros((2, *heads.weights.shape[:2]))
    batch = np.ones((len(folds), size, pool[0].shape[1] + 1), np.float32)  # the last column stays 1: the bias
    for step, chosen in enumerate(orders):  # chosen: int [F, B]
        truth = labels[copies.sources[chosen]]
        for f, random in enumerate(draws):
            _gather(pool, copies.features, chosen[f], random, batch[f, :, :-1])
        inputs = [np.repeat(batch[None], len(settings), 0) if dropout.any() else batch[None]]  # of each layer
        _drop(inputs[0], dropout, noises)
        for layer in heads.hidden:
            inputs.append(np.ones((*heads.weights.shape[:2], size, layer.weights.shape[-1] + 1), np.float32))
            np.maximum(inputs[-2] @ layer.weights, 0, out=inputs[-1][..., :-1])
            _drop(inputs[-1], dropout, noises)
        targets = np.eye(classes, dtype=np.float32)[truth] if soft is None else soft[copies.sources[chosen]]
        targets = targets * (1 - smoothing) + smoothing / classes
        probabilities, logs = softmax_and_log(inputs[-1] @ heads.weights)
        weight = class_weight[:, fold, truth]  # [S, F, B]
        sums[0] -= (weight * (targets * logs).sum(-1)).mean(-1)
        sums[1] += (probabilities.argmax(-1) == truth).mean(-1)
        slope = (probabilities - targets) * (weight / size)[..., None]  # of the loss, in what the layer puts out
        done = epoch * steps + step + 1
        now = rate * np.float32(rate_of(done / (recipe.frozen_epochs * steps)))
        for layer, decay in zip(heads.layers[::-1], decays[::-1]):
            found = inputs.pop()
            gradient = np.swapaxes(found, -1, -2) @ slope
            if inputs:
                slope = slope @ np.swapaxes(layer.weights[..., :-1, :], -1, -2) * (found[..., :-1] > 0) / (1 - dropout)
            _adamw(layer, gradient, now, decay, done)
    return _validate(heads, recipe.patience, sums / steps, plain, labels, fold_of, folds, metric)


def predict_heads(head, features):
    """Probabilities float32 [..., n, C] of heads for features [n, d], which may lie on disk.

    head   a list of matrices [..., inputs + 1, outputs], one for each layer
    """
    return np.concatenate(
        [
            softmax_and_log(head_logits(head, np.asarray(features[i : i + 4096], np.float32)))[0]
            for i in range(0, len(features), 4096)
        ],
        -2,
    )


def head_logits(head, features):
    """Logits float32 [..., n, C] of such heads for features float32 [n, d]."""
    found = features
    for matrix in head[:-1]:
        found = np.maximum(found @ matrix[..., :-1, :] + matrix[..., -1:, :], 0)
    return found @ head[-1][..., :-1, :] + head[-1][..., -1:, :]


def head_steps(fold_of, batch_size, copies=np.zeros((1, 1), np.int64)):
    """Steps of an epoch, for every fold as many: the full batches of the largest training set, at least one.

    copies   int [k, classes], those that each fold trains on besides its images
    """
    return max(1, int((len(fold_of) - np.bincount(fold_of[fold_of >= 0]) + copies.sum(1)).max()) // batch_size)


def weigh_classes(kind, labels, classes):
    """What an image of each class counts in the loss, float32 [classes].

    kind   "none": 1; "balanced": n / (classes * n_c), as in King and Zeng 2001 and in scikit-learn's
           compute_class_weight; or {class name: weight}, all classes in their order (settle.fit_classes)
    labels int [n], those of the training images alone, and of their copies
    """
    if isinstance(kind, dict):
        return np.array(list(kind.values()), np.float32)
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    return (len(labels) / (classes * counts) if kind == "balanced" else np.ones(classes)).astype(np.float32)


def schedule(kind, warmup):
    """The learning rate's share of its peak as a function of the share of the steps that is done."""
    if kind == "constant":
        return lambda done: 1.0

    def one_cycle(done):
        if done < warmup:
            return done / warmup * 0.96 + 0.04
        return 0.5 * (1 + np.cos(np.pi * (done - warmup) / max(1 - warmup, 1e-9)))

    return one_cycle


def softmax_and_log(logits):
    """Probabilities [..., C] of logits [..., C], and their logarithms."""
    logs = logits - logits.max(-1, keepdims=True)
    exponent = np.exp(logs)
    total = exponent.sum(-1, keepdims=True)
    return exponent / total, logs - np.log(total)


def _order(rows, length, random):
    """Row numbers, shuffled anew as often as it takes to fill `length`."""
    shuffled = [random.permutation(rows) for _ in range(-(-length // len(rows)))]
    return np.concatenate(shuffled)[:length]


def _gather(pool, copies, numbers, random, out):
    """Write the features of `numbers` (augment.Copies) into `out`, an image's of a view or copy drawn at random."""
    n = len(pool[0])
    drawn = np.where(numbers < n, random.integers(len(pool), size=len(numbers)), -1)
    for number, features in enumerate(pool):
        out[drawn == number] = features[numbers[drawn == number]]
    if (drawn < 0).any():
        out[drawn < 0] = copies[numbers[drawn < 0] - n]


def _drop(inputs, dropout, noises):
    """Dropout, in place, of inputs [S, F, B, d + 1] but for the last column; a generator of noise for each fold."""
    if dropout.any():
        noise = np.stack([random.random((inputs.shape[2], inputs.shape[3] - 1), np.float32) for random in noises])
        inputs[..., :-1] *= np.where(noise >= dropout, 1 / (1 - dropout), np.float32(0))


def _adamw(layer, gradient, rate, decay, done):
    """One step of AdamW (Loshchilov and Hutter 2019), as Keras does it; `done` counts it."""
    layer.mean += (gradient - layer.mean) * np.float32(1 - BETA_1)
    layer.square += (gradient * gradient - layer.square) * np.float32(1 - BETA_2)
    layer.weights -= layer.weights * (rate * decay)
    scale = rate * np.float32(np.sqrt(1 - BETA_2**done) / (1 - BETA_1**done))
    layer.weights -= scale * layer.mean / (np.sqrt(layer.square) + np.float32(EPSILON))


def _validate(heads, patience, means, plain, labels, fold_of, folds, metric):
    """Score the heads on their validation images, note it, keep what is best; the probabilities."""
    going = ~heads.stopped(patience)
    held_out = [Rows(plain, np.flatnonzero(fold_of == fold)) for fold in folds]
    probabilities = [
        predict_heads([layer.weights[:, f] for layer in heads.layers], features) for f, features in enumerate(held_out)
    ]
    row, score = np.empty((*going.shape, 4)), np.empty((*going.shape, 2))
    row[..., :2] = np.moveaxis(means, 0, -1)
    for f, fold in enumerate(folds):
        truth = labels[fold_of == fold]
        score[:, f] = [metric.quality(probs, truth) for probs in probabilities[f]]
        row[:, f, 2] = -score[:, f, 1]
        row[:, f, 3] = [accuracy(probs, truth) for probs in probabilities[f]]
    heads.log = np.append(heads.log, row[None], 0)
    old = heads.best_score
    better = (score[..., 0] > old[..., 0]) | ((score[..., 0] == old[..., 0]) & (score[..., 1] > old[..., 1]))
    kept = going & (better | (heads.best_epoch == 0) | (not patience))  # the first, whatever it is worth
    heads.best_score[kept], heads.best_epoch[kept] = score[kept], len(heads.log)
    for layer in heads.layers:
        layer.best[kept] = layer.weights[kept]
    return probabilities
