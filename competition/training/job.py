"""Job: everything that one training needs, as one argument."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from competition.base.arrays import Memory
from competition.data.table import FoldTable
from competition.models.backbones import Weights
from competition.recipes.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """Folds of a table to train with one model and recipe."""

    folder: Path  # of the run
    table: FoldTable  # or a part of one (tree.take_part)
    model: str
    weights: Weights  # that the backbone begins with
    recipe: Recipe  # that fits the table (settle.fit_to_table)
    folds: list[int]
    memory: Memory | None = None  # for images and features; None: as much as they need
    after_epoch: Callable[[], None] | None = None  # called after each epoch of the second phase, once it is on disk
    teaching: Any = None  # a teach.Teaching, where finished runs say what to learn
