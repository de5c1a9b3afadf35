import numpy as np
import pytest

from competition.augment import POLICIES, build_policy, mix_pairs

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


# ------------------------------------------------------------------------------------------------- mixing of pairs


def batch(n=8, h=14, w=10):
    """Images of one grey value each, and targets that tell them apart."""
    values = np.linspace(10, 240, n).astype(np.float32)
    return np.ones((n, h, w, 3), np.float32) * values[:, None, None, None], np.eye(n, dtype=np.float32), values


@pytest.mark.parametrize("mixup, cutmix", [(1, 0), (0, 1), (0.5, 0.5)])
@pytest.mark.parametrize("shape", [(8, 14, 10), (5, 9, 9), (3, 4, 7)])
def test_label_shares_equal_pixel_shares(mixup, cutmix, shape):
    """A picture's mean is its label's mean of the pictures' values, wherever the patch lies, at borders too."""
    partly = 0
    for seed in range(60):
        images, targets, values = batch(*shape)
        mixed, labels = mix_pairs(images, targets, mixup, cutmix, np.random.default_rng(seed))
        assert mixed.dtype == labels.dtype == np.float32 and mixed.shape == images.shape
        np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-5)
        assert labels.min() >= 0
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), labels @ values, rtol=1e-4)
        partly += ((labels > 0) & (labels < 1)).any()
    assert partly > 10 and np.array_equal(targets, np.eye(len(targets))), "targets are used again"


def test_cutmix_pastes_one_patch_from_the_same_place():
    seen = set()
    for seed in range(200):
        n, h, w = 4, 12, 16
        images = np.arange(n * h * w * 3, dtype=np.float32).reshape(n, h, w, 3)
        original = images.copy()
        mixed, labels = mix_pairs(images, np.eye(n, dtype=np.float32), 0, 1, np.random.default_rng(seed))
        for i in range(n):
            changed = (mixed[i] != original[i]).all(-1)
            if changed.any():
                rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
                assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a rectangle"
                source = (labels[i] * (np.arange(n) != i)).argmax()
                np.testing.assert_array_equal(mixed[i][changed], original[source][changed])
                assert labels[i, i] == pytest.approx(1 - changed.mean(), abs=1e-6)
                seen |= {("top", rows[0] == 0), ("bottom", rows[-1] == h - 1), ("left", columns[0] == 0)}
    assert len(seen) == 6, "patches at the border and inside"


def test_probabilities_are_kept():
    kinds = []
    for seed in range(300):
        images, targets, values = batch()
        mixed, labels = mix_pairs(images.copy(), targets, 0.3, 0.4, np.random.default_rng(seed))
        kinds.append("none" if np.array_equal(mixed, images) and np.array_equal(labels, targets)
                     else "mixup" if np.ptp(mixed, (1, 2, 3)).max() < 1e-3 else "cutmix")
    share = {kind: kinds.count(kind) / 300 for kind in ("none", "mixup", "cutmix")}
    assert share["mixup"] == pytest.approx(0.3, abs=0.1) and share["cutmix"] == pytest.approx(0.4, abs=0.12)


def test_mixing_follows_the_generator():
    for mixup, cutmix in ((1, 0), (0, 1)):
        outputs = [mix_pairs(*batch()[:2], mixup, cutmix, np.random.default_rng(5)) for _ in range(2)]
        for first, second in zip(*outputs):
            np.testing.assert_array_equal(first, second)
