import random

import numpy as np
import pytest

from competition.models.backbones import build_backbone
from competition.models.fuse import fuse_batchnorm

keras = pytest.importorskip("keras")
layers = keras.layers

# Backbones that differ in what lies before BatchNormalization, their sides, and how many of it stay: those that an
# addition goes before. DenseNet, Inception, MobileNet 1 and 3, EfficientNet and NASNet do nothing that these do not.
FAMILIES = {
    "resnet50_v2": (32, 17),
    "mobilenet_v2": (32, 0),
    "efficientnet_v2_b0": (32, 0),
    "xception": (71, 0),
    "efficientnet_lite0": (32, 0),
    "scratch": (32, 0),
    "vgg16_nopool": (32, 0),
}


def count(model):
    """How many BatchNormalization a model has, those of models inside it as well."""
    return sum(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())


def shaken(model):
    """The model with statistics, scales and offsets that leave no part of the folding without effect."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for name, low, high in (
                ("gamma", 0.5, 1.5),
                ("beta", -0.5, 0.5),
                ("moving_mean", -0.5, 0.5),
                ("moving_variance", 0.5, 2),
            ):
                if (variable := getattr(layer, name)) is not None:
                    variable.assign(rng.uniform(low, high, variable.shape))
    return model


def noise(*shape):
    return np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)


def assert_same(model, fused, images):
    expected = np.asarray(model(images, training=False))
    assert np.isfinite(expected).all() and expected.std() > 0
    np.testing.assert_allclose(fused(images, training=False), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    side, left = FAMILIES[name]
    model = shaken(build_backbone(name, (side, side)))
    before = model.get_weights()
    fused = fuse_batchnorm(model)
    assert count(fused) == left
    assert_same(model, fused, noise(2, side, side, 3))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))


def randomised(model):
    """The model with random kernels and biases, too: some of them start at zero."""
    rng = np.random.default_rng(2)
    model.set_weights([rng.uniform(-0.5, 0.5, value.shape) for value in model.get_weights()])
    return shaken(model)


PAIRS = {
    "plain": (layers.Conv2D(4, 3), {}, 0),
    "without bias": (layers.Conv2D(4, 3, use_bias=False), {}, 0),
    "groups, strides, padding": (layers.Conv2D(6, 3, 2, "same", groups=3), {}, 0),
    "neither scale nor offset": (layers.Conv2D(4, 3), {"scale": False, "center": False, "epsilon": 0.1}, 0),
    "depthwise, two outputs a channel": (layers.DepthwiseConv2D(3, depth_multiplier=2), {}, 0),
    "separable": (layers.SeparableConv2D(5, 3, use_bias=False), {}, 0),
    "dense": (layers.Dense(5), {}, 0),
    "an activation between": (layers.Conv2D(4, 3, activation="relu"), {}, 1),
    "another axis": (layers.Conv2D(4, 3, padding="same"), {"axis": 1}, 1),
    "another layer": (layers.AveragePooling2D(2), {}, 1),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_every_kind_of_layer(pair):
    before, options, left = PAIRS[pair]
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(**options)(before(image))
    model = randomised(keras.Model(image, layers.ReLU(max_value=6.0)(x)))
    fused = fuse_batchnorm(model)
    assert count(fused) == left
    assert_same(model, fused, noise(3, 8, 8, 3) / 255)


def test_output_before_the_batchnorm_is_kept():
    """A convolution that something else uses as well, and one called twice with two BatchNormalization."""
    image = keras.Input((8, 8, 3))
    once, twice = layers.Conv2D(3, 3, padding="same"), layers.Conv2D(3, 3, padding="same")
    x = once(image)
    x = layers.add([x, layers.BatchNormalization()(x)])
    x = layers.BatchNormalization()(twice(x))
    x = layers.BatchNormalization()(twice(x))
    model = randomised(keras.Model(image, x))
    fused = fuse_batchnorm(model)
    assert count(fused) == 0
    assert_same(model, fused, noise(3, 8, 8, 3) / 255)


def test_models_inside_keep_their_names():
    image = keras.Input((8, 8, 3))
    inner = keras.Model(image, layers.BatchNormalization()(layers.Conv2D(4, 3)(image)), name="backbone")
    outer = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inner(outer, training=False))
    model = randomised(keras.Model(outer, layers.Dense(2, name="logits")(x)))
    fused = fuse_batchnorm(model)
    assert count(model) == 1 and count(fused) == 0
    assert fused.get_layer("backbone").output_shape == inner.output_shape
    assert fused.get_layer("logits") is model.get_layer("logits")
    assert_same(model, fused, noise(3, 8, 8, 3) / 255)


def test_draws_no_random_numbers_and_leaves_the_model_alone():
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    before, state = model.get_weights(), random.getstate()
    fuse_batchnorm(model)
    assert random.getstate() == state
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))
