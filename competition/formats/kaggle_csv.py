"""Kaggle, a CSV: what the blend or a run says of a folder of test images, as `sample_submission.csv` wants it.

The toolkit's own fold models predict, on whatever Keras finds here, not those of a zip. What each says is kept in
`runs/<table>/predict/<test>/`, so that a command that was stopped goes on, and one for another sample, or for other
weights of the blend, is quick.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm import tqdm

from competition import files
from competition.arrays import read_memory
from competition.blend import sharpen
from competition.files import InputError, csv_bytes, hash_json, sha256_file, versions, write_json, write_with
from competition.folds import read_folds
from competition.forecast import print_forecast
from competition.images import load_images, shorten
from competition.predict_folds import each_fold, predict_folds
from competition.oof import text_table
from competition.scorelog import keep_older, log_submission
from competition.shift import read_test
from competition.submission import read_ensemble, record_of
from competition.workspace import Workspace

OF_PROBABILITIES = ("auc", "log_loss")  # metrics that labels would spoil
PREDICT_FORMAT = 1  # raise it when the same models say something else of the same images


@dataclass(frozen=True)
class Wanted:
    """How the CSV is to look: its columns, a row's image and what it is called there, what stands in the others.

    values   "labels", "class ids", "probabilities" of a column a class, "one probability" of two classes
    order    which class each column is of, where they are probabilities: indices of the fold table's classes
    """

    columns: list[str]
    images: list[str]
    ids: list[str]
    values: str
    order: list[int]


def make(name=None, run=None, test=None, sample=None, probabilities=False, memory=None, hidden=None,
         workspace=Workspace()):
    """Write `submissions/<name>.csv` of the blend or of one finished run, and its record `<name>.csv.json`.

    name, run      as of submission.make_submission
    test           a folder of images, or a zip of one; labels are not asked for
    sample         the competition's sample_submission.csv; without it the columns are id and label, and ids are paths
    probabilities  a column a class in place of labels; a sample that has such columns gets them anyway
    memory         "4G", as for train.train
    hidden         as of submission.make_submission; the score is forecast for as many images as there are
    workspace      where the table and its runs lie, and the CSV is written

    Returns the CSV's path. InputError for what cannot be used, above all for a sample that does not fit the images or
    the classes.
    """
    if not test:
        raise InputError("TEST= is missing, expected the test images: a folder of them, or a zip of one")
    memory = read_memory(memory)
    table = read_folds(name, workspace)
    unknown = read_test(test, table, table.paths.predict, fewest=1)
    ensemble = read_ensemble(table, run, len(unknown.images), hidden)
    if sample:
        wanted = read_sample(sample, unknown, table.classes, probabilities, table.metric)
    else:
        wanted = _plain(unknown.images, table.classes, probabilities)
    probs = predict_images(ensemble, table, unknown, memory)
    frame = fill(wanted, unknown.images, probs, table.classes)
    path = table.paths.predictions

    def write(temporary):
        Path(temporary).write_bytes(csv_bytes(frame))
        check_csv(temporary, wanted, table.classes)
        keep_older(path, table.paths.predictions_json, temporary)

    write_with(path, write)
    record = record_of(path, ensemble, table, "kaggle-csv") | {
        "test": unknown.data, "test_data": unknown.data_hash, "rows": len(frame), "values": wanted.values,
        "sample": sample and sha256_file(sample)}
    write_json(table.paths.predictions_json, record)
    log_submission(path, record, workspace)
    _report(path, ensemble, table, wanted, sample, probs)
    return path


# ---------------------------------------------------------------------------------------------------- the predictions


@dataclass(frozen=True)
class Part:
    """One network of the ensemble: a run's model of one fold, or a frozen backbone with the heads of all folds."""

    run: object  # runs_run.Run
    fold: int | None  # None: all
    weight: float
    path: Path  # where its answer is kept: the mean over views (and folds), float32 [n, C]


def predict_images(ensemble, table, unknown, memory=None):
    """The ensemble's probabilities of the images of a FoldTable without labels, float64 [n, C]; InputError for NaN.

    What a network has answered before is read from `runs/<table>/predict/<test>/`.
    """
    parts = [part for run, weight in ensemble.members for part in _parts(run, weight, ensemble.views, table, unknown)]
    left = [part for part in parts if not part.path.exists()]
    if left:
        images = load_images(unknown, memory)
        with tqdm(total=len(left) * len(images) * len(ensemble.views), desc="predict", unit=" images",
                  disable=None) as bar:
            for run, _ in ensemble.members:
                wanted = [part for part in left if part.run is run]
                answers = _answer(run, [part.fold for part in wanted], table, ensemble.views, images, bar)
                for part, probs in zip(wanted, answers):
                    files.write_npz(part.path, probs=probs)
    total = 0.0
    for part in parts:
        probs = _read(part.path)
        if not np.isfinite(probs).all():
            raise InputError(f"{part.run.dir}: it gives probabilities that are no numbers ({part.path}), expected "
                             "numbers; train it again")
        total = total + part.weight * probs.astype(np.float64)
    return sharpen(total, ensemble.temperature)


