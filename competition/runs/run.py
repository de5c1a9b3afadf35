"""A run: what its folder records, and what every kind of run offers. kinds.py lists the kinds."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from competition.base.files import InputError
from competition.base.workspace import RUN_JSON
from competition.data.table import FoldTable
from competition.recipes.recipe import Recipe
from competition.runs.record import check_hashes, read_run_record, read_settings


@dataclass(frozen=True)
class Run(ABC):
    """A run as its folder records it. A kind of run is a subclass that defines every abstract method.

    The models of a run map raw RGB float32 [n, h, w, 3], 0..255, to probabilities float32 [n, classes].
    """

    dir: Path
    name: str
    config: dict
    recipe: Recipe
    frozen: bool  # only heads were trained: all folds share the backbone
    views: list[str]
    finished: bool

    kind: ClassVar[str]  # what messages call a run of this kind: "a double run"
    plain: ClassVar[bool]  # a fold has one model, of one backbone and one head; it has build_logits

    @staticmethod
    @abstractmethod
    def fits(config: Mapping[str, Any]) -> bool:
        """Whether a run of this config, a dict, is of this kind."""

    @staticmethod
    @abstractmethod
    def count_models(config: Mapping[str, Any]) -> int:
        """How many models each fold of a run of this config has."""

    @classmethod
    def passes(cls, record: Mapping[str, Any], k: int) -> int:
        """How many passes through a network one view of an image costs in a run of k folds: all of its fold models.

        record   the content of run.json, a dict; predictions that come from elsewhere have no config there
        """
        return 1 if record.get("frozen") else k * cls.count_models(record.get("config") or {})

    @property
    @abstractmethod
    def rule(self) -> Callable[..., Any]:
        """The function (logits [..., outputs], ops=numpy) -> probabilities [..., classes] of the shared heads.

        `ops` is numpy or keras.ops, according to what the logits are. It is hashable, and equal for runs whose logits
        mean the same.
        """

    @abstractmethod
    def weight_files(self, k: int) -> list[Path]:
        """The paths of all files that the models of k folds are built from."""

    @abstractmethod
    def build_fold_model(self, table: FoldTable, fold: int) -> Any:
        """The keras.Model of one fold with its best weights. Raises InputError for a file that is broken."""

    @abstractmethod
    def build_shared(self, table: FoldTable) -> tuple[Any, list[np.ndarray]]:
        """A frozen run's backbone, a keras.Model [n, h, w, 3] -> [n, d], and the heads of its k folds.

        These are a list of a float32 [k, inputs + 1, outputs] for each layer; the last row is the bias. `rule` makes
        probabilities of their logits.
        """

    @abstractmethod
    def predict_heads(self, fold: int, features: Any) -> np.ndarray:
        """Probabilities float32 [n, classes] by the heads of a frozen run's fold.

        features   float32 [n, d], an array or arrays.Rows
        """

    @classmethod
    def from_record(cls, run_dir: str | Path, record: Mapping[str, Any]) -> Self:
        """The Run in a folder whose run.json has this content, as read_checked returns it."""
        path = Path(run_dir)
        return cls(
            path,
            path.name,
            record["config"],
            read_settings(path / RUN_JSON, record["config"]),
            record["frozen"],
            record["views"],
            record["finished"],
        )


def read_checked(run_dir: str | Path, table: FoldTable) -> dict[str, Any]:
    """The content of a run's run.json, a dict.

    Raises InputError when the folder has none, or one of another fold table or other images. Predictions that were
    made elsewhere may have a record without a config: those have no models, and are refused.
    """
    path = Path(run_dir) / RUN_JSON
    record = read_run_record(run_dir)
    check_hashes(path, table, record)
    if missing := [key for key in ("config", "frozen", "views", "finished") if record.get(key) is None]:
        raise InputError(
            f"{path}: found no {', '.join(missing)}, expected a run of `make train`: predictions that "
            "come from elsewhere have no models to build, and can only be blended"
        )
    return record
