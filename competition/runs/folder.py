"""The folder of a run: its weight files, the folders of its folds, and whether these are complete."""

from competition.base.files import InputError
from competition.base.workspace import (
    BACKBONE_FILE,
    FOLD_JSON,
    HEAD_FILE,
    MODEL_FILE,
    OOF_CSV,
    OOF_NPZ,
    VIEWS_NPZ,
    fold_dir,
)


def is_done(folder, fold, settings):
    """Whether a fold has all that a finished one leaves; if something was removed it is trained again, to the same."""
    weights = MODEL_FILE if settings.epochs else HEAD_FILE
    return (fold_dir(folder, fold) / weights).exists() and is_predicted(folder, fold)


def is_predicted(folder, fold):
    """Whether the predictions of a fold are there, and its end."""
    return all((fold_dir(folder, fold) / name).exists() for name in (FOLD_JSON, VIEWS_NPZ))


def has_oof(folder):
    """Whether the OOF of a run is there."""
    return all((folder / name).exists() for name in (OOF_CSV, OOF_NPZ))


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
