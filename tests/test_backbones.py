import random
import socket

import numpy as np
import pytest

from competition.base.files import InputError, sha256_file
from competition.models import backbones
from competition.models.backbones import (
    Weights,
    backbone_names,
    build_backbone,
    is_pretrained,
    network_size,
    own_graph,
    register_backbone,
    resolve_weights,
    smallest_size,
)

keras = pytest.importorskip("keras")


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def save_weights(network, path):
    """Weights in the layout of the files that Keras offers for download."""
    import h5py
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)


def shaken(network):
    """The network with every bias and statistic moved a little, so that none is 0 or 1 by chance."""
    rng = np.random.default_rng(1)
    values = network.get_weights()
    network.set_weights([value + rng.uniform(0, 0.02, value.shape) * (value.ndim == 1) for value in values])
    return network


# ------------------------------------------------------------------------------------------------------ names


def test_every_application_has_a_name():
    found = backbone_names()
    for name in (
        "resnet50 resnet50_v2 resnet152_v2 mobilenet mobilenet_v2 mobilenet_v3_small mobilenet_v3_large "
        "xception inception_v3 inception_resnet_v2 densenet121 nasnet_mobile nasnet_large efficientnet_b0 "
        "efficientnet_v2_b0 efficientnet_v2_s convnext_tiny convnext_xlarge efficientnet_lite0 vgg16 vgg19 "
        "efficientnet_lite1 efficientnet_lite2 hyperresnet scratch baseline vgg16_nopool"
    ).split():
        assert name in found
    constructors = [name for name in dir(keras.applications) if callable(getattr(keras.applications, name))]
    assert len(found) == len(set(found)) == len(constructors) + 3 + 3 + 1  # Lite, own, vgg16_nopool
    assert found == sorted(found)


@pytest.mark.parametrize("model", backbone_names())
def test_table_is_complete(model):
    smallest = network_size(model, (1, 1))[0]
    assert smallest == {
        "hyperresnet": 1, "scratch": 1, "baseline": 1, "xception": 71, "inception_v3": 75, "inception_resnet_v2": 75
    }.get(model, 32)  # fmt: skip
    if model in backbones._applications():
        image = keras.Input((smallest, smallest, 3))
        assert backbones._normalise(model, image).shape == image.shape


@pytest.mark.parametrize("model", ["resnet-50", "ResNet50", "resnet5"])
def test_unknown_name_gets_close_ones(model):
    with pytest.raises(InputError, match=f"called {model}; close: .*resnet50"):
        resolve_weights(model)
    with pytest.raises(InputError, match="close: .*resnet50"):
        build_backbone(model, (32, 32))


# ----------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("model", [name for name in backbone_names() if name in backbones._applications()])
def test_normalisation_is_that_of_keras(model):
    image = keras.Input((4, 5, 3))
    _, module = backbones._applications()[model]
    images = noise(2, 4, 5, 3)
    ours = keras.Model(image, backbones._normalise(model, image) * 1)
    np.testing.assert_allclose(ours(images), module.preprocess_input(images.copy()), atol=1e-4)


