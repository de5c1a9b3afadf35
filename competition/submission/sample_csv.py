"""A CSV of predictions in the form of a sample_submission.csv: its ids, order, columns and kind of values."""

import io
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.files import InputError
from competition.base.text import is_integer, shorten
from competition.data.sources.tables import check_bytes, check_cells, decode_text, split_text
from competition.submission.sample_ids import count_named, match_ids

OF_PROBABILITIES = ("auc", "log_loss")  # metrics that labels would spoil
LABELS = {"names": "labels", "ids": "class ids"}  # values of the option LABELS=, and what Wanted calls them
ID_COLUMNS = ("id", "image", "image_id", "imageid", "img", "file", "filename", "file_name", "name", "path")
KEPT_COLUMNS = ("usage",)  # of a sample, in small letters: taken over as they are


@dataclass(frozen=True)
class Wanted:
    """How the CSV is to look: its columns, a row's image and what it is called there, what stands in the others.

    images   None for an id that names no image
    values   "labels", "class ids", "probabilities" of a column a class, "one probability" of two classes
    order    which class each column is of, where they are probabilities: indices of the fold table's classes
    kept     {column: cells} of columns that are taken over from the sample
    spelling {class: text} of classes that the sample writes in another case or Unicode form
    """

    columns: list[str]
    images: list[str | None]
    ids: list[str]
    values: str
    order: list[int]
    id_at: int = 0  # which column holds the ids
    kept: dict[str, list[str]] = field(default_factory=dict)
    separator: str = ","
    header: bool = True  # whether the first line holds the columns' names
    spelling: dict[str, str] = field(default_factory=dict)


def check_labels(labels):
    """InputError unless the option LABELS= is not given or one of LABELS."""
    if labels and labels not in LABELS:
        raise InputError(f"LABELS={labels}: expected {' or '.join(LABELS)}")


def check_sample(path):
    """InputError unless the option SAMPLE= is not given or names what exists."""
    if path and not Path(path).exists():
        raise InputError(
            f"{path}: no such file, expected the competition's sample_submission.csv; unpack it if it is in an archive"
        )


def plain_columns(images, classes, probabilities, labels=None):
    """The Wanted without a sample: ids are the images' paths. `labels` is of LABELS: how classes are called."""
    names = [str(number) for number in range(len(classes))] if labels == "ids" else classes
    name = next(name for name in ("id", "image", "file", "") if name not in names)
    columns = [name, *names] if probabilities else ["id", "label"]
    values = "probabilities" if probabilities else LABELS[labels or "names"]
    return Wanted(columns, images, images, values, list(range(len(classes))))


