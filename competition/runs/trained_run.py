"""TrainedRun: what a training left in a folder, to look at: its OOF predictions, its scores, its learning curves.

run.py's Run is what predicts with the models of a run; this one reads what was written, of unfinished runs too and of
predictions that come from elsewhere, and needs no Keras.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition.base import metrics, page, plot
from competition.base.files import InputError
from competition.base.metrics import Metric, find_metric, log_loss, per_class_accuracy
from competition.base.workspace import FOLD_JSON, HISTORY_CSV, fold_dir, fold_files
from competition.data.table import FoldTable
from competition.runs.folder import check_file
from competition.runs.oof import OOF, oof_frame, read_oof
from competition.runs.record import read_run_record


class Scores:
    """What OOF probabilities of n images in C classes score. Each property and method raises InputError where `probs`
    does.

    Attributes
    ----------
    table : FoldTable
        Of these images.
    probs : numpy.ndarray
        float32 [n, C], in the table's order of images and of classes.
    """

    table: FoldTable
    probs: Any

    @property
    def oof(self) -> pd.DataFrame:
        """image, label, fold, then a column of probabilities for each class; a row an image."""
        return oof_frame(self.table, self.probs)

    @property
    def metric(self) -> Metric:
        """What the competition is scored by."""
        return find_metric(self.table.metric)

    @property
    def score(self) -> float:
        """The competition's metric."""
        return self.metric.score(self.probs, self.table.labels)

    @property
    def log_loss(self) -> float:
        """The mean of -ln(probability of the true class)."""
        return log_loss(self.probs, self.table.labels)

    @property
    def by_class(self) -> pd.DataFrame:
        """A row a class: its name, its number of images, the share of them that is predicted right."""
        counts, recall = self.confusion().sum(axis=1), per_class_accuracy(self.probs, self.table.labels)
        return pd.DataFrame({"class": self.table.classes, "images": counts.to_numpy(), "accuracy": recall})

    def confusion(self) -> pd.DataFrame:
        """How many images of each class (rows) were taken for each class (columns), int64 [C, C]."""
        names = self.table.classes
        counts = metrics.confusion(self.probs, self.table.labels)
        return pd.DataFrame(counts, pd.Index(names, name="true"), pd.Index(names, name="predicted"))

    def say_scores(self) -> str:
        """The competition's metric, and the log-loss where that is another, in words."""
        others = "" if self.metric.name == "log_loss" else f", log-loss {self.log_loss:.4f}"
        return f"OOF {self.metric.name} {self.score:.4f}{others}"

    def draw_confusion(self) -> page.Html:
        """The confusion matrix as a picture."""
        return plot.heatmap(self.confusion().to_numpy(), self.table.classes)


@dataclass(frozen=True, repr=False, eq=False)
class TrainedRun(Scores):
    """A run, finished or not. Its OOF and scores are those without TTA; an unfinished run has none (InputError).

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

    @cached_property
    def probs(self) -> np.ndarray:  # type: ignore[override]
        """The OOF probabilities without TTA, float32 [n, C]. InputError as of `predictions`."""
        return self.predictions.probs[self.predictions.views.index("identity")]

    @property
    def history(self) -> pd.DataFrame:
        """A row for each epoch of each fold: fold, epoch, phase, loss, accuracy, val_loss, val_accuracy, seconds.

        Empty for predictions that come from elsewhere. The seconds are those of the epoch.
        """
        numbers = range(self.table.k)
        paths = {fold: fold_dir(self.dir, fold) / HISTORY_CSV for fold in numbers}
        for path in paths.values():
            check_file(path)
        frames = {fold: pd.read_csv(path) for fold, path in paths.items() if path.exists()}
        for fold, frame in frames.items():
            frame.insert(0, "fold", fold)
        return pd.concat(frames.values(), ignore_index=True) if frames else pd.DataFrame()

    def say_state(self) -> str:
        """Its name and accuracy, or how far it has come, as its run.json has them; in words."""
        try:
            record = self.record
        except InputError as error:
            return f"{self.name}: {error}"
        if not record.get("finished"):
            return f"{self.name}: unfinished, {len(fold_files(self.dir, FOLD_JSON))} of {self.table.k} folds"
        scores = {"accuracy": record.get("accuracy"), record.get("metric"): record.get("score")}
        return f"{self.name}: OOF " + ", ".join(
            f"{key} {value:.4f}" for key, value in scores.items() if value is not None
        )

    def __repr__(self) -> str:
        try:
            said = f"{self.name}: {self.say_scores()}, {self.table.k} folds" if self.finished else self.say_state()
        except InputError as error:
            said = f"{self.name}: {error}"
        return f"TrainedRun {said}"

    def _repr_html_(self) -> str:
        """The accuracy of each class, learning curves and the confusion matrix, for a notebook."""
        try:
            parts = [page.table(self.by_class.to_dict("records"), decimals=3), self.draw_confusion()]
        except InputError:  # unfinished, or of another table: the first line says it
            parts = []
        if len(history := self.history):
            folds = history.groupby("fold")
            curves = {f"fold {fold}": (rows["epoch"], rows["val_loss"]) for fold, rows in folds}
            parts.insert(1, plot.curves(curves, "epoch", "validation log-loss"))
        return page.snippet([repr(self), *parts])
