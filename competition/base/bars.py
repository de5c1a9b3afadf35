"""Progress bars: tqdm's, in a terminal as text and in a notebook as a widget."""

from tqdm.auto import tqdm

IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)

# `disable=` of bars that only people want: none where the output goes to a file. A notebook's is no terminal either.
UNLESS_SEEN = False if IN_NOTEBOOK else None

# Of a training, which counts epochs. A notebook's bar has a width of its own.
_BAR = "{bar}" if IN_NOTEBOOK else "{bar:20}"
EPOCHS_BAR = (
    f"{{desc}} {{percentage:3.0f}}%|{_BAR}| {{n:.1f}}/{{total_fmt}} epochs [{{elapsed}}<{{remaining}}{{postfix}}]"
)

__all__ = ["EPOCHS_BAR", "IN_NOTEBOOK", "UNLESS_SEEN", "tqdm"]