def read_sample(path, unknown, classes, probabilities=False, metric=None, labels=None, broken=()):
    """The Wanted of a sample_submission.csv for the images of a FoldTable without labels.

    labels   "names" or "ids": how classes are called; None: as the sample says, see _read_one_column
    broken   names of more images, which cannot be read

    The first column that fits holds ids: names of images, with or without folder and ending (sample_ids.match_ids). A
    column a class, by its name or its id, with the same text before or behind it in all columns, wants probabilities;
    one column wants labels or class ids or, of two classes, one probability: that of the class that the column is
    called after, else of the second. Where the metric is one of probabilities (OF_PROBABILITIES) a column of 0 and 1
    holds the place of those, and no class ids. A column of KEPT_COLUMNS is taken over. Semicolons, tabs and bars may
    part the columns, and names of columns may be missing. InputError, naming the line, for ids that are doubled or
    several images', for ids of which none is an image's, and for columns and values that are none of these.
    """
    check_sample(path)
    images, top = [*unknown.images, *broken], Path(unknown.root or unknown.data).name.removesuffix(".zip")
    cells, separator = _read_cells(path, files=lambda: images)
    id_at = _find_id_column(cells, images, top)
    header, rows = cells[0], cells[1:]
    if named := not _is_row(cells, id_at, images, top):
        _check_header(path, header, rows)
    else:
        print(f"{path}: it has no line with the names of columns: the first one is taken for a row")
        header, rows = [f"column {number + 1}" for number in range(len(header))], cells
    ids = [row[id_at] for row in rows]
    if "" in ids:
        raise InputError(f"{path}: line {ids.index('') + 1 + named}: no id, expected the name of a test image")
    if doubled := [name for name, count in pd.Series(ids).value_counts().items() if count > 1]:
        raise InputError(f"{path}: ids more than once: {shorten(doubled)}; expected each once")
    kept = {
        name: [row[at] for row in rows]
        for at, name in enumerate(header)
        if name.lower() in KEPT_COLUMNS and name not in classes
    }
    others = [at for at, name in enumerate(header) if at != id_at and name not in kept]
    if not others:
        raise InputError(f"{path}: columns {shorten(header)}, expected ids and a column or more to fill")
    found = match_ids(path, ids, images, top, 1 + named)
    if left := sorted(set(images) - set(found)):
        files.warn(f"{path}: {len(left)} images of {unknown.data} are not in it and are left out: {shorten(left)}")
    columns, spelling = [header[at] for at in others], {}
    if len(columns) > 1:
        values, order = "probabilities", _read_columns(path, columns, classes, labels)
    else:
        column = [row[others[0]].strip() for row in rows]
        spelling = _find_spelling(column, classes)
        values, order = _read_one_column(path, columns[0], column, classes, probabilities, metric, labels)
        if spelling and values == "labels":
            print(
                f"{path}: labels are written as it has them: {shorten([f'{v} for {k}' for k, v in spelling.items()])}"
            )
    return Wanted(header, found, ids, values, order, id_at, kept, separator, named, spelling)


def fill_csv(wanted, images, probs, classes, shares=None):
    """The CSV as a DataFrame: what probabilities [n, C] of the images say, in the rows and columns that are Wanted.

    shares   float64 [C]: what is said of a row whose image is None or none of `images`
    """
    row_of = {image: row for row, image in enumerate(images)}
    if shares is not None:
        probs = np.vstack([probs, shares])
    probs = probs[[row_of.get(image, len(images)) for image in wanted.images]]
    numbers = probs.argmax(1)
    if wanted.values in ("labels", "class ids"):
        names = [wanted.spelling.get(name, name) for name in classes]
        values = [[names[number] if wanted.values == "labels" else number for number in numbers]]
    else:
        values = list(probs[:, wanted.order].astype(np.float32).T)
    rest = iter(values)
    return pd.DataFrame(
        {
            name: wanted.ids if at == wanted.id_at else wanted.kept[name] if name in wanted.kept else next(rest)
            for at, name in enumerate(wanted.columns)
        }
    )


def csv_content(frame, wanted):
    """The bytes of the CSV, in the form of the sample."""
    if wanted.separator == "," and wanted.header:
        return files.csv_bytes(frame)
    text = frame.to_csv(index=False, sep=wanted.separator, header=wanted.header, lineterminator="\n")
    return text.encode("utf-8")


def check_csv(path, wanted, classes):
    """InputError unless the CSV has the columns, ids and order that are Wanted, and no value that is none of those."""
    rows, _ = _read_cells(path, wanted.separator)
    header = rows.pop(0) if wanted.header else wanted.columns
    if header != wanted.columns:
        raise InputError(f"{path}: columns {shorten(header, 20)}, expected {shorten(wanted.columns, 20)}")
    if len(rows) != len(wanted.ids):
        raise InputError(f"{path}: {len(rows)} rows, expected {len(wanted.ids)}")
    names = [wanted.spelling.get(name, name) for name in classes]
    known = {"labels": names, "class ids": [str(number) for number in range(len(classes))]}.get(wanted.values)
    filled = [at for at, name in enumerate(header) if at != wanted.id_at and name not in wanted.kept]
    for line, (row, name) in enumerate(zip(rows, wanted.ids), 1 + wanted.header):
        if row[wanted.id_at] != name:
            raise InputError(f"{path}: line {line}: id {row[wanted.id_at]!r}, expected {name!r}")
        for text in (row[at] for at in filled):
            if not (text in known if known else _is_number(text) and 0 <= float(text) <= 1):
                raise InputError(
                    f"{path}: line {line}: found {text!r}, expected "
                    + ("one of " + shorten(known, 20) if known else "a probability")
                )


