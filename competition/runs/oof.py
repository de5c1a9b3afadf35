"""Out-of-fold predictions (OOF): for every image the probabilities of a model that never saw it.

A finished run holds them twice: `oof.csv` for people and other tools (image, label, fold, then one column a
class; no view but the identity), `oof.npz` with every TTA view. Both are in the fold table's row order and
tied to it by hashes, so that no two runs get mixed up: whatever does not fit is refused, nothing reordered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base.files import BROKEN, InputError, csv_bytes, plain_file, read_csv, write_bytes, write_npz
from competition.base.metrics import Metric
from competition.base.text import join_names, one_line
from competition.base.workspace import OOF_CSV, OOF_NPZ, RUN_JSON, VIEWS_NPZ, epoch_file
from competition.data.table import FoldTable, held_out_images
from competition.runs.folder import check_file, say_remedy
from competition.runs.record import check_hashes, read_run_record

KEY_COLUMNS = ["image", "label", "fold"]  # oof.csv's first columns; by position: a class may be called "label"


@dataclass(frozen=True)
class OOF:
    """One run's predictions: `probs` float32 [V, n, C], `views` the V names; images in table order."""

    run: str
    views: list[str]
    probs: np.ndarray

    def mean(self, views: Sequence[str]) -> np.ndarray:
        """The average of some views' probabilities, float64 [n, C]. KeyError for a view it lacks."""
        missing = [view for view in views if view not in self.views]
        if missing:
            raise KeyError(f"{self.run}: no view {missing[0]}, there are {', '.join(self.views)}")
        return np.mean([self.probs[self.views.index(view)] for view in views], axis=0, dtype=np.float64)  # type: ignore[return-value]


def write_oof(run_dir: str | Path, table: FoldTable, probs: Mapping[str, np.ndarray]) -> None:
    """Write `oof.npz` (all views) and `oof.csv` (the identity view, or the only one there is) into `run_dir`.

    probs   {view: float32 [n, C]}, rows in the table's order, columns in its class order

    Floats are written in the shortest form that reads back bit for bit. InputError for what are no
    probabilities (training that has diverged, say), ValueError for other shapes than the table's.
    """
    run_dir = Path(run_dir)
    shape = (len(table.frame), len(table.classes))
    for view, values in probs.items():
        if np.shape(values) != shape:
            raise ValueError(f"{run_dir}: view {view} of shape {np.shape(values)}, expected {shape}")
    if not probs or (len(probs) > 1 and "identity" not in probs):
        raise ValueError(f"{run_dir}: views {list(probs)}, expected identity among them")
    views = list(probs)
    stacked = np.stack([np.asarray(probs[view], np.float32) for view in views])
    _check_probabilities(run_dir / OOF_NPZ, views, stacked)

    write_npz(
        run_dir / OOF_NPZ,
        image=np.array(table.images),
        classes=np.array(table.classes),
        views=np.array(views),
        probs=stacked,
        table=np.array(table.hash),
        data=np.array(table.data_hash),
    )
    write_bytes(run_dir / OOF_CSV, csv_bytes(oof_frame(table, stacked[_shown(views)])))


def oof_frame(table: FoldTable, probs: np.ndarray) -> pd.DataFrame:
    """The content of an oof.csv: image, label, fold, then a column of probabilities [n, C] for each class."""
    keys = table.frame[KEY_COLUMNS].reset_index(drop=True)
    return pd.concat([keys, pd.DataFrame(probs, columns=table.classes)], axis=1)


def read_oof(run_dir: str | Path, table: FoldTable) -> OOF:
    """The OOF of a finished run; InputError unless made on this very fold table, images and class order."""
    record = read_run_record(run_dir)
    path = Path(run_dir) / RUN_JSON
    if not record.get("finished"):
        raise InputError(f"{path}: an unfinished run, expected a finished one; `make train` goes on with it")
    check_hashes(path, table, record, (record.get("config") or {}).get("classes"))
    oof = read_predictions(run_dir, table)
    if "identity" not in oof.views:
        path, found = Path(run_dir) / OOF_NPZ, ", ".join(oof.views)
        raise InputError(f"{path}: views {found}, expected identity among them")
    return oof


def read_predictions(run_dir: str | Path, table: FoldTable) -> OOF:
    """What `write_oof` wrote into `run_dir` (a run's or the blend's), as an OOF.

    InputError when a file is missing or broken, when images, their order, labels, folds, classes, shapes or
    hashes are not the table's, when a value is no probability, or when `oof.csv` and `oof.npz` differ.
    """
    run_dir = Path(run_dir)
    path = run_dir / OOF_NPZ
    for name in (OOF_NPZ, OOF_CSV):
        check_file(run_dir / name)
    try:
        with np.load(plain_file(path), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("image", "classes", "views", "probs", "table", "data")}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected the predictions of a finished run") from None
    except BROKEN as error:
        raise InputError(
            f"{path}: expected predictions of this toolkit, found: {one_line(error)}; {say_remedy(path)}"
        ) from None

    classes, views, probs = found["classes"].tolist(), found["views"].tolist(), found["probs"]
    check_hashes(path, table, {name: str(found[name]) for name in ("table", "data")}, classes)
    _check_column(path, "image", found["image"].tolist(), table.images, "entry", 0)
    shape = (len(views), len(table.frame), len(table.classes))
    if probs.shape != shape or probs.dtype != np.float32:
        raise InputError(f"{path}: probs {probs.dtype} {list(probs.shape)}, expected float32 {list(shape)}")
    if not views or len(set(views)) < len(views):
        raise InputError(f"{path}: views {views}, expected each once")
    _check_probabilities(path, views, probs)
    shown = _read_csv(run_dir / OOF_CSV, table)
    differing = np.flatnonzero((shown != probs[_shown(views)]).any(1))
    if len(differing):
        path = run_dir / OOF_CSV
        raise InputError(f"{path}: line {differing[0] + 2} is not what oof.npz holds; {say_remedy(path)}")
    return OOF(run_dir.name, views, probs)


