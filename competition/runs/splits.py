"""What SPLITS= means: which classes each node of a tree tells apart."""

import re

from competition.base.files import InputError
from competition.runs.tree import Tree

_TOKENS = re.compile(r'\s*"((?:[^"]|"")*)"\s*|([;|,])|([^;|,"]+)')  # a name in quotes, a sign, a plain name


def quote_name(name):
    """A class name as SPLITS= takes it: in double quotes, its own doubled, where it has signs or outer spaces."""
    plain = re.fullmatch('[^;|,"]+', name) and name == name.strip()
    return name if plain else '"' + name.replace('"', '""') + '"'


def read_splits(text, table):
    """The Tree that a text such as "A" or "A; B,C; C" means.

    Each split, between semicolons, takes the classes that it names out of the group that they are in, at first all:
    they are one branch of a node, and what is left is the other. With bars it makes more than two: "A,B|C". In the end
    every group of several classes has a node that decides between them. A class name that has one of these signs, a
    quote or a space at an end goes in double quotes, its own doubled, as in a CSV. Raises InputError for classes that
    are unknown, named twice or not in one group, for a split that leaves nothing, and for a quote that has no end.
    """
    classes, where = table.classes, table.paths.csv
    if _TOKENS.sub("", text):
        raise InputError(f"SPLITS={text}: a quote has no end, expected names in double quotes, their own doubled")
    splits = [[[]]]
    for quoted, sign, plain in _TOKENS.findall(text):
        if sign == ";":
            splits.append([[]])
        elif sign == "|":
            splits[-1].append([])
        elif quoted or plain.strip():
            splits[-1][-1].append(quoted.replace('""', '"') or plain.strip())
    groups, nodes = [tuple(classes)], []
    for split in splits if splits[-1] != [[]] or len(splits) == 1 else splits[:-1]:  # it may end with a semicolon
        named = [name for branch in split for name in branch]
        if not all(split):
            raise InputError(f"SPLITS={text}: a split names no class, expected some of {', '.join(classes)}")
        if unknown := [name for name in named if name not in classes]:
            raise InputError(
                f"SPLITS={text}: unknown class {unknown[0]!r}, expected classes of {where}: {', '.join(classes)}"
            )
        if doubled := [name for name in named if named.count(name) > 1]:
            raise InputError(f"SPLITS={text}: {doubled[0]!r} is named twice in one split, expected once")
        group = next(group for group in groups if named[0] in group)
        if apart := [name for name in named if name not in group]:
            raise InputError(
                f"SPLITS={text}: {named[0]!r} and {apart[0]!r} are parted before, expected classes that "
                "are still together"
            )
        rest = [name for name in group if name not in named]
        branches = tuple(tuple(name for name in classes if name in branch) for branch in [*split, rest] if branch)
        if len(branches) < 2:
            raise InputError(
                f"SPLITS={text}: {', '.join(named)} leaves nothing to be told from, expected some of "
                f"{', '.join(group)}, not all"
            )
        groups.remove(group)
        groups += branches
        nodes.append(branches)
    nodes += [tuple((name,) for name in group) for group in groups if len(group) > 1]
    return Tree(tuple(classes), tuple(nodes))
