"""Damage is noticed: a record holds the sha256 of the files beside it, and whoever reads one of these asks it first.

A record of an older version holds none: its files are read unchecked, as they always were.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from competition.base.files import InputError, read_json, sha256_file, sync

SUMS = "sha256"  # the key of a record: {name of a file beside it, or below: sha256}


def seal(folder: str | Path, names: Iterable[str]) -> dict[str, str]:
    """{name: sha256} of those of these files of a folder that are there; they outlive a power cut from now on."""
    folder, found = Path(folder), {}
    for name in names:
        if (path := folder / name).exists():
            sync(path)
            found[name] = sha256_file(path)
    for place in {(folder / name).parent for name in found} | {folder}:
        sync(place)
    return found


def find_damage(path: str | Path, record: Any, name: str | None = None) -> str | None:
    """What is wrong with a file, in words, by the content of its record; None where it is whole or that says nothing.

    name   by which the record knows it; default: its own
    """
    sums = record.get(SUMS) if isinstance(record, dict) else None
    wanted = sums.get(name or Path(path).name) if isinstance(sums, dict) else None
    if wanted is None or (found := sha256_file(path)) == wanted:
        return None
    return f"damaged or changed: its sha256 is {found[:12]}, expected {str(wanted)[:12]}"


def read_or_none(path: str | Path) -> Any:
    """The content of a record, None where it is not there or cannot be read."""
    try:
        return read_json(path)
    except InputError:
        return None


def check_sum(path: str | Path, record_path: str | Path, remedy: str) -> None:
    """InputError with the remedy where a file, below the folder of that record, is not the one that was recorded.

    Where the file or the record is not there nothing is checked.
    """
    path, record_path = Path(path), Path(record_path)
    if not (path.exists() and record_path.exists()):
        return
    if damage := find_damage(path, read_json(record_path), path.relative_to(record_path.parent).as_posix()):
        raise InputError(f"{path}: {damage} as in {record_path}; {remedy}")