def _parts(run, weight, views, table, unknown):
    weights = {path.relative_to(run.dir).as_posix(): sha256_file(path) for path in run.weight_files(table.k)}
    folds = [None] if run.frozen else list(range(table.k))
    key = {"format": PREDICT_FORMAT, "test": unknown.data_hash, "size": list(table.size), "views": views,
           "config": run.config, "weights": weights, "versions": versions()}
    names = [f"{run.name}-{hash_json(key | {'fold': fold})[:16]}.npz" for fold in folds]
    return [Part(run, fold, weight / len(folds), unknown.paths.runs / name) for fold, name in zip(folds, names)]


def _answer(run, folds, table, views, images, bar):
    """Yield the probabilities of images uint8 [n, h, w, 3] that a Part says for each of these folds of a run.

    That is the mean over views, float32 [n, C]; for the fold None the mean over views and folds.
    """
    if folds == [None]:
        said = predict_folds(run, table, views, images, fused=True, bar=bar)
        said = np.ascontiguousarray(said.swapaxes(0, 1))  # the order in which it is summed
        yield np.mean(said, axis=(0, 1), dtype=np.float64).astype(np.float32)
        return
    for _, _, said in each_fold(run, table, folds, views, images, bar=bar):
        yield np.mean(list(said.values()), axis=0, dtype=np.float64).astype(np.float32)


def _read(path):
    try:
        with np.load(path) as saved:
            return saved["probs"]
    except files.BROKEN as error:
        raise InputError(f"{path}: not what `make predict` wrote ({error}); remove it, it is made anew") from None


# --------------------------------------------------------------------------------------------------- the sample's form


# how a sample may call an image that lies at a path below the test folder
NAMES = (
    lambda path, top: path,
    lambda path, top: str(PurePosixPath(path).with_suffix("")),
    lambda path, top: f"{top}/{path}",
    lambda path, top: str(PurePosixPath(top, path).with_suffix("")),
    lambda path, top: PurePosixPath(path).name,
    lambda path, top: PurePosixPath(path).stem,
)


def _plain(images, classes, probabilities):
    name = next(name for name in ("id", "image", "file", "") if name not in classes)
    columns = [name, *classes] if probabilities else ["id", "label"]
    return Wanted(columns, images, images, "probabilities" if probabilities else "labels", list(range(len(classes))))


def read_sample(path, unknown, classes, probabilities=False, metric=None):
    """The Wanted of a sample_submission.csv for the images of a FoldTable without labels.

    The first column holds ids: names of images, with or without folder and ending. A column a class, by its name or
    its id, wants probabilities; one column wants labels or class ids, as the sample has them, or, of two classes, one
    probability: that of the class that the column is called after, else of the second. Where the metric is one of
    probabilities (OF_PROBABILITIES) a column of 0 and 1 holds the place of those, and no class ids. InputError, naming
    the line, for ids that are missing, doubled or no image's, and for columns and values that are none of these.
    """
    header, rows = _read_rows(path)
    ids = [row[0] for row in rows]
    if doubled := [name for name, count in pd.Series(ids).value_counts().items() if count > 1]:
        raise InputError(f"{path}: ids more than once: {shorten(doubled)}; expected each once")
    images = match_ids(path, ids, unknown.images, Path(unknown.data).name.removesuffix(".zip"))
    if others := sorted(set(unknown.images) - set(images)):
        files.warn(f"{path}: {len(others)} images of {unknown.data} are not in it and are left out: {shorten(others)}")
    values, order = _read_values(path, header[1:], rows, classes, probabilities, metric)
    return Wanted(header, images, ids, values, order)


def match_ids(path, ids, images, top=""):
    """The image that each id names, in the ids' order; `top` is the name of the folder that the images lie in.

    Ids are names of NAMES, all of the same kind. InputError for an id that is no image's, or several images'.
    """
    closest = None
    for form in NAMES:
        named = {}
        for image in images:
            named.setdefault(form(image, top), []).append(image)
        bad = [number for number, name in enumerate(ids) if len(named.get(name, ())) != 1]
        if not bad:
            return [named[name][0] for name in ids]
        unknown = sum(ids[number] not in named for number in bad)
        closest = min(closest or (unknown, bad, named), (unknown, bad, named), key=lambda each: each[0])
    _, (first, *more), named = closest
    found = named.get(ids[first], ())
    what = f"the name of {len(found)} images ({shorten(found, 2)})" if found else "the name of no test image"
    also = f" ({len(more)} more ids are no good either)" if more else ""
    raise InputError(f"{path}: line {first + 2}: id {ids[first]!r} is {what}{also}; expected names such as "
                     f"{shorten(list(named), 3)}")


def _read_rows(path):
    """The header and the rows of a CSV, all text."""
    options = {"dtype": str, "keep_default_na": False, "na_filter": False, "encoding": "utf-8-sig"}
    try:
        header, *rows = pd.read_csv(path, header=None, **options).to_numpy().tolist()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected the competition's sample_submission.csv") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a CSV that can be read: {' '.join(str(error).split())}") from None
    if len(header) < 2 or not rows:
        hint = ", with commas between them" if ";" in header[0] else ""
        raise InputError(f"{path}: {len(header)} columns and {len(rows)} rows, expected ids and a column or more{hint}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: columns {shorten(header, 20)}, expected each name once")
    return header, rows


