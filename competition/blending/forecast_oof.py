"""What a hidden test will score, from any out-of-fold predictions; and a Forecast, as people and notebooks read it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from competition.base import page, plot
from competition.base.files import InputError
from competition.base.metrics import find_metric
from competition.base.text import shorten
from competition.blending.forecast import check_hidden, make_forecast

TOLERANCE = 0.01  # by which a row of probabilities may differ from 1


@dataclass(frozen=True)
class Forecast:
    """Expected score of a hidden test, with the interval that holds it.

    Attributes
    ----------
    expected : float
        Score that is expected, in the metric's own units.
    low, high : float
        Bounds that hold the score of such a test with the probability `level`.
    level : float
        0.9.
    hidden_n : int
        Images of the hidden test.
    hidden : str
        "random": hidden images are of the same groups as the images known. "groups": they are of new groups.
    metric : str
        Name of the metric.
    class_names : tuple of str
        The classes.
    parts : dict
        What both are made of, as ``blend.json`` stores it: nested (the score of the OOF), in_sample, averaging_gain,
        early_stop, stratified, scenes, standard_errors, folds (a score each), classes and more.
    """

    expected: float
    low: float
    high: float
    level: float
    hidden_n: int
    hidden: str
    metric: str
    class_names: tuple[str, ...] = field(repr=False)
    parts: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], classes: Sequence[str]) -> Forecast:
        """Make a Forecast of one that a blend's or a submission's record holds.

        Parameters
        ----------
        record : dict
            The entry ``forecast`` of ``blend.json`` or of a submission's record.
        classes : sequence of str [C]
            The classes in the order of the fold table.

        Returns
        -------
        Forecast

        Raises
        ------
        InputError
            `record` lacks a figure, or is of another number of classes.
        """
        names = ("expected", "low", "high", "level", "hidden_n", "hidden", "metric", "classes", "folds")
        if not isinstance(record, Mapping):
            raise InputError(f"forecast: found {type(record).__name__}, expected what blend.json has as forecast")
        if missing := [name for name in names if name not in record]:
            raise InputError(f"forecast: no {shorten(missing)}, expected what blend.json has as forecast")
        if len(record["classes"]) != len(classes):
            raise InputError(f"forecast: of {len(record['classes'])} classes, expected {len(classes)}")
        figures = {name: record[name] for name in names[:7]}
        return cls(**figures, class_names=tuple(map(str, classes)), parts=dict(record))

    @property
    def classes(self) -> pd.DataFrame:
        """A row a class: class, expected, low, high (share of its images that are right), images (known ones)."""
        rows = pd.DataFrame(self.parts["classes"], columns=["expected", "low", "high", "images"])
        rows.insert(0, "class", list(self.class_names))
        return rows

    def __repr__(self) -> str:
        return (
            f"{self.metric} {self.expected:.3f} ({self.low:.3f} to {self.high:.3f}, {self.level * 100:.0f} %) "
            f"on {self.hidden_n} hidden images"
        )

    def _repr_html_(self) -> str:
        row = {
            "metric": self.metric,
            "expected": self.expected,
            "low": self.low,
            "high": self.high,
            "level": f"{self.level * 100:.0f} %",
            "hidden images": self.hidden_n,
            "OOF": self.parts.get("nested", float("nan")),
        }
        picture = plot.interval(self.expected, self.low, self.high, self.parts["folds"])
        return f"<div>{page.table([row], 3)}\n{picture}</div>"


def forecast(
    probs: Any,
    labels: Any,
    folds: Any,
    *,
    metric: str = "accuracy",
    groups: Any = None,
    hidden_n: int | None = None,
    hidden: str = "random",
    classes: Sequence[str] | None = None,
) -> Forecast:
    """Forecast the score of a hidden test from out-of-fold (OOF) predictions, whoever made them.

    The expected score is that of the OOF, less what stratified folds flatter it by (in such folds an image is predicted
    by models that know the share of its class). The interval adds up the chance in the OOF, in the hidden test and in
    what folds differ by beyond chance.

    What predictions alone cannot tell counts as 0: the gain of averaging the models of several folds, what stopping early
    on the scored images flatters by, what other images of a scene tell in training, and the optimism of having chosen
    these predictions as the best of several. ``make blend`` measures the first three and avoids the last by a nested
    choice. ``parts["in_sample"]`` is the OOF score itself.

    Parameters
    ----------
    probs : array_like of float [n, C]
        Probabilities of C >= 2 classes, by a model that had not trained on the image. Rows add up to 1, by 0.01.
    labels : array_like [n]
        True classes: integers from 0 to C - 1, or names where `classes` is given.
    folds : array_like of int [n]
        Number of the fold that held each image out; 2 or more different ones.
    metric : str, default "accuracy"
        One of accuracy, balanced_accuracy, macro_f1, log_loss, quadratic_kappa (classes are grades, lowest first), auc.
    groups : array_like [n], optional
        Scene, patient or the like of each image, integers or strings; each lies in one fold. By default each image is
        a group of its own.
    hidden_n : int, optional
        Images of the hidden test. By default as many as a fold holds: n divided by the number of folds.
    hidden : {"random", "groups"}
        Whether the hidden images are of the same groups as these, or of new ones.
    classes : sequence of str [C], optional
        Names of the classes, in the order of the columns. By default "0", "1", ...

    Returns
    -------
    Forecast

    Raises
    ------
    InputError
        An argument of another shape or kind; the line says what was received and what was expected.

    Examples
    --------
    >>> import numpy as np
    >>> from competition import forecast
    >>> labels = np.arange(500) % 2
    >>> taken = np.where(np.arange(500) % 5 == 0, 1 - labels, labels)  # one in five is wrong
    >>> forecast(0.2 + 0.6 * np.eye(2)[taken], labels, np.arange(500) // 100, hidden_n=200)
    accuracy 0.800 (0.743 to 0.853, 90 %) on 200 hidden images
    """
    found = find_metric(metric)
    probs = _probabilities(probs)
    n, width = probs.shape
    names = _class_names(classes, width)
    ids = _label_ids(labels, names, classes is not None, n)
    fold = _ids("folds", folds, n)
    k = int(fold.max()) + 1
    if k < 2:
        raise InputError("folds: 1 different number, expected 2 or more")
    group = np.arange(n) if groups is None else _ids("groups", groups, n)
    if hidden == "groups" and groups is None:
        raise InputError("hidden=groups: expected groups=, the group of each image")
    split = pd.Series(fold).groupby(group).nunique()
    if (split > 1).any():
        raise InputError(f"groups: {int((split > 1).sum())} groups lie in several folds, expected each in one")
    count, hidden = check_hidden(hidden_n, hidden)
    score = found.score(probs, ids)
    return Forecast.from_record(make_forecast(found, probs, ids, group, fold, score, count or n // k, hidden), names)


def _probabilities(probs):
    found = _array("probs", probs)
    if found.ndim != 2 or not len(found) or found.shape[1] < 2:
        raise InputError(f"probs: shape {list(found.shape)}, expected [images, classes] with 2 classes or more")
    if found.dtype.kind not in "fiub":
        raise InputError(f"probs: values of type {found.dtype}, expected float")
    found = found if found.dtype == np.float32 else found.astype(np.float64)
    bad = ~np.isfinite(found).all(1) | (found < 0).any(1)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(f"probs: row {row} is {_row(found[row])}, expected finite numbers from 0 to 1")
    off = np.abs(found.sum(1) - 1) > TOLERANCE
    if off.any():
        row = int(off.argmax())
        raise InputError(f"probs: row {row} adds up to {found[row].sum():.4g}, expected 1 by {TOLERANCE}")
    return found


def _class_names(classes, width):
    if classes is None:
        return [str(c) for c in range(width)]
    names = [str(name) for name in classes]
    if isinstance(classes, (str, os.PathLike)) or len(names) != width or len(set(names)) != width:
        raise InputError(f"classes: {len(set(names))} names ({shorten(names)}), expected {width} different ones")
    return names


def _label_ids(labels, names, named, n):
    """int64 [n] of labels that are indices or names."""
    found = _column("labels", labels, n)
    if found.dtype.kind in "iu":
        if found.min() < 0 or found.max() >= len(names):
            raise InputError(f"labels: {found.min()} to {found.max()}, expected 0 to {len(names) - 1}")
        return found.astype(np.int64)
    if found.dtype.kind not in "OUT":
        raise InputError(f"labels: values of type {found.dtype}, expected integers, or names with classes=")
    if not named:
        raise InputError(f"labels: names such as {found[0]!s}, expected classes=, their names in the columns' order")
    place = {name: c for c, name in enumerate(names)}
    if unknown := sorted({str(label) for label in found} - set(place)):
        raise InputError(f"labels: {shorten(unknown)} not in classes, expected {shorten(names, 20)}")
    return np.array([place[str(label)] for label in found], np.int64)


def _ids(name, values, n):
    """int64 [n] from 0 on, of integers or strings."""
    found = _column(name, values, n)
    if found.dtype.kind not in "iubOUT":
        raise InputError(f"{name}: values of type {found.dtype}, expected integers or strings")
    if pd.isna(found).any():
        raise InputError(f"{name}: found a missing value, expected one for each image")
    return np.unique(found.astype(str) if found.dtype.kind == "O" else found, return_inverse=True)[1].astype(np.int64)


def _column(name, values, n):
    found = _array(name, values)
    if found.shape != (n,):
        raise InputError(f"{name}: shape {list(found.shape)}, expected [{n}], one for each row of probs")
    return found


def _array(name, values):
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:  # rows of different lengths
        raise InputError(f"{name}: no array: {' '.join(str(error).split())}") from None


def _row(values):
    return "[" + ", ".join(f"{value:.4g}" for value in values[:5]) + (", ..." if len(values) > 5 else "") + "]"
