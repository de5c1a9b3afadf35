"""Recognise the columns of a label table: which one names the image, which one or ones the class."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from competition.base.files import InputError
from competition.data.sources.lookup import SeveralFolders
from competition.data.sources.source import Reading, looks_like_picture
from competition.data.sources.tables import Table, without_header

# Names as they are compared: small letters and digits alone. Where a table has several, the first is taken first.
IMAGE_NAMES = (
    *("image", "imageid", "imagename", "imagefile", "imagefilename", "imagepath", "imageurl", "filename", "file"),
    *("filepath", "path", "relativepath", "fname", "id", "img", "imgid", "imgname", "imgfile", "imgpath", "picture"),
    *("pictureid", "photo", "photoid", "pic", "name", "key", "isicid", "uuid", "sampleid", "idcode", "imageindex"),
    *("filepaths", "filenames", "imagepaths", "imagenames", "imageids"),
)
LABEL_NAMES = (
    *("label", "labels", "class", "classname", "classlabel", "species", "breed", "category", "categoryname", "target"),
    *("labelname", "targetlabel", "variety", "cultivar", "diagnosis", "disease", "dx", "genus", "type", "tag", "tags"),
    *("classid", "categoryid", "labelid", "classes", "groundtruth", "y", "imageclasstext", "imageclasslabel"),
)
ASIDE = ("fold", "folds", "kfold", "split", "group", "groups", "width", "height", "", "index")  # no labels
TRIED = 200  # rows by which a column is tried
ONE, ZERO = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false", "")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that matter, by their numbers. Of several labels each stands for a class, of 0 and 1."""

    image: int
    labels: tuple[int, ...]


def recognise(
    table: Table, reading: Reading, count: Callable[[Sequence[str]], int], labelled: bool = True
) -> tuple[Table, Columns]:
    """The table, whose first line may turn out to be no header, and its Columns.

    count(names)   how many of these names are images of the data
    labelled       whether labels are expected; else only a column "label" is one, and `Columns.labels` may be empty

    Raises InputError with the columns that there are where it is not clear which are meant.
    """
    names = [_plain(column) for column in table.columns]
    rows = table.rows[:: max(1, len(table.rows) // TRIED)]
    if reading.image_column:
        image = _given(table, reading.image_column, "IMAGE_COLUMN")
    elif (found := _find_image(table, names, rows, count)) is not None:
        image = found
    else:
        raise _not_clear(table, "'image'", "IMAGE_COLUMN=")
    if not reading.image_column and names[image] not in IMAGE_NAMES and _is_image(table.columns[image], count):
        table = without_header(table)
        names = [_plain(column) for column in table.columns]
    if reading.label_column:
        return table, Columns(image, (_given(table, reading.label_column, "LABEL_COLUMN"),))
    labels = _find_labels(table, names, image) if labelled or "label" in table.columns else ()
    if not labels and labelled:
        raise _not_clear(table, "'image' and one 'label'", "IMAGE_COLUMN= and LABEL_COLUMN=")
    return table, Columns(image, labels)


def label_of(table: Table, columns: Columns, row: Sequence[str]) -> str:
    """The class of a row, "" where it has none or several."""
    if len(columns.labels) == 1:
        label = row[columns.labels[0]]
        return label if label.strip() else ""
    ones = [number for number in columns.labels if row[number].strip() in ONE]
    return table.columns[ones[0]] if len(ones) == 1 else ""


def _plain(column):
    return re.sub("[^a-z0-9]", "", column.lower())


def _given(table, column, variable):
    if table.columns.count(column) != 1:
        raise InputError(f"{table.name}: {variable}={column}: found columns {_list(table)}, expected one of them")
    return table.columns.index(column)


def _is_image(cell, count):
    return looks_like_picture(cell) or bool(count([cell]))


def _find_image(table, names, rows, count):
    if table.columns.count("image") > 1:
        return None
    named = sorted((number for number, name in enumerate(names) if name in IMAGE_NAMES), key=lambda n: _rank(names[n]))
    if len(named) == 1:
        return named[0]
    if "image" in table.columns:
        exact = table.columns.index("image")
        named = [exact, *(number for number in named if number != exact)]
        if _try(count, rows, exact):
            return exact
    tried = {number: _try(count, rows, number) for number in named or range(len(names))}
    good = [number for number, found in tried.items() if 2 * found > len(rows)]
    if named:
        most = max(tried.values())
        return next(number for number in named if tried[number] == most)
    return good[0] if len(good) == 1 else None


def _try(count, rows, number):
    """How many of the names in a column are images; none where several folders have such names."""
    try:
        return count([row[number] for row in rows])
    except SeveralFolders:
        return 0


def _rank(name):
    return IMAGE_NAMES.index(name)


def _find_labels(table, names, image):
    """The columns of the label: one, several of 0 and 1, or none where that is not clear."""
    if table.columns.count("label") == 1:
        return (table.columns.index("label"),)
    if table.columns.count("label") > 1:
        return ()
    others = [number for number in range(len(names)) if number != image]
    named = sorted((n for n in others if names[n] in LABEL_NAMES), key=lambda n: LABEL_NAMES.index(names[n]))
    if named:
        return (_of_equal(table, named),)
    if ones := _one_hot(table, [number for number in others if names[number] not in ASIDE]):
        return ones
    left = [n for n in others if names[n] not in ASIDE and not names[n].startswith("unnamed") and _repeats(table, n)]
    return tuple(left) if len(left) == 1 else ()


def _of_equal(table, named):
    """The one column of several that part the images alike; rather of names than of numbers."""
    first = named[0]
    for other in named[1:]:
        pairs = {(row[first], row[other]) for row in table.rows}
        if not len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
            both = ", ".join(repr(table.columns[number]) for number in named)
            raise InputError(f"{table.name}: several columns may be the label: {both}; expected LABEL_COLUMN= one")
    words = [n for n in named if not all(row[n].strip().lstrip("-").isdigit() for row in table.rows[:TRIED])]
    return (words or named)[0]


def _one_hot(table, numbers):
    """The columns of 0 and 1 that have one 1 in most rows, or ()."""
    flags = tuple(n for n in numbers if all(row[n].strip() in ONE + ZERO for row in table.rows))
    flags = tuple(n for n in flags if any(row[n].strip() in ONE for row in table.rows))
    if len(flags) < 2:
        return ()
    single = sum(sum(row[n].strip() in ONE for n in flags) == 1 for row in table.rows)
    return flags if 2 * single > len(table.rows) else ()


def _repeats(table, number):
    """Whether a column may be a class: fewer values than rows, and none a fraction."""
    values = {row[number] for row in table.rows}
    return 1 < len(values) < len(table.rows) and not any(re.fullmatch(r"-?\d+\.\d*[1-9]\d*", value) for value in values)


def _list(table):
    return ", ".join(map(repr, table.columns[:20])) + (" and more" if len(table.columns) > 20 else "")


def _not_clear(table, expected, variables):
    return InputError(f"{table.name}: found columns {_list(table)}, expected one {expected}; else {variables}")
