import numpy as np
import pytest

from competition.backbones import build_backbone
from competition.fuse import fuse_batchnorm

keras = pytest.importorskip("keras")
layers = keras.layers

# a backbone of each family, its side, and how many BatchNormalization stay: those that an activation, an addition or
# a concatenation goes before
FAMILIES = {
    "resnet50": (32, 0),
    "resnet50_v2": (32, 17),
    "vgg16": (32, 0),
    "mobilenet": (32, 0),
    "mobilenet_v2": (32, 0),
    "mobilenet_v3_small": (32, 0),
    "efficientnet_b0": (32, 0),
    "efficientnet_v2_b0": (32, 0),
    "densenet121": (32, 62),
    "convnext_tiny": (32, 0),
    "xception": (71, 0),
    "inception_v3": (75, 0),
    "nasnet_mobile": (32, 0),
    "efficientnet_lite0": (32, 0),
    "scratch": (32, 0),
    "baseline": (32, 0),
}


def count(model):
    """How many BatchNormalization a model has, those of models inside it as well."""
    return sum(isinstance(layer, layers.BatchNormalization) for layer in model._flatten_layers())


def shaken(model):
    """The model with statistics, scales and offsets that leave no part of the folding without effect."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            for name, low, high in (("gamma", 0.5, 1.5), ("beta", -0.5, 0.5),
                                    ("moving_mean", -0.5, 0.5), ("moving_variance", 0.5, 2)):
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
    print(name, count(model), count(fused))
    assert count(fused) == left
    assert_same(model, fused, noise(2, side, side, 3))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights()))