@pytest.mark.parametrize(
    "model, constructor, module",
    [
        ("vgg16", "VGG16", "vgg16"),  # caffe: BGR minus means
        ("mobilenet_v2", "MobileNetV2", "mobilenet_v2"),  # tf: -1..1
        ("convnext_tiny", "ConvNeXtTiny", "convnext"),  # inside the network; a layer after the pooling
        (
            "efficientnet_b0",
            "EfficientNetB0",
            "efficientnet",
        ),  # inside the network, and otherwise for "imagenet"
    ],
)
def test_is_keras_network_with_its_weights(model, constructor, module, tmp_path, monkeypatch):
    """Weights under Keras' file name, from a folder: what Keras itself computes when it downloads that file.

    And the graph is the same without weights, so that a trained model can be built again and filled from its
    own file.
    """
    from keras.src.utils import file_utils

    constructor = getattr(keras.applications, constructor)
    preprocess = getattr(keras.applications, module).preprocess_input
    path = tmp_path / backbones._wanted(model).name
    save_weights(shaken(constructor(include_top=False, weights=None)), path)
    with monkeypatch.context() as patch:
        patch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
        theirs = constructor(include_top=False, weights="imagenet", input_shape=(96, 96, 3), pooling="avg")
    weights = resolve_weights(model, tmp_path)
    assert weights == Weights("file", path, sha256_file(path))
    assert is_pretrained(model, weights)
    ours = build_backbone(model, (96, 96), None, weights)
    images = noise(1, 96, 96, 3)
    expected = np.asarray(theirs(preprocess(images.copy())))
    assert np.isfinite(expected).all() and expected.std() > 0
    np.testing.assert_allclose(ours(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    random_ones = build_backbone(model, (96, 96))
    assert [type(layer) for layer in ours.layers] == [type(layer) for layer in random_ones.layers]


@pytest.mark.parametrize("layout", ["legacy", "keras"])
def test_vgg16_nopool_is_vgg16_to_its_last_convolution(layout, tmp_path):
    """With VGG16's own file, in a folder, in either layout; and ranked wherever that file lies."""
    whole = shaken(keras.applications.VGG16(include_top=False, weights=None))
    path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    if layout == "legacy":
        save_weights(whole, path)
    else:
        whole.save_weights(tmp_path / "a.weights.h5")
        (tmp_path / "a.weights.h5").rename(path := tmp_path / "vgg16.weights.h5")
    weights = resolve_weights("vgg16_nopool", path if layout == "keras" else tmp_path)
    assert weights == resolve_weights("vgg16", path) and is_pretrained("vgg16_nopool", weights)
    ours = build_backbone("vgg16_nopool", (40, 48), None, weights)
    images = noise(2, 40, 48, 3)
    last = keras.Model(whole.input, whole.get_layer("block5_conv3").output)
    maps = np.asarray(last(keras.applications.vgg16.preprocess_input(images.copy())))
    assert maps.shape == (2, 2, 3, 512) and maps.std() > 0
    np.testing.assert_allclose(ours(images), maps.mean((1, 2)), rtol=1e-3, atol=1e-4 * np.abs(maps).max())
    if layout == "legacy":
        assert set(backbones.find_weights_at_hand(tmp_path)) == {"vgg16", "vgg16_nopool"}


def test_small_odd_images_are_enlarged_inside():
    backbone = build_backbone("mobilenet", (20, 30))
    assert network_size("mobilenet", (20, 30)) == (32, 48)
    assert backbone.input_shape == (None, 20, 30, 3)
    assert backbone.get_layer("input_scale").output.shape == (None, 32, 48, 3)
    output = backbone(noise(2, 20, 30, 3))
    assert output.shape == (2, 1024)
    assert np.asarray(output).dtype == np.float32


def test_image_size_is_a_square_inside():
    assert network_size("mobilenet", (96, 120), 64) == (64, 64)
    assert network_size("mobilenet", (96, 120)) == (96, 120)
    assert network_size("mobilenet", (96, 120), None, 128) == (128, 160)
    assert network_size("mobilenet", (96, 120), 64, 128) == (64, 64)
    assert network_size("mobilenet", (200, 150), None, 128) == (200, 150)
    backbone = build_backbone("mobilenet", (40, 50), 64)
    resized = keras.layers.Resizing(64, 64, interpolation="bilinear")(noise(1, 40, 50, 3))
    backbone_64 = build_backbone("mobilenet", (64, 64))
    backbone_64.set_weights(backbone.get_weights())
    before = backbone.get_weights()
    np.testing.assert_allclose(backbone(noise(1, 40, 50, 3)), backbone_64(resized), atol=1e-5)
    assert all(np.array_equal(old, new) for old, new in zip(before, backbone.get_weights()))  # inference by default
    with pytest.raises(InputError, match="image_size is 64, expected at least 75"):
        build_backbone("inception_v3", (96, 96), 64)


def test_layers_are_flat_and_by_depth():
    backbone = build_backbone("mobilenet", (32, 32))
    assert backbone.name == "backbone"
    assert not any(isinstance(layer, keras.Model) for layer in backbone.layers)
    order = ["image", "input_scale", "conv1", "conv_dw_1", "conv_pw_1", "conv_dw_13", "conv_pw_13"]
    assert [layer.name for layer in backbone.layers if layer.name in order] == order


def test_lite_has_its_imagenet_weights():
    weights = resolve_weights("efficientnet_lite0")
    assert weights.kind == "imagenet"
    assert weights.sha256 == backbones.efficientnet_lite.VARIANTS["efficientnet_lite0"].sha256
    features = np.asarray(build_backbone("efficientnet_lite0", (48, 40), None, weights)(noise(2, 48, 40, 3)))
    again = np.asarray(build_backbone("efficientnet_lite0", (48, 40), None, weights)(noise(2, 48, 40, 3)))
    assert features.shape == (2, 1280)
    assert np.array_equal(features, again)


def test_scratch():
    backbone = build_backbone("scratch", (96, 96))
    convolutions = [layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [16, 32, 64, 128, 256, 256]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert backbone.output_shape == (None, 256)
    assert build_backbone("scratch", (20, 130)).output_shape == (None, 1 * 8 * 256)


def test_baseline():
    pixels = np.asarray(build_backbone("baseline", (4, 6))(np.full((1, 4, 6, 3), 255.0, "float32")))
    assert pixels.shape == (1, 4 * 6 * 3)
    assert np.array_equal(pixels, np.ones_like(pixels))


def test_hyperresnet_is_the_architecture_that_its_name_says():
    """KerasTuner's own network, given the same weights, makes the same of pixels in -1..1."""
    from keras_tuner import HyperParameters
    from keras_tuner.applications import HyperResNet

    images, choices = noise(2, 20, 36, 3), HyperParameters()
    backbone = shaken(build_backbone("hyperresnet-next-8-6-max", (20, 36), None, Weights("none")))
    for key, value in {"version": "next", "conv3_depth": 8, "conv4_depth": 6, "pooling": "max"}.items():
        choices.Fixed(key, value)
    own = HyperResNet(include_top=False, input_shape=(20, 36, 3)).build(choices)
    own.set_weights(backbone.get_weights())
    expected = np.asarray(own(images / 127.5 - 1, training=False))
    assert expected.shape == (2, 2048) and np.abs(expected).max() > 0
    np.testing.assert_allclose(np.asarray(backbone(images, training=False)), expected, rtol=1e-3, atol=1e-4)
    assert len(build_backbone("hyperresnet", (20, 36)).layers) != len(backbone.layers)
    with pytest.raises(InputError, match="called hyperresnet-v3-4-6-avg; close: hyperresnet"):
        build_backbone("hyperresnet-v3-4-6-avg", (20, 36))
    assert not is_pretrained("hyperresnet-v2-4-6-avg", resolve_weights("hyperresnet-v2-4-6-avg"))


def test_can_be_exported_and_rebuilt(tmp_path):
    """With all the layers that are added in front: resizing, RGB to BGR, means."""
    import tensorflow as tf

    backbone = build_backbone("vgg16", (24, 30))
    images = noise(2, 24, 30, 3)
    expected = np.asarray(backbone(images, training=False))
    backbone.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(images), expected, rtol=1e-3, atol=1e-4)
    rebuilt = keras.Model.from_config(backbone.get_config())
    rebuilt.set_weights(backbone.get_weights())
    np.testing.assert_allclose(rebuilt(images, training=False), expected, rtol=1e-3, atol=1e-4)


def test_keras_weights_of_lite(tmp_path):
    trained = build_backbone("efficientnet_lite0", (32, 32))
    trained.save_weights(tmp_path / "a.weights.h5")
    weights = resolve_weights("efficientnet_lite0", tmp_path / "a.weights.h5")
    loaded = build_backbone("efficientnet_lite0", (40, 32), None, weights)
    assert all(np.array_equal(old, new) for old, new in zip(trained.get_weights(), loaded.get_weights()))
    with pytest.raises(InputError, match="a.weights.h5: not weights of vgg16"):
        build_backbone("vgg16", (32, 32), None, weights)


def test_same_seed_same_weights():
    def build():
        keras.utils.set_random_seed(3)
        resolve_weights("mobilenet", "none")
        return build_backbone("mobilenet", (32, 32)).get_weights()

    assert all(np.array_equal(first, second) for first, second in zip(build(), build()))


# ------------------------------------------------------------------------------------------------ the weights


def test_finding_the_file_leaves_the_random_numbers_alone():
    random.seed(4)
    expected = random.random()
    random.seed(4)
    backbones._wanted.cache_clear()
    assert backbones._wanted("mobilenet").name == "mobilenet_1_0_224_tf_no_top.h5"
    assert random.random() == expected


@pytest.mark.parametrize("model", ["scratch", "baseline", "hyperresnet"])
def test_own_models_are_always_random(model, tmp_path):
    assert resolve_weights(model) == resolve_weights(model, "none") == resolve_weights(model, tmp_path)
    assert not is_pretrained(model, resolve_weights(model))
    (tmp_path / "a.h5").touch()
    with pytest.raises(InputError, match=f"{model}: always starts from random weights"):
        resolve_weights(model, tmp_path / "a.h5")


def test_random_only_when_asked_for():
    assert resolve_weights("resnet50", "none") == Weights("none")
    assert not is_pretrained("resnet50", Weights("none"))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty Keras cache and a server that refuses connections."""

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(backbones, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(backbones.socket, "getaddrinfo", refuse)
    monkeypatch.setattr(backbones.socket, "create_connection", refuse)
    monkeypatch.setattr(backbones.urllib.request, "urlretrieve", refuse)
    return tmp_path / "cache"


def test_without_network_the_error_names_the_file_and_the_ways_on(offline):
    with pytest.raises(InputError) as error:
        resolve_weights("resnet50")
    for words in (
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        str(offline),
        "Network is unreachable",
        "WEIGHTS=none",
        "folder",
        "efficientnet_lite0",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(offline.iterdir())


def test_keras_own_cache_is_used(offline):
    offline.mkdir()
    path = offline / "mobilenet_1_0_224_tf_no_top.h5"
    path.write_bytes(b"weights")
    assert resolve_weights("mobilenet") == Weights("imagenet", path, sha256_file(path))


def test_a_broken_file_in_the_cache_is_not_used_and_not_lost(offline):
    offline.mkdir()
    path = offline / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    path.write_bytes(b"half")
    with pytest.raises(InputError, match="not whole"):
        resolve_weights("vgg16")
    assert path.read_bytes() == b"half"


def test_a_server_is_tried_once(monkeypatch):
    monkeypatch.setattr(backbones.urllib.request, "getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.h5"
        backbones._reach(url)
    with pytest.raises(OSError):
        backbones._reach(url)


def test_download(offline, monkeypatch):
    def download(url, path):
        assert url.endswith("/mobilenet_1_0_224_tf_no_top.h5")
        with open(path, "wb") as file:
            file.write(b"weights")

    monkeypatch.setattr(backbones, "_reach", lambda url: None)
    monkeypatch.setattr(backbones.urllib.request, "urlretrieve", download)
    weights = resolve_weights("mobilenet")
    assert weights.path == offline / "mobilenet_1_0_224_tf_no_top.h5"
    assert weights.path.read_bytes() == b"weights"


def test_a_download_with_another_checksum_is_refused(offline, monkeypatch):
    monkeypatch.setattr(backbones, "_reach", lambda url: None)
    monkeypatch.setattr(backbones.urllib.request, "urlretrieve", lambda url, path: None)
    with pytest.raises(InputError, match="another checksum"):
        resolve_weights("vgg16")
    assert not list(offline.iterdir())


@pytest.mark.parametrize("model", ["vgg16", "efficientnet_lite0"])
def test_a_folder_without_the_file_says_what_was_there(model, tmp_path):
    (tmp_path / "resnet.h5").touch()
    (tmp_path / "notes.txt").touch()
    wanted = {
        "vgg16": "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "efficientnet_lite0": "efficientnet-lite0",
    }
    with pytest.raises(InputError, match=rf"expected {wanted[model]}.* for {model}, found resnet.h5"):
        resolve_weights(model, tmp_path)


def test_missing_file():
    with pytest.raises(InputError, match="nowhere.h5: no such file"):
        resolve_weights("vgg16", "nowhere.h5")


@pytest.mark.parametrize("name", ["a.h5", "a.weights.h5", "a.npz", "a.pth"])
@pytest.mark.parametrize("model", ["mobilenet", "efficientnet_lite0"])
def test_a_file_that_holds_no_weights(name, model, tmp_path):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InputError, match=name):
        build_backbone(model, (32, 32), None, resolve_weights(model, tmp_path / name))


def test_weights_of_another_network(tmp_path):
    save_weights(keras.applications.MobileNet(include_top=False, weights=None, alpha=0.25), tmp_path / "a.h5")
    with pytest.raises(InputError, match="a.h5: not weights of mobilenet"):
        build_backbone("mobilenet", (32, 32), None, resolve_weights("mobilenet", tmp_path / "a.h5"))
    with pytest.raises(InputError, match="a.h5: not weights of mobilenet_v2"):
        build_backbone("mobilenet_v2", (32, 32), None, resolve_weights("mobilenet_v2", tmp_path / "a.h5"))


# ---------------------------------------------------------------------------------------------------- of one's own


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(backbones, "_OWN", {})


def tiny(filters=4, scale=1 / 255):
    def build(image):
        x = keras.layers.Rescaling(scale)(image)
        x = keras.layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
        return keras.layers.GlobalAveragePooling2D()(x)

    return build


def test_a_registered_network_is_a_backbone_like_any_other(own, tmp_path):
    build = tiny()
    register_backbone("tiny", build, smallest=12)
    assert "tiny" in backbone_names() and smallest_size("tiny") == 12
    assert network_size("tiny", (8, 10)) == (12, 15)
    assert resolve_weights("tiny") == resolve_weights("tiny", "none") == Weights("none")
    assert not is_pretrained("tiny", resolve_weights("tiny"))
    image = keras.Input((16, 20, 3))
    network = keras.Model(image, build(image))
    network.save_weights(tmp_path / "tiny.weights.h5")
    for place in (tmp_path / "tiny.weights.h5", tmp_path):
        weights = resolve_weights("tiny", place)
        assert weights.kind == "file" and weights.sha256 and is_pretrained("tiny", weights)
        images = noise(2, 16, 20, 3)
        found = build_backbone("tiny", (16, 20), weights=weights)
        np.testing.assert_array_equal(found.predict_on_batch(images), network.predict_on_batch(images))


def test_another_network_of_the_same_name_is_told_apart(own):
    hashes = []
    for build in (tiny(), tiny(), tiny(8), tiny(scale=1 / 127.5)):
        register_backbone("tiny", build)
        hashes.append(own_graph("tiny", (16, 16))["backbone"])
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    assert own_graph("scratch", (16, 16)) == {}


def test_networks_that_differ_in_their_operations_or_wires_alone_are_told_apart(own):
    pool, ops, layers = keras.layers.GlobalAveragePooling2D(), keras.ops, keras.layers

    def wired(second):
        def build(image):
            a, b = layers.Rescaling(1 / 255)(image), layers.Rescaling(2 / 255)(image)
            return pool(layers.Add()([a, b if second else a]))

        return build

    pairs = (
        (lambda image: pool(image / 255), lambda image: pool(image / 127.5 - 1)),
        (lambda image: pool(ops.relu(image)), lambda image: pool(ops.tanh(image))),
        (wired(True), wired(False)),
    )
    for pair in pairs:
        hashes = []
        for build in (*pair, pair[0]):
            register_backbone("tiny", build)
            hashes.append(own_graph("tiny", (16, 16))["backbone"])
        assert hashes[0] == hashes[2] != hashes[1]


def test_what_cannot_be_registered_is_refused(own):
    for name, build, text in (
        ("vgg16", tiny(), "the toolkit has one of that name"),
        ("Tiny net", tiny(), "expected lower-case letters"),
        ("tiny", None, "build is a NoneType, expected a function"),
    ):
        with pytest.raises(InputError, match=text):
            register_backbone(name, build)
    register_backbone("flat", lambda image: image)
    with pytest.raises(InputError, match=r"backbone flat: build returned \[None, 16, 16, 3\], expected \[n, d\]"):
        build_backbone("flat", (16, 16))
    with pytest.raises(InputError, match="one of your own is registered first"):
        build_backbone("forgotten", (16, 16))
