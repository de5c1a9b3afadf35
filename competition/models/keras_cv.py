"""Backbones of keras-cv: MODEL=cv:<name>, "cv:resnet18_v2", or cv:<folder of a preset>.

keras-cv 0.9 downloads even the description of a network that starts from random weights. So the networks are described
here, as the papers have them, and only weights are downloaded. A test compares their numbers of weights with those that
keras-cv states.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from competition.base.files import InputError
from competition.models.presets import CONFIG_JSON, WEIGHTS_H5, Family, Network, Preset, plain_config, read_config

TRAINED = ("_imagenet", "_coco", "_sa1b")  # how the names end that have weights
FAMILIES = {
    "MiTBackbone": Family(grid=32, smallest=32),
    "ViTDetBackbone": Family(grid=0, smallest=0, square=True),
}


def _same(kind, key, values):
    """{name: (kind, {key: value})} of networks that differ in one key."""
    return {name: (kind, {key: value}) for name, value in values.items()}


def _resnets():
    depths = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
    for version, kind in (("", "ResNetBackbone"), ("_v2", "ResNetV2Backbone")):
        for depth, blocks in depths.items():
            yield (
                f"resnet{depth}{version}",
                (
                    kind,
                    {
                        "stackwise_filters": [64, 128, 256, 512],
                        "stackwise_blocks": blocks,
                        "stackwise_strides": [1, 2, 2, 2],
                        "block_type": "block" if depth >= 50 else "basic_block",
                    },
                ),
            )


SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1))  # B0 to B7


def _efficientnets():
    first = {
        "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
        "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
        "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
        "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
        "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
        "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    }
    gated = first | {"stackwise_squeeze_and_excite_ratios": [0.25] * 7}
    second = {
        "stackwise_kernel_sizes": [3] * 6,
        "stackwise_num_repeats": [1, 2, 2, 3, 5, 8],
        "stackwise_input_filters": [32, 16, 32, 48, 96, 112],
        "stackwise_output_filters": [16, 32, 48, 96, 112, 192],
        "stackwise_expansion_ratios": [1, 4, 4, 4, 6, 6],
        "stackwise_squeeze_and_excite_ratios": [0, 0, 0, 0.25, 0.25, 0.25],
        "stackwise_strides": [1, 2, 2, 2, 1, 2],
        "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * 3,
    }
    for name, kind, config, count in (
        ("efficientnetv1_b", "EfficientNetV1Backbone", gated, 8),
        ("efficientnetlite_b", "EfficientNetLiteBackbone", first, 5),
        ("efficientnetv2_b", "EfficientNetV2Backbone", second, 4),
    ):
        for number, (width, depth) in enumerate(SCALES[:count]):
            yield f"{name}{number}", (kind, config | {"width_coefficient": width, "depth_coefficient": depth})
    for letter, stem, repeats, filters in (
        ("s", 24, [2, 4, 4, 6, 9, 15], [24, 48, 64, 128, 160, 256]),
        ("m", 24, [3, 5, 5, 7, 14, 18, 5], [24, 48, 80, 160, 176, 304, 512]),
        ("l", 32, [4, 7, 7, 10, 19, 25, 7], [32, 64, 96, 192, 224, 384, 640]),
    ):
        more = len(repeats) - 3
        config = {
            "stackwise_kernel_sizes": [3] * len(repeats),
            "stackwise_num_repeats": repeats,
            "stackwise_input_filters": [stem, *filters[:-1]],
            "stackwise_output_filters": filters,
            "stackwise_expansion_ratios": [1, 4, 4, 4, *[6] * (more - 1)],
            "stackwise_squeeze_and_excite_ratios": [0, 0, 0, *[0.25] * more],
            "stackwise_strides": [1, 2, 2, 2, 1, 2, 1][: len(repeats)],
            "stackwise_conv_types": ["fused"] * 3 + ["unfused"] * more,
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
        }
        yield f"efficientnetv2_{letter}", ("EfficientNetV2Backbone", config)


def _mobilenets():
    small = {
        "stackwise_expansion": [1, 72.0 / 16, 88.0 / 24, 4, 6, 6, 3, 3, 6, 6, 6],
        "stackwise_filters": [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96],
        "stackwise_kernel_size": [3, 3, 3, *[5] * 8],
        "stackwise_stride": [2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1],
        "stackwise_se_ratio": [0.25, None, None, *[0.25] * 8],
        "stackwise_activation": ["relu"] * 3 + ["hard_swish"] * 8,
    }
    large = {
        "stackwise_expansion": [1, 4, 3, 3, 3, 3, 6, 2.5, 2.3, 2.3, 6, 6, 6, 6, 6],
        "stackwise_filters": [16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160],
        "stackwise_kernel_size": [3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5],
        "stackwise_stride": [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1],
        "stackwise_se_ratio": [None] * 3 + [0.25] * 3 + [None] * 4 + [0.25] * 5,
        "stackwise_activation": ["relu"] * 6 + ["hard_swish"] * 9,
    }
    return {"mobilenet_v3_small": ("MobileNetV3Backbone", small), "mobilenet_v3_large": ("MobileNetV3Backbone", large)}


def _darknets():
    for name, width, depth in (("tiny", 48, 1), ("s", 64, 1), ("m", 96, 2), ("l", 128, 3), ("xl", 170, 4)):
        config = {
            "stackwise_channels": [width * 2**level for level in range(4)],
            "stackwise_depth": [depth, 3 * depth, 3 * depth, depth],
            "use_depthwise": False,
        }
        yield f"csp_darknet_{name}", ("CSPDarkNetBackbone", config)
    for name, channels, depth in (
        ("xs", [32, 64, 128, 256], 1),
        ("s", [64, 128, 256, 512], 1),
        ("m", [96, 192, 384, 576], 2),
        ("l", [128, 256, 512, 512], 3),
        ("xl", [160, 320, 640, 640], 3),
    ):
        config = {"stackwise_channels": channels, "stackwise_depth": [depth, 2 * depth, 2 * depth, depth]}
        yield f"yolo_v8_{name}_backbone", ("YOLOV8Backbone", config)


def _transformers():
    depths = ([2, 2, 2, 2], [2, 2, 2, 2], [3, 4, 6, 3], [3, 4, 18, 3], [3, 8, 27, 3], [3, 6, 40, 3])
    for number, depth in enumerate(depths):
        dims = [64, 128, 320, 512] if number else [32, 64, 160, 256]
        yield f"mit_b{number}", ("MiTBackbone", {"depths": depth, "embedding_dims": dims})
    for name, width, depth, heads in (("base", 768, 12, 12), ("large", 1024, 24, 16), ("huge", 1280, 32, 16)):
        config = {
            "embed_dim": width,
            "depth": depth,
            "mlp_dim": 4 * width,
            "num_heads": heads,
            "patch_size": 16,
            "window_size": 14,
            "global_attention_indices": [depth // 4 * part - 1 for part in (1, 2, 3, 4)],
        }
        yield f"vitdet_{name}", ("ViTDetBackbone", config)


NETWORKS = {
    **dict(_resnets()),
    **_same(
        "DenseNetBackbone",
        "stackwise_num_repeats",
        {"densenet121": [6, 12, 24, 16], "densenet169": [6, 12, 32, 32], "densenet201": [6, 12, 48, 32]},
    ),
    **dict(_efficientnets()),
    **_mobilenets(),
    **dict(_darknets()),
    **dict(_transformers()),
}


def check_installed() -> None:
    """InputError where keras-cv, or TensorFlow, which it imports, is not here."""
    if not find_spec("keras_cv"):
        raise InputError(
            "MODEL=cv:...: keras-cv is not installed here; pip install keras-cv (it has no wheels for Windows)"
        )
    if not find_spec("tensorflow"):
        raise InputError(
            "MODEL=cv:...: keras-cv cannot be imported without TensorFlow; MODEL=hub:... trains on JAX alone"
        )


@cache
def imported():
    """The module keras_cv, imported when it is first asked for: it takes seconds."""
    try:
        import keras_cv
        import keras_cv.models
    except ImportError as error:
        raise InputError(f"MODEL=cv:...: keras-cv is here, but cannot be imported ({error})") from None
    return keras_cv


def find(model: str, name: str) -> Preset:
    """The Preset of a name of NETWORKS, with or without how the names of trained ones end."""
    plain = next((name.removesuffix(end) for end in TRAINED if name.endswith(end)), name)
    if plain not in NETWORKS:
        import difflib

        close = difflib.get_close_matches(name, NETWORKS, n=4, cutoff=0.5)
        raise InputError(
            f"MODEL={model}: no backbone of keras-cv, {'close: ' if close else ''}{', '.join(close or NETWORKS)}"
        )
    kind, config = NETWORKS[plain]
    return Preset(model, Network(f"keras_cv>{kind}", config | {"include_rescaling": True}))


def read_folder(model: str, folder: Path) -> Preset:
    """The Preset of a folder that keras-cv wrote; its networks scale pixels themselves."""
    imported()
    saved = read_config(folder)
    kind = str(saved.get("registered_name"))
    if not kind.startswith("keras_cv") or not isinstance(saved.get("config"), dict):
        raise InputError(f"{folder / CONFIG_JSON}: holds {kind}, expected a backbone of keras-cv (keras_cv.models>...)")
    config = plain_config(saved["config"])
    if not config.get("include_rescaling"):
        raise InputError(f"{folder / CONFIG_JSON}: include_rescaling is false, expected a network that takes raw RGB")
    return Preset(model, Network(kind, config), folder)


def download(preset: Preset) -> Path:
    """The file of a preset's own weights in the library's cache, downloaded there at need."""
    name = preset.partition(":")[2]
    presets = _trained()
    if name not in presets:
        plain = next((name.removesuffix(end) for end in TRAINED if name.endswith(end)), name)
        trained = [f"cv:{one}" for one in presets if one.startswith(plain)]
        raise InputError(
            f"{preset}: keras-cv has no weights of that name; "
            f"{f'MODEL={trained[0]} has, ' if trained else ''}WEIGHTS=none begins with random ones"
        )
    from keras_cv.src.utils.preset_utils import get_file

    print(f"{preset}: its weights come from {presets[name]}", flush=True)
    try:
        return Path(get_file(presets[name], WEIGHTS_H5))
    except Exception as error:  # requests and kagglehub raise about anything
        why = " ".join(str(error).split())[:160]
        raise InputError(
            f"{preset}: its file {WEIGHTS_H5} is not here and could not be downloaded ({why}). Ways on: download "
            f"{presets[name]} elsewhere, then WEIGHTS=<that file, or its folder>; WEIGHTS=none for random weights"
        ) from None


def load(preset: Preset, network, path: Path):
    """The library's own network with the weights of a file: `network`, or, where it is a function, what that makes."""
    network = network if hasattr(network, "load_weights") else network()
    network.load_weights(path)
    return network


def _trained():
    """{name: where its weights come from} of all that have weights."""
    models = imported().models
    found = {}
    for kind in {kind for kind, _ in NETWORKS.values()}:
        presets = getattr(models, kind).presets
        found |= {name: preset["kaggle_handle"] for name, preset in presets.items() if name.endswith(TRAINED)}
    return dict(sorted(found.items()))
