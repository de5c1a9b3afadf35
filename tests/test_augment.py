import os

import numpy as np
import pytest
from conftest import import_keras_cv

from competition.features.augment import (
    POLICIES,
    _rand_augment,
    blob_mask,
    build_policy,
    draw_numbers,
    grid_mask,
    mix_pairs,
    patch_mask,
    plan_copies,
)

ALL = sorted(POLICIES)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def photo():
    """uint8 [64, 64, 3] with a bright spot off the centre."""
    y, x = np.mgrid[0:64, 0:64]
    spot = 200 * np.exp(-((y - 24) ** 2 + (x - 36) ** 2) / 20)
    return np.repeat(spot[..., None], 3, -1).astype(np.uint8)


def draw(names, seed, images):
    augment = build_policy(names, seed)
    return np.stack([augment(image) for image in images])


def test_no_policy_changes_nothing(images):
    np.testing.assert_array_equal(draw([], 0, images), images)


@pytest.mark.parametrize("name", ALL)
def test_each_policy_keeps_the_form_and_follows_its_seed(name, images):
    before = images.copy()
    first = draw([name], 7, images)
    assert first.shape == images.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw([name], 7, images))
    assert (first != draw([name], 8, images)).any(), "another seed, another draw"
    np.testing.assert_array_equal(images, before)
    same = np.repeat(images[:1], 12, 0)
    assert len(np.unique(draw([name], 7, same), axis=0)) > 1, "the same image comes out in several ways"


def test_all_together(images):
    np.testing.assert_array_equal(draw(ALL, 3, images), draw(ALL, 3, images))


@pytest.mark.parametrize("name", [name for name in ALL if name != "d4"])
def test_images_need_not_be_square(name):
    wide = np.random.default_rng(0).integers(0, 256, (4, 12, 20, 3)).astype(np.uint8)
    assert draw([name], 0, wide).shape == wide.shape


def test_seeds_as_large_as_numpy_draws_them(images):
    for seed in (np.uint32(2**32 - 1), np.int64(2**31 - 1)):
        draw(ALL, seed, images[:1])


@pytest.mark.parametrize("name, axes", [("hflip", [2]), ("vflip", [1])])
def test_flips_flip_half_of_the_images(name, axes, images):
    many = np.repeat(images, 20, 0)
    flipped = np.flip(many, axes)
    out = draw([name], 0, many)
    is_flipped = (out == flipped).all((1, 2, 3))
    assert (is_flipped | (out == many).all((1, 2, 3))).all() and 0.35 < is_flipped.mean() < 0.65


def test_policies_draw_apart_from_each_other(images):
    """Nor one image like the next: of both flips, each of the four ways comes to a quarter."""
    corner = np.zeros((400, 4, 4, 3), np.uint8)
    corner[:, 0, 0] = 1
    ways = np.unique(draw(["hflip", "vflip"], 0, corner), axis=0, return_counts=True)[1]
    assert len(ways) == 4 and ways.min() > 70


def test_d4_draws_all_eight_symmetries(images):
    many = np.repeat(images[:1], 100, 0)
    assert len(np.unique(draw(["d4"], 0, many), axis=0)) == 8


def test_shifts_are_independent_in_height_and_width_and_at_most_a_tenth(photo):
    out = draw(["shift"], 0, np.repeat(photo[None], 200, 0)).astype(float)[..., 0]
    spots = np.stack([np.unravel_index(image.argmax(), image.shape) for image in out]) - [24, 36]
    assert np.abs(spots).max() <= 7 and (np.ptp(spots, 0) >= 8).all()
    assert abs(np.corrcoef(spots.T)[0, 1]) < 0.3


def test_pixels_that_come_in_are_mirrored_ones():
    bright = np.full((5, 32, 32, 3), 200, np.uint8)
    for name in ("shift", "affine"):
        assert draw([name], 0, np.repeat(bright, 10, 0)).min() >= 199


def test_gridmask_blackens_squares_of_a_grid(photo):
    bright = np.full((300, 40, 56, 3), 200, np.uint8)
    out = draw(["gridmask"], 0, bright)
    erased = (out == 0).all(-1)
    assert ((out == 200).all(-1) | erased).all(), "black or as it was"
    assert erased.any((1, 2)).mean() == pytest.approx(0.7, abs=0.08)
    for mask in erased[erased.any((1, 2))]:
        assert np.array_equal(mask, mask.any(1)[:, None] & mask.any(0)), "rows and columns of a grid"