def _read_values(path, columns, rows, classes, probabilities, metric):
    """What stands in the columns behind the ids, and the class of each, as Wanted has them."""
    numbers = [str(number) for number in range(len(classes))]
    if len(columns) > 1:
        for names in (classes, numbers):
            if set(columns) == set(names):
                return "probabilities", [names.index(column) for column in columns]
        missing, unknown = ([name for name in a if name not in b] for a, b in ((classes, columns), (columns, classes)))
        found = "; ".join(f"{what}: {shorten(names)}" for what, names in
                          (("no column for", missing), ("columns that are no class", unknown)) if names)
        raise InputError(f"{path}: {found}; expected ids and one column, or one for each of {len(classes)} classes")
    found = [row[1] for row in rows]
    if all(_is_number(text) and float(text) in range(len(classes)) for text in found) and not set(found) <= set(classes):
        found = [str(int(float(text))) for text in found]  # class ids that some tool took for numbers: 0.0
    if len(classes) == 2 and metric in OF_PROBABILITIES and set(found) <= {*numbers, ""}:
        column = classes.index(columns[0]) if columns[0] in classes else 1
        print(f"{path}: {columns[0]} is taken for the probability of {classes[column]}, as the metric is {metric}")
        return "one probability", [column]
    if len(classes) == 2 and (probabilities or not set(found) <= {*classes, *numbers, ""}):
        if bad := [n for n, text in enumerate(found) if not _is_number(text)]:
            raise InputError(f"{path}: line {bad[0] + 2}: found {found[bad[0]]!r}, expected a class "
                             f"({shorten(classes)}), its id or a probability")
        return "one probability", [classes.index(columns[0]) if columns[0] in classes else 1]
    if probabilities:
        raise InputError(f"{path}: one column, {columns[0]}; expected one for each of {len(classes)} classes for "
                         "PROBABILITIES=1")
    for values, known in (("labels", classes), ("class ids", numbers), ("labels", [""])):
        if set(found) <= set(known):
            return values, []
    bad = next(n for n, text in enumerate(found) if text not in classes)
    raise InputError(f"{path}: line {bad + 2}: found {found[bad]!r} in {columns[0]}, expected a class "
                     f"({shorten(classes, 20)}) or a class id from 0 to {len(classes) - 1}")


def _is_number(text):
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------------------------- the CSV


def fill(wanted, images, probs, classes):
    """The CSV as a DataFrame: what probabilities [n, C] of the images say, in the rows and columns that are Wanted."""
    row_of = {image: row for row, image in enumerate(images)}
    probs = probs[[row_of[image] for image in wanted.images]]
    numbers = probs.argmax(1)
    if wanted.values in ("labels", "class ids"):
        values = [[classes[number] if wanted.values == "labels" else number for number in numbers]]
    else:
        values = list(probs[:, wanted.order].astype(np.float32).T)
    return pd.DataFrame(dict(zip(wanted.columns, [wanted.ids, *values])))


def check_csv(path, wanted, classes):
    """InputError unless the CSV has the columns, ids and order that are Wanted, and no value that is none of those."""
    header, rows = _read_rows(path)
    if header != wanted.columns:
        raise InputError(f"{path}: columns {shorten(header, 20)}, expected {shorten(wanted.columns, 20)}")
    if len(rows) != len(wanted.ids):
        raise InputError(f"{path}: {len(rows)} rows, expected {len(wanted.ids)}")
    known = {"labels": classes, "class ids": [str(number) for number in range(len(classes))]}.get(wanted.values)
    for line, (row, name) in enumerate(zip(rows, wanted.ids), 2):
        if row[0] != name:
            raise InputError(f"{path}: line {line}: id {row[0]!r}, expected {name!r}")
        for text in row[1:]:
            if not (text in known if known else _is_number(text) and 0 <= float(text) <= 1):
                raise InputError(f"{path}: line {line}: found {text!r}, expected "
                                 + ("one of " + shorten(known, 20) if known else "a probability"))


def _report(path, ensemble, table, wanted, sample, probs):
    fitted = f"as {sample} has them" if sample else "no SAMPLE= to compare with"
    print(f"{path}: {ensemble.source}; views {', '.join(ensemble.views)}\n"
          f"{len(wanted.ids)} rows, columns {shorten(wanted.columns, 20)}: {wanted.values}, {fitted}\n")
    training = np.bincount(table.labels, minlength=len(table.classes)) / len(table.labels)
    predicted = np.bincount(probs.argmax(1), minlength=len(table.classes)) / len(probs)
    shares = {"class": table.classes, "share predicted": predicted, "share in training": training}
    print(text_table(pd.DataFrame(shares), decimals=3))
    print_forecast(ensemble.forecast, table.classes)
