"""The labels of a Source: the checks that every kind of data needs."""

from collections.abc import Sequence
from dataclasses import replace

from competition.base.files import InputError, warn
from competition.data.sources.source import Source, check_text

SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def with_labels(source: Source, pairs: Sequence[tuple[str, str]], kind: str) -> Source:
    """Complete a Source from its (label, image) pairs, sorted; `kind` says where the labels are from."""
    labels = sorted({label for label, _ in pairs})
    for text in [*labels, *(image for _, image in pairs)]:
        check_text(text)
    if len(labels) < 2:
        raise InputError(f"{source.data}: found 1 class ({labels[0]}) in {kind}, expected 2 or more")
    if {label.lower() for label in labels} <= SPLITS:
        warn(f"{source.data}: the classes are {', '.join(labels)}; if that is a split, give one part as DATA")
    images, per_image = [image for _, image in pairs], [label for label, _ in pairs]
    return replace(source, images=images, labels=per_image, classes=labels)
