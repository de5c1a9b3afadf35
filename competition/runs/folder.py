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
    return all((fold_dir(folder, fold) / name).exists() for name in (weights, FOLD_JSON, VIEWS_NPZ))


def is_whole(folder, table, settings):
    """Whether a finished run has all its files still."""
    shared = [] if settings.epochs else [BACKBONE_FILE]
    return all((folder / name).exists() for name in [OOF_CSV, OOF_NPZ, *shared]) and all(
        is_done(folder, fold, settings) for fold in range(table.k)
    )


def weight_files(folder, frozen, k):
    """The paths of the files that k fold models of a run are built from; `frozen`: all share a backbone."""
    each, shared = (HEAD_FILE, [folder / BACKBONE_FILE]) if frozen else (MODEL_FILE, [])
    return shared + [fold_dir(folder, fold) / each for fold in range(k)]


def read_weights(read, path):
    """What the function `read` makes of a file of weights; InputError naming it when it is broken."""
    try:
        return read(path)
    except Exception as error:  # h5py, zipfile and Keras raise about anything for a file that is not whole
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: not the weights that this run wrote ({reason}); remove that file and train "
            "the run again, which makes it anew"
        ) from None