def test_gridmask_erases_as_much_as_keras_cv_s():
    """Theirs without its rotation, whose interpolation makes the squares larger."""
    keras_cv = import_keras_cv()
    import tensorflow as tf

    tf.random.set_global_generator(tf.random.Generator.from_seed(0))  # or it refuses after a test that trained
    theirs = keras_cv.layers.GridMask(ratio_factor=(0.4, 0.4), rotation_factor=0.0)
    black = (np.asarray(tf.function(theirs)(tf.ones((100, 48, 64, 3)))) == 0).mean((1, 2, 3))
    random = np.random.default_rng(0)
    ours = [grid_mask(48, 64, random).mean() for _ in range(1000)]
    assert np.mean(ours) == pytest.approx(0.4**2, abs=0.005) and np.mean(black) == pytest.approx(0.4**2, abs=0.015)


def test_randaugment_grows_with_its_magnitude(photo):
    import albumentations as A

    changes = []
    for magnitude in (3, 9, 17, 30):
        operations = _rand_augment(A, 2, magnitude)
        assert len(operations) == 14
        compose = A.Compose([operations], seed=0)
        out = np.stack([compose(image=photo)["image"] for _ in range(300)])
        assert out.shape[1:] == photo.shape and out.dtype == np.uint8
        assert len(np.unique(out, axis=0)) > 20, "many ways"
        changes.append(np.median(np.abs(out.astype(float) - photo).mean((1, 2, 3))))
    assert (np.diff(changes) > 0.3).all(), changes


# ------------------------------------------------------------------------------------------------- mixing of pairs

WAYS = ("mixup", "cutmix", "fmix")


def batch(n=8, h=14, w=10):
    """Images of one grey value each, and targets that tell them apart."""
    values = np.linspace(10, 240, n).astype(np.float32)
    return np.ones((n, h, w, 3), np.float32) * values[:, None, None, None], np.eye(n, dtype=np.float32), values


@pytest.mark.parametrize("shares", [*({way: 1} for way in WAYS), dict.fromkeys(WAYS, 0.3)])
@pytest.mark.parametrize("shape", [(8, 14, 10), (5, 9, 9), (3, 4, 7), (2, 1, 1)])
def test_label_shares_equal_pixel_shares(shares, shape):
    """A picture's mean is its label's mean of the pictures' values, wherever the patch lies, at borders too."""
    partly = 0
    for seed in range(60):
        images, targets, values = batch(*shape)
        mixed, labels = mix_pairs(images, targets, np.random.default_rng(seed), **shares)
        assert mixed.dtype == labels.dtype == np.float32 and mixed.shape == images.shape
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
        assert labels.min() >= 0
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ values, rtol=1e-4)
        partly += ((labels > 0) & (labels < 1)).any()
        np.testing.assert_array_equal(images, batch(*shape)[0])
        np.testing.assert_array_equal(targets, batch(*shape)[1])
    assert partly > 10 or shape[1] == 1


def test_cutmix_pastes_one_patch_from_the_same_place():
    """Also counted pixel by pixel, and where the patch reaches over a border."""
    seen = set()
    for seed in range(200):
        n, h, w = 4, 12, 16
        images = np.arange(n * h * w * 3, dtype=np.float32).reshape(n, h, w, 3)
        mixed, labels = mix_pairs(images, np.eye(n, dtype=np.float32), np.random.default_rng(seed), cutmix=1)
        for i in range(n):
            changed = (mixed[i] != images[i]).all(-1)
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a rectangle"
            source = (labels[i] * (np.arange(n) != i)).argmax()
            np.testing.assert_array_equal(mixed[i][changed], images[source][changed])
            np.testing.assert_array_equal(mixed[i][~changed], images[i][~changed])
            assert labels[i, i] == pytest.approx(1 - changed.sum() / (h * w), abs=1e-6)
            seen |= {("top", rows[0] == 0), ("bottom", rows[-1] == h - 1), ("left", columns[0] == 0)}
    assert len(seen) == 6, "patches at the border and inside"


