"""Augmentation of training images: policies by name (Albumentations), and mixing of pairs within a batch.

Policies compose in the order a recipe names them. What is drawn depends on the seed alone, so that a run that was
killed draws the same again.
"""

import numpy as np

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
    "erase": lambda A: A.CoarseDropout(
        num_holes_range=(1, 2), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), fill="random_uniform", p=0.3
    ),
}
_MIRROR = 4  # cv2.BORDER_REFLECT_101


def build_policy(names, seed):
    """A function from an image (uint8 [h, w, 3]) to an augmented one of the same form; its draws follow `seed`."""
    if not names:
        return lambda image: image
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)  # more threads for one small image only take the network's: 0.48 for 0.55 ms of CPU an image
    compose = A.Compose([POLICIES[name](A) for name in names], seed=int(seed))
    return lambda image: compose(image=image)["image"]


def mix_pairs(images, targets, mixup, cutmix, random):
    """With probability `mixup` blend each image of a batch with another, with probability `cutmix` paste a patch.

    images   float32 [n, h, w, 3], changed in place; targets float32 [n, classes]; random: numpy Generator
    Returns images and targets. One share a batch, drawn evenly from 0..1: Beta(1, 1) of Zhang et al. 2018 (mixup,
    arXiv:1710.09412) and Yun et al. 2019 (CutMix, arXiv:1905.04899); CutMix's labels follow the pixels really pasted.
    """
    draw, share = random.random(2)
    other = random.permutation(len(images))
    if draw < mixup:
        share = np.float32(share)
        return images * share + images[other] * (1 - share), targets * share + targets[other] * (1 - share)
    if draw < mixup + cutmix:
        h, w = images.shape[1:3]
        side = np.sqrt(1 - share)
        y, x = random.integers(h), random.integers(w)
        top, bottom = max(0, y - int(h * side) // 2), min(h, y + int(h * side) // 2)
        left, right = max(0, x - int(w * side) // 2), min(w, x + int(w * side) // 2)
        images[:, top:bottom, left:right] = images[other, top:bottom, left:right]
        kept = np.float32(1 - (bottom - top) * (right - left) / (h * w))
        return images, targets * kept + targets[other] * (1 - kept)
    return images, targets
