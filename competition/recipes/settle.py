"""Fit the weights and the recipe of a training to its model and its fold table, before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from competition.base import files
from competition.base.files import InputError
from competition.data.table import FoldTable
from competition.features.views import usable_views
from competition.models.backbones import Weights, find_backbone, is_pretrained, network_size, resolve_weights
from competition.recipes.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class Settled:
    """A model, its weights and a recipe for the images and classes of a fold table."""

    table: FoldTable
    model: str
    weights: Weights
    recipe: Recipe
    from_random: bool  # the weights are random ones: a recipe may say something else then

    def size_inside(self) -> tuple[int, ...]:
        """(height, width) of the images inside the network; InputError where the model cannot take these."""
        return size_inside(self.model, self.table, self.recipe)


def settle(
    table: FoldTable,
    model: str,
    weights: str | Path = "imagenet",
    recipe: str | Path = "quick",
    overrides: Sequence[str] = (),
) -> Settled:
    """The Settled of what a user asks for; `Settled.size_inside` says whether the model takes its images.

    weights    "imagenet", "none", a file or a folder (backbones.resolve_weights)
    recipe     a name or a file (recipe.read_recipe)
    overrides  "key=value" strings that replace keys of the recipe

    Raises InputError for weights and recipes that cannot be used, and for classes that the table does not have.
    """
    model = find_backbone(model, weights)
    found = resolve_weights(model, weights)
    from_random = not is_pretrained(model, found)
    return Settled(table, model, found, fit_to_table(table, read_recipe(recipe, overrides, from_random)), from_random)


def size_inside(model: str, table: FoldTable, settings: Recipe) -> tuple[int, ...]:
    """(height, width) of a table's images inside the network; InputError where the model cannot take these."""
    return network_size(model, table.size, settings.image_size or None, settings.least_size)


def fit_to_table(table: FoldTable, settings: Recipe) -> Recipe:
    """The recipe as the shape of a table's images and its classes allow it; see fit_to_shape and fit_classes."""
    return fit_classes(table, fit_to_shape(table, settings))


def fit_to_shape(table: FoldTable, settings: Recipe) -> Recipe:
    """The recipe without the views and policies that only square images can have, where the competition's are not."""
    height, width = table.size
    views = [view for view in settings.views if view in usable_views(table.size)]
    changed = {} if views == settings.views else {"views": views}
    for key in ("augment", "oversample_augment"):
        policies = getattr(settings, key)
        if height != width and "d4" in policies:
            flips = [flip for flip in ("hflip", "vflip") if flip not in policies]
            changed[key] = [*flips, *(policy for policy in policies if policy != "d4")]
    if changed:
        files.warn(
            f"images of {height}x{width} (height x width) are not square, so that quarter turns do not fit: "
            + ", ".join(f"{key} = {','.join(names)}" for key, names in changed.items())
        )
    return replace(settings, **changed)  # type: ignore[arg-type]


def fit_classes(table: FoldTable, settings: Recipe) -> Recipe:
    """The recipe with a weight for every class, in their order, where it gives weights by class name.

    Raises InputError for the name of a class that the table does not have.
    """
    given = settings.class_weight if isinstance(settings.class_weight, dict) else {}
    for key, named in (("class_weight", given), ("oversample_classes", settings.oversample_classes)):
        if unknown := [name for name in named if name not in table.classes]:
            raise InputError(
                f"{key} names {unknown[0]!r}, expected classes of {table.paths.csv}: {', '.join(table.classes)}"
            )
    return replace(settings, class_weight={name: given.get(name, 1.0) for name in table.classes}) if given else settings
