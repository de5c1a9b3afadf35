"""Callbacks: objects that a training tells of each epoch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from competition.base.files import InputError
from competition.base.output import heard
from competition.runs.trained_run import TrainedRun


class Callback(Protocol):
    """An object that a training tells of each epoch.

    Each epoch of each fold is told at least once, after all that belongs to it is on disk. A killed run may have an
    epoch on disk that it did not tell. So a run that goes on tells the last finished epoch of an unfinished fold once
    more, before the next one trains: no epoch is lost, and one may be told twice. Folds that were finished before are
    not told again.

    A callback cannot change what a training ends with. What it raises ends the training there, and the same call goes
    on later.

    A callback may have a method `on_end(run)` as well. It is called when the training of a run ends, also by an error,
    and for a run that was finished before: `run.finished` says whether all folds are there.
    """

    def on_epoch(self, run: TrainedRun, fold: int, epoch: int, row: dict[str, Any]) -> None:
        """Take notice of an epoch.

        Parameters
        ----------
        run : TrainedRun
            The run, unfinished; of a double run its node, whose name is `<run>/node_<i>`.
        fold : int
            From 0.
        epoch : int
            From 1, over both phases.
        row : dict
            The row of history.csv: epoch, phase ("frozen" or "full"), loss, accuracy, val_loss, val_accuracy, seconds.
        """


def check_callbacks(callbacks: Sequence[Callback]) -> tuple[Callback, ...]:
    """The callbacks; InputError for what is no list of them."""
    if not isinstance(callbacks, (list, tuple)):
        raise InputError(f"callbacks: expected a list of objects, found {type(callbacks).__name__}")
    for callback in callbacks:
        if isinstance(callback, type):
            raise InputError(f"callbacks: {callback.__name__} is a class, expected an object: {callback.__name__}()")
        if not callable(getattr(callback, "on_epoch", None)):
            raise InputError(f"callbacks: {type(callback).__name__} has no on_epoch(run, fold, epoch, row)")
    return tuple(callbacks)


def tell_epoch(run: TrainedRun, callbacks: Sequence[Callback], fold: int, row: Mapping[str, Any]) -> None:
    """Tell all callbacks of an epoch of a fold; row: of its history."""
    with heard():
        for callback in callbacks:
            try:
                callback.on_epoch(run, fold, row["epoch"], dict(row))
            except OSError as error:  # of a tracker that is not reached, say: no fault of this disk
                error.of_callback = True  # type: ignore[attr-defined]
                raise


@contextmanager
def telling_end(run: TrainedRun, callbacks: Sequence[Callback]) -> Iterator[None]:
    """Tell those callbacks that have an `on_end` when the training inside ends, also by an error."""
    with ExitStack() as stack:
        for callback in reversed(callbacks):  # a stack ends with the first
            if on_end := getattr(callback, "on_end", None):
                stack.callback(on_end, run)
        yield