def _read_cells(path, separator=None, files=None):
    """The cells of a CSV, all text, a list a line, and what parts them; None: what parts its first line into most.

    `files` tell an older encoding, as of tables.decode_text.
    """
    try:
        check_bytes(str(path), os.path.getsize(path))
        data = Path(path).read_bytes()
        if data.startswith(b"PK\3\4"):
            raise ValueError("a zip, expected the CSV that is in it")
        text, _, found = split_text(decode_text(path, data, files)[0])
        check_cells(str(path), 3 * text.count("\n") + text.count(separator or found))
        separator = separator or found
        options = {"dtype": str, "keep_default_na": False, "na_filter": False, "sep": separator}
        frame = pd.read_csv(io.StringIO(text, newline=""), header=None, **options)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a CSV that can be read: {' '.join(str(error).split())}") from None
    return frame.fillna("").to_numpy().tolist(), separator


def _check_header(path, header, rows):
    if len(header) < 2 or not rows:
        raise InputError(f"{path}: {len(header)} columns and {len(rows)} rows, expected ids and a column or more")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: columns {shorten(header, 20)}, expected each name once")


def _find_id_column(cells, images, top):
    """Which column holds ids: the first one, unless another has different names of images in all rows and it has not."""
    header, *rows = cells
    if header[0].strip().lower() in ID_COLUMNS:
        return 0
    for at, column in enumerate(zip(*rows)):
        if len(set(column)) == len(column) and count_named(column, images, top):
            return at
    return 0


def _is_row(cells, id_at, images, top):
    """Whether the first line is a row like the others: an id, and values that are numbers or stand in other rows."""
    first, *rows = cells
    others = [at for at in range(len(first)) if at != id_at]
    alike = all(_is_number(first[at]) or any(first[at] == row[at] for row in rows) for at in others)
    named = first[id_at].strip().lower() in ID_COLUMNS
    return bool(others and alike and not named and count_named([first[id_at]], images, top))


def _read_columns(path, columns, classes, labels):
    """Which class each of several columns is of: indices of `classes`."""
    numbers = [str(number) for number in range(len(classes))]
    for kind, names in (("names", classes), ("ids", numbers)):
        order = _match_columns(columns, names) if labels in (None, "", kind) else None
        if order is not None:
            if kind == "ids":
                print(f"{path}: its columns are called by class ids: {_say_ids(classes)}")
            return order
    missing, unknown = ([name for name in a if name not in b] for a, b in ((classes, columns), (columns, classes)))
    found = "; ".join(
        f"{what}: {shorten(names)}"
        for what, names in (("no column for", missing), ("columns that are no class", unknown))
        if names
    )
    raise InputError(f"{path}: {found}; expected ids and one column, or one for each of {len(classes)} classes")


def _match_columns(columns, names):
    """Which of the names each column is of, where each name has one column; None where that is not so.

    All columns may have the same text before and behind the name, such as prob_. Where that does not fit, case, Unicode
    form and blanks at the ends do not count.
    """
    for form in (str, _plain):
        index = {form(name): number for number, name in enumerate(names)}
        shown = [form(column) for column in columns]
        if not len(index) == len(set(shown)) == len(names) == len(columns):
            continue
        for name in sorted(index, key=len, reverse=True):
            before, found, behind = shown[0].rpartition(name)
            if found and {f"{before}{one}{behind}" for one in index} == set(shown):
                return [index[column[len(before) : len(column) - len(behind)]] for column in shown]
    return None


