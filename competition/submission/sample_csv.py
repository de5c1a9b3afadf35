"""A CSV of predictions in the form of a sample_submission.csv: its ids, order, columns and kind of values."""

import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.files import InputError
from competition.base.text import shorten

OF_PROBABILITIES = ("auc", "log_loss")  # metrics that labels would spoil


@dataclass(frozen=True)
class Wanted:
    """How the CSV is to look: its columns, a row's image and what it is called there, what stands in the others.

    values   "labels", "class ids", "probabilities" of a column a class, "one probability" of two classes
    order    which class each column is of, where they are probabilities: indices of the fold table's classes
    classes  the classes as the sample spells them, where its Unicode form is another; None: as the fold table does
    """

    columns: list[str]
    images: list[str]
    ids: list[str]
    values: str
    order: list[int]
    classes: list[str] | None = None


# how a sample may call an image that lies at a path below the test folder
NAMES = (
    lambda path, top: path,
    lambda path, top: str(PurePosixPath(path).with_suffix("")),
    lambda path, top: f"{top}/{path}",
    lambda path, top: str(PurePosixPath(top, path).with_suffix("")),
    lambda path, top: PurePosixPath(path).name,
    lambda path, top: PurePosixPath(path).stem,
)


def plain_columns(images, classes, probabilities):
    """The Wanted without a sample: ids are the images' paths."""
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
    spelt = _spell(classes, [*header, *(text for row in rows for text in row)])
    values, order = _read_values(path, header[1:], rows, spelt, probabilities, metric)
    wanted = Wanted(header, images, ids, values, order)
    return wanted if spelt == classes else replace(wanted, classes=spelt)


def match_ids(path, ids, images, top=""):
    """The image that each id names, in the ids' order; `top` is the name of the folder that the images lie in.

    Ids are names of NAMES, all of the same kind. InputError for an id that is no image's, or several images'.
    """
    if (composed := [_compose(name) for name in ids]) != ids or any(_compose(image) != image for image in images):
        by_name = {_compose(image): image for image in images}
        if len(by_name) == len(images):  # no two images differ by their Unicode form alone
            return [by_name[image] for image in _match_ids(path, composed, list(by_name), _compose(top))]
    return _match_ids(path, ids, images, top)


def _match_ids(path, ids, images, top):
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
    raise InputError(
        f"{path}: line {first + 2}: id {ids[first]!r} is {what}{also}; expected names such as {shorten(list(named), 3)}"
    )


def fill_csv(wanted, images, probs, classes):
    """The CSV as a DataFrame: what probabilities [n, C] of the images say, in the rows and columns that are Wanted."""
    classes = wanted.classes or classes
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
    classes = wanted.classes or classes
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
                raise InputError(
                    f"{path}: line {line}: found {text!r}, expected "
                    + ("one of " + shorten(known, 20) if known else "a probability")
                )


def _compose(text):
    return unicodedata.normalize("NFC", text)


def _spell(classes, texts):
    """The classes as the texts of a sample spell them: in another Unicode form, where the exact one is not there.

    Of a sample whose accents are all composed, the other classes are composed as well.
    """
    known, texts = {_compose(text): text for text in texts}, set(texts)
    composed = not all(map(str.isascii, texts)) and all(unicodedata.is_normalized("NFC", text) for text in texts)
    return [
        name if name in texts else known.get(_compose(name), _compose(name) if composed else name) for name in classes
    ]


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
        found = "; ".join(
            f"{what}: {shorten(names)}"
            for what, names in (("no column for", missing), ("columns that are no class", unknown))
            if names
        )
        raise InputError(f"{path}: {found}; expected ids and one column, or one for each of {len(classes)} classes")
    found = [row[1] for row in rows]
    if all(_is_number(text) and float(text) in range(len(classes)) for text in found) and not set(found) <= set(
        classes
    ):
        found = [str(int(float(text))) for text in found]  # class ids that some tool took for numbers: 0.0
    if len(classes) == 2 and metric in OF_PROBABILITIES and set(found) <= {*numbers, ""}:
        column = classes.index(columns[0]) if columns[0] in classes else 1
        print(f"{path}: {columns[0]} is taken for the probability of {classes[column]}, as the metric is {metric}")
        return "one probability", [column]
    if len(classes) == 2 and (probabilities or not set(found) <= {*classes, *numbers, ""}):
        if bad := [n for n, text in enumerate(found) if not _is_number(text)]:
            raise InputError(
                f"{path}: line {bad[0] + 2}: found {found[bad[0]]!r}, expected a class "
                f"({shorten(classes)}), its id or a probability"
            )
        return "one probability", [classes.index(columns[0]) if columns[0] in classes else 1]
    if probabilities:
        raise InputError(
            f"{path}: one column, {columns[0]}; expected one for each of {len(classes)} classes for PROBABILITIES=1"
        )
    for values, known in (("labels", classes), ("class ids", numbers), ("labels", [""])):
        if set(found) <= set(known):
            return values, []
    bad = next(n for n, text in enumerate(found) if text not in classes)
    raise InputError(
        f"{path}: line {bad + 2}: found {found[bad]!r} in {columns[0]}, expected a class "
        f"({shorten(classes, 20)}) or a class id from 0 to {len(classes) - 1}"
    )


def _is_number(text):
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
