"""Receptive fields: as published, and as seen by changing one pixel of a small network's input after another."""

import numpy as np
import pytest

from competition.base.files import InputError
from competition.cli.main import main
from competition.models.backbones import build_backbone
from competition.models.receptive import receptive_field, show_backbones

keras = pytest.importorskip("keras")
layers = keras.layers
SIDES = (23, 30)  # one odd, one even: "same" padding with a stride differs between them


def seen(model):
    """Which pixels change one unit of the map near its middle: the unit, and the first and last row and column.

    All weights are positive and the image is 0 where it is not touched, so that nothing hides a change.
    """
    model.set_weights([np.full(value.shape, 0.5, np.float32) for value in model.get_weights()])
    height, width, channels = model.input_shape[1:]
    images = np.zeros((height * width, height, width, channels), np.float32)
    images.reshape(height * width, height * width, channels)[np.arange(height * width), np.arange(height * width)] = 1
    maps = np.asarray(model.predict(images, verbose=0, batch_size=256))
    before = np.asarray(model.predict(images[:1] * 0, verbose=0))
    unit = maps.shape[1] // 2, maps.shape[2] // 2
    changed = (maps != before)[:, *unit].any(-1).reshape(height, width)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return maps.shape[1:3], unit, (rows[0], columns[0]), (rows[-1], columns[-1])


def conv(*arguments, **options):
    return layers.Conv2D(2, *arguments, **options)


def branches(x):
    """Paths of different reach, the shorter one shifted by its padding."""
    x = conv(3, 2, "same")(x)
    return layers.Concatenate()([conv(3, padding="same")(x), conv((1, 5), padding="same")(conv(1)(x)), x])


def shifted(x):
    """A 1x1 convolution that is moved away from the 3x3 one beside it: the union is wider than either."""
    away = layers.Cropping2D(((4, 0), (0, 0)))(layers.ZeroPadding2D(((0, 4), (0, 0)))(x))
    return layers.add([conv(3, padding="same")(x), conv(1)(away)])


def residual(x):
    inside = layers.ReLU()(layers.BatchNormalization()(conv(3, 2, "same")(x)))
    return layers.add([conv(3, padding="same")(inside), conv(1, 2, "same")(x)])


def nested(x):
    inner = keras.Input((None, None, 3))
    shared = conv(2, 2, "same", activation="relu")
    inner = keras.Model(inner, shared(conv(3)(inner)))
    stem = keras.Sequential([layers.Rescaling(2.0), layers.ZeroPadding2D(((0, 1), (0, 1))), layers.Conv2D(3, 3, 2)])
    return inner(stem(x))


