"""Locks between processes, by `filelock`: a lock is a file, and it goes with its process, however that ends."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, UnixFileLock

from competition.base.files import InputError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what systems say of a disk without locks


class Held(Exception):
    """Another process, or another caller in this one, has the lock."""


@contextmanager
def hold(path: str | Path, wait: bool, remove: bool = False) -> Iterator[None]:
    """Hold the lock that is the file `path`, which is made with its folder if there is none.

    wait    whether to wait while another holds it; otherwise Held is raised then
    remove  whether no file stays once nobody holds the lock. (On Windows none ever stays.)

    InputError, with the system's reason, where the file cannot be made or the disk has no locks.
    """
    # no lock that only consists in a file's being there: that would outlive a process which was killed
    lock = FileLock(path, fallback_to_soft=False)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        raise Held from None
    except OSError as error:
        reason = f"{path}: cannot be locked ({error.strerror or error})"
        if error.errno in NO_LOCKS:
            reason += ": its disk has no locks, which keep two commands apart; take a folder on another disk"
        raise InputError(reason) from None
    try:
        yield
    finally:
        # Removed while it is held: whoever waits for it then sees that this file is gone, and makes another one.
        if remove and isinstance(lock, UnixFileLock):
            with suppress(OSError):
                Path(path).unlink(missing_ok=True)
        lock.release()
