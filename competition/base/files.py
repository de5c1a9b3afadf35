"""What every stage needs of the file system: errors that name a file, writes that never leave half a file, hashes.

Everything is written to a temporary file in the same folder and then moved into place with `os.replace`, so that a
process killed at any moment leaves either the old file or the new one, never a part of one.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from competition.base.partial import PARTIAL as PARTIAL
from competition.base.partial import partial_file, partial_folder, sweep

BROKEN = (  # what reading a damaged file raises
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)
FULL = {  # the system's numbers for no room, and what to do
    errno.ENOSPC: "make room there",
    errno.EFBIG: "let files be larger (ulimit -f)",
    getattr(errno, "EDQUOT", errno.ENOSPC): "make room there, or have a larger quota",
}
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
SCRATCH = (
    "competition-partial-"  # how the names of folders for temporary files begin, in the system's own folder for such
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how cells begin that a spreadsheet takes for formulas
MEND = "; bring it back from a copy, or remove it and make it again"
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


class NoRoom(InputError):
    """A disk has no room for what is written: whatever comes next would not find it either."""


def warn(line: str) -> None:
    """Print one line of warning on stderr; the command goes on."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def check_name(variable: str, name: str) -> str:
    """`name` if it can be a file's, else InputError about the variable that gave it."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise InputError(f"{variable}={name}: expected up to 100 letters, digits and . _ + -, not first a sign")
    return name


def write_with(path: str | Path, write: Callable[[str], Any], durable: bool = False, needed: int | None = None) -> None:
    """Call `write(temporary_path)`, then move what it wrote to `path` in one step.

    durable  whether the file is to outlive a power cut from now on, with its name: of what ends a fold or a run
    needed   how many bytes it writes, for the line that says so where there is no room; None: not known

    The temporary name ends like `path` does, because savers such as Keras' choose the format by the ending. InputError
    where the disk is full or cannot be written to.
    """
    path, written = Path(path), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path.parent, path.name) as temporary:
            try:
                write(str(temporary))
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(temporary, 0o666 & ~umask)
                if durable:
                    sync(temporary)
                os.replace(temporary, path)
            except Exception:
                written = temporary.stat().st_size if temporary.exists() else 0
                raise
            if durable:
                sync(path.parent)
    except InputError:
        raise
    except Exception as error:
        if is_full(error):
            raise_full(path, error, needed, written)
        if isinstance(error, OSError) and error.errno in UNWRITABLE and _leads_to(error.filename, path):
            raise InputError(
                f"{path}: cannot be written ({error.strerror}); make its folder one that you may write into, and run "
                "the same command again"
            ) from None
        raise


def _leads_to(name: Any, path: Path) -> bool:
    """Whether the file or folder of that name lies beside a path, or above it."""
    place, path = Path(os.path.abspath(str(name))), Path(os.path.abspath(path))
    return place.parent == path.parent or place in path.parents


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk has no room: the system's own, or a library's that quotes it."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(os.strerror(number) in str(error) for number in FULL)


def say_refused(error: OSError) -> str:
    """The line about what the system refused, where nobody foresaw it: the file, its reason, what to do."""
    where = str(error.filename or "a file of this command")
    return " ".join(f"{where}: {error.strerror or error}; mend that and run the same command again".split())


def raise_full(path: str | Path, error: BaseException, needed: int | None = None, written: int = 0) -> NoReturn:
    """The InputError for an error of which is_full is true: the path, what is needed and what is free, the remedy.

    needed   bytes; None: not known, but more than the `written` ones
    """
    number = next((n for n in FULL if getattr(error, "errno", None) == n or os.strerror(n) in str(error)), errno.ENOSPC)
    wanted = f"more than {say_bytes(written)}" if needed is None else say_bytes(needed)
    raise NoRoom(
        f"{path}: not written, {os.strerror(number)}: it needs {wanted}, its disk has {say_bytes(free_bytes(path))} free; "
        f"{FULL[number]} and run the same command again"
    ) from None


def free_bytes(path: str | Path) -> int:
    """Bytes that the disk of a path has free; the file, and folders above it, need not be there."""
    path = Path(os.path.abspath(path))
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def check_room(path: str | Path, needed: int, what: str) -> None:
    """InputError, before what takes long, unless the disk of a path has room for `needed` bytes of `what`."""
    if needed > (free := free_bytes(path)):
        raise NoRoom(
            f"{path}: its disk has {say_bytes(free)} free, {what} needs {say_bytes(needed)}; make room there and run "
            "the same command again"
        )


def say_bytes(count: int) -> str:
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "KB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


@contextlib.contextmanager
def scratch(needed: int = 0, what: str = "what is packed") -> Iterator[Path]:
    """A folder for temporary files, which goes at the end; those that killed commands left there go first.

    needed, what   bytes that it is to hold, at least, and of what. InputError where there is no room for them.
    """
    with room_for_scratch(needed, what) as top, partial_folder(top, SCRATCH) as folder:
        yield folder


@contextlib.contextmanager
def room_for_scratch(needed: int = 0, what: str = "what is packed") -> Iterator[Path]:
    """The system's folder for temporary files, TMPDIR; InputError where what is done there finds no room. As scratch."""
    remedy = "make room there, or name another folder: TMPDIR=<folder> before the command"
    try:
        top = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise InputError(f"no folder for temporary files can be written to ({error.strerror}); {remedy}") from None
    if needed > (free := free_bytes(top)):
        raise NoRoom(
            f"{top}: its disk has {say_bytes(free)} free, {what} needs {say_bytes(needed)} there for a while; {remedy}"
        )
    try:
        yield top
    except InputError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        wanted = f"{say_bytes(needed)} or more" if needed else "more"
        raise NoRoom(
            f"{top}: no space left on its disk, which has {say_bytes(free_bytes(top))} free: {what} needs {wanted} there "
            f"for a while; {remedy}"
        ) from None


