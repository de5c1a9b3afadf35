"""What a scorer allows of a zip, and what a zip takes."""

import dataclasses
from dataclasses import dataclass

from competition.base.arrays import read_memory
from competition.base.files import InputError


@dataclass(frozen=True)
class Limits:
    """What the scorer allows of a zip; None: as much as it takes."""

    megabytes: float | None = None  # 10^6 bytes of the zip
    seconds: float | None = None  # from the import of model.py to the labels of the hidden test
    memory: float | None = None  # bytes of the process, which holds the hidden test's images as well

    @property
    def given(self) -> bool:
        return any(value is not None for value in dataclasses.astuple(self))

    def exceeded(self, cost: "Cost") -> list[str]:
        """What a Cost is over, in words, or []."""
        rows = (
            ("MAX_MB", self.megabytes, cost.bytes / 1e6, "MB"),
            ("MAX_SECONDS", self.seconds, cost.seconds, "s"),
            ("MAX_MEMORY", self.memory and self.memory / 1e6, cost.memory / 1e6, "MB of memory"),
        )
        return [
            f"{found:.1f} {unit}, {found - limit:.1f} over {name} ({limit:.1f})"
            for name, limit, found, unit in rows
            if limit is not None and found > limit
        ]


@dataclass(frozen=True)
class Cost:
    """Of a zip: its bytes, seconds to the labels of the hidden test, most bytes of memory."""

    bytes: float
    seconds: float
    memory: float


def read_limits(
    megabytes: str | float | None = None, seconds: str | float | None = None, memory: str | None = None
) -> Limits:
    """The Limits that MAX_MB, MAX_SECONDS and MAX_MEMORY mean; InputError for what they cannot be."""

    def number(variable: str, text: str | float | None) -> float | None:
        try:
            value = None if text in (None, "") else float(text)
        except ValueError:
            value = 0.0
        if value is not None and not 0 < value < 1e12:
            raise InputError(f"{variable}={text}: expected a number above 0")
        return value

    try:
        held = read_memory(memory).total if memory else None
    except InputError:
        raise InputError(f"MAX_MEMORY={memory}: expected a number and M, G or T, such as 512M or 4G") from None
    return Limits(number("MAX_MB", megabytes), number("MAX_SECONDS", seconds), held)
