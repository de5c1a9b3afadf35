"""Backbones of other libraries: what a preset is, where its weights are, and how its network becomes one of ours.

`hub:<preset>` is one of KerasHub (keras_hub.py), `cv:<name>` one of keras-cv (keras_cv.py); either takes a folder of a
preset in place of the name. Those modules say what a library has. Here its network is built for the competition's
size, on layers that resize and normalise; its weights are fitted to that size, and its output becomes one vector.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from competition.base.files import InputError, check_name

LIBRARIES = {"hub": "competition.models.keras_hub", "cv": "competition.models.keras_cv"}  # by the prefix of the name
CONFIG_JSON = "config.json"
WEIGHTS_H5 = "model.weights.h5"
WEIGHTS_SAFE = "model.safetensors"  # of folders that timm and transformers write
WEIGHTS_FILES = (WEIGHTS_H5, WEIGHTS_SAFE)
OWN_FILES = (CONFIG_JSON, "image_converter.json", "preprocessor.json", "task.json", "metadata.json")
SHAPES = ("image_shape", "input_shape")  # what the shape of an image is called in configs
UNUSED = ("name", "trainable", "dtype", "input_tensor")  # keys of a saved config that say nothing about the network


@dataclass(frozen=True)
class Network:
    """The network of a preset, as the record of a run has it (JSON-able): enough to build it without the preset."""

    kind: str  # under which Keras knows its class: "keras_hub>ViTBackbone"
    config: dict  # of the class
    scale: Any = 1.0  # a pixel p, 0..255, goes in as scale * p + offset: numbers, or lists of one a channel
    offset: Any = 0.0


class Preset(str):
    """The name of a preset, "hub:vit_base", with its network and, where its files lie here, their folder."""

    network: Network
    folder: Path | None
    licence: str

    def __new__(cls, name: str, network: Network, folder: Path | None = None, licence: str = "") -> "Preset":
        preset = super().__new__(cls, name)
        preset.network, preset.folder, preset.licence = network, folder, licence
        return preset


@dataclass(frozen=True)
class Family:
    """What is known of a class of networks besides its config."""

    grid: int = 1  # the sides inside are multiples of it; 0: of the patch, and of a window of patches in the last stage
    smallest: int = 32  # pixels of the smallest side; 0: the grid
    square: bool = False
    pool: str = "mean"  # of tokens: "mean", or "first", the class token; maps are averaged


def is_preset(model: str) -> bool:
    """Whether a backbone's name says that it is one of another library."""
    return model.partition(":")[0] in LIBRARIES and ":" in model


def find_preset(model: str, weights: str | Path = "imagenet") -> Preset:
    """The Preset that MODEL=`model` WEIGHTS=`weights` mean; what is none here may be downloaded by its library.

    A folder of a preset stands in `model` after the colon, or is `weights`, or lies in `weights` under its name.
    Raises InputError where the library is not installed, or no such preset can be had.
    """
    if isinstance(model, Preset):
        return model
    prefix, _, name = model.partition(":")
    library = _library(prefix)
    if not name:
        raise InputError(f"MODEL={model}: expected {prefix}:<preset> or {prefix}:<folder of a preset>")
    if folder := _folder(name, weights):
        named = Path(name).expanduser().is_dir()
        short = check_name("MODEL", folder.resolve().name) if named else name
        return library.read_folder(f"{prefix}:{short}", folder)
    if "/" in name and "://" not in name:
        raise InputError(f"MODEL={model}: no folder with a {CONFIG_JSON} there")
    return library.find(model, name)


def preset_of(config: Mapping[str, Any]) -> str:
    """The backbone's name in the config of a run, with the network that the config holds where it is a Preset."""
    model = config["model"]
    return Preset(model, Network(**config["network"])) if "network" in config else model


def preset_config(model: str) -> dict[str, Any]:
    """The entry of a run's config that says which network a preset is; {} for all other backbones."""
    return {"network": asdict(find_preset(model).network)} if is_preset(model) else {}


def weights_file(preset: Preset, weights: str | Path) -> Path:
    """The file of weights that WEIGHTS=`weights` means for a preset: "imagenet" is the preset's own.

    Raises InputError where there is none, which names the file and says where to put it.
    """
    path = Path(weights).expanduser()
    if weights != "imagenet" and path.is_file():
        return path
    folder = path if (path / WEIGHTS_H5).is_file() else path / preset.partition(":")[2]
    if weights != "imagenet" and (folder / WEIGHTS_H5).is_file():
        return folder / WEIGHTS_H5
    if preset.folder:
        for name in WEIGHTS_FILES:
            if (preset.folder / name).is_file():
                return preset.folder / name
        there = sorted(one.name for one in preset.folder.iterdir())
        raise InputError(
            f"{preset.folder}: expected {WEIGHTS_H5} for {preset}, found {', '.join(there)}; WEIGHTS=none for random weights"
        )
    if weights != "imagenet":
        raise InputError(f"WEIGHTS={weights}: expected a folder that holds {WEIGHTS_H5} for {preset}, or such a file")
    return _library(preset.partition(":")[0]).download(preset)


