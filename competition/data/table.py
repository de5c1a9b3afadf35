"""The fold table, folds/<name>.csv and .json: the only thing that later stages know of the data."""

import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from competition.base import files, page
from competition.base.arrays import Rows
from competition.base.files import InputError, sha256_bytes
from competition.base.text import shorten
from competition.base.workspace import Paths, Workspace
from competition.data.images import load_images
from competition.data.ranges import Ranges
from competition.rehearsal.rehearsal import MOST_REHEARSED

COLUMNS = ["image", "label", "fold", "group", "sha256", "width", "height"]
NUMBERS = ["fold", "width", "height"]
SHOWN = 96  # pixels on the screen that a picture is high


@dataclass(frozen=True, repr=False, eq=False)
class FoldTable:
    """n images in k folds.

    Images of `train_only` belong to the training part of every fold. No fold holds them out, so that they have no row in
    `frame`, no out-of-fold prediction, and count in no score. A class may have none but these.

    Attributes
    ----------
    name : str
        That of the files in folds/.
    frame : pandas.DataFrame
        A row an image, sorted by class order, then by image: image, label, fold (0..k-1), group, sha256, width, height.
        Width and height are pixels as seen.
    classes : list of str
        The class names, in the order of probabilities.
    size : (int, int)
        Height and width that all images are brought to.
    metric : str
        What the competition is scored by.
    hash, data_hash : str
        sha256 of the table, and of all images' names and contents.
    """

    name: str
    frame: pd.DataFrame  # image, label, fold (0..k-1), group, sha256, width, height
    classes: list[str]
    size: tuple[int, int]  # (height, width) that all images are brought to
    data: str  # absolute POSIX path of the folder, zip or CSV
    seed: int
    hash: str  # sha256 of the CSV's bytes, class order, size, and ranges if there are any
    data_hash: str  # sha256 over all images' names and contents
    root: str = ""  # the folder below `data` that image paths start from
    metric: str = "accuracy"  # a name of metrics.METRICS: what the competition is scored by
    whole: "FoldTable | None" = None  # of a part, whose labels may be others: the table that its images are from
    rows: np.ndarray | None = None  # int64 [n], which of that table's they are
    workspace: Workspace = Workspace()  # where it lies, and its runs
    ranges: Ranges = field(default_factory=dict)  # of values of more than 8 bits, as ranges.find_ranges has them
    train_only: pd.DataFrame | None = None  # columns as `frame`, fold -1; None where there are none

    @property
    def paths(self) -> Paths:
        """Where the files of its competition lie, workspace.Paths."""
        return self.workspace.competition(self.name)

    @property
    def k(self) -> int:
        return int(self.frame["fold"].max()) + 1

    @cached_property
    def images(self) -> list[str]:
        """Names, in the rows' order; kept, as they are asked for row by row."""
        return self.frame["image"].tolist()

    @property
    def labels(self) -> np.ndarray:
        """int64 [n], index into `classes`."""
        index = {label: i for i, label in enumerate(self.classes)}
        return np.array([index[label] for label in self.frame["label"]], np.int64)

    @property
    def fold(self) -> np.ndarray:
        """int64 [n]."""
        return self.frame["fold"].to_numpy(np.int64)

    @property
    def everything(self) -> "FoldTable":
        """This table with the images of `train_only` behind its own, by which to train; their fold is -1."""
        if self.train_only is None:
            return self
        return replace(self, frame=pd.concat([self.frame, self.train_only], ignore_index=True), train_only=None)

    def say_unscored(self) -> str:
        """Which images no score counts, in a sentence; "" where all are scored."""
        if self.train_only is None:
            return ""
        classes = sorted(set(self.train_only["label"]) - set(self.frame["label"]))
        of = f", the whole of {len(classes)} rare classes ({shorten(classes)})" if classes else ""
        return f"{len(self.train_only)} images are only trained on and count in no score{of}"

    def take(self, array: Any) -> Any:
        """This table's rows of an array that has one for each image, or for each of the table that it is a part of."""
        return array if self.whole is None else Rows(array, self.rows)  # type: ignore[arg-type]

    def show(self, count: int = 5) -> page.Html:
        """A part of a notebook: the first `count` images of each class. InputError for an image that has changed."""
        frame = self.everything.frame
        rows = frame.groupby("label", sort=False).head(count).index.to_numpy()
        images = load_images(replace(self, frame=frame.iloc[rows].reset_index(drop=True)))
        pictures = {row: page.picture(image, frame["image"][row], SHOWN) for row, image in zip(rows, images)}
        return page.snippet(
            [
                page.figure([pictures[row] for row in rows if frame["label"][row] == label], label)
                for label in self.classes
            ]
        )

    def counts(self) -> pd.DataFrame:
        """How many images of each class (rows) each fold holds out, int64 [C, k]."""
        return pd.crosstab(self.frame["label"], self.frame["fold"]).reindex(self.classes, fill_value=0)

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"FoldTable {self.name}: {len(self.frame)} images of {height}x{width}, {len(self.classes)} classes, "
            f"{self.k} folds, {self.metric}"
        )

    def _repr_html_(self) -> str:
        """How many images of each class lie in each fold, for a notebook."""
        rows = [
            {"class": label, **{f"fold {fold}": count for fold, count in counts.items()}, "all": sum(counts)}
            for label, counts in self.counts().iterrows()
        ]
        return page.snippet([repr(self), page.table(rows), *filter(None, [self.say_unscored()])])


