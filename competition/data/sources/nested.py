"""Zips in a folder or in a zip that holds no pictures itself: their files count as those of folders called like them.

Beside pictures that holds of a packed table alone, such as labels.csv.zip.
"""

from collections.abc import Callable

from competition.base.files import InputError
from competition.data.sources.source import Store, folders_of, looks_like_picture
from competition.data.sources.tables import READERS

TABLES = tuple(f"{ending}.zip" for ending in READERS)


class Nested:
    """The files of a Store, and of the zips in it where it holds no picture. `open_zip` opens one of them by its name."""

    def __init__(self, store: Store, open_zip: Callable[[str], Store]):
        self.store, self._open_zip = store, open_zip
        self._zips: dict[str, Store] | None = None  # by the folder that its files are called after

    def list(self) -> tuple[list[str], list[str]]:
        files, folders = self.store.list()
        self._open(files)
        files = [
            name for name in files if not (name.lower().endswith(".zip") and f"{name[:-4]}/" in (self._zips or {}))
        ]
        for prefix, inner in (self._zips or {}).items():
            more = inner.list()
            files = files + [prefix + name for name in more[0]]
            folders = folders + [prefix.rstrip("/"), *(prefix + name for name in more[1])]
        return (files, folders_of([], folders)) if self._zips else (files, folders)

    def has(self, name: str) -> bool:
        return self.store.has(name) or any(inner.has(inside) for inner, inside in self._inside(name))

    def read(self, name: str) -> bytes:
        try:
            return self.store.read(name)
        except (KeyError, FileNotFoundError):
            for inner, inside in self._inside(name):
                return inner.read(inside)
            raise

    def _open(self, files):
        if self._zips is not None:
            return
        self._zips = {}
        endings = TABLES if any(map(looks_like_picture, files)) else (".zip",)
        for name in files:
            if name.lower().endswith(endings):
                try:
                    self._zips[f"{name[:-4]}/"] = self._open_zip(name)
                except InputError:
                    if len(files) == 1:
                        raise  # there is nothing else

    def _inside(self, name):
        """The zip that holds a file, and its name there."""
        if self._zips is None:
            self._open(self.store.list()[0])
        return [(inner, name[len(prefix) :]) for prefix, inner in (self._zips or {}).items() if name.startswith(prefix)]
