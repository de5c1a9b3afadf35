"""Features: the same whatever is asked for at once, kept under their key, gone on with after a kill."""

import os

import numpy as np
import pytest

from competition.arrays import Memory, Rows, Stored, build_array
from competition.features import BATCH, copy_features, predict, view_features
from competition.views import VIEWS

N = 2 * BATCH + 22
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 6, 6, 3)).astype(np.uint8)
KEY = {"data": "x"}
SMALL = Memory(1000, "MEMORY=1000")


@pytest.fixture(scope="module")
def backbone():
    """A fixed random map of pixels to 5 numbers."""
    import keras

    image = keras.Input((6, 6, 3))
    kernel = keras.initializers.RandomNormal(0, 0.01, seed=1)
    return keras.Model(image, keras.layers.Dense(5, kernel_initializer=kernel)(keras.layers.Flatten()(image)))


@pytest.fixture
def stored(tmp_path):
    build_array(tmp_path / "images.npy", IMAGES.shape, np.uint8, lambda start: [IMAGES[start:]])
    return Stored(tmp_path / "images.npy")


@pytest.fixture
def calls(backbone, monkeypatch):
    """The batches that the network was given; put an exception's position into `stop_at` to have it fail there."""
    given = []
    plain = type(backbone).predict_on_batch

    def spy(model, inputs):
        if len(given) == spy.stop_at:
            raise KeyboardInterrupt
        given.append(inputs)
        return plain(model, inputs)

    spy.stop_at = None
    monkeypatch.setattr(type(backbone), "predict_on_batch", spy)
    return given, spy


def by_hand(backbone, images):
    kernel, bias = backbone.layers[-1].get_weights()
    return images.reshape(len(images), -1).astype(np.float32) @ kernel + bias


def test_predict_of_arrays_files_and_rows(backbone, stored, calls):
    expected = by_hand(backbone, IMAGES)
    chosen = np.flatnonzero(np.arange(N) % 2)
    for images in (IMAGES, stored):
        whole = predict(backbone, images)
        np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(predict(backbone, Rows(images, chosen)), whole[chosen])
        mirrored = predict(backbone, Rows(images, chosen, VIEWS["hflip"]))
        np.testing.assert_allclose(mirrored, by_hand(backbone, IMAGES[chosen][:, :, ::-1]), rtol=1e-4, atol=1e-4)
    assert predict(backbone, IMAGES[:0]).shape == (0, 5)
    assert {batch.shape for batch in calls[0]} == {(BATCH, 6, 6, 3)}


def test_features_of_views(backbone, stored, tmp_path, calls):
    held = view_features(backbone, IMAGES, ["identity", "rot90"], tmp_path / "f", KEY)
    for found, view in zip(held, ("identity", "rot90"), strict=True):
        assert type(found) is np.ndarray and found.dtype == np.float32
        np.testing.assert_array_equal(found, predict(backbone, VIEWS[view](IMAGES)))
    calls[0].clear()
    again = view_features(backbone, stored, ["rot90", "identity"], tmp_path / "f", KEY, SMALL)
    assert all(isinstance(array, Stored) for array in again) and not calls[0], "read and not computed"
    np.testing.assert_array_equal(again[0][:], held[1])
    other = view_features(backbone, stored, ["identity"], tmp_path / "f", KEY | {"data": "y"}, SMALL)
    assert len(calls[0]) == 3
    np.testing.assert_array_equal(other[0][:], held[0])


def test_what_all_features_take_counts(backbone, tmp_path):
    size = N * 5 * 4
    for total, kind in ((8 * size, np.ndarray), (8 * size - 8, Stored)):
        found = view_features(backbone, IMAGES, ["identity", "hflip"], tmp_path, KEY, Memory(total, ""))
        assert [type(array) for array in found] == [kind, kind]


def test_features_of_augmented_copies(backbone, stored, tmp_path, calls):
    copies = copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, tmp_path / "a", KEY)
    drawn = np.concatenate(calls[0])
    assert len(calls[0]) == 6 and (drawn[:N] != IMAGES).any((1, 2, 3)).mean() > 0.5
    assert (copies[0] != copies[1]).any()
    limited = copy_features(backbone, stored, 2, ["hflip", "light"], 0, tmp_path / "b", KEY, SMALL)
    for one, two in zip(copies, limited, strict=True):
        np.testing.assert_array_equal(one, two[:])
    other = copy_features(backbone, IMAGES, 1, ["hflip", "light"], 1, tmp_path / "a", KEY)
    assert (other[0] != copies[0]).any(1).mean() > 0.5, "another seed draws otherwise"


@pytest.mark.parametrize("stop_at", [0, 1, 2, 4])
def test_a_kill_costs_no_more_than_a_batch(backbone, tmp_path, calls, stop_at):
    whole = copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, tmp_path / "whole", KEY)
    given, spy = calls
    given.clear()
    spy.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, tmp_path / "killed", KEY)
    spy.stop_at = None
    killed = copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, tmp_path / "killed", KEY)
    assert len(given) == 6, "nothing was computed twice"
    for one, two in zip(whole, killed, strict=True):
        np.testing.assert_array_equal(one, two)
    assert sorted(os.listdir(tmp_path / "whole")) == sorted(os.listdir(tmp_path / "killed"))


def test_images_are_asked_for_by_the_batch(backbone, tmp_path):
    class Asked:
        shape = IMAGES.shape
        parts = []

        def __len__(self):
            return N

        def __getitem__(self, rows):
            self.parts.append(len(IMAGES[rows]))
            return IMAGES[rows]

    view_features(backbone, Asked(), ["identity", "hflip"], tmp_path, KEY, SMALL)
    copy_features(backbone, Asked(), 1, [], 0, tmp_path, KEY, SMALL)
    assert Asked.parts == 3 * [BATCH, BATCH, 22]
