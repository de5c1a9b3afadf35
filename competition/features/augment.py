"""Augmentation of training images: policies by name (Albumentations), mixing of pairs, copies of rare classes.

Policies compose in the order a recipe names them. What is drawn depends on the seed alone, so that a run that was
killed draws the same again. The mixtures are numpy and not layers of Keras: drawn beside the network, on any backend.
"""

import os
from dataclasses import dataclass
from random import Random

import numpy as np

_MIRROR = 4  # cv2.BORDER_REFLECT_101


def _rand_augment(A, n, magnitude):
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719): n of its 14 operations in any order, all at one magnitude.

    The magnitude counts to 30, and the operations' ranges are torchvision's. What has a sign has either, evenly.
    """
    share = magnitude / 30

    def either(make, most):
        return A.OneOf([make(most * share), make(-most * share)], p=1)

    def affine(**change):
        return A.Affine(**change, border_mode=_MIRROR, p=1)

    def jitter(**change):
        same = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        return A.ColorJitter(**same | change, p=1)

    def shear(x, y):
        x, y = np.degrees(np.arctan([x, y])).tolist()
        return affine(shear={"x": (x, x), "y": (y, y)})

    return A.RandomOrder(
        [
            A.NoOp(p=1),
            A.AutoContrast(p=1),
            A.Equalize(p=1),
            A.Solarize(threshold_range=(1 - share, 1 - share), p=1),
            A.Posterize(num_bits=min(7, 8 - round(4 * share)), p=1),
            either(lambda v: affine(rotate=(v, v)), 30),
            either(lambda v: shear(v, 0), 0.3),
            either(lambda v: shear(0, v), 0.3),
            either(lambda v: affine(translate_percent={"x": (v, v), "y": (0, 0)}), 150 / 331),
            either(lambda v: affine(translate_percent={"x": (0, 0), "y": (v, v)}), 150 / 331),
            either(lambda v: jitter(brightness=(1 + v, 1 + v)), 0.9),
            either(lambda v: jitter(contrast=(1 + v, 1 + v)), 0.9),
            either(lambda v: jitter(saturation=(1 + v, 1 + v)), 0.9),
            # sharper, or less so: Albumentations has two operations for Pillow's one
            A.OneOf(
                [
                    A.UnsharpMask(blur_limit=3, alpha=(0.9 * share, 0.9 * share), threshold=0, p=1),
                    A.GaussianBlur(blur_limit=0, sigma_limit=(0.9 * share, 0.9 * share), p=1),
                ],
                p=1,
            ),
        ],
        n=n,
        replace=True,
        p=1,
    )


def _grid_mask(A, p):
    class GridMask(A.ImageOnlyTransform):  # type: ignore[name-defined]
        def get_params_dependent_on_data(self, params, data):
            height, width = params["shape"][:2]
            return {"erased": grid_mask(height, width, self.random_generator)}

        def apply(self, image, erased, **_):
            return np.where(erased[..., None], np.uint8(0), image)

    return GridMask(p=p)


# Each policy is one transformation, made anew for every epoch; pixels that come into the picture are mirrored ones.
POLICIES = {
    "hflip": lambda A: A.HorizontalFlip(p=0.5),
    "vflip": lambda A: A.VerticalFlip(p=0.5),
    "d4": lambda A: A.D4(p=1.0),  # one of the eight symmetries; square images only
    "shift": lambda A: A.Affine(translate_percent=(-0.1, 0.1), border_mode=_MIRROR, p=1.0),
    "affine": lambda A: A.Affine(
        scale=(0.8, 1.25), translate_percent=(-0.1, 0.1), rotate=(-30, 30), border_mode=_MIRROR, p=0.8
    ),
    "light": lambda A: A.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.25, p=0.7),
    "colour": lambda A: A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=25, val_shift_limit=0, p=0.5),
    # random erasing: Zhong et al. 2020, arXiv:1708.04896
    "erase": lambda A: A.CoarseDropout(
        num_holes_range=(1, 2), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), fill="random_uniform", p=0.3
    ),
    "gridmask": lambda A: _grid_mask(A, p=0.7),
    "randaugment": lambda A: _rand_augment(A, n=2, magnitude=9),  # the paper's choice for a ResNet-50 on ImageNet
    "randaugment_strong": lambda A: _rand_augment(A, n=2, magnitude=17),  # and for an EfficientNet-B5
}


def build_policy(names, seed=0):
    """A function from an image (uint8 [h, w, 3]) to an augmented one of the same form.

    Its draws follow `seed`, one image after another, or the seed that a call gives behind its image.
    """
    if not names:
        return lambda image, seed=None: image
    import cv2

    A = import_albumentations()
    cv2.setNumThreads(1)  # more threads for one small image only take the network's: 0.48 for 0.55 ms of CPU an image
    compose = A.Compose([POLICIES[name](A) for name in names])
    share_draws(compose, seed)

    def augment(image, seed=None):
        if seed is not None:
            share_draws(compose, seed)
        return compose(image=image)["image"]

    return augment


def import_albumentations():
    """The module albumentations, which does not ask PyPI for a newer version of itself: without a network that takes 2 s."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def share_draws(transform, seed):
    """Let an albumentations.Compose, and all that is in it, draw from one stream of random numbers.

    Albumentations gives each transform a stream of its own from the same seed, so that those that draw equally often
    draw the same: no image would be flipped one way and not the other.
    """
    streams = np.random.default_rng(int(seed)), Random(int(seed))

    def give(transform):
        transform.random_generator, transform.py_random = streams
        for inner in getattr(transform, "transforms", ()):
            give(inner)

    give(transform)