def _read_one_column(path, name, column, classes, probabilities, metric, labels):
    """What is to stand in the one column beside the ids, and the class that it is of, as Wanted has them.

    column   its texts in the sample

    Labels are written where the column holds labels, nothing, or one and the same text in all rows: that holds a place.
    Integers are labels wherever the classes are integers. Class ids are written only where the column holds several of
    them and the classes are words.
    """
    numbers = [str(number) for number in range(len(classes))]
    found = {_as_label(text, classes) for text in set(column)} - {""}
    known, constant = found <= set(classes), len(found) < 2
    ids = not known and all(_is_number(text) and float(text) in range(len(classes)) for text in found)
    if ids:
        found = {str(int(float(text))) for text in found}  # class ids that some tool took for numbers: 0.0
    place_holder = constant and not known
    if len(classes) == 2 and (probabilities or not labels):
        number = classes.index(name) if name in classes else 1
        by_metric = metric in OF_PROBABILITIES and (found <= set(numbers) or place_holder)
        if by_metric:
            print(f"{path}: {name} is taken for the probability of {classes[number]}, as the metric is {metric}")
        if by_metric or probabilities or not known and any(map(_is_fraction, found)):
            bad = [n for n, text in enumerate(column) if not (by_metric or place_holder or _is_number(text))]
            if bad:
                raise InputError(
                    f"{path}: line {bad[0] + 2}: found {column[bad[0]]!r}, expected a class "
                    f"({shorten(classes)}), its id or a probability"
                )
            return "one probability", [number]
    if probabilities:
        raise InputError(
            f"{path}: one column, {name}; expected one for each of {len(classes)} classes for PROBABILITIES=1"
        )
    integers = all(map(is_integer, classes))
    if labels:
        values = LABELS[labels]
    elif known or constant or integers and all(map(is_integer, found)):
        values = "labels"
    elif ids:
        values = "class ids"
    else:
        bad = next(n for n, text in enumerate(column) if _as_label(text, classes) not in {*classes, ""})
        raise InputError(
            f"{path}: line {bad + 2}: found {column[bad]!r} in {name}, expected a class "
            f"({shorten(classes, 20)}) or a class id from 0 to {len(classes) - 1}; LABELS=names or LABELS=ids says "
            "what to write whatever stands there"
        )
    if classes != numbers and (integers or not known or values == "class ids"):
        _say_choice(path, name, found, classes, values)
    return values, []


def _say_choice(path, name, found, classes, values):
    holds = f"holds {shorten(sorted(found))}" if found else "is empty"
    ids = f"class ids ({_say_ids(classes)})"
    if values == "labels":
        print(f"{path}: {name} {holds}: labels ({shorten(classes, 3)}) are written; LABELS=ids writes {ids}")
    else:
        print(f"{path}: {name} {holds}: {ids} are written; LABELS=names writes labels")


def _say_ids(classes):
    return shorten([f"{number} for {label}" for number, label in enumerate(classes)], 3)


def _as_label(text, classes):
    """The text, or the one class that is the same number (1 for 1.0) or the same word in other case or Unicode form."""
    if text in classes:
        return text
    if is_integer(text):
        same = [label for label in classes if is_integer(label) and float(label) == float(text)]
    else:
        same = [label for label in classes if _plain(label) == _plain(text)]
    return same[0] if len(same) == 1 else text


def _find_spelling(column, classes):
    """{class: text} of the words of a column that are a class in other case or Unicode form."""
    texts = [text for text in dict.fromkeys(column) if text not in classes and not is_integer(text)]
    found = {text: _as_label(text, classes) for text in texts}
    return {label: text for text, label in found.items() if label != text}


def _plain(text):
    return unicodedata.normalize("NFC", text).casefold().strip()


def _is_number(text):
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _is_fraction(text):
    return _is_number(text) and not float(text).is_integer()
