"""How far something has come that trains epoch by epoch: its state and its history, on disk after every epoch.

A state is one npz, written in one step, with all that the rest of the training depends on. One that cannot be read
makes the training start anew, with a warning.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.workspace import HISTORY_CSV, STATE_NPZ, epoch_file


@dataclass
class Progress:
    """How far a fold has come; together with the variables, all that its rest depends on."""

    epoch: int = 0  # finished epochs of the second phase
    best_epoch: int = 0  # of that phase, 1-based
    best_score: tuple = (-1.0, 0.0)  # Metric.quality of its validation predictions
    history: tuple = ()  # a dict an epoch, over all phases


def history_row(epoch, phase, loss, accuracy, val_loss, val_accuracy, seconds):
    """A row of a fold's history.csv."""
    return {
        "epoch": epoch,
        "phase": phase,
        "loss": float(loss),
        "accuracy": float(accuracy),
        "val_loss": float(val_loss),
        "val_accuracy": float(val_accuracy),
        "seconds": round(seconds, 3),
    }


def write_history(directory, history):
    """Write `history.csv`, a row an epoch; nothing before the first."""
    if history:
        files.write_bytes(directory / HISTORY_CSV, files.csv_bytes(pd.DataFrame(history)))


def write_epoch(directory, epoch, images, probabilities):
    """Write what a fold's model says after an epoch of the images that it does not train on."""
    files.write_npz(epoch_file(directory, epoch), image=images, probs=probabilities)


def write_fold_state(directory, progress, variables, best):
    """Write the state of a fold of a run: its Progress, and two lists of arrays."""
    write_state(directory, "progress", asdict(progress), variable=variables, best=best)


def read_fold_state(directory):
    """Progress, variables and best variables of an interrupted fold, or None."""
    return read_state(directory, "progress", ("variable", "best"), lambda content: Progress(**content))


def write_state(directory, name, content, **groups):
    """Write `state.npz`: what JSON can hold, under a name, and groups of arrays, as <group>_0, <group>_1 and so on."""
    arrays = {f"{group}_{i}": value for group, values in groups.items() for i, value in enumerate(values)}
    files.write_npz(directory / STATE_NPZ, **{name: np.array(json.dumps(content))}, **arrays)


def read_state(directory, name, groups, make=list):
    """What `make` makes of the content that write_state wrote, and a list of arrays for each group.

    None where there is no state, and, with a warning, where it cannot be read.
    """

    def read(saved):
        return make(json.loads(str(saved[name]))), *(
            [saved[f"{group}_{i}"] for i in range(sum(key.startswith(f"{group}_") for key in saved.files))]
            for group in groups
        )

    return read_or_anew(directory / STATE_NPZ, read, "this fold")


def read_or_anew(path, read, what):
    """What `read` makes of an npz; None where there is none, and, with a warning, where it cannot be read."""
    if not path.exists():
        return None
    try:
        with np.load(files.plain_file(path)) as saved:
            return read(saved)
    except files.BROKEN as error:
        files.warn(f"{path}: cannot be read ({error}), {what} starts anew")
        return None
