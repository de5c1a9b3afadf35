"""Recipes: how a backbone is trained, as short commented TOML files; every key is a field of `Recipe`.

The files of `competition/recipes/` say why each value is what it is. An unknown key, or a value of another type, is
refused by name; any key can be overridden on the command line (`--set batch_size=16`).
"""

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from competition.augment import POLICIES
from competition.files import InputError
from competition.views import VIEWS

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe, with their defaults."""

    # what the network sees
    image_size: int = 0  # side in pixels inside the network; 0: the competition's own size
    least_size: int = 0  # without image_size: smaller images are enlarged until their shorter side has this many pixels
    views: list[str] = field(default_factory=lambda: ["identity", "hflip"])  # TTA views that the OOF is saved for
    augment: list[str] = field(default_factory=list)  # policies of competition/augment.py, training images only

    # first phase: the backbone frozen, a head on its features, which are computed once for all folds
    frozen_epochs: int = 0
    frozen_rate: float = 1e-3
    frozen_copies: int = 0  # augmented copies of each image to train the head on; 0: its TTA views instead
    frozen_weight_decay: float = 0.0
    frozen_schedule: str = "constant"

    # second phase: everything trains
    epochs: int = 0
    rate: float = 1e-5  # peak learning rate
    schedule: str = "constant"  # or "one_cycle": up for `warmup` of the steps, then down to nothing as a cosine
    warmup: float = 0.1  # share of the steps of a one_cycle schedule
    layer_decay: float = 1.0  # learning rate of the first layer as a share of the last one's, geometric between
    frozen_share: float = 0.0  # share of the backbone's layers, from the first, that keep their pretrained weights
    weight_decay: float = 0.0  # decoupled (AdamW), on kernels only
    batchnorm: str = "frozen"  # or "train": whether the backbone's BatchNormalization learns new statistics
    mixup: float = 0.0  # share of the batches whose images are blended in pairs
    cutmix: float = 0.0  # share of the batches whose images get a patch of another image
    plain_epochs: int = 0  # last epochs without mixup and cutmix

    # both
    batch_size: int = 64
    dropout: float = 0.0  # before the head
    label_smoothing: float = 0.0
    class_weight: str = "none"  # or "balanced": images of rare classes count for more in the loss
    patience: int = 0  # epochs without a better one after which a phase stops, the best is kept; 0: all, the last is
    seed: int = 0
    precision: str = "auto"  # of the second phase: "float32", "mixed_bfloat16", or what is quickest on this machine

    # what is different for a model that starts from random weights, for which there is nothing to freeze
    scratch: dict = field(default_factory=dict)


CHOICES = {
    "schedule": ("constant", "one_cycle"),
    "frozen_schedule": ("constant", "one_cycle"),
    "batchnorm": ("frozen", "train"),
    "class_weight": ("none", "balanced"),
    "precision": ("auto", "float32", "mixed_bfloat16"),
}
ENTRIES = {"views": VIEWS, "augment": POLICIES}
SHARES = ("warmup", "frozen_share", "mixup", "cutmix", "dropout", "label_smoothing")
POSITIVE = ("frozen_rate", "rate", "batch_size", "layer_decay")


def recipe_names():
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(recipe, overrides=(), from_random=False):
    """The Recipe of a name of `competition/recipes/` or a path of a TOML file, with "key=value" overrides applied.

    `from_random` says that the model starts from random weights: then the values of the table `[scratch]` count, and
    there is no frozen phase and BatchNormalization learns its statistics. Raises InputError for an unknown recipe or
    key, and for a value of a wrong type or range.
    """
    path = FOLDER / f"{recipe}.toml" if recipe in recipe_names() else Path(recipe)
    if not path.is_file():
        raise InputError(f"{recipe}: no such recipe; expected one of {', '.join(recipe_names())}, or a .toml file")
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None
    given = dict(_parse_override(override) for override in overrides)
    checked = {key: _check(path, key, value) for key, value in values.items()}
    checked["scratch"] = {key: _check(path, key, value) for key, value in checked.get("scratch", {}).items()}
    if from_random:
        checked |= {"frozen_epochs": 0, "frozen_share": 0.0, "batchnorm": "train"} | checked["scratch"]
    checked |= {key: _check("--set", key, value) for key, value in given.items()}
    checked["scratch"] = {}
    if from_random and (key := next((key for key in ("frozen_epochs", "frozen_share") if checked[key]), None)):
        raise InputError(f"{key} is {checked[key]}, expected 0: this model starts from random weights, which are not "
                         "worth freezing")
    result = Recipe(**checked)
    if result.frozen_epochs + result.epochs < 1:
        raise InputError(f"{path}: nothing to train, expected frozen_epochs or epochs above 0 for this model")
    if result.plain_epochs > result.epochs:
        raise InputError(f"{path}: plain_epochs is {result.plain_epochs}, expected at most epochs = {result.epochs}")
    if result.mixup + result.cutmix > 1:
        mixed = result.mixup + result.cutmix
        raise InputError(f"{path}: mixup + cutmix is {mixed:g}, expected shares up to 1 together")
    return result


def _parse_override(override):
    """ "batch_size=16" -> ("batch_size", 16): the value as TOML; what is no TOML is a plain string."""
    key, sign, value = override.partition("=")
    if not sign:
        raise InputError(f"--set {override}: expected key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except ValueError:
        if "," in value:
            return key.strip(), [part.strip() for part in value.split(",")]
        return key.strip(), value.strip()


def _check(where, key, value):
    """The value of a key if its type and range are right. A whole number will do for a float, one entry for a list."""
    fields = {f.name: f for f in dataclasses.fields(Recipe)}
    if key not in fields:
        close = difflib.get_close_matches(key, fields, n=3)
        expected = f"perhaps {', '.join(close)}" if close else ", ".join(fields)
        raise InputError(f"{where}: unknown key {key}; expected {expected}")
    wanted = list if key in ENTRIES else fields[key].type
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted is list and isinstance(value, str):
        value = [value] if value else []
    if type(value) is not wanted:
        raise InputError(f"{where}: {key} is {value!r} ({type(value).__name__}), expected {wanted.__name__}")
    if key in CHOICES and value not in CHOICES[key]:
        raise InputError(f"{where}: {key} is {value!r}, expected one of {', '.join(CHOICES[key])}")
    if key in ENTRIES:
        for entry in value:
            if not isinstance(entry, str) or entry not in ENTRIES[key]:
                raise InputError(f"{where}: {key} has {entry!r}, expected names out of {', '.join(ENTRIES[key])}")
        if key == "views" and (len(set(value)) < len(value) or value[:1] != ["identity"]):
            raise InputError(f"{where}: views is {value}, expected each view once and identity first")
    if wanted in (int, float):
        high = 1 if key in SHARES else 2**32 - 1
        if key == "dropout" and value == 1:
            raise InputError(f"{where}: dropout is {value}, which leaves nothing, expected less than 1")
        if not 0 <= value <= high or (key in POSITIVE and value == 0):
            least = "above" if key in POSITIVE else "from"
            raise InputError(f"{where}: {key} is {value}, expected {least} 0 to {high}")
    return value
