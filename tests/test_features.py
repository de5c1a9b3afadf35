"""Features: the same whatever is asked for at once, kept under their key, gone on with after a kill."""

import json
import os

import numpy as np
import pytest

from competition.base.arrays import Room, Rows, Stored, build_array
from competition.base.files import sha256_bytes
from competition.base.sums import SUMS
from competition.features.extract import BATCH, MS, Shelf, copy_features, is_usable, predict, read_ms, view_features
from competition.features.views import VIEWS

N = 2 * BATCH + 22
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 6, 6, 3)).astype(np.uint8)
NAMES = [sha256_bytes(image.tobytes()) for image in IMAGES]


def shelf(folder, names=NAMES, others=(), **key):
    return Shelf(folder, names, key, others)


def small():
    return Room(250)


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
    held = view_features(backbone, IMAGES, ["identity", "rot90"], shelf(tmp_path / "f"))
    for found, view in zip(held, ("identity", "rot90"), strict=True):
        assert type(found) is np.ndarray and found.dtype == np.float32
        np.testing.assert_array_equal(found, predict(backbone, VIEWS[view](IMAGES)))
    calls[0].clear()
    again = view_features(backbone, stored, ["rot90", "identity"], shelf(tmp_path / "f"), small())
    assert all(isinstance(array, Stored) for array in again) and not calls[0], "read and not computed"
    np.testing.assert_array_equal(again[0][:], held[1])
    other = view_features(backbone, stored, ["identity"], shelf(tmp_path / "f", data="y"), small())
    assert len(calls[0]) == 3
    np.testing.assert_array_equal(other[0][:], held[0])


def test_what_all_features_take_counts(backbone, tmp_path):
    size = N * 5 * 4
    for left, kinds in (
        (3 * size, [np.ndarray] * 3),
        (3 * size - 1, [np.ndarray, np.ndarray, Stored]),
        (size, [np.ndarray, Stored, Stored]),
        (size - 1, [Stored] * 3),
    ):
        room = Room(left)
        found = view_features(backbone, IMAGES, ["identity", "hflip"], shelf(tmp_path), room)
        found += copy_features(backbone, IMAGES, 1, [], 0, shelf(tmp_path), room)
        assert [type(array) for array in found] == kinds, "of all calls together"


def test_what_other_images_and_tables_left_is_taken_over(backbone, tmp_path, calls):
    """By what an image is, wherever it stands: only what nobody has is computed, and comes out the same."""
    both = [
        *view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path / "a")),
        *copy_features(backbone, IMAGES, 1, ["hflip", "light"], 0, shelf(tmp_path / "a")),
    ]
    order = np.random.default_rng(1).permutation(N)
    few = order[: N // 2]
    new = np.random.default_rng(2).integers(0, 256, (BATCH + 3, 6, 6, 3)).astype(np.uint8)
    images = np.concatenate([IMAGES[few], new, IMAGES[few[:1]]])
    names = [NAMES[i] for i in few] + [sha256_bytes(image.tobytes()) for image in new] + [NAMES[few[0]]]
    for others, batches in (((tmp_path / "a",), 2), ((), 3)):
        calls[0].clear()
        place = shelf(tmp_path / f"b{len(others)}", names, others)
        (view,) = view_features(backbone, images, ["hflip"], place)
        assert len(calls[0]) == batches
        (copy,) = copy_features(backbone, images, 1, ["hflip", "light"], 0, place)
        np.testing.assert_array_equal(view[: len(few)], both[0][few])
        np.testing.assert_array_equal(copy[: len(few)], both[1][few])
        np.testing.assert_array_equal(view[len(few) : -1], predict(backbone, new[:, :, ::-1]))
        np.testing.assert_array_equal(view[-1], view[0], "the same image twice is the same view")
        assert (copy[-1] != copy[0]).any(), "but another draw"
    calls[0].clear()
    view_features(backbone, IMAGES, ["rot90"], shelf(tmp_path / "c", others=(tmp_path / "a",)))
    view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path / "c", others=(tmp_path / "a",), weights="other"))
    assert len(calls[0]) == 6, "of another view, or other weights, nothing is"


def test_a_kill_amid_what_is_taken_over(backbone, tmp_path, calls):
    view_features(backbone, IMAGES[::2], ["identity"], shelf(tmp_path, NAMES[::2]))
    given, spy = calls
    given.clear()
    spy.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        view_features(backbone, IMAGES, ["identity"], shelf(tmp_path))
    spy.stop_at = None
    (found,) = view_features(backbone, IMAGES, ["identity"], shelf(tmp_path))
    np.testing.assert_array_equal(found, predict(backbone, IMAGES))


