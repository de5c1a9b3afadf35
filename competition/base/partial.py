"""Files and folders that are being written: each is locked while its process lives, so that what a killed one left is
told from what another is at work on, and is removed.

The lock is the system's own, on the temporary file or folder itself: it goes with its process, however that ends, and
tells processes of other machines and containers apart as well. Where a disk or a system has no such locks, only what
was untouched for a day counts as left behind.
"""

import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial-"  # how the names of temporary files and folders begin
DAY = 24 * 3600  # seconds


@contextmanager
def partial_file(folder: str | Path, name: str) -> Iterator[Path]:
    """A new, empty file in a folder, removed at the end unless it was moved away; what others left there goes first.

    Its name ends like `name`, because savers choose the format by the ending.
    """

    def make() -> str:
        handle, path = tempfile.mkstemp(prefix=PARTIAL, suffix=f"-{name}", dir=folder)
        os.close(handle)
        return path

    sweep(folder)
    with _claim(make) as path:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def partial_folder(folder: str | Path, prefix: str = PARTIAL) -> Iterator[Path]:
    """A new, empty folder in a folder, removed at the end with all that is in it; what others left goes first."""
    sweep(folder, prefix=prefix)
    with _claim(lambda: tempfile.mkdtemp(prefix=prefix, dir=folder)) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def sweep(folder: str | Path, deep: bool = False, prefix: str = PARTIAL) -> None:
    """Remove the temporary files and folders in a folder that no living process works on.

    deep   also those in the folders below it, which are all the toolkit's; elsewhere only names as they are made here
           are taken for temporary ones
    """
    folder, ours = Path(folder), re.compile(re.escape(prefix) + r"[a-z0-9_]{8}(-.+)?")
    for path in list((folder.rglob if deep else folder.glob)(f"{prefix}*")):
        if deep or ours.fullmatch(path.name):
            with suppress(OSError):  # gone, or not ours to remove
                _remove_if_left(path)


@contextmanager
def _claim(make: Callable[[], str]) -> Iterator[Path]:
    """The path that `make` makes, locked; made again where another process took it for left behind before that."""
    while True:
        path = Path(make())
        handle = _open(path)
        if handle is None:
            yield path
            return
        try:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(path, handle):
                yield path
                return
        finally:
            os.close(handle)


def _open(path: Path) -> int | None:
    """A handle to lock, None where the system has no locks: Windows would not move what is open."""
    if fcntl is None:
        return None
    return os.open(path, (os.O_RDONLY if path.is_dir() else os.O_RDWR) | os.O_NOFOLLOW)


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _remove_if_left(path: Path) -> None:
    mode = path.lstat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    handle = _open(path)
    try:
        if _is_left(path, handle):
            shutil.rmtree(path) if stat.S_ISDIR(mode) else path.unlink(missing_ok=True)
    finally:
        if handle is not None:
            os.close(handle)


def _is_left(path: Path, handle: int | None) -> bool:
    if handle is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _is_still(path, handle)
        except (BlockingIOError, PermissionError):  # some disks say the latter
            return False
        except OSError:
            pass
    return time.time() - path.lstat().st_mtime > DAY
