"""The folder of a run: its weight files, the folders of its folds, and whether these are complete."""

from pathlib import Path

from competition.base.files import InputError

STATE = "state.npz"  # in the folder of a fold, while it is trained
BACKBONE_FILE = "backbone.weights.h5"
MODEL_FILE = "model.weights.h5"
HEAD_FILE = "head.npz"
HEADS_STATE = "heads.npz"  # of the frozen phase, while it lasts


def fold_dir(folder, fold):
    """The folder of a fold in a run's folder."""
    return Path(folder) / f"fold_{fold}"


def is_done(folder, fold, settings):
    """Whether a fold has all that a finished one leaves; if something was removed it is trained again, to the same."""
    weights = MODEL_FILE if settings.epochs else HEAD_FILE
    return (fold_dir(folder, fold) / weights).exists() and is_predicted(folder, fold)


def is_predicted(folder, fold):
    """Whether the predictions of a fold are there, and its end."""
    return all((fold_dir(folder, fold) / name).exists() for name in ("fold.json", "views.npz"))


def has_oof(folder):
    """Whether the OOF of a run is there."""
    return all((folder / name).exists() for name in ("oof.csv", "oof.npz"))


def is_whole(folder, table, settings):
    """Whether a finished run has all its files still."""
    shared = settings.epochs > 0 or (folder / BACKBONE_FILE).exists()
    return shared and has_oof(folder) and all(is_done(folder, fold, settings) for fold in range(table.k))


def weight_files(folder, frozen, k):
    """The paths of the files that k fold models of a run are built from; `frozen`: all share a backbone."""
    each, shared = (HEAD_FILE, [folder / BACKBONE_FILE]) if frozen else (MODEL_FILE, [])
    return shared + [fold_dir(folder, fold) / each for fold in range(k)]


def read_weights(
    read,
    path,
    whose="that this run wrote",
    remedy="remove that file and train the run again, which makes it anew",
):
    """What the function `read` makes of a file of weights; InputError naming it when it is broken."""
    try:
        return read(path)
    except Exception as error:  # h5py, zipfile and Keras raise about anything for a file that is not whole
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not the weights {whose} ({reason}); {remedy}") from None
