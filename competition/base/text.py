"""Tables, progress bars and short lists as text."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

INTEGER = re.compile(r"[+-]?[0-9]{1,99}(\.0*)?")  # also as tables write one that took it for a float: 3.0


def is_integer(text: str) -> bool:
    """Whether a text is an integer, such as 7, 007, -1 or 3.0."""
    return INTEGER.fullmatch(text) is not None


def class_order(names: Iterable[str]) -> list[str]:
    """The order of classes that the user gives none for: that of numbers if all are integers, else that of text."""
    names = sorted(names)
    return sorted(names, key=_as_int) if all(map(is_integer, names)) else names


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted as people do, "2" before "10"."""
    names = list(names)
    if all(map(is_integer, names)):
        return class_order(names)

    def key(name: str) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    return sorted(names, key=key)


def _as_int(text: str) -> int:
    return int(text.partition(".")[0])


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """A list of names for one line: the first few, and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def text_table(frame: pd.DataFrame, decimals: int = 4) -> str:
    """A DataFrame as aligned text without its index: text columns to the left, numbers to the right."""
    columns = []
    for name, column in frame.items():
        name = str(name)
        if not pd.api.types.is_numeric_dtype(column):
            column = column.astype(str)
            width = max([len(name), *column.str.len()])
            name, column = name.ljust(width), column.str.ljust(width)
        columns.append(column.rename(name))
    text = pd.concat(columns, axis=1).to_string(index=False, float_format=f"{{:.{decimals}f}}".format)
    return "\n".join(line.rstrip() for line in text.split("\n"))


def one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def join_names(names: Iterable[Any]) -> str:
    """Names for one line of a message: the first twenty, and how many more."""
    names = [str(name) for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