def test_cutmix_patches_keep_their_bounds():
    """A patch that no border cuts is as large as one was drawn, to a pixel a side; with no bounds any size comes."""
    random = np.random.default_rng(0)
    for least, most in ((0, 1), (0.1, 0.3), (0.25, 0.25)):
        inside = []
        for _ in range(1500):
            mask = patch_mask(40, 60, random, least, most)
            assert mask.any() and mask.mean() <= most + 0.03
            if not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
                inside.append(mask.mean())
        assert least - 0.02 <= min(inside) <= least + 0.03
    areas = [patch_mask(1, 1000, random, 0.2, 0.4).sum() / 1000 for _ in range(3000)]  # a side is the area's root
    assert max(areas) == pytest.approx(0.4**0.5, abs=0.01)


def test_shares_are_those_of_the_images():
    kinds = []
    for seed in range(60):
        images, targets, values = batch(n=20)
        mixed, labels = mix_pairs(images, targets, np.random.default_rng(seed), mixup=0.3, cutmix=0.4, fmix=0.1)
        for i in range(20):
            spread = np.ptp(mixed[i])
            area = mixed[i, ..., 0] != values[i]
            box = area.any(1)[:, None] & area.any(0)
            kinds.append(
                "none"
                if labels[i, i] == 1 and np.array_equal(mixed[i], images[i])
                else "mixup"
                if spread < 1e-3 and labels[i, i] > 0
                else "cutmix"
                if (area == box).all()
                else "fmix"
            )
    share = {kind: kinds.count(kind) / len(kinds) for kind in ("none", *WAYS)}
    for kind, expected in (("none", 0.2), ("mixup", 0.3), ("cutmix", 0.4), ("fmix", 0.1)):
        assert share[kind] == pytest.approx(expected, abs=0.05), share


@pytest.mark.parametrize("n", [2, 3, 8])
def test_no_image_is_mixed_with_itself(n):
    for seed in range(50):
        _, labels = mix_pairs(*batch(n)[:2], np.random.default_rng(seed), mixup=1)
        assert ((labels > 0).sum(1) == 2).all()
    one = batch(1)
    np.testing.assert_array_equal(mix_pairs(*one[:2], np.random.default_rng(0), mixup=1)[1], one[1])


def test_mixing_follows_the_generator():
    for way in WAYS:
        outputs = [mix_pairs(*batch()[:2], np.random.default_rng(seed), **{way: 1}) for seed in (5, 5, 6)]
        for first, second, other in zip(*outputs):
            np.testing.assert_array_equal(first, second)
            assert (first != other).any()


def edges(masks):
    """Of pixels beside each other, the share with one in the mask and one outside."""
    return np.mean([np.mean(np.diff(masks, axis=axis)) for axis in (1, 2)])


def test_cutmix_s_labels_are_off_elsewhere_as_mix_pairs_says():
    """keras-cv takes the patch before a border clips it for what is pasted, Keras an area between pixels; ours neither.

    Images of one number each, so that the share of an image that is left can be counted.
    """
    keras_cv, keras = import_keras_cv(), pytest.importorskip("keras")
    import tensorflow as tf

    def errors(images, labels):
        kept = (np.asarray(images)[..., 0] == np.arange(n)[:, None, None]).mean((1, 2))
        return np.abs(np.diag(labels) - kept)

    tf.random.set_seed(0)
    n = 1000
    images, targets = np.ones((n, 24, 32, 3), np.float32) * np.arange(n)[:, None, None, None], np.eye(n)
    batch = {"images": tf.constant(images, tf.float32), "labels": tf.constant(targets, tf.float32)}
    clipped = errors(*tf.function(keras_cv.layers.CutMix(alpha=1.0, seed=1))(batch, training=True).values())
    between = errors(*keras.layers.CutMix(factor=(1.0, 1.0), seed=1)(batch, training=True).values())
    assert clipped.mean() == pytest.approx(0.16, abs=0.02) and clipped.max() == pytest.approx(0.66, abs=0.1)
    assert between.mean() == pytest.approx(0.013, abs=0.004) and between.max() == pytest.approx(0.07, abs=0.02)
    assert errors(*mix_pairs(images, targets, np.random.default_rng(0), cutmix=1)).max() < 1e-5