def grid_mask(height, width, random, kept=0.6):
    """bool [height, width], what GridMask (Chen et al. 2020, arXiv:2001.04086) blackens: squares on a shifted grid.

    A unit of the grid is as long as 96 to 224 pixels are of 224, and a square takes 1 - `kept` of its side, as the
    paper has it for ImageNet: 0.16 of the image.
    """
    unit = min(height, width) * random.uniform(96 / 224, 1)
    y, x = ((np.arange(length) + random.uniform(0, unit)) % unit < (1 - kept) * unit for length in (height, width))
    return y[:, None] & x


def mix_pairs(images, targets, random, mixup=0.0, cutmix=0.0, fmix=0.0, patch=(0.0, 1.0)):
    """Mix images of a batch with others of it: each with probability `mixup`, `cutmix` or `fmix` in one of these ways.

    images   float32 [n, h, w, 3]; targets float32 [n, classes]; random: numpy Generator
    patch    smallest and largest area of CutMix's patch, as a share of the image; what lies over a border is lost

    Returns images and targets, new arrays. Every way is a mask of what is kept of an image; the rest comes from the
    same place of another, and the label's share is the mask's mean, so that labels always follow the pixels. Each
    image draws for itself. keras-cv's CutMix counts pixels beyond the border as pasted (its labels are off by 0.16 on
    average, by up to 0.66), Keras' takes bounds between pixels for the area (0.013 and 0.07, at 24 x 32 pixels).
    """
    n, h, w = images.shape[:3]
    order = random.permutation(n)
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle through all of them: none is mixed with itself
    way = np.searchsorted(np.cumsum([mixup, cutmix, fmix]), random.random(n), side="right")
    mixed, shares = images.copy(), np.ones((n, 1), np.float32)
    for i in np.flatnonzero(way < 3):
        if way[i] == 0:
            mask = np.full((h, w), random.random())  # Beta(1, 1), Zhang et al. 2018, arXiv:1710.09412
        else:
            mask = ~patch_mask(h, w, random, *patch) if way[i] == 1 else blob_mask(h, w, random)
        mask = mask.astype(np.float32)
        mixed[i] = mask[..., None] * images[i] + (1 - mask)[..., None] * images[other[i]]
        shares[i] = mask.mean()
    return mixed, targets * shares + targets[other] * (1 - shares)


def patch_mask(height, width, random, least=0.0, most=1.0):
    """bool [height, width], where CutMix (Yun et al. 2019, arXiv:1905.04899) pastes: a rectangle around any pixel.

    It is shaped as the image, its area drawn evenly between two shares of the image's (the paper's Beta(1, 1) is all
    of 0..1), and it has a pixel at least; what reaches over the border is cut off.
    """
    side = np.sqrt(random.uniform(least, most))

    def span(length):
        size, centre = max(1, round(length * side)), random.integers(length)
        place = np.arange(length) - (centre - size // 2)
        return (place >= 0) & (place < size)

    return span(height)[:, None] & span(width)


def blob_mask(height, width, random, decay=3):
    """bool [height, width], what FMix (Harris et al. 2020, arXiv:2002.12047) keeps; keras-cv calls it FourierMix.

    The brightest pixels of low-frequency noise: complex Gaussian noise over frequency to the power of `decay`, turned
    back into an image. Their share of the image is drawn evenly from 0..1, the paper's Beta(1, 1).
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    real, imaginary = random.standard_normal((2, *frequency.shape))
    noise = np.fft.irfft2(
        (real + 1j * imaginary) / np.maximum(frequency, 1 / max(height, width)) ** decay, (height, width)
    )
    mask = np.zeros(height * width, bool)
    mask[np.argsort(noise, None)[round(random.random() * mask.size) :]] = True
    return mask.reshape(height, width)


@dataclass(frozen=True)
class Copies:
    """Additional augmented copies of images of some classes, for training alone.

    In an epoch images go by numbers: below n they are the images themselves, from n on copies. All that training asks
    about a copy, its label and its fold, is asked of its source: no fold trains on a copy of an image it holds out.
    """

    sources: np.ndarray  # int [n + m]: the row of the image behind each number
    needed: np.ndarray  # int [k, classes]: copies of each class that each fold trains on in an epoch
    features: object = None  # float32 [m, d] of the m copies, in the frozen phase; an array or arrays.Stored


def plan_copies(labels, fold_of, targets):
    """The Copies with which the classes of each training fold come up to their targets.

    labels, fold_of  int [n]; of an image that no fold holds out the fold is -1
    targets  int [classes], 0 for a class that shall have no copies

    There are as many of each image as the fold with the fewest others of its class needs; the same number of copies
    serves all folds.
    """
    held_out = np.zeros((fold_of.max() + 1, len(targets)), np.int64)
    ever = fold_of >= 0
    np.add.at(held_out, (fold_of[ever], labels[ever]), 1)
    counts = np.bincount(labels, minlength=len(targets)) - held_out
    needed = np.where(counts > 0, np.maximum(targets - counts, 0), 0)  # no image, no copy
    each = np.ceil(needed / np.maximum(counts, 1)).max(0).astype(int)
    return Copies(np.append(np.arange(len(labels)), np.repeat(np.arange(len(labels)), each[labels])), needed)


def draw_numbers(copies, labels, fold_of, fold, random):
    """The numbers (see Copies) that a fold trains on in an epoch: its training images, and as many copies as needed."""
    n = len(labels)
    rows, sources = np.flatnonzero(fold_of != fold), copies.sources[n:]
    parts = [rows]
    for label in np.flatnonzero(copies.needed[fold]):
        free = n + np.flatnonzero((fold_of[sources] != fold) & (labels[sources] == label))
        parts.append(random.permutation(free)[: copies.needed[fold, label]])
    return np.concatenate(parts)
