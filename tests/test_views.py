import numpy as np
import pytest

from competition.features.views import SQUARE_ONLY, VIEWS, usable_views

INVERSE = {name: name for name in VIEWS} | {"rot90": "rot270", "rot270": "rot90"}


def asymmetric(h=5, w=5, n=2):
    return np.random.default_rng(0).integers(0, 256, (n, h, w, 3)).astype(np.float32)


def test_there_are_eight_and_the_identity_is_first():
    assert list(VIEWS)[0] == "identity" and len(VIEWS) == 8 and set(SQUARE_ONLY) < set(VIEWS)


def test_all_eight_differ_on_an_asymmetric_image():
    x = asymmetric()
    assert len({view(x).tobytes() for view in VIEWS.values()}) == 8


@pytest.mark.parametrize(
    "name, expected",
    {
        "identity": lambda x: x,
        "hflip": lambda x: np.flip(x, 2),
        "vflip": lambda x: np.flip(x, 1),
        "rot180": lambda x: np.rot90(x, 2, (1, 2)),
        "transpose": lambda x: np.transpose(x, (0, 2, 1, 3)),
        "rot90": lambda x: np.rot90(x, 1, (1, 2)),
        "rot270": lambda x: np.rot90(x, 3, (1, 2)),
        "antitranspose": lambda x: np.rot90(np.transpose(x, (0, 2, 1, 3)), 2, (1, 2)),
    }.items(),
)
def test_each_is_what_its_name_says(name, expected):
    for x in (asymmetric(), asymmetric(4, 7)):
        np.testing.assert_array_equal(VIEWS[name](x), expected(x))


@pytest.mark.parametrize("name", VIEWS)
def test_each_has_its_inverse(name):
    for x in (asymmetric(), asymmetric(4, 7)):
        np.testing.assert_array_equal(VIEWS[INVERSE[name]](VIEWS[name](x)), x)


def test_two_after_another_are_one_of_the_eight():
    x = asymmetric()
    known = {view(x).tobytes() for view in VIEWS.values()}
    assert all(second(first(x)).tobytes() in known for first in VIEWS.values() for second in VIEWS.values())


def test_numpy_arrays_keep_dtype_and_content():
    x = asymmetric().astype(np.uint8)
    before = x.copy()
    assert all(view(x).dtype == np.uint8 for view in VIEWS.values())
    np.testing.assert_array_equal(x, before)


def test_tensors_and_models_agree_with_numpy():
    import keras
    from keras import ops

    for shape in ((5, 5), (4, 7)):
        x = asymmetric(*shape)
        image = keras.Input((*shape, 3))
        outputs = keras.Model(image, [view(image) for view in VIEWS.values()]).predict_on_batch(x)
        for (name, view), output in zip(VIEWS.items(), outputs):
            expected = view(x)
            np.testing.assert_array_equal(ops.convert_to_numpy(view(ops.convert_to_tensor(x))), expected, name)
            np.testing.assert_array_equal(output, expected, name)


def test_usable_views_keep_the_size():
    assert usable_views((8, 8)) == list(VIEWS)
    for size in ((8, 9), (9, 8)):
        usable = usable_views(size)
        assert usable == ["identity", "hflip", "vflip", "rot180"]
        x = asymmetric(*size)
        assert usable == [name for name, view in VIEWS.items() if view(x).shape == x.shape]
