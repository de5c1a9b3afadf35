"""Do pictures and labels belong together, and is what is scored really held out? Five checks, in seconds.

A linear model on pixels is trained beside the same model on inputs of zeros, which can learn nothing but how common the
classes are. Where the first is not better there is nothing in these pictures to learn from, or, far more often, the
labels are those of other pictures. The models are heads as in heads.py, on pixels in place of a backbone's features.

The folds are taken together as two halves, and each half is scored by a model of the other. Which model is better is a
paired test on the same images: labels are dealt anew to the images of a half, a few thousand times, and p is the share
of deals in which the first model would have had as great a lead by luck. Unlike McNemar's test it does not ask for more
accuracy than that of the most common class, which on unbalanced data even a good model may miss: every class counts
alike (the mean of the classes' accuracies). It is exact, however few images there are, because a half's labels had no
part in its predictions. Of all folds together that could not be said, as each one's labels are in the others' models:
where shuffled labels happen to suit the pictures they do so in every fold. So p is twice the smaller one of the halves
(Bonferroni), which holds however they depend on each other.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from competition.base.files import InputError
from competition.base.metrics import accuracy
from competition.base.text import text_table
from competition.base.workspace import Workspace
from competition.data.decode import shrink_size
from competition.data.images import load_images
from competition.data.table import choose_sample, read_folds
from competition.features import heads
from competition.recipes.recipe import Recipe

LIMIT = 4000  # images; more would say the same
STEPS = 400
BATCH = 32  # images that must be learnt by heart
RECIPE = Recipe(frozen_epochs=1, frozen_rate=1e-3, frozen_schedule="one_cycle", batch_size=64)
BLIND = replace(RECIPE, frozen_rate=0.03)  # without inputs a bias a class is all that learns: it has some way to go
DEALS = 4999
BETTER = 0.01  # p up to which the baseline is better than zero inputs
LEAK = 0.001  # p up to which shuffled labels are no chance: one sound data set in a thousand would be called broken


@dataclass(frozen=True)
class Check:
    """One check: what was found beside what is expected, and what it means when they do not agree."""

    check: str
    found: str
    expected: str
    good: bool
    meaning: str


def sanity(name=None, workspace=Workspace()):
    """Run all checks on the fold table `name`, print them as a table and return that as a DataFrame.

    Nothing is written. Raises InputError, one line with what each failed check means, when not all are passed.
    """
    table = read_folds(name, workspace)
    rows = choose_sample(table, LIMIT)
    part = replace(table, frame=table.frame.iloc[rows].reset_index(drop=True), size=shrink_size(table.size))
    pixels = flatten(load_images(part))
    checks = check_pixels(pixels, part.labels, part.fold % 2, len(part.classes))
    frame = pd.DataFrame(
        [
            {"check": c.check, "found": c.found, "expected": c.expected, "verdict": "good" if c.good else "FAILED"}
            for c in checks
        ]
    )
    chosen = "" if len(rows) == len(table.frame) else f" of {len(table.frame)}"
    height, width = part.size
    print(f"{table.name}: {len(rows)}{chosen} images in {len(part.classes)} classes, shrunk to {height}x{width}\n")
    print(text_table(frame))
    if failed := [c.meaning for c in checks if not c.good]:
        raise InputError(f"{table.paths.csv}: {'; '.join(failed)}")
    return frame


def check_pixels(pixels, labels, half, classes):
    """The Checks of pixels float32 [n, d], labels int [n] below `classes`, and `half`, 0 or 1, int [n]."""
    random = np.random.default_rng(0)
    batch = random.permutation(len(labels))[: max(2, min(BATCH, pixels.shape[1] // 2))]
    start, learnt = learn_batch(pixels[batch], labels[batch], classes)
    zeros = np.zeros((len(labels), 1), np.float32)  # of one input: those of more would never move either
    shuffled = random.permutation(labels)
    blind, baseline, lost = (
        train_linear(recipe, inputs, truth, half, classes).argmax(1)
        for recipe, inputs, truth in ((BLIND, zeros, labels), (RECIPE, pixels, labels), (RECIPE, pixels, shuffled))
    )
    common = sum(np.bincount(labels[half == h]).max() for h in np.unique(half)) / len(labels)
    seeing = np.mean(blind == labels)
    lead = lead_by_chance(baseline, blind, labels, half, random)
    luck = lead_by_chance(lost, blind, shuffled, half, random)
    scores = [mean_recall(*pair) for pair in ((baseline, labels), (blind, labels), (lost, shuffled))]
    return [
        Check(
            "loss of a head of zeros",
            f"{start:.4f}",
            f"ln({classes}) = {np.log(classes):.4f}",
            abs(start - np.log(classes)) < 1e-3,
            "the loss at the start is not that of equally likely classes",
        ),
        Check(
            f"{len(batch)} images learnt by heart",
            f"accuracy {learnt:.3f}",
            "1.000",
            learnt == 1,
            "one batch cannot be learnt by heart, as where the same picture has two labels or pictures are blank",
        ),
        Check(
            "zero inputs",
            f"accuracy {seeing:.3f}",
            f"at most {common:.3f}, the most common class",
            seeing <= common + 1e-9,
            "a model without inputs beats the most common class",
        ),
        Check(
            "baseline on pixels",
            f"accuracy {np.mean(baseline == labels):.3f}, of the mean class {scores[0]:.3f}, p = {lead:.4f}",
            f"above {scores[1]:.3f} of zero inputs, p up to {BETTER}",
            lead <= BETTER and scores[0] > scores[1],
            f"a model on pixels is not better than one on zero inputs (p = {lead:.2f}): labels or pictures are "
            f"broken, unless {len(labels)} pictures are too few",
        ),
        Check(
            "baseline, labels shuffled",
            f"of the mean class {scores[2]:.3f}, p = {luck:.4f}",
            f"chance, {1 / len(np.unique(labels)):.3f}, p above {LEAK}",
            luck > LEAK,
            "labels that were shuffled are predicted better than by chance: what is held out is known in training",
        ),
    ]


def train_linear(recipe, inputs, labels, fold_of, classes):
    """Out-of-fold probabilities float32 [n, classes] of linear models on inputs float32 [n, d]."""
    return _train(recipe, inputs, labels, fold_of, classes, np.unique(fold_of))[1]


def learn_batch(inputs, labels, classes):
    """The loss before the first step and the accuracy after the last of a model that is trained on one batch alone."""
    twice = np.arange(len(labels)).repeat(2)  # each image once to train on and once to be scored on
    state, probabilities = _train(
        replace(RECIPE, batch_size=len(labels)), inputs[twice], labels[twice], np.arange(len(twice)) % 2, classes, [0]
    )
    return state.log[0, 0, 0, 0], accuracy(probabilities[::2], labels)


def _train(recipe, inputs, labels, fold_of, classes, folds):
    """The Heads of these folds after STEPS steps, and what they say about the images held out."""
    epochs = -(-STEPS // heads.head_steps(fold_of, recipe.batch_size))
    recipe = replace(recipe, frozen_epochs=epochs)
    state = heads.start_heads(1, len(folds), inputs.shape[1], classes)
    for _ in range(epochs):
        found = heads.train_epoch(state, [recipe], [inputs], inputs, labels, fold_of, folds)
    probabilities = np.zeros((len(labels), classes), np.float32)
    for fold, (values,) in zip(folds, found):
        probabilities[fold_of == fold] = values
    return state, probabilities


def lead_by_chance(predicted, reference, labels, fold_of, random):
    """p of the lead in mean recall that the classes `predicted` have over `reference`; int [n] each.

    One-sided permutation tests, one a fold (the deal that was found counts as one: Phipson and Smyth 2010), together by
    Bonferroni. Exact where the predictions of a fold owe nothing to its labels.
    """
    folds = [fold_of == fold for fold in np.unique(fold_of)]
    return min(1, len(folds) * min(_lead_by_chance(predicted[f], reference[f], labels[f], random) for f in folds))


def _lead_by_chance(predicted, reference, labels, random):
    counts = np.bincount(labels)
    weights = 1 / np.maximum(counts, 1) / np.count_nonzero(counts)

    def lead(truth):
        return (weights[truth] * ((predicted == truth) * 1.0 - (reference == truth))).sum()

    found = lead(labels) - 1e-9
    return (1 + sum(lead(random.permutation(labels)) >= found for _ in range(DEALS))) / (DEALS + 1)


def mean_recall(predicted, labels):
    """The mean, over the classes that there are, of the share of a class's images that are predicted as it."""
    counts = np.bincount(labels)
    return float(
        (np.bincount(labels[predicted == labels], minlength=len(counts))[counts > 0] / counts[counts > 0]).mean()
    )


def flatten(images):
    """uint8 [n, h, w, 3] -> float32 [n, d]: the mean picture is taken away, so that dark and pale data train alike."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels -= pixels.mean(0)
    return pixels / max(float(pixels.std()), 1e-3)