def write_fold(fold_dir: str | Path, table: FoldTable, fold: int, views: Mapping[str, np.ndarray]) -> None:
    """Write `views.npz`, what a fold model says of the images that it held out: views {view: float32 [m, C]}."""
    write_npz(
        Path(fold_dir) / VIEWS_NPZ,
        image=np.array(held_out_images(table, fold)),
        views=np.array(list(views)),
        probs=np.stack(list(views.values())),
    )


def read_fold(fold_dir: str | Path, table: FoldTable, fold: int) -> dict[str, np.ndarray]:
    """The same, {view: float32 [m, C]} in table order; InputError where it is not there, broken or of other images."""
    path = Path(fold_dir) / VIEWS_NPZ
    check_file(path)
    try:
        with np.load(plain_file(path)) as saved:
            found, images = dict(zip(saved["views"].tolist(), saved["probs"])), saved["image"].tolist()
    except BROKEN as error:
        raise InputError(
            f"{path}: expected the predictions of a fold, found {one_line(error)}; {say_remedy(path)}"
        ) from None
    if images != held_out_images(table, fold):
        raise InputError(f"{path}: other images than {table.name} holds out in that fold")
    return found


def epoch_scores(
    fold_dir: str | Path,
    history: pd.DataFrame,
    table: FoldTable,
    metric: Metric,
    known: dict[Path, float] | None = None,
) -> np.ndarray:
    """The score by `metric` (metrics.Metric) on the validation images after each epoch: float64 [epochs].

    history   rows of the fold's history.csv, a DataFrame; where the accuracy is asked for, it is the one there
    known     {path: score} of epochs that were scored before; grows

    FileNotFoundError where the predictions of an epoch are gone, KeyError where they are of other images.
    """
    if not metric.besides:
        return history["val_accuracy"].to_numpy()
    known, label_of = {} if known is None else known, dict(zip(table.images, table.labels))
    paths = [epoch_file(fold_dir, epoch) for epoch in history.get("epoch", [])]
    for path in paths:
        if path not in known:
            names, probs = read_epoch(path)
            known[path] = metric.score(probs, np.array([label_of[name] for name in names]))
    return np.array([known[path] for path in paths])


def read_history(path: str | Path) -> pd.DataFrame:
    """A fold's history.csv, a row an epoch; InputError where it is broken, FileNotFoundError where it is gone."""
    check_file(path)
    try:
        history = read_csv(path)
        if "phase" not in history:
            raise ValueError("no column phase")
        return history
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise InputError(
            f"{path}: expected a row for each epoch, found {one_line(error)}; {say_remedy(path)}"
        ) from None


def read_epoch(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Of an epoch_file the names of m images, and their probabilities float32 [m, C].

    FileNotFoundError where it is gone, InputError where it is broken.
    """
    check_file(path)
    try:
        with np.load(plain_file(path)) as saved:
            return saved["image"].tolist(), saved["probs"]
    except FileNotFoundError:
        raise
    except BROKEN as error:
        raise InputError(
            f"{path}: expected the predictions of an epoch, found {one_line(error)}; {say_remedy(path)}"
        ) from None


def _read_csv(path, table):
    """The probabilities in oof.csv, float32 [n, C], once everything else in it is as in the table."""
    header = KEY_COLUMNS + table.classes
    options = {"keep_default_na": False, "na_filter": False, "encoding": "utf-8"}
    try:
        found = pd.read_csv(plain_file(path), header=None, nrows=1, dtype=str, **options).iloc[0].tolist()
        if found != header:
            raise InputError(f"{path}: columns {join_names(found)}, expected {join_names(header)}")
        names = range(len(header))
        rows = read_csv(path, header=0, names=names, index_col=False, dtype={0: str, 1: str}, **options)
        probs = rows.iloc[:, len(KEY_COLUMNS) :].to_numpy(np.float32)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected the predictions of a finished run") from None
    except BROKEN as error:
        raise InputError(
            f"{path}: expected predictions of this toolkit, found: {one_line(error)}; {say_remedy(path)}"
        ) from None
    for i, key in enumerate(KEY_COLUMNS):
        _check_column(path, key, rows[i].tolist(), table.frame[key].tolist(), "line", 2)
    return probs


def _check_column(path, what, found, expected, place, first):
    if found == expected:
        return
    if len(found) != len(expected):
        raise InputError(f"{path}: {len(found)} images, expected {len(expected)} as in the fold table")
    at = next(i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1])
    raise InputError(f"{path}: {place} {at + first}: {what} {found[at]!r}, expected {expected[at]!r}")


def _check_probabilities(path, views, probs):
    """InputError unless `probs` [V, n, C] are finite, not negative and add up to 1, by 0.01, in each row."""
    bad = ~np.isfinite(probs).all(-1) | (probs < 0).any(-1) | (np.abs(probs.sum(-1) - 1) > 0.01)
    if bad.any():
        view, row = np.argwhere(bad)[0]
        found = ", ".join(f"{value:.4g}" for value in probs[view, row, :8])
        where = f"{path}: view {views[view]}, row {row}"
        raise InputError(f"{where}: found {found}; expected probabilities that sum to 1")


def _shown(views):
    """Which view oof.csv holds."""
    return views.index("identity") if "identity" in views else 0
