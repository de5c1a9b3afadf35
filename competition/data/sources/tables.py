"""Read a table of any form as text: CSV of any separator and encoding, JSON lines, Parquet."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from competition.base.files import InputError

LARGEST = 2**28  # bytes of a table
MOST_CELLS = 30_000_000  # of all columns, a row counted as three more
BEGINNING = 2**20  # signs that hold a table's first line
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass
class Table:
    """A table of text. A row has a cell a column."""

    name: str  # what messages call it
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]  # of each row
    form: str  # how it is written, for the user to check


def read_table(name: str, data: bytes) -> Table:
    """The table in a file's bytes, by the ending of its name. All is text, so 007, NA and True are labels like others.

    Raises InputError for what is no such table, naming the line.
    """
    check_bytes(name, len(data))
    ending = "." + name.rsplit(".", 1)[-1].lower()
    return READERS[ending](name, data)


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


def _read_csv(name, data):
    text = re.sub(r"\Asep=.\r?\n", "", _decode(name, data))  # a first line that some spreadsheets write
    lines_of = (line for part in (text[:BEGINNING], text) for line in part.splitlines() if line.strip())
    first = next(lines_of, "")
    if not first:
        raise InputError(f"{name}: found an empty file, expected a table with a row an image")
    counts = {separator: len(_split(first, separator)) for separator in SEPARATORS}
    separator = max(counts, key=lambda each: counts[each])  # the first of them where several are as good
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
    for line, row in zip(lines, rows):
        if len(row) != len(columns):
            raise InputError(f"{name}, line {line}: other number of fields than the header has")
    return Table(name, columns, rows[1:], lines[1:], f"separated by {SEPARATORS[separator]}")


def _split(line, separator):
    """The cells of a line; none where one is longer than csv reads."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return []


def _decode(name, data):
    encoding = next((BOMS[bom] for bom in BOMS if data.startswith(bom)), "utf-8")
    if encoding == "utf-8" and b"\0" in data[:4]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8: {error}; expected the table saved as UTF-8") from None


def _read_json_lines(name, data):
    records, lines = [], []
    for line, text in enumerate(_decode(name, data).splitlines(), 1):
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


def _read_parquet(name, data):
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


READERS: dict[str, Callable[[str, bytes], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
