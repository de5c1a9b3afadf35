"""Job: everything that one training needs, as one argument."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from competition.base.arrays import Memory
from competition.base.workers import Workers
from competition.base.workspace import check_run_name
from competition.data.table import FoldTable, fold_numbers
from competition.models.backbones import Weights, own_graph
from competition.recipes.recipe import Recipe
from competition.training.callbacks import Callback


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
    callbacks: tuple[Callback, ...] = ()  # told of each epoch
    teaching: Any = None  # a teach.Teaching, where finished runs say what to learn
    spare: bool = False  # whether a run that only serves the forecast: others do without it
    workers: Workers | None = None  # that train folds side by side; None: this process trains one after the other

    @property
    def config(self):
        """The keys that the config of every run begins with, a dict."""
        return {
            "model": self.model,
            "weights": self.weights.sha256,  # None: random
            "recipe": asdict(self.recipe),
            "classes": self.table.classes,
            "size": list(self.table.size),
            "folds": self.table.k,
            **own_graph(self.model, self.table.size),
        }


def prepare_job(settled, only_fold, run, memory):
    """The Job of a settle.Settled; InputError for images, folds and a run's name that cannot be used.

    only_fold   as for train.train
    """
    table = settled.table
    settled.size_inside()  # refuses before a run is begun
    folds = fold_numbers("ONLY_FOLD", only_fold, table)
    folder = table.paths.run(check_run_name(run))
    return Job(folder, table, settled.model, settled.weights, settled.recipe, folds, memory)