NETWORKS = {
    "one convolution": lambda x: conv(3)(x),
    "strides": lambda x: conv(3, padding="same")(conv(5, 2, "same")(conv(3, (1, 3))(x))),
    "even kernels": lambda x: conv(2, padding="same")(conv((4, 2), 2, "same")(x)),
    "a stride above the kernel": lambda x: conv(2)(conv(1, 3)(x)),
    "dilation": lambda x: conv(3, dilation_rate=(2, 1), padding="same")(conv(3, dilation_rate=3)(x)),
    "pooling": lambda x: layers.AveragePooling2D(3, 2, "same")(layers.MaxPooling2D(2)(conv(3, padding="same")(x))),
    "depthwise": lambda x: layers.DepthwiseConv2D((3, 5), 2, "same")(conv(1)(x)),
    "separable": lambda x: layers.SeparableConv2D(4, 3, dilation_rate=2, padding="same")(conv(3, 2)(x)),
    "padding": lambda x: conv(3, 2)(layers.ZeroPadding2D(((0, 1), (2, 0)))(conv(3, 2, "same")(x))),
    "branches": branches,
    "shifted": shifted,
    "residual": residual,
    "nested": nested,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_field_is_what_changes_a_unit(name):
    image = keras.Input((*SIDES, 3))
    model = keras.Model(image, NETWORKS[name](image))
    field = receptive_field(model)
    shape, unit, first, last = seen(model)
    assert field.map == shape and not field.everything and not field.pooled
    corner = np.multiply(field.stride, unit)
    assert min(first) > 0 and last < (SIDES[0] - 1, SIDES[1] - 1), "away from the borders, or it says nothing"
    np.testing.assert_array_equal(corner + field.first, first)
    np.testing.assert_array_equal(corner + field.last, last)


@pytest.mark.parametrize(
    "model, size, stride",
    [
        ("vgg16", 212, 32),  # published: Araujo, Norris and Sim 2019, table 1
        ("vgg16_nopool", 196, 16),
        ("mobilenet", 315, 32),  # published
        ("resnet50", 483, 32),  # published
        ("baseline", 1, 1),
        ("scratch", 190, 64),  # 1 + (3-1 + 2-1) (1 + 2 + 4 + 8 + 16 + 32)
        ("efficientnet_lite0", 851, 32),  # 3 + 2 (2 + 2) + 4 2 + 4 4 + 8 4 + 8 2 + 16 (2 2 + 3 4 + 4) + 32 (3 4 + 2)
    ],
)
def test_backbones(model, size, stride):
    field = receptive_field(build_backbone(model, (224, 256)))
    assert field.stride == (stride, stride) and field.map == (224 // stride, 256 // stride) and field.pooled
    assert not field.everything
    assert field.size == (size, size)


def test_a_resizing_in_front_leaves_the_network_s_own_field():
    field = receptive_field(build_backbone("vgg16", (40, 60), 64))
    assert field.size == (212, 212) and field.map == (2, 2)


def gated(x):
    x = conv(3, 2, padding="same")(x)
    gate = layers.Dense(2, activation="sigmoid")(layers.Reshape((1, 1, 2))(layers.GlobalAveragePooling2D()(x)))
    return conv(3)(layers.multiply([x, gate]))


def attending(x):
    x = conv(4, 4)(x)
    return layers.add([x, layers.MultiHeadAttention(1, 2)(x, x)])


class Mystery(layers.Layer):
    def call(self, x):
        return x[:, ::-1]


class OwnConvolution(layers.Conv2D):
    pass


@pytest.mark.parametrize(
    "build, size, through",
    [
        (gated, 7, {"squeeze-excitation"}),
        (attending, 4, {"attention"}),
        (lambda x: conv(5)(layers.GroupNormalization(1)(x)), 5, {"group normalisation"}),
        (lambda x: conv(5)(layers.LayerNormalization(axis=(1, 2, 3))(x)), 5, {"layer normalisation"}),
        (lambda x: conv(5)(layers.LayerNormalization()(x)), 5, set()),
        (
            lambda x: layers.add([layers.Conv2D(3, 5, padding="same")(x), layers.GlobalMaxPooling2D(keepdims=True)(x)]),
            5,
            {"global pooling"},
        ),
        (
            lambda x: layers.add([layers.Conv2D(3, 5, padding="same")(x), keras.ops.mean(x, (1, 2), keepdims=True)]),
            5,
            {"global pooling"},
        ),
        (
            lambda x: layers.add([layers.Conv2D(3, 5, padding="same")(x), layers.AveragePooling2D(SIDES)(x)]),
            5,
            {"global pooling"},
        ),
        (lambda x: conv(5)(Mystery()(x)), 5, {"Mystery, perhaps"}),
        (lambda x: layers.Dense(2)(layers.Flatten()(OwnConvolution(2, 5)(x))), 5, set()),
    ],
)
def test_what_sees_the_whole_image_is_named_beside_the_local_path(build, size, through):
    image = keras.Input((*SIDES, 3))
    field = receptive_field(keras.Model(image, build(image)))
    assert field.size == (size, size) and field.everything == through


def test_squeeze_excitation_really_sees_everything():
    """The word is no guess: beyond the local field pixels do change the unit."""
    image = keras.Input((*SIDES, 3))
    _, _, first, last = seen(keras.Model(image, gated(image)))
    assert (first, last) == ((0, 0), (SIDES[0] - 1, SIDES[1] - 1))


def test_what_cannot_be_told_is_refused():
    image = keras.Input((*SIDES, 3))
    with pytest.raises(InputError, match="kind UpSampling2D"):
        receptive_field(keras.Model(image, layers.UpSampling2D()(image)))
    pooled = layers.MaxPooling2D(2, 2, "same")(image)
    wide = layers.Concatenate()([layers.Cropping2D(((0, 11), (0, 15)))(image), pooled])
    with pytest.raises(InputError, match="joins maps of strides 1, 2"):
        receptive_field(keras.Model(image, wide))


def test_the_table(capsys):
    assert main(["backbones", "--model", "vgg16, vgg16_nopool,scratch", "--size", "96x128"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = {line[0]: line[1:] for line in lines if len(line) > 6}
    assert shown["vgg16"][:6] == ["212", "32", "3x4", "512", "14714688", "-"]
    assert shown["vgg16_nopool"][:6] == ["196", "16", "6x8", "512", "14714688", "-"]
    count = str(build_backbone("scratch", (96, 128)).count_params())
    assert shown["scratch"][:6] == ["190", "64", "1x2", "512", count, "-"]
    assert [shown[name][6] for name in ("vgg16", "scratch")] == ["32", "1"] and shown["scratch"][7] == "-"
    # VGG16 multiplies and adds 15.35e9 times for an image of 224x224 (Simonyan and Zisserman have 15.5 with its top)
    assert float(shown["vgg16"][8]) == pytest.approx(2 * 15.35 * 96 * 128 / 224**2, rel=0.01)
    assert shown["scratch"][9] == "no"


def test_a_backbone_that_is_none():
    with pytest.raises(InputError, match="no backbone is called vgg161"):
        show_backbones("vgg161")
