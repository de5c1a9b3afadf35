"""TensorBoard: the callback that writes the learning curves of a run for TensorBoard."""

from pathlib import Path
from typing import Any

import pandas as pd

from competition.base.files import InputError
from competition.base.workspace import HISTORY_CSV, TENSORBOARD, fold_dir, fold_files, tensorboard_dir
from competition.runs.trained_run import TrainedRun

TAGS = {  # what TensorBoard calls the columns of history.csv; tags with the same beginning lie beside each other
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "accuracy": "accuracy/train",
    "val_accuracy": "accuracy/validation",
    "seconds": "seconds/epoch",
}
EVENTS = "events.out.tfevents*"  # the files of its writer


class TensorBoard:
    """Writes the history of each fold into `<run>/tensorboard/fold_<k>/`; a step is an epoch, over both phases.

    The first epoch that a training tells of a fold writes the fold's curves anew, from its history. So a run that was
    killed at any moment and goes on has each step once. Folds that were trained without TensorBoard get their curves
    when the training ends. InputError where the package tensorboard is missing.
    """

    def __init__(self) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise InputError(
                "TENSORBOARD=1: the package tensorboard is not installed; expected `pip install tensorboard`"
            ) from None
        self._new_writer = Writer
        self._writers: dict[Path, Any] = {}  # by the folder that each writes into

    def on_epoch(self, run: TrainedRun, fold: int, epoch: int, row: dict[str, Any]) -> None:
        """Write the epoch; at the first call for a fold all epochs before it as well."""
        folder = tensorboard_dir(run.dir, fold)
        if folder in self._writers:
            self._write(folder, [row])
        else:
            rows = _read_history(fold_dir(run.dir, fold) / HISTORY_CSV)
            self._write_anew(folder, [each for each in rows if each["epoch"] <= epoch])

    def on_end(self, run: TrainedRun) -> None:
        """Write what folds lack that no epoch was told of, and close all files."""
        for path in fold_files(run.dir, HISTORY_CSV):
            folder = run.dir / TENSORBOARD / path.parent.name
            last = max((events.stat().st_mtime_ns for events in folder.glob(EVENTS)), default=0)
            if folder not in self._writers and last < path.stat().st_mtime_ns:
                self._write_anew(folder, _read_history(path))
        while self._writers:
            self._writers.popitem()[1].close()

    def _write_anew(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        for path in folder.glob(EVENTS):
            path.unlink()
        self._write(folder, rows)

    def _write(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        if folder not in self._writers:
            self._writers[folder] = self._new_writer(str(folder))
        for row in rows:
            for column, tag in TAGS.items():
                self._writers[folder].add_scalar(tag, row[column], row["epoch"])
        self._writers[folder].flush()


def _read_history(path: Path) -> list[dict[str, Any]]:
    return pd.read_csv(path).to_dict("records")
