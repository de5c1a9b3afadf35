"""What every stage needs of the file system: errors that name a file, writes that never leave half a file, hashes.

Everything is written to a temporary file in the same folder and then moved into place with `os.replace`, so that a
process killed at any moment leaves either the old file or the new one, never a part of one.
"""

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)  # what reading half a file raises
PARTIAL = ".partial-"  # how the names of temporary files begin
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how cells begin that a spreadsheet takes for formulas
VERSIONED = (
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "keras",
    "numpy",
    "pandas",
    "scikit-learn",
    "pillow",
    "albumentations",
)


class InputError(ValueError):
    """Something the user gave cannot be used. One line: the file, what was found, what was expected.

    A command prints it and ends with exit code 2.
    """

    # A block that catches ValueError and may raise this itself lets it through first.


def warn(line: str) -> None:
    """Print one line of warning on stderr; the command goes on."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def check_name(variable: str, name: str) -> str:
    """`name` if it can be a file's, else InputError about the variable that gave it."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise InputError(f"{variable}={name}: expected up to 100 letters, digits and . _ + -, not first a sign")
    return name


def write_with(path: str | Path, write: Callable[[str], Any]) -> None:
    """Call `write(temporary_path)`, then move what it wrote to `path` in one step.

    The temporary name ends like `path` does, because savers such as Keras' choose the format by the ending.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=PARTIAL, suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_partial(folder: str | Path) -> None:
    """Remove the temporary files that writers which were killed left below `folder`; no other may be at work there."""
    for path in Path(folder).rglob(PARTIAL + "*"):
        path.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    write_with(path, lambda temporary: Path(temporary).write_bytes(data))


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_npz(path: str | Path, **arrays: Any) -> None:
    import numpy as np

    write_with(path, lambda temporary: np.savez(temporary, **arrays))


def csv_bytes(frame: Any) -> bytes:
    """The bytes of a DataFrame as the toolkit writes it: UTF-8, "\\n" line ends, floats in shortest round-trip form."""
    return frame.to_csv(index=False, lineterminator="\n").encode("utf-8")


def sheet_bytes(frame: Any) -> bytes:
    """The same for a table that people open and no program reads back: what a spreadsheet would take for a formula
    has a ' before it."""
    texts = frame.select_dtypes(exclude="number").columns
    frame = frame.astype(dict.fromkeys(texts, object)).assign(**{name: frame[name].map(_no_formula) for name in texts})
    return csv_bytes(frame.rename(columns=_no_formula))


def _no_formula(value: Any) -> Any:
    try:
        float(value)
    except (TypeError, ValueError):
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
    return value


def read_csv(path: Any, **options: Any) -> Any:
    """The DataFrame that pandas.read_csv gives with these options; floats are those that `csv_bytes` wrote, bit for bit.

    pandas before 3.1 reads them so only when asked to: otherwise a third of them differ in the last bit.
    """
    import pandas as pd

    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options |= {"float_precision": "round_trip"}
    return pd.read_csv(path, **options)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; InputError when it is missing or broken."""
    path = Path(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON file written by this toolkit, found {error}") from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(content: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of its keys."""
    digest = hashlib.sha256()
    for part in json.JSONEncoder(sort_keys=True, ensure_ascii=False).iterencode(content):
        digest.update(part.encode("utf-8"))  # in one text the names of many images would be in memory once more
    return digest.hexdigest()


def versions(names: Sequence[str] = ()) -> dict[str, str]:
    """What was at work: the libraries of these names, or else Python and those that results depend on, as {name:
    version} of those that are installed."""
    found = {} if names else {"python": platform.python_version()}
    for name in names or VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found
