"""Read a table of any form as text: CSV of any separator and encoding, JSON lines, Parquet."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from competition.base.files import InputError
from competition.data.sources.source import looks_like_picture

LARGEST = 2**28  # bytes of a table
MOST_CELLS = 30_000_000  # of all columns, a row counted as three more
BEGINNING = 2**20  # signs that hold a table's first line
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
OLDER = (
    *("cp1252", "latin-1", "cp1250", "cp1251", "cp1253", "cp1254", "cp437", "cp850", "mac_roman"),
    *("shift_jis", "gb18030", "big5", "euc_kr"),
)  # encodings that are tried where a table is not Unicode
TRIED = 2**24  # bytes at most of a table that they are tried on, as all texts are in memory at once
# how files begin that are no tables
OTHERS = {
    "<!doctype html": "a web page, which a download leaves that has failed",
    "<html": "a web page, which a download leaves that has failed",
    "version https://git-lfs": "a pointer of Git LFS (git lfs pull fetches the file)",
    "pk\3\4": "a zip or a spreadsheet (save it as CSV)",
}

Files = Callable[[], Iterable[str]]  # the names of the files that a table may name


@dataclass
class Table:
    """A table of text. A row has a cell a column."""

    name: str  # what messages call it
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]  # of each row
    form: str  # how it is written, for the user to check


def read_table(name: str, data: bytes, files: Files | None = None) -> Table:
    """The table in a file's bytes, by the ending of its name. All is text, so 007, NA and True are labels like others.

    `files` tell an older encoding, as of `decode_text`. Raises InputError for what is no such table, naming the line.
    """
    check_bytes(name, len(data))
    ending = "." + name.rsplit(".", 1)[-1].lower()
    return READERS[ending](name, data, files)


def check_bytes(name: str, size: int) -> None:
    """InputError for a table that is too large to be read."""
    if size > LARGEST:
        raise InputError(f"{name}: a table of {size / 2**20:.0f} MB, expected {LARGEST / 2**20:.0f} MB at most")


def check_cells(name: str, count: int) -> None:
    """InputError for a table of more cells than memory has room for."""
    if count > MOST_CELLS:
        raise InputError(f"{name}: a table of {count:,} cells, expected {MOST_CELLS:,} at most")


def without_header(table: Table) -> Table:
    """The same table with its first line as a row; its columns are called column 1, column 2, ..."""
    columns = [f"column {number}" for number in range(1, len(table.columns) + 1)]
    return Table(table.name, columns, [table.columns, *table.rows], [1, *table.lines], f"{table.form}, no header")


def decode_text(name: str, data: bytes, files: Files | None = None) -> tuple[str, str]:
    """The text of a table, and its encoding where that is no Unicode, else "".

    Unicode is told by its mark or by its bytes. An older encoding is the one in which most names with letters beyond
    ASCII are those of files or folders. InputError where none is, or where others fit as well and give another text.
    """
    encoding = next((BOMS[bom] for bom in BOMS if data.startswith(bom)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:4]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding), ""
    except UnicodeDecodeError as error:
        if files and encoding == "utf-8" and len(data) <= TRIED and (found := _decode_by_names(data, files())):
            return found
        raise InputError(f"{name}: not UTF-8: {error}; expected the table saved as UTF-8") from None


def split_text(text: str) -> tuple[str, str, str]:
    """The text of a CSV without a spreadsheet's line "sep=;", its first line with a cell, and what parts the cells.

    That is the sign of SEPARATORS that parts the first line into most cells. The first line is "" where there is none.
    """
    text = re.sub(r"\Asep=.\r?\n", "", text)
    lines = (line for part in (text[:BEGINNING], text) for line in part.splitlines() if line.strip())
    first = next(lines, "")
    counts = {separator: len(_split(first, separator)) for separator in SEPARATORS}
    return text, first, max(counts, key=lambda each: counts[each])  # the first of them where several are as good


def _split(line, separator):
    """The cells of a line; none where one is longer than csv reads."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _decode_by_names(data, files):
    """(text, encoding) that fits the names of files; None where no encoding does, or several that give other texts."""
    known = {form for file in files for form in _foreign_parts(file)}
    fits = {}
    for encoding in OLDER:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text not in fits:
            cells = re.split(r'[,;|"\t\r\n]', text)
            fits[text] = len(known.intersection(form for cell in cells for form in _foreign_parts(cell))), encoding
    most = max((count for count, _ in fits.values()), default=0)
    best = [(text, encoding) for text, (count, encoding) in fits.items() if count == most > 0]
    return best[0] if len(best) == 1 else None