def files_of(preset: Preset, weights: Path | None) -> list[Path]:
    """What another machine needs to build a preset and load these weights: the files of its folder, and the weights."""
    folder = preset.folder or (weights and weights.parent)
    own = [folder / name for name in OWN_FILES if (folder / name).is_file()] if folder else []
    return [*own, *([weights] if weights else [])]


def folders_in(folder: Path) -> list[str]:
    """The names of the presets whose folders lie in a folder, as MODEL= takes them beside WEIGHTS=<that folder>."""
    found = []
    for path in sorted(folder.glob(f"*/{CONFIG_JSON}")):
        config = read_config(path.parent)
        registered = str(config.get("registered_name", ""))
        if find_spec(registered.partition(">")[0].partition(".")[0] or "none"):
            found.append(f"{'cv' if registered.startswith('keras_cv') else 'hub'}:{path.parent.name}")
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a preset's config.json; InputError for what is none."""
    path = folder / CONFIG_JSON
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the {CONFIG_JSON} of a preset ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected the {CONFIG_JSON} of a preset, found a {type(config).__name__}")
    return config


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config without what says nothing about the network, as JSON would have it."""
    return json.loads(json.dumps({key: value for key, value in config.items() if key not in UNUSED}))


def family(network: Network) -> Family:
    """The Family of a network."""
    return _library_of(network).FAMILIES.get(_class_name(network), Family())


def patch(network: Network) -> int:
    """The side of a patch in pixels; 0 for a network without patches."""
    size = network.config.get("patch_size") or 0
    return int(max(size) if isinstance(size, Sequence) else size)


def grid_of(network: Network) -> int:
    """The pixels that the sides inside are multiples of: of a patch, of Swin a window of patches in its last stage."""
    windows = network.config.get("window_size", 1) if "depths" in network.config else 1
    return family(network).grid or patch(network) * windows * 2 ** (len(network.config.get("depths", [1])) - 1)


def smallest_side(network: Network) -> int:
    """The smallest side that a network takes."""
    return family(network).smallest or grid_of(network)


def fit_size(network: Network, size: Sequence[int]) -> tuple[int, ...]:
    """(height, width) at which a network sees images that came as `size`: up to its grid, and square where it must be."""
    grid = grid_of(network)
    sides = [-(-side // grid) * grid for side in size]
    return (max(sides),) * 2 if family(network).square else tuple(sides)


def native_size(network: Network) -> tuple[int, ...] | None:
    """(height, width) that a preset's weights were made at, None where its network does not say."""
    for key in SHAPES:
        shape = network.config.get(key)
        if shape and all(shape[:2]):
            return tuple(shape[:2])
    return None


def shape_key(kind: Any) -> str | None:
    """Which parameter of a class of networks is the shape of an image; None of a network that takes none alone."""
    return next((key for key in SHAPES if key in inspect.signature(kind.__init__).parameters), None)