def sync(path: str | Path) -> None:
    """Return when a file, or which names a folder has, is on the disk and not only in memory, to outlive a power cut."""
    folder = os.path.isdir(path)
    if folder and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not folder:  # some disks know it of files alone
            raise
    finally:
        os.close(handle)


def remove_partial(folder: str | Path) -> None:
    """Remove the temporary files that writers which were killed left below `folder`."""
    sweep(folder, deep=True)


def write_bytes(path: str | Path, data: bytes, durable: bool = False) -> None:
    write_with(path, lambda temporary: Path(temporary).write_bytes(data), durable, len(data))


def write_text(path: str | Path, text: str, durable: bool = False) -> None:
    write_bytes(path, text.encode("utf-8"), durable)


def write_json(path: str | Path, content: Any, durable: bool = False) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", durable)


def write_npz(path: str | Path, **arrays: Any) -> None:
    import numpy as np

    needed = sum(np.asarray(array).nbytes for array in arrays.values())
    write_with(path, lambda temporary: np.savez(temporary, **arrays), needed=needed)


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


def plain_file(path: Any) -> Any:
    """`path`; InputError where it is a FIFO, a socket or a device, which may keep whoever reads it waiting for ever."""
    mode = os.stat(path).st_mode if os.path.exists(path) else stat.S_IFREG  # of what is not there, opening it tells
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: expected a file, found a FIFO, socket or device; remove it")
    return path


def read_csv(path: Any, **options: Any) -> Any:
    """The DataFrame that pandas.read_csv gives with these options; floats are those that `csv_bytes` wrote, bit for bit.

    pandas before 3.1 reads them so only when asked to: otherwise a third of them differ in the last bit.
    """
    import pandas as pd

    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options |= {"float_precision": "round_trip"}
    return pd.read_csv(plain_file(path) if isinstance(path, (str, Path)) else path, **options)


def read_json(path: str | Path, remedy: str = "") -> Any:
    """The content of a record, a dict; InputError when it is missing, or anything else: then with the remedy,
    "; what to do"."""
    path = Path(path)
    try:
        content = json.loads(plain_file(path).read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: expected a JSON file written by this toolkit, found {error}{remedy or MEND}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: expected a record written by this toolkit, found {type(content).__name__}{remedy or MEND}"
        )
    return content


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    with open(plain_file(path), "rb") as file:
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
