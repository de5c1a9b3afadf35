"""TrainedRun: what a training left in a folder, to look at: its OOF predictions, its scores, its learning curves.

run.py's Run is what predicts with the models of a run; this one reads what was written, of unfinished runs too and of
predictions that come from elsewhere, and needs no Keras.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from competition.base import metrics
from competition.base.metrics import Metric, find_metric, log_loss, per_class_accuracy
from competition.base.workspace import FOLD, FOLD_JSON, HISTORY_CSV, fold_files
from competition.data.table import FoldTable
from competition.runs.oof import OOF, oof_frame, read_oof
from competition.runs.record import read_run_record


@dataclass(frozen=True)
class TrainedRun:
    """A run, finished or not, of n images and C classes.

    Attributes
    ----------
    table : FoldTable
        The fold table that it was trained on; of a node of a double run the part of it.
    dir : pathlib.Path
        Its folder.
    """

    table: FoldTable
    dir: Path

    @property
    def name(self) -> str:
        """Its name; of a node of a double run the name of that run, a slash and the node."""
        return self.dir.relative_to(self.table.paths.runs).as_posix()

    @property
    def record(self) -> dict[str, Any]:
        """The content of its run.json: config, recipe, hashes, versions. InputError where it is missing or broken."""
        return read_run_record(self.dir)

    @property
    def finished(self) -> bool:
        """Whether all folds are trained, so that there are OOF predictions."""
        return bool(self.record.get("finished"))

    @cached_property
    def predictions(self) -> OOF:
        """The OOF predictions of every TTA view, float32 [views, n, C].

        InputError for an unfinished run, and for one of another fold table, other images or other classes.
        """
        return read_oof(self.dir, self.table)

    @property
    def oof(self) -> pd.DataFrame:
        """The OOF predictions without TTA: image, label, fold, then a column of probabilities for each class.

        InputError as of `predictions`.
        """
        return oof_frame(self.table, self._probs)

    @property
    def metric(self) -> Metric:
        """What the competition is scored by."""
        return find_metric(self.table.metric)

    @property
    def score(self) -> float:
        """The competition's metric on the OOF predictions without TTA. InputError as of `predictions`."""
        return self.metric.score(self._probs, self.table.labels)

    @property
    def log_loss(self) -> float:
        """The mean of -ln(probability of the true class) of these predictions. InputError as of `predictions`."""
        return log_loss(self._probs, self.table.labels)

    @property
    def history(self) -> pd.DataFrame:
        """A row for each epoch of each fold: fold, epoch, phase, loss, accuracy, val_loss, val_accuracy, seconds.

        Empty for predictions that come from elsewhere. The seconds are those of the epoch.
        """
        paths = fold_files(self.dir, HISTORY_CSV)
        frames = [pd.read_csv(path) for path in paths]
        for path, frame in zip(paths, frames):
            frame.insert(0, "fold", int(path.parent.name.removeprefix(FOLD)))
        found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"fold": []})
        return found.sort_values(["fold"], kind="stable", ignore_index=True)

    def confusion(self) -> pd.DataFrame:
        """How many images of each class (rows) were taken for each class (columns), int64 [C, C].

        InputError as of `predictions`.
        """
        names = self.table.classes
        counts = metrics.confusion(self._probs, self.table.labels)
        return pd.DataFrame(counts, pd.Index(names, name="true"), pd.Index(names, name="predicted"))

    @property
    def classes(self) -> pd.DataFrame:
        """Of each class the number of images and the share that is predicted right. InputError as of `predictions`."""
        recall = per_class_accuracy(self._probs, self.table.labels)
        return pd.DataFrame(
            {"class": self.table.classes, "images": self.confusion().sum(axis=1).to_numpy(), "accuracy": recall}
        )

    @property
    def _probs(self):
        return self.predictions.probs[self.predictions.views.index("identity")]

    def __repr__(self) -> str:
        if not self.finished:
            done = len(fold_files(self.dir, FOLD_JSON))
            return f"TrainedRun {self.name}: unfinished, {done} of {self.table.k} folds"
        others = "" if self.metric.name == "log_loss" else f", log-loss {self.log_loss:.4f}"
        return f"TrainedRun {self.name}: OOF {self.metric.name} {self.score:.4f}{others}, {self.table.k} folds"