def test_features_of_augmented_copies(backbone, stored, tmp_path, calls):
    copies = copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, shelf(tmp_path / "a"))
    drawn = np.concatenate(calls[0])
    assert len(calls[0]) == 6 and (drawn[:N] != IMAGES).any((1, 2, 3)).mean() > 0.5
    assert (copies[0] != copies[1]).any()
    limited = copy_features(backbone, stored, 2, ["hflip", "light"], 0, shelf(tmp_path / "b"), small())
    for one, two in zip(copies, limited, strict=True):
        np.testing.assert_array_equal(one, two[:])
    other = copy_features(backbone, IMAGES, 1, ["hflip", "light"], 1, shelf(tmp_path / "a"))
    assert (other[0] != copies[0]).any(1).mean() > 0.5, "another seed draws otherwise"


@pytest.mark.parametrize("stop_at", [0, 1, 2, 4])
def test_a_kill_costs_no_more_than_a_batch(backbone, tmp_path, calls, stop_at):
    whole = copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, shelf(tmp_path / "whole"))
    given, spy = calls
    given.clear()
    spy.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, shelf(tmp_path / "killed"))
    spy.stop_at = None
    killed = copy_features(backbone, IMAGES, 2, ["hflip", "light"], 0, shelf(tmp_path / "killed"))
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

    view_features(backbone, Asked(), ["identity", "hflip"], shelf(tmp_path), small())
    copy_features(backbone, Asked(), 1, [], 0, shelf(tmp_path), small())
    assert Asked.parts == 3 * [BATCH, BATCH, 22]


def test_what_an_image_takes_is_kept_and_no_part_of_the_key(backbone, calls, tmp_path):
    assert read_ms(shelf(tmp_path / "a")) is None
    view_features(backbone, IMAGES, ["identity", "hflip"], shelf(tmp_path / "a"))
    paths = sorted((tmp_path / "a").glob("*.json"))
    took = [json.loads(path.read_text())[MS] for path in paths]
    assert all(0 < ms < 1000 for ms in took) and read_ms(shelf(tmp_path / "a")) == min(took)
    assert read_ms(shelf(tmp_path / "a", weights="other")) is None
    for name in (".partial-x-0.json", "other.json"):  # of a write that goes on, and none of ours
        (tmp_path / "a" / name).write_text("")
    assert read_ms(shelf(tmp_path / "a")) == min(took)
    before = len(calls[0])
    view_features(backbone, IMAGES, ["identity"], shelf(tmp_path / "b", others=(tmp_path / "a",)))
    assert len(calls[0]) == before, "taken over, whatever it took"
    assert read_ms(shelf(tmp_path / "b")) in took


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def garble(path):
    path.write_bytes(b"\x93NUMPY" + bytes(200))


@pytest.mark.parametrize("harm", [cut, flip, garble])
def test_damaged_features_are_made_anew_with_a_warning(backbone, tmp_path, calls, capsys, harm):
    (whole,) = view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path))
    (path,) = tmp_path.glob("*.npy")
    assert is_usable(path)
    harm(path)
    assert not is_usable(path) and f"warning: {path}: " in capsys.readouterr().err
    calls[0].clear()
    (again,) = view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path))
    np.testing.assert_array_equal(again, whole)
    error = capsys.readouterr().err
    assert len(calls[0]) == 3 and error.startswith(f"warning: {path}: ") and "it is made anew" in error
    view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path))
    assert len(calls[0]) == 3 and capsys.readouterr().err == "", "and then they are whole"


def test_damaged_features_are_not_taken_over(backbone, tmp_path, calls, capsys):
    view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path / "a"))
    (path,) = (tmp_path / "a").glob("*.npy")
    flip(path)
    calls[0].clear()
    (found,) = view_features(backbone, IMAGES[:-1], ["hflip"], shelf(tmp_path / "b", NAMES[:-1], (tmp_path / "a",)))
    np.testing.assert_array_equal(found, predict(backbone, IMAGES[:-1, :, ::-1]))
    assert f"warning: {path}: damaged or changed" in capsys.readouterr().err and path.exists()


def test_features_of_a_version_without_hashes_are_read_and_a_broken_record_is_written_anew(backbone, tmp_path, calls):
    view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path))
    (record,) = tmp_path.glob("*.json")
    (names,) = tmp_path.glob("*.txt")
    content = json.loads(record.read_text("utf-8"))
    older = {key: value for key, value in content.items() if key != SUMS}
    record.write_text(json.dumps(older), "utf-8")
    calls[0].clear()
    view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path))
    assert calls[0] == [] and json.loads(record.read_text("utf-8")) == older
    record.write_text("{", "utf-8")
    names.write_text("of others", "utf-8")
    view_features(backbone, IMAGES, ["hflip"], shelf(tmp_path))
    assert calls[0] == [] and json.loads(record.read_text("utf-8"))[SUMS] == content[SUMS]
    assert names.read_text("utf-8").split() == shelf(tmp_path).names
