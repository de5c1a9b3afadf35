"""The kinds of run, in one table: whoever has a run's folder or config asks here what kind it is of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from competition.data.table import FoldTable
from competition.runs.run import Run, read_checked
from competition.runs.single import SingleRun
from competition.runs.tree import TreeRun

KINDS: tuple[type[Run], ...] = (
    TreeRun,
    SingleRun,
)  # a run is of the first that fits its config; the last fits every config


def kind_of(config: Mapping[str, Any] | None) -> type[Run]:
    """The class in KINDS for the run of a config, a dict. None, of predictions from elsewhere, means a single run."""
    return next(kind for kind in KINDS if kind.fits(config or {}))


def read_run(run_dir: str | Path, table: FoldTable) -> Run:
    """The Run in a folder; InputError when it is none, or belongs to another fold table or other images.

    Predictions that were made elsewhere may have a record without a config: those have no models, and are no Run.
    """
    record = read_checked(run_dir, table)
    return kind_of(record["config"]).from_record(run_dir, record)