def _foreign_parts(name):
    """The parts of a path that have letters beyond ASCII, without a picture's ending, in one Unicode form."""
    if name.isascii():
        return []
    parts = [part.strip() for part in re.split(r"[/\\]", unicodedata.normalize("NFC", name)) if not part.isascii()]
    return [part.rsplit(".", 1)[0] if looks_like_picture(part) else part for part in parts]


def _read_csv(name, data, files):
    text, encoding = decode_text(name, data, files)
    text, first, separator = split_text(text)
    if not first:
        raise InputError(f"{name}: found an empty file, expected a table with a row an image")
    if other := next((what for start, what in OTHERS.items() if first.lower().lstrip().startswith(start)), None):
        raise InputError(f"{name}: found {other}, expected a table with a row an image")
    check_cells(name, text.count(separator) + 3 * (text.count("\n") + text.count("\r")))
    header = _split(first, separator)
    padded = any(cell.startswith(" ") for cell in header[1:])  # blanks behind the separators
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=padded)
    rows, lines = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{name}: not a CSV that can be read: {error}") from None
    columns = [column.strip() for column in rows[0]]
    if all(len(row) == len(columns) + 1 and not row[-1].strip() for row in rows[1:]):  # each ends with a separator
        rows = [rows[0], *(row[:-1] for row in rows[1:])]
    for line, row in zip(lines, rows):
        if len(row) != len(columns):
            raise InputError(f"{name}, line {line}: other number of fields than the header has")
    form = f"separated by {SEPARATORS[separator]}" + (f", in the encoding {encoding}" if encoding else "")
    return Table(name, columns, rows[1:], lines[1:], form)


def _read_json_lines(name, data, files):
    records, lines = [], []
    for line, text in enumerate(decode_text(name, data, files)[0].splitlines(), 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except RecursionError:
            raise InputError(f"{name}, line {line}: nests too deep, expected an object with a key a column") from None
        except ValueError as error:
            raise InputError(f"{name}, line {line}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{name}, line {line}: found {text[:40]}, expected an object with a key a column")
        records.append(record)
        lines.append(line)
    columns = list(dict.fromkeys(key for record in records for key in record))
    check_cells(name, (len(columns) + 3) * len(records))
    rows = [[text_of(record.get(column)) for column in columns] for record in records]
    return Table(name, columns, rows, lines, "JSON lines")


def _read_parquet(name, data, files):
    from pyarrow import ArrowException, parquet

    try:
        about = parquet.read_metadata(io.BytesIO(data))
        check_cells(name, about.num_rows * (about.num_columns + 3))
        table = parquet.read_table(io.BytesIO(data))
    except (ArrowException, OSError) as error:
        raise InputError(f"{name}: not a Parquet file that can be read: {error}") from None
    names = class_names(table.schema.metadata or {})
    columns = [
        [text_of(value, names.get(column)) for value in values.to_pylist()]
        for column, values in zip(table.column_names, table.columns)
    ]
    rows = [list(row) for row in zip(*columns)]
    return Table(name, list(table.column_names), rows, list(range(1, len(rows) + 1)), "Parquet")


def class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """{column: the names of its classes}, where `datasets` left them in a Parquet file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: kind["names"] for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def text_of(value: object, names: list[str] | None = None) -> str:
    """A value as a CSV would have it; of a class that has a name, its name."""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


READERS: dict[str, Callable[[str, bytes, Files | None], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
