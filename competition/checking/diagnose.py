"""Why class ids disagree with the truth: which one change of the images or of the ids would make them right.

A model that was trained well and is asked wrongly answers well when it is asked as in its training. So the same zip
sees the images as common preprocessings leave them, and its ids are read in other orders. A change is believed where
the same images come out right far more often, by McNemar's exact test; a second one only where it adds as much again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from competition.base.statistics import compare_accuracies

SURE = 3e-4  # p up to which a change is believed: some thirty are tried, so that p of all is 0.01
GAIN = 0.05  # and by how much, at least, it must raise the accuracy
SIMPLER = 0.02  # by how much a stranger order of the classes must be better than a common one
CHANCE = 0.01  # p from which an accuracy is no better than guessing
AS_SENT = "as sent"
MEANS, DEVIATIONS = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])  # of ImageNet, for PyTorch
CAFFE = np.float32([103.939, 116.779, 123.68])  # of ImageNet in the order BGR


@dataclass(frozen=True)
class Version:
    """Images as a preprocessing leaves them. Where the zip wants them so, what is wrong with it and how to mend it."""

    change: Callable  # float32 [n, h, w, 3], raw RGB 0..255 -> float32 of the same shape
    done: str  # "accuracy ... when the images are <done> first"
    wrong: str
    advice: str


_MISSING = (
    "Do in predict what was done to the training images, before anything else: `X = {}`. Best of all, make it "
    "a layer of the network, so that it cannot be forgotten."
)
VERSIONS = {
    AS_SENT: Version(lambda x: x, "left as they are", "", ""),
    "255": Version(
        lambda x: x / 255, "divided by 255", "model.py forgets to divide the images by 255", _MISSING.format("X / 255")
    ),
    "-1..1": Version(
        lambda x: x / 127.5 - 1,
        "scaled to -1..1",
        "model.py forgets to scale the images to -1..1",
        _MISSING.format("X / 127.5 - 1"),
    ),
    "bgr": Version(
        lambda x: x[..., ::-1],
        "turned from RGB to BGR",
        "red and blue are swapped: the network was trained on BGR images, as cv2 reads them",
        _MISSING.format("X[..., ::-1]"),
    ),
    "caffe": Version(
        lambda x: x[..., ::-1] - CAFFE,
        "turned to BGR and centred by ImageNet's means",
        "model.py forgets preprocess_input of VGG or ResNet (BGR, less ImageNet's means)",
        _MISSING.format("tf.keras.applications.vgg16.preprocess_input(X)"),
    ),
    "torch": Version(
        lambda x: (x / 255 - MEANS) / DEVIATIONS,
        "normalised by ImageNet's means and deviations",
        "model.py forgets the normalisation by ImageNet's means and deviations",
        _MISSING.format("(X / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]"),
    ),
    "standard": Version(
        lambda x: (
            (x - x.mean((1, 2, 3), keepdims=True))
            / np.maximum(x.std((1, 2, 3), keepdims=True), 1 / np.sqrt(np.prod(x.shape[1:])))
        ),
        "standardised one by one",
        "model.py forgets to standardise each image",
        _MISSING.format("tf.image.per_image_standardization(X)"),
    ),
    "times 255": Version(
        lambda x: x * 255,
        "multiplied by 255",
        "the images are divided by 255 twice, or the network wants 0..255",
        "Many networks of keras.applications scale by themselves (EfficientNet, ConvNeXt, "
        "MobileNetV3): take `/ 255` out of predict.",
    ),
    "back from -1..1": Version(
        lambda x: (x + 1) * 127.5,
        "scaled back from -1..1 to 0..255",
        "the images are scaled to -1..1 twice, or the network wants 0..255",
        "The network scales by itself: take the scaling out of predict.",
    ),
    "sides": Version(
        lambda x: x.swapaxes(1, 2),
        "turned with height and width swapped",
        "height and width are swapped",
        "Images come as [n, height, width, 3]: look for a transpose, or "
        "for (width, height) where (height, width) is meant.",
    ),
}


def make_versions(images):
    """The images uint8 [n, h, w, 3] in all VERSIONS of the same shape: V names, float32 [V * n, h, w, 3]."""
    images = images.astype(np.float32)
    found = {name: version.change(images) for name, version in VERSIONS.items()}
    found = {name: changed for name, changed in found.items() if changed.shape == images.shape}
    return list(found), np.concatenate(list(found.values()))


@dataclass(frozen=True)
class Cause:
    """What would make the answers right: `accuracy` then."""

    accuracy: float
    version: str = AS_SENT  # of the images
    shift: int = 0  # what the ids are too high by, where that is all
    order: dict | None = None  # {id that it answers: class id meant}, where the classes are in another order


def find_cause(answers, truth, classes, sure=SURE):
    """The Cause that makes ids right far more often than as they are; accuracy as sent where none does.

    answers  {version: ids int [n]}, AS_SENT first, of the same images
    truth    class ids int64 [n]; at least two images a class tell an order
    classes  how many
    sure     p up to which it is believed
    """
    right = answers[AS_SENT] == truth
    best = Cause(float(right.mean())), right
    for steps in (1, 2):
        found = [
            (Cause(float(hits.mean()), version, shift, order), hits)
            for version, ids in answers.items()
            for shift, order, hits in _readings(ids, truth, classes)
            if (version != AS_SENT) + (order is not None or shift != 0) == steps
        ]
        top = max(found, key=lambda pair: pair[0].accuracy, default=None)
        if top:
            top = next(pair for pair in found if pair[0].accuracy >= top[0].accuracy - SIMPLER)
        if top and is_better(top[1], best[1], sure):
            best = top
    return best[0]


def is_better(right, reference, sure=SURE):
    """Whether the first of two bool [n] of the same images is so far ahead that it is no luck."""
    gain, p = compare_accuracies(right, reference)
    return gain > GAIN and p < sure


def _readings(ids, truth, classes):
    """Ways to read ids: (shift, order, which images bool [n] come out right). The order is fitted on one half of each
    class and judged on the other."""
    yield 0, None, ids == truth
    if classes > 2 or ids.max(initial=0) >= classes or ids.min(initial=0) < 0:
        for shift in (1, -1):
            yield shift, None, (ids - shift) % classes == truth
    half = np.zeros(len(truth), int)
    for label in np.unique(truth):
        half[truth == label] = np.arange((truth == label).sum()) % 2
    right = np.zeros(len(truth), bool)
    for part in (0, 1):
        order = fit_order(ids[half != part], truth[half != part], classes)
        right[half == part] = [order.get(one, -1) == true for one, true in zip(ids[half == part], truth[half == part])]
    yield 0, fit_order(ids, truth, classes), right


def fit_order(ids, truth, classes):
    """{id: class id}, one to one, by which most ids int [n] are the truth's."""
    from scipy.optimize import linear_sum_assignment

    found, position = np.unique(ids, return_inverse=True)
    counts = np.zeros((len(found), classes), int)
    np.add.at(counts, (position, truth), 1)
    return {
        int(found[row]): int(column)
        for row, column in zip(*linear_sum_assignment(counts, maximize=True))
        if counts[row, column]
    }


def describe_order(order, classes):
    """In words how ids {id: class id meant} differ from the order of `classes`."""
    known = {
        "alphabetical": sorted(classes),
        "alphabetical without regard to case": sorted(classes, key=str.lower),
        "reverse": classes[::-1],
    }
    moved = {one: meant for one, meant in order.items() if one != meant}
    for name, names in known.items():
        if all(one < len(names) and names[one] == classes[meant] for one, meant in order.items()):
            name = f"its classes are in {name} order"
            break
    else:
        name = "its classes are in another order"
    shown = [f"it answers {one} for {classes[meant]}, expected {meant}" for one, meant in sorted(moved.items())]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return f"{name}: {'; '.join(shown[:4])}{more}"


def is_chance(right, truth):
    """Whether an accuracy is hardly better than always saying the most common class, and no surer; right bool [n]."""
    from scipy.stats import binomtest

    chance = np.bincount(truth).max() / len(truth)
    p = binomtest(int(right.sum()), len(right), chance, alternative="greater").pvalue
    return right.mean() < chance + GAIN and p > CHANCE
