"""The labels of a Source: the checks that every kind of data needs, and those that look alike."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from competition.base.files import InputError
from competition.base.text import is_integer, shorten
from competition.data.sources.source import Source, check_text

ALIKE = ("merge", "keep")  # what to do with labels that look alike; the first is the default
INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))  # signs that take no room


def with_labels(source: Source, pairs: Sequence[tuple[str, str]], kind: str, alike: str = ALIKE[0]) -> Source:
    """Complete a Source from its (label, image) pairs; `kind` says where the labels are from, `alike` is one of ALIKE.

    Raises InputError for names that no CSV can hold, and for fewer than two classes.
    """
    if alike not in ALIKE:
        raise InputError(f"ALIKE={alike}: expected {' or '.join(ALIKE)}")
    named = look_alike(label for label, _ in pairs)
    remarks = [*source.remarks, *([_name(source, named, alike)] if named else [])]
    if alike == "merge":
        if named:
            merged = len(named) - len(set(named.values()))
            source = replace(source, found=(*source.found, ("merged", f"{merged} labels that look like another one")))
        pairs = [(named.get(label, label), image) for label, image in pairs]
    pairs = sorted(pairs)
    labels = sorted({label for label, _ in pairs})
    if padded := [label for label in labels if label != label.strip()]:
        remarks.append(
            f"{source.data}: labels begin or end with blanks, which count: {shorten(list(map(repr, padded)))}"
        )
    if same := _same_numbers(labels):
        remarks.append(f"{source.data}: labels that are the same number are classes of their own: {shorten(same)}")
    for text in [*labels, *(image for _, image in pairs)]:
        check_text(text)
    if len(labels) < 2:
        raise InputError(f"{source.data}: found 1 class ({labels[0]}) in {kind}, expected 2 or more")
    images, per_image = [image for _, image in pairs], [label for label, _ in pairs]
    return replace(source, images=images, labels=per_image, classes=labels, remarks=tuple(remarks))


def look_alike(labels: Iterable[str]) -> dict[str, str]:
    """{label: the form that stands for it} of the labels that differ from others only by blanks, case or Unicode form.

    The form is the one of most images, and of several the one without stray blanks, in small letters. Letters alone,
    such as a and A, are different labels.
    """
    counts = Counter(labels)
    forms: dict[str, list[str]] = {}
    for label in counts:
        forms.setdefault(_key(label), []).append(label)
    best = {}
    for same in forms.values():
        if len(same) > 1:
            chosen = min(same, key=lambda label: (-counts[label], label != _tidy(label), label.swapcase()))
            best |= dict.fromkeys(same, chosen)
    return best


def _same_numbers(labels):
    """Labels that are the same number, such as "1 = 01 = 1.0"."""
    numbers: dict[int, list[str]] = {}
    for label in filter(is_integer, labels):
        numbers.setdefault(int(label.partition(".")[0]), []).append(label)
    return [" = ".join(forms) for forms in numbers.values() if len(forms) > 1]


def _tidy(label):
    return " ".join(unicodedata.normalize("NFC", label).translate(INVISIBLE).split())


def _key(label):
    tidy = _tidy(label)
    return tidy.casefold() if len(tidy) > 1 else tidy


def _name(source, named, alike):
    """A line that says which labels look alike, and what was done."""
    forms: dict[str, list[str]] = {}
    for label, chosen in sorted(named.items()):
        forms.setdefault(chosen, []).append(label)
    shown = [" = ".join([repr(c), *(_show(label) for label in same if label != c)]) for c, same in forms.items()]
    done = (
        "count as one class (ALIKE=keep keeps them apart)"
        if alike == "merge"
        else "are classes of their own (ALIKE=merge makes one of them)"
    )
    return f"{source.data}: labels that differ only by blanks, case or Unicode form {done}: {shorten(shown, 10)}"


def _show(label):
    """A label in quotes; one of decomposed letters looks like another and is spelt out."""
    return repr(label) if unicodedata.is_normalized("NFC", label) else ascii(label)
