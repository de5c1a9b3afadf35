"""Which image each id of a sample_submission.csv names."""

import posixpath
import unicodedata
from collections import Counter, defaultdict

from competition.base.files import InputError
from competition.base.text import is_integer, shorten
from competition.data.sources.source import ENDINGS

# how a sample may call an image that lies at a path below the test folder
NAMES = (
    lambda path, top: path,
    lambda path, top: posixpath.splitext(path)[0],
    lambda path, top: f"{top}/{path}",
    lambda path, top: posixpath.splitext(posixpath.join(top, path))[0],
    lambda path, top: posixpath.basename(path),
    lambda path, top: posixpath.splitext(posixpath.basename(path))[0],
)


def match_ids(path, ids, images, top="", line=2):
    """The image that each id names, in the ids' order; None for an id that names none.

    path     of the sample, for messages
    images   paths below the test folder
    top      the name of that folder
    line     that the first id stands in

    All ids are names of one of NAMES; where none of these fits all of them, both may differ in the folders above, case,
    ending, Unicode form and leading zeros. What fits most ids is taken. InputError if no id names an image, or if an id
    names several.
    """
    best = None
    for of_ids, named in _readings(ids, images, top):
        claimed = [named.get(name, ()) for name in of_ids]
        twice = _doubled(of_ids)
        unknown = [n for n, (name, found) in enumerate(zip(of_ids, claimed)) if not found or name in twice]
        several = [n for n, found in enumerate(claimed) if len(found) > 1 and of_ids[n] not in twice]
        reading = len(unknown) + len(several), len(unknown), unknown, several, claimed, named
        if best is None or reading[:2] < best[:2]:
            best = reading
        if not reading[0]:
            break
    bad, _, unknown, several, claimed, named = best
    if several or bad == len(ids):
        first = (several or unknown)[0]
        found = claimed[first]
        what = f"the name of {len(found)} images ({shorten(found, 2)})" if found else "the name of no test image"
        also = f" ({bad - 1} more ids are no good either)" if bad > 1 else ""
        raise InputError(
            f"{path}: line {line + first}: id {ids[first]!r} is {what}{also}; "
            f"expected names such as {shorten(list(named), 3)}"
        )
    lost = set(unknown)
    return [None if n in lost else found[0] for n, found in enumerate(claimed)]


def count_named(ids, images, top=""):
    """How many of these ids are an image's name in the reading that names most."""
    return max(sum(name in named for name in of_ids) for of_ids, named in _readings(ids, images, top))


def _readings(ids, images, top):
    """Yield (a name for each id, {name: images that are called so}) for each way to compare ids and images."""
    for form in NAMES:
        yield ids, _grouped(images, [form(image, top) for image in images])
    split_ids, split_images = [_split(name) for name in ids], [_split(f"{top}/{image}") for image in images]
    for plain in (_without_ending, _as_number, _as_stem):
        of_ids, of_images = ([[*above, plain(last)] for *above, last in names] for names in (split_ids, split_images))
        for depth in range(min(max(map(len, of_ids)), max(map(len, of_images))), 0, -1):
            names = ["/".join(parts[-depth:]) for parts in of_images]
            yield ["/".join(parts[-depth:]) for parts in of_ids], _grouped(images, names)


def _grouped(images, names):
    named = defaultdict(list)
    for image, name in zip(images, names):
        named[name].append(image)
    return dict(named)


def _doubled(names):
    return {name for name, count in Counter(names).items() if count > 1}


def _split(name):
    """The parts of a path, without regard to case and Unicode form; at least one."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").strip()).casefold()
    return [part for part in name.split("/") if part not in ("", ".")] or [""]


def _without_ending(name):
    return name.rpartition(".")[0] if name.endswith(ENDINGS) else name


def _as_number(name):
    """Without ending, and where that is an integer without leading zeros."""
    name = _without_ending(name)
    return str(int(name.partition(".")[0])) if is_integer(name) else name


def _as_stem(name):
    """Without whatever ending it has."""
    return _as_number(posixpath.splitext(name)[0])
