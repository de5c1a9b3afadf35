"""What the text of an option means: whole numbers, image sizes."""

import re
from collections.abc import Sequence
from typing import Any

from competition.base.files import InputError


def parse_size(size: str | int | Sequence[int] | None) -> tuple[int, int] | None:
    """ "96", "96x128" (height x width), 96 or (96, 128) -> (height, width); None stays None."""
    if size is None or size == "":
        return None
    parts = size if isinstance(size, (tuple, list)) else re.split("[x×]", str(size).strip().lower())
    if len(parts) == 1:
        parts = [parts[0], parts[0]]
    if len(parts) != 2:
        raise InputError(f"SIZE={size}: expected one number, or height x width such as 96x128")
    height, width = (whole_number("SIZE", part, 1, 10_000) for part in parts)
    return height, width


def whole_number(what: str, value: Any, low: int, high: int) -> int:
    """The int that a setting such as FOLDS=5 means; InputError naming it where it is none from `low` to `high`."""
    try:
        number = int(value)
        if number != float(value) or isinstance(value, bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what}={value}: expected a whole number") from None
    if not low <= number <= high:
        raise InputError(f"{what}={value}: expected {low} to {high}")
    return number
