"""From a label table to the images and labels of a Source."""

import os
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from competition.base.files import InputError
from competition.base.text import shorten
from competition.data.sources.columns import label_of, recognise
from competition.data.sources.labels import with_labels
from competition.data.sources.lookup import Lookup
from competition.data.sources.roles import role_of
from competition.data.sources.source import Reading, Source
from competition.data.sources.tables import Table

MOST_PARTS = 5  # different values of a column that may name the parts of a split


def label_images(source: Source, table: Table, lookup: Lookup, reading: Reading, labelled: bool = True) -> Source:
    """Complete a Source by a label table whose names `lookup` finds.

    Images without a label, of which the table has no row, are left out. With `labelled` False the table may have no
    label. A row that repeats an image with the same label does not count. Raises InputError that names the line where a
    row has no image or label or repeats an image with another label, unless SKIP_BAD=1 leaves such rows out.
    """
    table, columns = recognise(table, reading, lookup.count, labelled)
    if not table.rows:
        raise InputError(f"{table.name}: no rows, expected one an image")
    found, where = lookup.find([row[columns.image] for row in table.rows])
    loosely = []
    if not any(found):
        found = lookup.find_loosely(names := [row[columns.image] for row in table.rows])
        loosely = [f"{name} is {file}" for name, file in zip(names, found) if file]
    rows, left, remarks = _check_rows(table, columns, found, lookup, reading, where, source)
    frame = pd.DataFrame([table.rows[number] for number in rows], columns=pd.Index(table.columns), dtype=object)
    frame.index = pd.Index([found[number] for number in rows], dtype=object)
    notes = _describe(table, columns, where, len(rows))
    notes += tuple(("left out", f"{count} rows {why}") for why, count in left.items() if count)
    images = [str(found[number]) for number in rows]
    labels = [label_of(table, columns, table.rows[number]) for number in rows]
    remarks += _several(table, labels) + _parts(table, rows) if labelled else []
    if loosely:
        shown = shorten(loosely, 1)
        remarks.append(f"{table.name}: no name is a file's; they count without ending and leading zeros: {shown}")
    source = replace(source, columns=frame, found=notes, remarks=(*source.remarks, *remarks))
    if not labelled:
        order = sorted(range(len(images)), key=lambda n: (labels[n], images[n]))
        classes = sorted(set(labels)) if columns.labels else []
        return replace(
            source,
            images=[images[n] for n in order],
            labels=[labels[n] for n in order] if columns.labels else [],
            classes=classes,
        )
    return with_labels(source, list(zip(labels, images)), "the label column", reading.alike)


def _check_rows(table, columns, found, lookup, reading, where, source):
    """The numbers of the rows that can be used, {why: how many rows are left out}, and lines about these."""
    bad, missing, again, rows = [], [], [], []
    first: dict[str, int] = {}  # the row that an image is in
    folder = source.data.parent if source.data.is_file() and not where else source.data
    for number, (row, line) in enumerate(zip(table.rows, table.lines)):
        name, file = row[columns.image], found[number]
        key = file or name
        if not name or columns.labels and not label_of(table, columns, row):
            bad.append((line, _lacking(table, columns, name)))
        elif file is None and lookup.below(name) is None:
            remedy = "put the CSV beside the pictures, or give their folder by IMAGES="
            bad.append((line, f"{name} is not below the CSV's folder {folder}; {remedy}"))
        elif file is None:
            missing.append(f"{name} (line {line})")
        elif key in first:
            of_first = label_of(table, columns, table.rows[first[key]])
            if columns.labels and of_first == label_of(table, columns, row):
                again.append(f"{name} (line {line})")
            else:
                other = f" as {of_first}" if columns.labels else ""
                bad.append((line, f"{name} is in line {table.lines[first[key]]} already{other}"))
        else:
            rows.append(number)
            first[key] = number
    left = {"without image or label": len(bad) + len(missing), "that repeat an image with its label": len(again)}
    lines = [f"{table.name}: {len(again)} rows repeat an image with its label: {shorten(again)}"] if again else []
    if reading.skip_bad and rows:
        named = [f"line {line}: {reason}" for line, reason in bad] + missing
        text = f"{table.name}: {len(named)} rows without image or label are left out: {shorten(named, 20)}"
        return rows, left, [text, *lines] if named else lines
    remedy = " (SKIP_BAD=1 leaves such rows out)" if rows else ""
    if bad:
        line, reason = bad[0]
        more = f"; and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(f"{table.name}, line {line}: {reason}{more}{remedy}")
    if missing:
        remedy = remedy or "; IMAGES= names the folder or archive that the images lie in"
        raise InputError(f"{table.name}: missing below {folder}: {shorten(missing)}{remedy}")
    return rows, left, lines


def _lacking(table, columns, name):
    if len(columns.labels) == 1 or not name:
        return "empty image or label" if columns.labels else "empty image"
    return f"{name} is of none or several of the classes {shorten([table.columns[n] for n in columns.labels])}"


def _describe(table, columns, where, rows):
    names = [table.columns[number] for number in columns.labels]
    label = f"{names[0]!r} is the class" if len(names) == 1 else f"{len(names)} columns of 0 and 1 are the classes"
    label = label if names else "no class"
    lines = [
        ("layout", "a label table"),
        ("table", f"{os.path.basename(table.name)}, {table.form}, {rows} rows"),
        ("columns", f"{table.columns[columns.image]!r} is the image, {label}"),
    ]
    return tuple(lines + ([("images in", where + "/")] if where else []))


def _several(table, labels):
    """A line where labels such as "rust scab" are made of others."""
    known = set(labels)
    made = [label for label in sorted(known) if (parts := _split(label)) and len(parts) > 1 and set(parts) <= known]
    text = f"{table.name}: labels that are made of others count as classes of their own: {shorten(made)}"
    return [text] if made else []


def _parts(table, rows):
    """A line where a column says of which part of a split each row is, as all of them are dealt."""
    lines = []
    for number, column in enumerate(table.columns):
        values = {table.rows[row][number] for row in rows}
        if len(values) <= MOST_PARTS and len({role_of(value) for value in values} - {None}) > 1:
            text = f"the column {column!r} names parts of a split ({shorten(sorted(values))}), and all are dealt into folds"
            lines.append(f"{table.name}: {text}; FOLD_COLUMN= takes over folds, as numbers")
    return lines


def _split(label: str) -> Sequence[str]:
    return label.replace(",", " ").replace(";", " ").replace("|", " ").split()