def build_network(preset, size):
    """The library's own network for images of a size, of random weights."""
    import keras

    network = preset.network
    models = _library(preset.partition(":")[0]).imported().models
    kind = getattr(models, _class_name(network), None) or keras.saving.get_registered_object(network.kind)
    if kind is None:
        raise InputError(f"{preset}: this version of its library has no {_class_name(network)}")
    key = shape_key(kind)
    try:
        return kind.from_config(json.loads(json.dumps(network.config)) | {key: (*size, 3)})
    except (TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{preset}: its network cannot be built for {size[0]}x{size[1]} images: {why}") from None


def build_features(preset: Preset, x: Any, weights: Path | None = None) -> Any:
    """Features [n, d] of a Keras tensor of raw RGB [n, height, width, 3]: the preset's layers, one by one, on `x`.

    `x` has a size that fit_size gave. InputError where the network cannot be built or the weights do not fit it.
    """
    from keras import layers

    network, size = preset.network, tuple(x.shape[1:3])
    built = build_network(preset, size)
    if weights:
        _load(preset, built, size, weights)
    if not (np.allclose(network.scale, 1) and np.allclose(network.offset, 0)):
        x = layers.Rescaling(network.scale, network.offset, dtype="float32", name="input_scale")(x)
    # `call` and not the model itself: its layers become those of the backbone, which freezes and decays by them
    output = built.call(dict.fromkeys(built.input, x) if isinstance(built.input, dict) else x)
    if isinstance(output, dict):
        names = getattr(built, "stage_names", None) or list(output)
        output = output[names[-1]]
    if len(output.shape) == 4:
        return layers.GlobalAveragePooling2D(name="pool")(output)
    if len(output.shape) == 3:
        first = family(network).pool == "first" and network.config.get("use_class_token", True)
        return output[:, 0] if first else layers.GlobalAveragePooling1D(name="pool")(output)
    if len(output.shape) != 2:
        raise InputError(f"{preset}: its network gives {list(output.shape)}, expected a map, tokens or a vector")
    return output


def blocks(layer: Any) -> Iterator[Any]:
    """The parts of a backbone's layer that are frozen and decayed as one, the first first: most layers are one part.

    A layer of these libraries that holds alike blocks (the encoder of a transformer) is as many parts as it holds.
    """
    if not type(layer).__module__.startswith(("keras_hub.", "keras_cv.")):
        yield layer
        return
    inside = list(layer._flatten_layers(include_self=False, recursive=False))
    kinds = [type(one) for one in inside if list(one._flatten_layers(include_self=False, recursive=False))]
    if all(kinds.count(kind) < 2 for kind in kinds):
        yield layer
        return
    for one in inside:
        yield from blocks(one)


def _library(prefix):
    """The module of ours for a prefix; InputError where what it needs is not installed."""
    module = import_module(LIBRARIES[prefix])
    module.check_installed()
    return module


def _library_of(network):
    return import_module(LIBRARIES["cv" if network.kind.startswith("keras_cv") else "hub"])


def _class_name(network):
    return network.kind.rpartition(">")[2]


def _folder(name, weights):
    """The folder of a preset that MODEL= or WEIGHTS= name; None where they name none."""
    given = Path(name).expanduser()
    if given.is_dir():
        if not (given / CONFIG_JSON).is_file():
            there = sorted(path.name for path in given.iterdir())
            raise InputError(
                f"{given}: expected the folder of a preset, with {CONFIG_JSON}, found {', '.join(there[:9])}"
            )
        return given
    path = Path(weights).expanduser()
    places = [path / name, path] if path.is_dir() else [path.parent] if path.is_file() else []
    return next((place for place in places if (place / CONFIG_JSON).is_file()), None)


def _load(preset, built, size, path):
    """Fill a network for images of `size` with the weights of a file, which may be made at another size."""
    native = native_size(preset.network) or size
    same = native == size
    try:
        source = _library_of(preset.network).load(
            preset, built if same else lambda: build_network(preset, native), path
        )
    except InputError:
        raise
    except Exception as error:  # h5py and Keras raise about anything for a file that is none
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not weights of {preset}, as its library saves them: {why}") from None
    if source is not built:
        copy_weights(built, source, _grid(preset.network, size), _grid(preset.network, native), str(path))


def _grid(network, size):
    side = patch(network)
    return tuple(one // side for one in size) if side else None


def copy_weights(target: Any, source: Any, grid: Any, source_grid: Any, where: str) -> None:
    """Give `target` the weights of `source`, the same network for images of another size.

    grid, source_grid   (rows, columns) of patches of the two, to whose shape embeddings of positions are resized
    where               what the error names: InputError where the two differ in anything else
    """
    if len(target.weights) != len(source.weights):
        raise InputError(f"{where}: holds {len(source.weights)} weights, expected {len(target.weights)}")
    for new, old in zip(target.weights, source.weights):
        if "int" in str(new.dtype):  # numbers of positions
            continue
        values = np.asarray(old)
        if values.shape != tuple(new.shape):
            values = _resize_positions(values, tuple(new.shape), grid, source_grid, f"{where}: {new.path}")
        new.assign(values)


def _resize_positions(values, shape, grid, source_grid, where):
    """Embeddings of positions at another shape: [..., P, d], P = tokens before the patches + rows * columns of these;
    [1, rows, columns, d]; or relative ones, [2 * side - 1, d] of a row, [(2 * side - 1) ** 2, d] of a window."""
    if len(shape) == len(values.shape) and shape[-1] == values.shape[-1]:
        if len(shape) == 4 and shape[0] == 1:
            return _resize(values[0], shape[1:3])[None]
        if where.endswith("relative_position_bias_table"):
            before, now = (round(rows**0.5) for rows in (len(values), shape[0]))
            return _resize(values.reshape(before, before, -1), (now, now)).reshape(shape)
        if re.search(r"rel_pos\w*$", where):
            return _resize(values[None], (1, shape[0]))[0]
    before = values.shape[-2] - source_grid[0] * source_grid[1] if grid and 2 <= len(shape) <= 3 else -1
    if before < 0 or shape[-2] - grid[0] * grid[1] != before or shape[-1] != values.shape[-1]:
        raise InputError(f"{where} has shape {list(values.shape)}, expected {list(shape)}")
    tokens = values.reshape(values.shape[-2:])
    patches = _resize(tokens[before:].reshape(*source_grid, -1), grid)
    return np.concatenate([tokens[:before], patches.reshape(grid[0] * grid[1], -1)]).reshape(shape)


def _resize(image, size):
    """A float32 [rows, columns, d] at another size, bicubic, as ViTs are fine-tuned at another resolution."""
    import keras

    return np.asarray(keras.ops.image.resize(image[None], size, interpolation="bicubic", antialias=True))[0]


def file_name(model: str) -> str:
    """A backbone's name as part of the name of a run: letters, digits, and . _ + - alone."""
    return re.sub(r"[^\w.+-]+", "-", model).strip("-")
