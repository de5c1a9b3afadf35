"""Presets of KerasHub: MODEL=hub:<preset>, hub:<folder of a preset>, hub:hf://timm/<name>. The extra `hub` has it."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from competition.base.files import InputError, warn
from competition.models.presets import (
    CONFIG_JSON,
    WEIGHTS_H5,
    Family,
    Network,
    Preset,
    plain_config,
    read_config,
    shape_key,
)

INSTALL = "make setup HUB=1 (or pip install 'competition-toolkit[hub]')"
HANDLE, HF = "kaggle_handle", "hf://"

# What a class of networks wants of its images, and which token stands for the image. Others: Family()
FAMILIES = {
    "ViTBackbone": Family(grid=0, smallest=0, pool="first"),
    "DeiTBackbone": Family(grid=0, smallest=0, pool="first"),
    "DINOV2Backbone": Family(grid=0, smallest=0, square=True, pool="first"),
    "DINOV3Backbone": Family(grid=0, smallest=0, pool="first"),
    "CLIPVisionEncoder": Family(grid=0, smallest=0, square=True, pool="first"),
    "MetaCLIP2VisionEncoder": Family(grid=0, smallest=0, square=True, pool="first"),
    "SigLIPVisionEncoder": Family(grid=0, smallest=0, square=True),
    "SwinTransformerBackbone": Family(grid=0, smallest=0),
    "MiTBackbone": Family(grid=32, smallest=32),
}


def check_installed() -> None:
    """InputError, which says what to install, where KerasHub is not here."""
    if not find_spec("keras_hub"):
        raise InputError(f"MODEL=hub:...: keras-hub is not installed here; {INSTALL}")


@cache
def imported():
    """The module keras_hub, imported when it is first asked for: it takes seconds."""
    try:
        import keras_hub
    except ImportError as error:
        raise InputError(f"MODEL=hub:...: keras-hub is here, but cannot be imported ({error}); {INSTALL}") from None
    return keras_hub


def find(model: str, name: str) -> Preset:
    """The Preset of a name or handle, whose config is downloaded where it is not in the library's own cache."""
    presets = imported().models.Backbone.presets
    if name not in presets and "://" not in name:
        raise InputError(
            f"MODEL={model}: KerasHub {imported().__version__} has no preset of that name, {_hint(name, presets)}"
        )
    try:
        backbone = imported().models.Backbone.from_preset(name, load_weights=False)
    except Exception as error:  # requests, kagglehub and huggingface_hub raise about anything
        raise InputError(_unreachable(model, name, error)) from None
    return _describe(model, f"keras_hub>{type(backbone).__name__}", backbone.get_config(), name, None)


def read_folder(model: str, folder: Path) -> Preset:
    """The Preset of a folder that KerasHub, timm or transformers wrote."""
    saved = read_config(folder)
    if "registered_name" in saved:
        if not isinstance(saved.get("config"), dict) or not str(saved["registered_name"]).startswith("keras_hub>"):
            raise InputError(
                f"{folder / CONFIG_JSON}: holds {saved['registered_name']}, expected a network of KerasHub (keras_hub>...)"
            )
        return _describe(model, saved["registered_name"], saved["config"], str(folder), folder)
    try:
        backbone = imported().models.Backbone.from_preset(str(folder), load_weights=False)
    except Exception as error:  # whatever its converters raise
        raise InputError(f"{folder}: KerasHub cannot read this preset: {_line(error)}") from None
    return _describe(model, f"keras_hub>{type(backbone).__name__}", backbone.get_config(), str(folder), folder)


def download(preset: Preset) -> Path:
    """The file of a preset's own weights in the library's cache, downloaded there at need."""
    import_path, name = "keras_hub.src.utils.preset_utils", preset.partition(":")[2]
    from importlib import import_module

    utilities = import_module(import_path)
    print(f"{preset}: its weights come from {handle(name)}", flush=True)
    wanted = "model.safetensors" if name.startswith(HF) else WEIGHTS_H5
    try:
        return Path(utilities.get_file(name, wanted))
    except Exception as error:  # as in find
        raise InputError(_unreachable(preset, name, error)) from None


def load(preset: Preset, network, path: Path):
    """The library's own network with the weights of a file: `network`, or, where it is a function, what that makes."""
    if path.suffix == ".h5" and not _is_part(preset, path):
        network = network() if callable(network) and not hasattr(network, "load_weights") else network
        network.load_weights(path)
        return network
    whole = imported().models.Backbone.from_preset(str(path.parent))
    return getattr(whole, "vision_encoder", whole)


def handle(name: str) -> str:
    """Where the files of a preset come from: "kaggle://keras/vit/keras/<name>/4"."""
    return imported().models.Backbone.presets.get(name, {}).get(HANDLE, name)


def _is_part(preset, path):
    """Whether a file holds more than the network of the preset: a text tower as well."""
    if not preset.network.kind.endswith("VisionEncoder"):
        return False
    if not (path.parent / CONFIG_JSON).is_file():
        raise InputError(f"{path}: expected {CONFIG_JSON} beside the weights of {preset}")
    return "vision_encoder" in read_config(path.parent).get("config", {})


def _describe(model, kind, config, source, folder):
    import keras

    imported()
    if "vision_encoder" in config:  # of two towers
        part = config["vision_encoder"]
        kind, config = part.get("registered_name") or f"keras_hub>{part['class_name']}", part["config"]
    found = keras.saving.get_registered_object(kind)
    if found is None or not shape_key(found):
        raise InputError(f"MODEL={model}: {kind.partition('>')[2] or kind} is no network that takes images alone")
    scale, offset, licence = _converter(model, source, folder)
    return Preset(model, Network(kind, plain_config(config), scale, offset), folder, licence)


def _converter(model, source, folder):
    """(scale, offset, licence): what the library does to pixels before this preset, and whose terms it comes under."""
    saved = read_config(folder) if folder else {}
    licence = str((saved.get("pretrained_cfg") or {}).get("license") or saved.get("license") or "")
    if folder and "registered_name" in saved and not (folder / "image_converter.json").is_file():
        warn(f"{folder}: has no image_converter.json, so that pixels go in as -1..1")
        return 1 / 127.5, -1.0, licence
    try:
        converter = imported().layers.ImageConverter.from_preset(source)
    except Exception as error:  # whatever its files make it raise
        raise InputError(
            f"MODEL={model}: KerasHub cannot say how this preset wants its pixels: {_line(error)}"
        ) from None
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return _numbers(scale), _numbers(offset), licence


def _numbers(value):
    return [float(one) for one in value] if isinstance(value, (list, tuple)) else float(value)


def _hint(name, presets):
    import difflib

    close = difflib.get_close_matches(name, presets, n=4, cutoff=0.5)
    return f"close: {', '.join(close)}" if close else "keras_hub.models.Backbone.presets lists them"


def _unreachable(model, name, error):
    return (
        f"{model}: its files ({CONFIG_JSON}, image_converter.json, {WEIGHTS_H5}) are not here and could not be downloaded "
        f"({_line(error)}). Ways on: download {handle(name)} elsewhere into a folder, then MODEL=hub:<that folder>, or "
        "WEIGHTS=<that folder>"
    )


def _line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:160] + "..."
