"""Adapter: what Hugging Face's `datasets` writes: save_to_disk, Arrow files, Parquet files that hold the pictures."""

import json
import os
from pathlib import Path

from competition.base.archives import BOMB, check_ratio
from competition.base.files import InputError
from competition.data.sources.records import (
    Part,
    Records,
    find_files,
    open_labelled,
    open_records,
    open_unlabelled,
)
from competition.data.sources.tables import class_names, text_of

__all__ = ["matches", "open_labelled", "open_store", "open_unlabelled"]

ENDINGS = (".parquet", ".arrow")


def matches(path: Path) -> bool:
    files = find_files(path, ENDINGS) if path.is_dir() else [path] if path.suffix.lower() in ENDINGS else []
    if path.is_file() and path.suffix.lower() == ".arrow":
        return True
    return bool(files) and _image_column(_schema(files[0])) is not None


def open_store(path: Path, expected: str = "") -> Records:
    return open_records(path, ENDINGS, _read_part)


def _read_part(files):
    """The Part of the records in these files, one after the other."""
    import pyarrow as pa

    try:
        return _part(files[0], pa.concat_tables([_read(file) for file in files]))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{files[0]}: no Arrow or Parquet file that can be read: {error}") from None


def _schema(path):
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(path) if path.suffix.lower() == ".parquet" else _read(path).schema
    except (pa.ArrowException, OSError):
        return None


def _read(path):
    """The table of a file; of an Arrow file it stays on disk until it is read."""
    import pyarrow as pa

    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    file = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(file).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(file).read_all()


def _read_parquet(path):
    """The table of a Parquet file; InputError as soon as it is far larger than the file, which may say one value often."""
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        largest = max(
            (group.column(at).total_uncompressed_size for group in groups for at in range(group.num_columns)), default=1
        )
        batches, size = [], 0
        for batch in file.iter_batches(max(16, min(1000, BOMB // max(1, largest)))):
            size += batch.nbytes
            check_ratio(path, size, os.path.getsize(path))
            batches.append(batch)
        return pa.Table.from_batches(batches, file.schema_arrow)


def _image_column(schema):
    """The column of pictures: a struct with their bytes, as `datasets` has it, or bytes; None where there is none."""
    import pyarrow as pa

    if schema is None:
        return None
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return field.name
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    return binary[0] if len(binary) == 1 else None


def _part(path, table):
    column = _image_column(table.schema)
    if column is None:
        raise InputError(f"{path}: found the columns {', '.join(table.column_names)}, expected one of images")
    images, names = table.column(column), _names(path, table.schema)

    def read(number):
        value = images[number].as_py()
        data = value["bytes"] if isinstance(value, dict) else value
        if data is None:
            raise OSError(f"the record holds only a path, {value['path'] if isinstance(value, dict) else 'none'}")
        return data

    columns = {
        other: [text_of(value, names.get(other)) for value in table.column(other).to_pylist()]
        for other in table.column_names
        if other != column
    }
    return Part(table.num_rows, read, columns)


def _names(path, schema):
    """{column: the names of its classes}, from the schema or the dataset_info.json beside the file."""
    names = class_names(schema.metadata or {})
    info = path.parent / "dataset_info.json"
    if not names and info.is_file():
        try:
            features = json.loads(info.read_text("utf-8"))["features"]
            names = class_names({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
        except (OSError, ValueError, KeyError, TypeError):
            return names
    return names
