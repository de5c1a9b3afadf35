"""What SPACE= means: the keys of a recipe that a search varies, and their values."""

import dataclasses
import math
import re
from dataclasses import dataclass

from competition.base.files import InputError
from competition.models import hyperresnet
from competition.recipes.recipe import Recipe, read_recipe, split_values


@dataclass(frozen=True)
class Key:
    """A key of the space: a list of values, each as one writes it in SET=, or a range of numbers."""

    name: str
    values: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def distribution(self):
        """What Optuna draws from."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution(self.values)
        kind = distributions.IntDistribution if type(self.low) is int else distributions.FloatDistribution
        return kind(self.low, self.high, log=self.log)

    def tidy(self, value):
        """A number of three digits, for people to read."""
        return min(max(float(f"{value:.3g}"), self.low), self.high) if isinstance(value, float) else value


def auto_space(model, settings):
    """The space to begin with where none is given: an architecture, the rate, batch, head and augmentation."""
    parts = []
    if model == hyperresnet.FAMILY:
        parts += [f"{key}={','.join(values)}" for key, values in hyperresnet.ARCHITECTURE.items()]
    rate = "rate" if settings.epochs else "frozen_rate"
    parts += [
        f"{rate}={getattr(settings, rate) / 10:g}:{getattr(settings, rate) * 10:g}:log",
        "dropout=0,0.2,0.5",
        "label_smoothing=0,0.1",
        "head=none|256",
    ]
    if settings.epochs:
        policies = dict.fromkeys([",".join(settings.augment) or "none", "none", "hflip", "hflip,shift"])
        parts += ["batch_size=16,32,64", f"augment={'|'.join(policies)}"]
    else:
        parts += ["frozen_weight_decay=0,0.01,0.1", "class_weight=none,balanced"]
    return " ".join(parts)


def read_space(space, model, recipe, overrides, from_random):
    """The Keys that a space names; InputError for an unknown key, and for a value or range that it cannot have."""
    keys = []
    for part in re.split(r"\s+(?=\w+\s*=)", space.strip()):
        name, sign, text = (word.strip() for word in part.partition("="))
        if not sign or not text:
            raise InputError(f"SPACE: found {part!r}, expected key=low:high, key=low:high:log or key=value,value")
        if name in (key.name for key in keys):
            raise InputError(f"SPACE: {name} is given twice, expected each key once")
        key = _read_key(name, text, model)
        if name not in hyperresnet.ARCHITECTURE:
            for value in key.values or (key.low, key.high):
                try:
                    read_recipe(recipe, [*overrides, f"{name}={value}"], from_random)
                except InputError as error:
                    raise InputError(f"SPACE: {part}: {str(error).removeprefix('SET=: ')}") from None
        keys.append(key)
    return keys


def _read_key(name, text, model):
    kind = {f.name: f.type for f in dataclasses.fields(Recipe)}.get(name)
    if kind in (int, float) and ":" in text:
        return _read_range(name, text, kind)
    listed = getattr(kind, "__origin__", kind) in (list, dict)
    parts = text.split("|") if listed else split_values(text)
    values = tuple(dict.fromkeys(value.strip() for value in parts))
    if name in hyperresnet.ARCHITECTURE:
        if model != hyperresnet.FAMILY:
            raise InputError(f"SPACE: {name} is a key of MODEL={hyperresnet.FAMILY} alone, found MODEL={model}")
        if unknown := [value for value in values if value not in hyperresnet.ARCHITECTURE[name]]:
            known = ", ".join(hyperresnet.ARCHITECTURE[name])
            raise InputError(f"SPACE: {name} has {unknown[0]}, expected some of {known}")
    return Key(name, tuple("" if listed and value == "none" else value for value in values))


def _read_range(name, text, kind):
    low, high, *log = text.split(":")
    try:
        key = Key(name, (), kind(low), kind(high), log == ["log"])
    except ValueError:
        key = None
    if not key or log not in ([], ["log"]) or not key.low < key.high < math.inf or (key.log and key.low <= 0):
        number = "whole numbers" if kind is int else "numbers"
        raise InputError(
            f"SPACE: {name}={text}: expected low:high or low:high:log with {number}, low below high, and "
            "above 0 for log"
        )
    return key
