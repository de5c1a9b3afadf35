"""The record of a run or a GAN: the JSON that says what it was begun from, and the lock on its folder.

Whatever goes on with a folder first asks its record: what was begun from something else is refused, by the name of the
difference, so that no folder ever holds results of two configs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from competition.base import files
from competition.base.backend import backend_versions, choose_precision
from competition.base.files import InputError, read_json
from competition.base.locks import Held, hold
from competition.base.text import join_names
from competition.base.workspace import HEADS_NPZ, LOCK, NODE, RUN_JSON, Paths, fold_files
from competition.data.table import FoldTable
from competition.recipes.recipe import Recipe

TRAIN_FORMAT = 5  # raise it when the same config trains to something else, so that no run ends otherwise than it began
OTHERWISE = "a version of the toolkit that trains otherwise"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made if there is none; InputError where another process holds it.

    The lock goes with its process, however that ends. What a killed process left half-written is removed.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(hold(folder / LOCK, wait=False))
        except Held:
            raise InputError(f"{folder}: another process is at work there") from None
        files.remove_partial(folder)
        yield


@dataclass(frozen=True)
class Begun:
    """A run or a GAN that was begun before: `record` is the content of the JSON at `path`."""

    path: Path
    record: dict
    what: str  # "run" or "GAN"
    remedy: str  # what to do where it was begun from something else

    def check_config(self, config: Mapping[str, Any]) -> None:
        """InputError, naming the keys that differ, where it was begun from another config."""
        if self.record.get("config") != config:
            self.refuse(describe_difference(self.record.get("config"), config))

    def check_versions(self) -> None:
        """Warn where other versions are installed than those that it was begun with."""
        before = self.record.get("versions")
        if before != (now := backend_versions()):
            difference = describe_difference(before if isinstance(before, dict) else None, now)
            files.warn(f"{self.path}: begun with {difference}; the rest may come out differently")

    def refuse(self, found: str, how: str = "with") -> NoReturn:
        """Raise the InputError that says what it was begun with."""
        raise InputError(f"{self.path}: this {self.what} was begun {how} {found}; {self.remedy}")


def new_record(record_format: int, config: Mapping[str, Any], table: FoldTable) -> dict[str, Any]:
    """What every record begins with; `config` is what decides how the training ends."""
    return {
        "format": record_format,
        "config": config,
        "table": table.hash,
        "data": table.data_hash,
        "versions": backend_versions(),
    }


def describe_difference(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """The keys in which two configs differ, as one line."""
    flat = [dict(_flatten(config or {})) for config in (before, now)]
    keys = [key for key in sorted(flat[0].keys() | flat[1].keys()) if flat[0].get(key) != flat[1].get(key)]
    return "; ".join(f"{key} = {flat[0].get(key)} (now {flat[1].get(key)})" for key in keys)


def open_run_record(folder: Path, table: FoldTable, config: Mapping[str, Any], settings: Recipe) -> dict[str, Any]:
    """The content of run.json, written now if the run is new; InputError when it was begun from something else.

    config     what decides how the run ends, a dict
    settings   its Recipe
    """
    path = folder / RUN_JSON
    if any((*fold_files(folder, "*"), *folder.glob(f"{NODE}*/*"), *folder.glob(HEADS_NPZ))):  # else nothing to mix
        return _go_on(path, table, config)
    record = new_record(TRAIN_FORMAT, config, table) | {
        "precision": choose_precision(settings.precision, config["model"]),
        "frozen": settings.epochs == 0,
        "views": settings.views,
        "finished": False,
    }
    files.write_json(path, record)
    return record


def read_run_record(run_dir: str | Path) -> dict[str, Any]:
    """The content of `run.json`, a dict; InputError when it is missing or something else."""
    path = Path(run_dir) / RUN_JSON
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a run's record, found {type(record).__name__}")
    return record


def read_settings(path: str | Path, config: Mapping[str, Any]) -> Recipe:
    """The Recipe of a run. A key that came after the run was made is at its default, which changes nothing."""
    try:
        return Recipe(**config["recipe"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a run that this version of the toolkit can read ({error})") from None


def all_runs(paths: Paths) -> dict[str, bool]:
    """{run: is it finished} of the folders that hold a `run.json` in `runs/<name>/`, sorted by name. paths: a Paths"""
    records = sorted(paths.runs.glob(f"*/{RUN_JSON}"))
    return {
        path.parent.name: bool(read_run_record(path.parent).get("finished"))
        for path in records
        if path.parent != paths.blend and not path.parent.name.startswith(".")
    }


def check_hashes(
    path: str | Path, table: FoldTable, record: Mapping[str, Any], classes: Sequence[str] | None = None
) -> None:
    """InputError naming `path` unless `classes` and the hashes of images and folds are the table's.

    record   {"data": hash of the images, "table": hash of the fold table}, more keys do not matter
    """
    if classes is not None and list(classes) != table.classes:
        raise InputError(f"{path}: made for the classes {join_names(classes)}, expected {join_names(table.classes)}")
    pairs = {"data": ("other images", table.data_hash), "table": ("another fold table", table.hash)}
    for key, (what, expected) in pairs.items():
        if (found := record.get(key)) != expected:
            found, expected = str(found)[:12], expected[:12]
            raise InputError(f"{path}: made on {what} (hash {found}), expected {table.name}'s ({expected})")


def _go_on(path, table, config):
    record = read_run_record(path.parent)
    if not isinstance(record.get("config"), dict):
        raise InputError(
            f"{path}: not a run's record, it has no config; take another name (RUN=), or remove {path.parent}"
        )
    record["config"]["recipe"] = asdict(read_settings(path, record["config"]))
    begun = Begun(path, record, "run", f"take another name (RUN=), or remove {path.parent}")
    for key, now, what in (("data", table.data_hash, "set of images"), ("table", table.hash, "fold table")):
        if record.get(key) != now:
            begun.refuse(f"another {what}")
    begun.check_config(config)
    if not record.get("finished"):
        if record.get("format") != TRAIN_FORMAT:
            begun.refuse(OTHERWISE, "by")
        begun.check_versions()
    return record


def _flatten(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