@pytest.mark.parametrize("size", [(24, 32), (25, 31)])
def test_fmix_s_blobs_are_those_of_keras_cv(size):
    """As large and as ragged, and both mix labels by the mask's mean."""
    keras_cv = import_keras_cv()
    import tensorflow as tf

    tf.random.set_seed(0)
    n = 100
    images = np.ones((n, *size, 3), np.float32) * np.arange(n, dtype=np.float32)[:, None, None, None]
    layer = keras_cv.layers.FourierMix(alpha=1.0, seed=1)
    out = tf.function(layer)({"images": tf.constant(images), "labels": tf.eye(n)}, training=True)
    theirs = np.asarray(out["images"])[..., 0] == np.arange(n)[:, None, None]
    np.testing.assert_allclose(np.diag(out["labels"]), theirs.mean((1, 2)), atol=1 / theirs[0].size)
    random = np.random.default_rng(0)
    ours = np.stack([blob_mask(*size, random) for _ in range(500)])
    assert edges(ours) == pytest.approx(edges(theirs), rel=0.2)
    shares = [np.quantile(masks.mean((1, 2)), [0.1, 0.5, 0.9]) for masks in (ours, theirs)]
    np.testing.assert_allclose(shares[0], [0.1, 0.5, 0.9], atol=0.07)
    np.testing.assert_allclose(shares[1], [0.1, 0.5, 0.9], atol=0.12)


# --------------------------------------------------------------------------------------------- copies of rare classes


@pytest.fixture(scope="module")
def task():
    """Labels and folds of 90 images; class 3 has images in fold 0 alone, class 4 has just one."""
    random = np.random.default_rng(2)
    labels = np.repeat(np.arange(5), [50, 20, 14, 5, 1])
    fold_of = random.integers(4, size=90)
    fold_of[labels == 3] = 0
    return labels, fold_of


TARGETS = np.array([0, 40, 17, 9, 6])


def test_copies_bring_classes_up_to_their_targets_and_never_leave_their_fold(task):
    labels, fold_of = task
    copies = plan_copies(labels, fold_of, TARGETS)
    np.testing.assert_array_equal(copies.sources[:90], np.arange(90))
    for fold in range(4):
        seen = set()
        for epoch in range(30):
            numbers = draw_numbers(copies, labels, fold_of, fold, np.random.default_rng([fold, epoch]))
            assert len(set(numbers)) == len(numbers)
            assert (fold_of[copies.sources[numbers]] != fold).all(), "a copy of a held-out image"
            rows = np.flatnonzero(fold_of != fold)
            assert set(rows) <= set(numbers), "all images themselves"
            own, counts = (np.bincount(labels[r], minlength=5) for r in (rows, copies.sources[numbers]))
            np.testing.assert_array_equal(counts, np.where(own, np.maximum(own, TARGETS), 0))
            assert (counts - own == copies.needed[fold]).all()
            seen |= set(copies.sources[numbers[numbers >= 90]])
        assert seen == set(np.flatnonzero((fold_of != fold) & np.isin(labels, [1, 2, 3, 4]))), "copies of every image"


def test_copies_are_few_and_follow_the_generator(task):
    labels, fold_of = task
    copies = plan_copies(labels, fold_of, TARGETS)
    assert len(copies.sources) - 90 <= 2 * TARGETS.sum(), "memory: what is asked for, not what all classes would take"
    drawn = [draw_numbers(copies, labels, fold_of, 1, np.random.default_rng(seed)).tolist() for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_target_no_copy(task):
    labels, fold_of = task
    copies = plan_copies(labels, fold_of, np.zeros(5, int))
    assert len(copies.sources) == 90 and not copies.needed.any()
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(draw_numbers(copies, labels, fold_of, 2, random), np.flatnonzero(fold_of != 2))
    assert random.random() == np.random.default_rng(0).random(), "runs without copies stay as they are"


def test_albumentations_asks_no_network_for_a_newer_version(monkeypatch):
    """Without a network that takes two seconds of each start; who wants it says so."""
    monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
    build_policy(["hflip"])
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "0")
    build_policy(["hflip"])
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "0"
