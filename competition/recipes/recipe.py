"""Recipes: how a backbone is trained, as short commented TOML files; every key is a field of `Recipe`.

The files of `competition/recipes/` say why each value is what it is. An unknown key, or a value of another type, is
refused by name; any key can be overridden on the command line (`--set batch_size=16`).
"""

import dataclasses
import difflib
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from competition.base.files import InputError
from competition.features.augment import POLICIES
from competition.features.views import VIEWS

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe, with their defaults."""

    # what the network sees
    image_size: int = 0  # side in pixels inside the network; 0: the competition's own size
    least_size: int = 0  # without image_size: smaller images are enlarged until their shorter side has this many pixels
    views: list[str] = field(default_factory=lambda: ["identity", "hflip"])  # TTA views that the OOF is saved for
    # policies of competition/features/augment.py, training images only
    augment: list[str] = field(default_factory=list)
    augment_phases: str = "both"  # or "frozen", "full": in which phases; in the frozen one by its `frozen_copies`
    # copies of images of rare classes, in both phases: augmented by these policies first, then as all images are
    oversample_count: int = 0  # images that a class has at least in each training fold, with its copies; 0: no copies
    oversample_classes: list[str] = field(default_factory=list)  # that get copies; none named: all rarer ones
    oversample_augment: list[str] = field(default_factory=list)  # policies for the copies alone

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
    mixup: float = 0.0  # share of the images that are blended with another
    cutmix: float = 0.0  # share of the images that get a patch of another
    cutmix_least: float = 0.0  # least share of the image that a patch takes, before a border cuts it off
    cutmix_most: float = 1.0  # and the most
    fmix: float = 0.0  # share of the images that get blobs of another (FMix, which keras-cv calls FourierMix)
    ema: float = 0.0  # momentum of a moving average of the weights, which is what is scored and kept; 0.99 looks back
    # about 100 steps. BatchNormalization's statistics are moving averages already and taken as they are
    # share of the epochs, from the first, in which the network sees smaller images: of half the side, then of three
    # quarters (Tan and Le 2021, arXiv:2104.00298, have more steps, each of which is compiled)
    progressive: float = 0.0
    plain_epochs: int = 0  # last epochs without mixup, cutmix and fmix

    # both
    batch_size: int = 64
    head: list = field(default_factory=list)  # units of fully connected layers with ReLU between the pooled features
    # and the classes: [512, 256]; none: a single softmax layer
    dropout: float = 0.0  # before each layer of the head
    label_smoothing: float = 0.0
    class_weight: str | dict = "none"  # what an image counts in the loss: "balanced", rare classes more; or by class
    # name, others 1: { Species1 = 3.0 }, on the command line also class_weight=Species1:3,Species6:2
    synthetic: int = 0  # generated images a class that join each training fold (make gan); needs GANs declared good
    # of labels that finished runs give (make train TEACHER=, PSEUDO=)
    teacher_weight: float = 0.5  # of the TEACHER's probabilities in what is learnt of a training image; the rest is its
    # label's
    teacher_temperature: float = 2.0  # above 1 these are flatter, so that more of the less likely classes shows
    pseudo_least: float = 0.7  # probability from which on an unlabelled image of PSEUDO joins a training fold
    pseudo_labels: str = "soft"  # the teacher's probabilities, or "hard": the likeliest class
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
    "augment_phases": ("both", "frozen", "full"),
    "pseudo_labels": ("soft", "hard"),
}
ANY = None  # names that only the fold table knows
ENTRIES = {"views": VIEWS, "augment": POLICIES, "oversample_augment": POLICIES, "oversample_classes": ANY}
MIXTURES = ("mixup", "cutmix", "fmix")
SHARES = (
    *MIXTURES,
    "cutmix_least",
    "cutmix_most",
    "warmup",
    "frozen_share",
    "dropout",
    "label_smoothing",
    "ema",
    "progressive",
    "teacher_weight",
    "pseudo_least",
)
MOST = {"image_size": 10_000, "least_size": 10_000, "batch_size": 2**20}
POSITIVE = ("teacher_temperature", "frozen_rate", "rate", "batch_size", "layer_decay", "cutmix_most")


def split_values(text):
    """The values of "a,b"; of "a|b" where a value is a list itself; weights by class, "A:3,B:2", are one value."""
    return [value.strip() for value in text.split("|" if "|" in text or ":" in text else ",")]


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
    except RecursionError:
        raise InputError(f"{path}: not a TOML file: it nests too deep") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from None
    given = dict(parse_override(override) for override in overrides)
    checked = {key: _check(path, key, value) for key, value in values.items()}
    checked["scratch"] = {key: _check(path, key, value) for key, value in checked.get("scratch", {}).items()}
    if from_random:
        checked |= {"frozen_epochs": 0, "frozen_share": 0.0, "batchnorm": "train"} | checked["scratch"]
    checked |= {key: _check("SET=", key, value) for key, value in given.items()}
    checked["scratch"] = {}
    if from_random and (key := next((key for key in ("frozen_epochs", "frozen_share") if checked[key]), None)):
        raise InputError(
            f"{key} is {checked[key]}, expected 0: this model starts from random weights, which are not worth freezing"
        )
    result = Recipe(**checked)
    if result.frozen_epochs + result.epochs < 1:
        raise InputError(f"{path}: nothing to train, expected frozen_epochs or epochs above 0 for this model")
    if result.plain_epochs > result.epochs:
        raise InputError(f"{path}: plain_epochs is {result.plain_epochs}, expected at most epochs = {result.epochs}")
    if (mixed := sum(getattr(result, key) for key in MIXTURES)) > 1 + 1e-9:
        raise InputError(f"{path}: {' + '.join(MIXTURES)} is {mixed:g}, expected shares up to 1 together")
    if result.cutmix_least > result.cutmix_most:
        raise InputError(
            f"{path}: cutmix_least is {result.cutmix_least:g}, expected at most cutmix_most = {result.cutmix_most:g}"
        )
    if not result.oversample_count and (result.oversample_classes or result.oversample_augment):
        raise InputError(
            f"{path}: oversample_count is 0, expected how many images the classes that get copies shall "
            "have in a training fold"
        )
    return result


def write_override(key, value):
    """The "key=value" of a value of Python: a text as it is; numbers, lists and dicts as TOML."""

    def write(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{write(str(name))} = {write(one)}" for name, one in value.items()) + "}"
        try:
            return json.dumps(value, ensure_ascii=False, default=lambda one: one.tolist())  # numpy's numbers and arrays
        except (AttributeError, TypeError):
            raise InputError(f"{key}={value!r}: found {type(value).__name__}, expected what TOML can hold") from None

    if value is None:
        raise InputError(f"{key}=None: expected a value; a key that is not given is as the recipe has it")
    return f"{key}={value if isinstance(value, str) else write(value)}"


def parse_override(override):
    """ "batch_size=16" -> ("batch_size", 16): the value as TOML; what is no TOML is a plain string.

    So is the one entry of a list of class names, which may look like a number: oversample_classes=3.
    """
    key, sign, value = override.partition("=")
    if not sign:
        raise InputError(f"SET={override}: expected key=value")
    try:
        read = tomllib.loads(f"value = {value}")["value"]
        named = ENTRIES.get(key.strip(), POLICIES) is ANY and not isinstance(read, (str, list))
        return key.strip(), value.strip() if named else read
    except RecursionError:
        raise InputError(f"SET={key}: the value nests too deep, expected a value or a list of some") from None
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
    if key == "head":
        return _read_units(where, value)
    if key == "class_weight":
        return value if value in CHOICES[key] else _read_weights(where, value)
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
            if not isinstance(entry, str) or (ENTRIES[key] is not ANY and entry not in ENTRIES[key]):
                known = "class names" if ENTRIES[key] is ANY else f"names out of {', '.join(ENTRIES[key])}"
                raise InputError(f"{where}: {key} has {entry!r}, expected {known}")
        if key == "views" and (len(set(value)) < len(value) or value[:1] != ["identity"]):
            raise InputError(f"{where}: views is {value}, expected each view once and identity first")
    if wanted in (int, float):
        high = 1 if key in SHARES else MOST.get(key, 2**32 - 1)
        if key in ("dropout", "ema") and value == 1:
            raise InputError(f"{where}: {key} is {value}, which leaves nothing, expected less than 1")
        if not 0 <= value <= high or (key in POSITIVE and value == 0):
            least = "above" if key in POSITIVE else "from"
            raise InputError(f"{where}: {key} is {value}, expected {least} 0 to {high}")
    return value


def _read_units(where, value):
    """The units of a head's hidden layers, of a list, a number or nothing."""
    entries = value if isinstance(value, list) else [] if value == "" else [value]
    try:
        units = [int(entry) if isinstance(entry, str) else entry for entry in entries]
    except ValueError:
        units = [0]
    if any(type(number) is not int or not 1 <= number <= 2**16 for number in units):
        raise InputError(
            f"{where}: head is {value!r}, expected whole numbers from 1 to {2**16}, the units of a layer each: 512,256"
        )
    return units


def _read_weights(where, value):
    """{class name: weight} of a TOML table, or of "name:weight" entries as a list or a single string."""
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        entries = value if isinstance(value, list) else [value]
        pairs = [(name.strip(), weight) for name, _, weight in (str(entry).rpartition(":") for entry in entries)]
    weights = {}
    for name, weight in pairs:
        try:
            weights[name] = number = float("" if isinstance(weight, bool) else weight)
        except (TypeError, ValueError):
            number = 0
        if not name.strip() or not 0 < number < float("inf"):
            raise InputError(
                f"{where}: class_weight is {value!r}, expected {', '.join(CHOICES['class_weight'])}, or a "
                "weight above 0 for each class named: Name:3,Other:2, or a table"
            )
    return weights
