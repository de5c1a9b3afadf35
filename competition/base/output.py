"""What is printed on standard output, left out for some callers and not for others at the same time."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_muted: ContextVar[bool] = ContextVar("muted", default=False)
_lock = threading.Lock()
_callers = 0  # how many are muted at the moment


class _Filter:
    """Standard output, but for what a muted caller writes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if _muted.get() else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Leave out what this caller prints; what other threads print meanwhile is printed."""
    global _callers
    with _lock:
        _callers += 1
        if not isinstance(sys.stdout, _Filter):
            sys.stdout = _Filter(sys.stdout)  # type: ignore[assignment]
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)
        with _lock:
            _callers -= 1
            if not _callers and isinstance(sys.stdout, _Filter):
                sys.stdout = sys.stdout.stream


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Print what this caller prints, also inside `muted`: what a user's own code says."""
    token = _muted.set(False)
    try:
        yield
    finally:
        _muted.reset(token)
