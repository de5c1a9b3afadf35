"""Find the files that a label table names: with or without folder and ending, by paths of another machine."""

import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from competition.base.files import InputError
from competition.base.text import is_integer, shorten
from competition.data.sources.roles import role_of
from competition.data.sources.source import ENDINGS, Store, looks_like_picture

SAMPLE = 500  # names by which the folder of the images is found
FEW = 0.1  # share of names that are paths below the table's folder; where more are, the others are missing


class SeveralFolders(InputError):
    """Several folders hold files of the names in a table."""


@dataclass
class Lookup:
    """Finds files of a Store by the names in a table that lies in its folder `base` ("" or with a / at its end)."""

    store: Store
    base: str = ""
    folder: Path | None = None  # where `base` lies on disk, for absolute paths
    role: str | None = None  # of the table, as roles.role_of has it
    _by_path: dict[str, str] = field(default_factory=dict)
    _by_stem: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _by_last: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def find(self, names: Sequence[str]) -> tuple[list[str | None], str]:
        """The file that each name means, None where there is none; and the folder that they were found in, or "".

        A name is a path below `base`. Where almost none is, they may lack their ending, lie in one folder below, or be
        paths of another machine whose tails exist below. InputError where several folders have them.
        """
        plain = [self.below(name) for name in names]
        found = [path if path is not None and self.store.has(path) else None for path in plain]
        if None not in found:
            return found, ""
        names = [name if file else name.strip() for file, name in zip(found, names)]
        plain = [path if file else self.below(name) for file, path, name in zip(found, plain, names)]
        self._index()
        found = [file or (self._same(path) if path is not None else None) for file, path in zip(found, plain)]
        if len(found) - found.count(None) > FEW * len(found):
            return found, ""
        parts = [_parts(name) for name in names]
        if chosen := self._choose_folder([part for part, file in zip(parts, found) if file is None]):
            drop, where = chosen
            found = [
                file or (self._same("/".join([*where, *part[drop:]])) if len(part) > drop else None)
                for file, part in zip(found, parts)
            ]
            if 10 * found.count(None) <= len(found) or any(len(part) - drop > 1 for part in parts):
                return found, "/".join(where)
        alone = [self._anywhere(part) if file is None and len(part) == 1 else file for part, file in zip(parts, found)]
        return alone, ""

    def find_loosely(self, names: Sequence[str]) -> list[str | None]:
        """The only file of each name without regard to its ending and to zeros in front of a number, else None.

        A name with folders means a file in such folders alone, one without any none of another part of a split.
        """
        self._index()
        loose = defaultdict(list)
        for file in self._by_path.values():
            loose[_loose(_parts(file))].append(file)
        found = []
        for name in names:
            *above, _ = parts = _parts(name) or [""]
            files = [file for file in loose.get(_loose(parts), []) if _parts(file)[-len(parts) : -1] == above]
            own = [file for file in files if above or not self._is_other_split(file.split("/")[:-1])]
            found.append(own[0] if len(own) == 1 else None)
        return found

    def list_files(self) -> list[str]:
        """The names of all files, among which are those that the table names."""
        return self.store.list()[0]

    def count(self, names: Sequence[str]) -> int:
        """How many of these names are a file."""
        return sum(map(bool, self.find(names)[0]))

    def below(self, name: str) -> str | None:
        """The POSIX path that a name means below `base`, from the Store's root; None when it lies elsewhere.

        A backslash parts folders, as in a table that was written on Windows, unless a file has one in its name.
        """
        if os.path.isabs(name) or name.startswith("/"):
            for start in (self.folder, self.folder.resolve()) if self.folder else ():
                if Path(name).is_relative_to(start):
                    name = Path(name).relative_to(start).as_posix()
                    break
            else:
                return None
        if "\\" in name and (os.sep == "\\" or not self.store.has(self.base + name)):
            name = name.replace("\\", "/")
        if re.match("[A-Za-z]:/", name):
            return None
        name = posixpath.normpath(name)
        return None if name == ".." or name.startswith("../") else self.base + name

    def _index(self):
        if self._by_path:
            return
        files, _ = self.store.list()
        for file in files:
            if not (looks_like_picture(file) or "." not in file.rsplit("/", 1)[-1]):
                continue
            path = unicodedata.normalize("NFC", file)
            self._by_path[path] = file
            stem = _without_ending(path).casefold()
            self._by_stem[stem].append(file)
            self._by_last[stem.rsplit("/", 1)[-1]].append(file)

    def _same(self, path):
        """The file of that path, whose Unicode form, ending or case may differ; None where none or several are."""
        path = unicodedata.normalize("NFC", path)
        if path in self._by_path:
            return self._by_path[path]
        for stem in (path.casefold(), _without_ending(path).casefold()):
            files = self._by_stem.get(stem, [])
            if stem != path.casefold():  # the name has an ending: only its case may differ
                files = [file for file in files if unicodedata.normalize("NFC", file).casefold() == path.casefold()]
            if len(files) == 1:
                return files[0]
        return None

    def _choose_folder(self, names):
        """(leading parts that names drop, parts of the folder that the rest lies in): what finds most; or None."""
        votes: Counter = Counter()
        sample = [parts for parts in names[:: max(1, len(names) // SAMPLE)] if parts]
        for parts in sample:
            seen = set()
            for file in self._of_last(parts[-1]):
                path = unicodedata.normalize("NFC", file).split("/")
                for tail in range(1, min(len(parts), len(path)) + 1):
                    if tail > 1 and parts[-tail] != path[-tail]:
                        break
                    dropped, where = parts[:-tail], tuple(path[: len(path) - tail])
                    if not (_roles(dropped) and _roles(where) - _roles(dropped)):  # train/ is not looked for in test/
                        seen.add((len(dropped), where))
            votes.update(seen)
        if not votes:
            return None

        def place(choice):
            drop, where = choice
            return -votes[choice], self._is_other_split(where), drop

        best = min(place(choice) for choice in votes)
        equal = sorted(where for drop, where in votes if place((drop, where)) == best)
        if len(equal) > 1 and 2 * votes[best[2], equal[0]] > len(sample):
            shown = shorten(["/".join(where) or "." for where in equal])
            where = self.folder or "the archive"
            raise SeveralFolders(
                f"{where}: several folders hold the images of the table: {shown}; expected IMAGES= one of them"
            )
        return best[2], equal[0]

    def _is_other_split(self, where):
        roles = _roles(where)
        return bool(roles) and (self.role or "train") not in roles

    def _of_last(self, name):
        """Files of that last part of a path, with or without ending."""
        name = name.casefold()
        files = self._by_last.get(name, [])
        if looks_like_picture(name):
            stem = _without_ending(name)
            files = [*files, *(file for file in self._by_last.get(stem, []) if file.casefold().endswith(name))]
        return files

    def _anywhere(self, parts):
        """The only file of a name without folder; one of another split does not count where there are others."""
        files = self._of_last(parts[0])
        own = [file for file in files if not self._is_other_split(file.split("/")[:-1])]
        files = own or files
        return files[0] if len(files) == 1 else None


def _roles(parts):
    return {role_of(part) for part in parts} - {None}


def _parts(name):
    path = unicodedata.normalize("NFC", name).replace("\\", "/")
    return [part for part in path.split("/") if part not in ("", ".", "..") and not re.fullmatch("[A-Za-z]:", part)]


def _loose(parts):
    """The last part of a path without ending, in small letters, a number without zeros around it: 7 for 007.JPG or 7.0."""
    stem = _without_ending(parts[-1]).casefold() if parts else ""
    return str(int(stem.partition(".")[0])) if is_integer(stem) else stem


def _without_ending(path):
    low = path.lower()
    return path[: low.rindex(".")] if low.endswith(ENDINGS) else path