def read_folds(name: str | None = None, workspace: Workspace = Workspace()) -> FoldTable:
    """The fold table `folds/<name>.csv` of a Workspace; the name may be left out while there is only one.

    Raises InputError when there is none, when there are several and no name, or when a file was changed.
    """
    if not name:
        names = workspace.names()
        if not names:
            raise InputError(f"{workspace.folds}/: no fold table yet, expected `make folds DATA=...` before this")
        if len(names) > 1:
            raise InputError(f"{workspace.folds}/: {len(names)} fold tables, NAME= one of {shorten(names, 20)}")
        name = names[0]
    paths = workspace.competition(files.check_name("NAME", name))
    csv_path, json_path = paths.csv, paths.json
    if not json_path.exists():
        raise InputError(f"{json_path}: no such fold table, `make folds DATA=... NAME={name}` makes it")
    record = files.read_json(json_path, "; run `make folds` again")
    try:
        content = files.plain_file(csv_path).read_bytes()
    except OSError as error:
        raise InputError(f"{csv_path}: cannot be read ({error.strerror}), run `make folds` again") from None
    try:
        classes, size, ranges = _decoding(record)
        if table_hash(content, classes, size, ranges) != record["hash"]:
            raise InputError(f"{csv_path}: not the table that {json_path} belongs to; run `make folds` again")
        frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_filter=False)
        return make_table(name, frame[COLUMNS].astype(dict.fromkeys(NUMBERS, np.int64)), record, workspace)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{json_path}: not a fold table's record ({reason}), rerun `make folds`") from None


def make_table(name: str, frame: pd.DataFrame, record: Mapping[str, Any], workspace: Workspace) -> FoldTable:
    """The FoldTable of a frame with the columns COLUMNS and the record that lies beside it.

    KeyError, TypeError or ValueError where the record is none.
    """
    classes, size, ranges = _decoding(record)
    others = frame[frame["fold"] < 0].reset_index(drop=True)
    return FoldTable(
        name,
        frame[frame["fold"] >= 0].reset_index(drop=True),
        classes,
        size,
        record["data"],
        record["seed"],
        record["hash"],
        data_hash(frame),
        record["root"],
        record.get("metric", "accuracy"),  # older tables name none
        workspace=workspace,
        ranges=ranges,
        train_only=others if len(others) else None,
    )


def _decoding(record: Mapping[str, Any]) -> tuple[list[str], tuple[int, int], Ranges]:
    """The classes, (height, width) and ranges of a record."""
    classes, (height, width) = list(record["classes"]), record["size"]
    ranges = {kind: (low, high) for kind, (low, high) in record.get("ranges", {}).items()}  # older tables: none
    return classes, (height, width), ranges


def add_rows(table: FoldTable, fold: int, names: Sequence[str], labels: np.ndarray, hashes: Sequence[str]) -> FoldTable:
    """A FoldTable with more images behind its own, by which to train one fold.

    names, labels, hashes   of each: what to call it, the index of its class, the sha256 of what it shows

    They are held out in another fold: so they belong to the training part of `fold`, and its validation does not know
    of them. The table is for no other fold. Its hashes are its own.
    """
    height, width = table.size
    rows = pd.DataFrame(
        {
            "image": names,
            "label": np.array(table.classes, object)[labels],
            "fold": (fold + 1) % table.k,
            "group": names,
            "sha256": hashes,
            "width": width,
            "height": height,
        }
    )
    changed = {key: files.hash_json([getattr(table, key), rows["sha256"].tolist()]) for key in ("hash", "data_hash")}
    return replace(table, frame=pd.concat([table.frame, rows], ignore_index=True), **changed)  # type: ignore[arg-type]


def group_ids(table: FoldTable) -> np.ndarray:
    """int64 [n]: the group of each image, its own where the table has no groups."""
    return np.unique(table.frame["group" if "group" in table.frame else "image"], return_inverse=True)[1]


def held_out_images(table: FoldTable, fold: int) -> list[str]:
    """Names of the images that a fold holds out, in table order."""
    return [table.images[row] for row in np.flatnonzero(table.fold == fold)]


def choose_sample(table: FoldTable, count: int = MOST_REHEARSED) -> np.ndarray:
    """Rows of up to `count` images, sorted, the classes in turn; the same ones each time. int64 [count]."""
    labels = table.labels
    order = np.random.RandomState(0).permutation(len(labels))
    turn = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:count]])


def fold_numbers(variable: str, folds: str | int | None, table: FoldTable) -> list[int]:
    """The folds that "0,2" or a number names, all for None; InputError, naming the variable, for what is none."""
    known = [str(fold) for fold in range(table.k)]
    named = known if folds is None else [fold.strip() for fold in str(folds).split(",")]
    if not set(named) <= set(known):
        raise InputError(f"{variable}={folds}: expected a number from 0 to {table.k - 1}, or several: 0,1")
    return [int(fold) for fold in dict.fromkeys(named)]


def default_name(data: str | Path, otherwise: str = "give one with NAME=") -> str:
    path = Path(os.path.abspath(os.path.expanduser(data)))
    stem = path.stem if path.is_file() or path.suffix.lower() in (".zip", ".csv") else path.name
    stem = stem[:-4] if path.is_file() and stem.lower().endswith(".tar") else stem
    name = re.sub(r"[^\w.+-]+", "_", stem).strip("._+-")[:100]
    if not name:
        raise InputError(f"{path}: no name can be made of this, {otherwise}")
    return name


def table_hash(content: bytes, classes: Sequence[str], size: Sequence[int], ranges: Ranges | None = None) -> str:
    """The hash of a fold table; `ranges` change it where there are any, since images are decoded by them."""
    told = [list(classes), list(size), *([files.hash_json(ranges)] if ranges else [])]
    return sha256_bytes(content + json.dumps(told, ensure_ascii=False).encode("utf-8"))


def data_hash(frame: pd.DataFrame) -> str:
    return files.hash_json(sorted(zip(frame["image"].tolist(), frame["sha256"].tolist())))
