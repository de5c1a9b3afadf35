"""Arrays that may be larger than memory: .npy files that are built part by part and read row by row.

How much may be held in memory is one setting, `MEMORY=4G`. What does not fit is read from its file whenever rows of
it are asked for, so that memory depends on the setting and not on the number of images. The files are read and not
mapped: mapped pages count as the process's memory, and to fetch scattered rows takes several times as long.
"""

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from competition.base.files import BROKEN, InputError, is_full, raise_full, sync
from competition.base.locks import hold
from competition.base.text import one_line
from competition.base.workspace import LOCK

UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of containers, v2 and v1


@dataclass(frozen=True)
class Memory:
    """What a process may take of memory. A half may hold images, a quarter features; the rest is the network's."""

    total: int  # bytes
    origin: str  # where the number is from, for messages

    @property
    def images(self):
        return self.total // 2

    @property
    def features(self):
        return self.total // 4

    def __str__(self):
        return f"{gigabytes(self.total)} ({self.origin})"


def read_memory(text=None):
    """The Memory that a setting such as "4G" or "512M" means (powers of 1024); without one half of what is available.

    Raises InputError for any other text.
    """
    if text:
        number = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([MGT])(?:i?B)?", str(text).strip(), re.IGNORECASE)
        total = int(float(number[1]) * UNITS[number[2].upper()]) if number else 0
        if not total:
            raise InputError(f"MEMORY={text}: expected a number and M, G or T, such as 512M or 4G")
        return Memory(total, f"MEMORY={text}")
    available = _available()
    return Memory(available // 2, f"half of the {gigabytes(available)} available, MEMORY= sets another limit")


def _available():
    """Bytes of memory that may still be taken: the machine's, or less where a container has a limit of its own."""
    limits = [Path(path).read_text("utf-8").strip() for path in CGROUP_LIMITS if os.path.exists(path)]
    return min([psutil.virtual_memory().available, *(int(limit) for limit in limits if limit.isdecimal())])


def gigabytes(count):
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


class Stored:
    """An array in an .npy file, indexed along its rows as the array would be: by number, slice, list or mask.

    What is asked for comes back as a copy in memory; nothing else of the file does. It has two or more dimensions.
    Threads may share it, and the file may be replaced or removed meanwhile (Windows refuses that).
    """

    def __init__(self, path):
        array = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.nbytes, self._offset = array.shape, array.dtype, array.nbytes, array.offset
        self._file = open(path, "rb", buffering=0)
        self._lock = threading.Lock()  # on the file's position, where reading needs one

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        if isinstance(rows, (int, np.integer)):
            return self[[rows]][0]
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        numbers = np.flatnonzero(numbers) if numbers.dtype == bool else numbers.astype(np.int64)
        if len(numbers) and not -len(self) <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"rows {numbers.min()} to {numbers.max()} of an array of {len(self)}")
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        size = self.nbytes // len(self)
        starts = (self._offset + numbers % len(self) * size).tolist()
        with contextlib.suppress(AttributeError, OSError):  # where that cannot be advised, the disk fetches row by row
            for start in starts:
                os.posix_fadvise(self._file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
        for row, start in zip(found, starts):
            if self._read_into(row, start) != size:
                raise EOFError(f"{self._file.name}: ends before row {(start - self._offset) // size}")
        return found

    def _read_into(self, row, start):
        """Fill a row from the file's byte `start` on; how many bytes the file had for it."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [row], start)
        with self._lock:  # Windows
            self._file.seek(start)
            return self._file.readinto(row)


def _same(images):
    return images


@dataclass(frozen=True)
class Rows:
    """Some rows of an array of images, each part `change`d as it is asked for, so that they never are there at once.

    `change` maps images [n, h, w, 3] to as many of the same shape, say a view of competition/features/views.py.
    """

    array: np.ndarray | Stored
    rows: np.ndarray  # int [n]
    change: Callable = _same

    @property
    def shape(self):
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self):
        return self.array.dtype

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return self.change(self.array[self.rows[part]])


@dataclass(frozen=True)
class Joined:
    """The rows of one array of images or features and behind them those of a second, asked for by many at a time."""

    first: Any  # an array, Stored, Rows or another Joined
    second: Any  # of the same dtype and shape, but for the number of rows

    @property
    def shape(self):
        return (len(self), *self.first.shape[1:])

    @property
    def dtype(self):
        return self.first.dtype

    def __len__(self):
        return len(self.first) + len(self.second)

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        late = rows >= len(self.first)
        found = np.empty((len(rows), *self.shape[1:]), self.first.dtype)
        found[~late], found[late] = self.first[rows[~late]], self.second[rows[late] - len(self.first)]
        return found


class Room:
    """What is left of a share of memory, in bytes: arrays that several callers open fit into it together."""

    def __init__(self, left=None):
        self.left = float("inf") if left is None else left

    def open(self, path):
        """The array of an .npy file: in memory while there is room, else Stored."""
        found = open_array(path, self.left)
        self.left -= found.nbytes if isinstance(found, np.ndarray) else 0
        return found


def bytes_held(array):
    """How many bytes of an array, Stored, Rows or Joined are in memory."""
    if isinstance(array, Rows):
        return bytes_held(array.array)
    if isinstance(array, Joined):
        return bytes_held(array.first) + bytes_held(array.second)
    return array.nbytes if isinstance(array, np.ndarray) else 0


def find_flaw(path, shape=None, dtype=None):
    """Why an .npy file is not that of an array of this shape and dtype, in words; None where it is. Its content may be
    damaged all the same."""
    try:
        stored = Stored(path)
    except BROKEN as error:
        return f"cannot be read ({one_line(error)})"
    if (shape and stored.shape != tuple(shape)) or (dtype and stored.dtype != dtype):
        wanted = f"{np.dtype(dtype)} {list(shape)}"
        return f"holds {stored.dtype} {list(stored.shape)}, expected {wanted}"
    return None


def open_array(path, limit):
    """The array of an .npy file: in memory where it takes up to `limit` bytes, else Stored."""
    stored = Stored(path)
    return np.load(path) if stored.nbytes <= limit else stored


def build_array(path, shape, dtype, rows_from, step=1):
    """Write the .npy file `path` from the arrays of consecutive rows that `rows_from(start)` yields.

    Until it is whole the file has another name, `<path>.part`, and a build that was killed goes on from there, at a
    multiple of `step` rows. A second process that wants the same file waits for the first, at the lock `<path>.lock`.
    Raises InputError when the disk has no room for it.
    """
    path = Path(path)
    if path.exists():
        return
    with hold(f"{path}{LOCK}", wait=True, remove=True):
        if not path.exists():  # else another process finished it while this one waited
            try:
                _build(path, Path(f"{path}.part"), shape, dtype, rows_from, step)
            except OSError as error:
                if is_full(error):
                    raise_full(path, error, int(np.prod(shape)) * np.dtype(dtype).itemsize)
                raise


def _build(path, part, shape, dtype, rows_from, step):
    with open(part, "a+b") as file:
        header = _header(shape, dtype)
        row = np.dtype(dtype).itemsize * int(np.prod(shape[1:]))
        done = _rows_done(file, header, row) // step * step
        needed, free = (shape[0] - done) * row, shutil.disk_usage(path.parent).free
        if needed > free:
            raise InputError(
                f"{path}: needs {gigabytes(needed)} more on its disk, which has {gigabytes(free)} free; make room there"
            )
        if not done:
            file.truncate(0)
            file.write(header)
        file.truncate(len(header) + done * row)
        for rows in rows_from(done) if done < shape[0] else ():
            file.write(np.ascontiguousarray(rows, dtype).data)
            done += len(rows)
        if done != shape[0]:
            raise ValueError(f"{path}: {done} rows were given for {shape[0]}")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)  # Windows does not replace what is open
    sync(path.parent)


def _header(shape, dtype):
    header, descr = BytesIO(), np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": tuple(shape)})
    return header.getvalue()


def _rows_done(file, header, row):
    """How many whole rows a file that was begun has; none when it is not the beginning of this array."""
    file.seek(0)
    same = file.read(len(header)) == header
    return max(0, os.fstat(file.fileno()).st_size - len(header)) // row if same else 0
