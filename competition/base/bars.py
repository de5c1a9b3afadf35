"""Progress bars: tqdm's, in a terminal as text and in a notebook as a widget."""

import sys
from typing import Any

from tqdm.auto import tqdm as _tqdm

from competition.base.output import bare

IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in _tqdm.__mro__)

# `disable=` of bars that only people want: none where the output goes to a file. A notebook's is no terminal either.
UNLESS_SEEN = False if IN_NOTEBOOK else None

# Of a training, which counts epochs. A notebook's bar has a width of its own.
_BAR = "{bar}" if IN_NOTEBOOK else "{bar:20}"
EPOCHS_BAR = (
    f"{{desc}} {{percentage:3.0f}}%|{_BAR}| {{n:.1f}}/{{total_fmt}} epochs [{{elapsed}}<{{remaining}}{{postfix}}]"
)


class tqdm(_tqdm):
    """The same, on standard error as it is, where other output has its control signs spelt out."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if bare(sys.stderr) is not sys.stderr:
            options.setdefault("file", bare(sys.stderr))
        super().__init__(*arguments, **options)


__all__ = ["EPOCHS_BAR", "IN_NOTEBOOK", "UNLESS_SEEN", "tqdm"]
