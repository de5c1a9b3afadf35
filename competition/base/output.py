"""What is printed: left out for some callers and not for others at the same time, and what a terminal would obey shown."""

import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

# signs that a terminal obeys, or that turn the direction of text: all are shown as \x1b, \u202e, ...
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_muted: ContextVar[bool] = ContextVar("muted", default=False)
_own: ContextVar[bool] = ContextVar("own", default=False)  # what a user's own code prints is written as it is
_lock = threading.Lock()
_callers = 0  # how many are muted at the moment


def show_controls(text: str) -> str:
    """The text with control signs spelt out, but for tabs and line ends."""
    return CONTROLS.sub(lambda sign: sign[0].encode("unicode_escape").decode("ascii"), text)


class _Filter:
    """Standard output, but for what a muted caller writes."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if _muted.get() else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Shown:
    """A stream on which control signs, such as those in the names of hostile files, are spelt out."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text if _own.get() else show_controls(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Spell out the control signs in what is printed on standard output and standard error."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Shown(before[0]), _Shown(before[1])  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def bare(stream: Any) -> Any:
    """The stream itself, for a progress bar, which moves the cursor."""
    return stream.stream if isinstance(stream, _Shown) else stream


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
    token, own = _muted.set(False), _own.set(True)
    try:
        yield
    finally:
        _muted.reset(token)
        _own.reset(own)
