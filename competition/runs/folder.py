"""The folder of a run: its weight files, the folders of its folds, whether these are complete, and whole."""

import shlex
from pathlib import Path

from competition.base.files import MEND, InputError, read_json
from competition.base.sums import SUMS, find_damage, find_damage_beside, seal
from competition.base.workspace import (
    BACKBONE_FILE,
    BLEND_JSON,
    EPOCHS,
    FOLD_JSON,
    HEAD_FILE,
    HISTORY_CSV,
    MODEL_FILE,
    NODE,
    OOF_CSV,
    OOF_NPZ,
    RUN_JSON,
    STATE_NPZ,
    TEACHER_NPZ,
    VIEWS_NPZ,
    fold_dir,
)

SEALED = {  # which record of its folder, or of that above, has the sha256 of a file
    FOLD_JSON: (MODEL_FILE, HEAD_FILE, VIEWS_NPZ, TEACHER_NPZ, HISTORY_CSV),  # and the files of EPOCHS
    RUN_JSON: (BACKBONE_FILE, OOF_NPZ, OOF_CSV),
}


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


def read_weights(read, path, whose="that this run wrote", record=None, remedy=None):
    """What the function `read` makes of a file of weights; InputError naming it when it is broken or not as recorded.

    record   the path of the record that has its sha256; default: that of the fold or run (SEALED)
    remedy   what to do, for that line; default: say_remedy
    """
    reason = find_damage_beside(path, record) if record else _find_damage(path)
    if not reason:
        try:
            return read(path)
        except Exception as error:  # h5py, zipfile and Keras raise about anything for a file that is not whole
            reason = " ".join(str(error).split())[:200]
    raise InputError(f"{path}: not the weights {whose} ({reason}); {remedy or say_remedy(path)}")


def seal_fold(directory):
    """{name: sha256} of what a later command reads of a finished fold's folder, for its FOLD_JSON."""
    epochs = sorted(f"{EPOCHS}/{path.name}" for path in (directory / EPOCHS).glob("[!.]*.npz"))
    return seal(directory, [*SEALED[FOLD_JSON], *epochs])


def seal_run(folder):
    """The same of a finished run's folder itself, for its RUN_JSON."""
    return seal(folder, SEALED[RUN_JSON])


def is_sealed(path):
    """Whether a file of a finished run's folder is there, and is the one that its record has the sha256 of."""
    record = path.with_name(RUN_JSON)
    if not (path.exists() and record.exists()):
        return False
    content = read_json(record)
    return path.name in content.get(SUMS, {}) and find_damage(path, content) is None


def begin_folds(folder, folds):
    """Take the ends, FOLD_JSON, of folds that are about to be trained, again maybe: what they say is true no more."""
    for fold in folds:
        (fold_dir(folder, fold) / FOLD_JSON).unlink(missing_ok=True)


def remove_states(folder, folds):
    """Remove the states of training of folds that are done: a kill may have come between their end and that."""
    for fold in folds:
        (fold_dir(folder, fold) / STATE_NPZ).unlink(missing_ok=True)


def check_file(path):
    """InputError, with the remedy, where a file in a run's folder or below is not the one that its record has."""
    if damage := _find_damage(path):
        raise InputError(f"{path}: {damage}; {say_remedy(path)}")


def read_end(directory):
    """The content of a finished fold's FOLD_JSON; InputError, with the remedy, where it is missing or broken."""
    return _with_remedy(read_json, directory / FOLD_JSON)


def _with_remedy(function, *paths):
    """function(*paths); the InputError that it raises about the last, a record, with its remedy in place of any other."""
    try:
        return function(*paths)
    except InputError as error:
        raise InputError(f"{str(error).removesuffix(MEND)}; {say_remedy(paths[-1])}") from None


def _find_damage(path):
    """What is wrong with a file in a run's folder or the blend's, or below, by its record; else None."""
    path = Path(path)
    if path.parent.name == EPOCHS:
        return _with_remedy(find_damage_beside, path, path.parents[1] / FOLD_JSON)
    names = [name for name, files in SEALED.items() if path.name in files]
    found = (_with_remedy(find_damage_beside, path, path.with_name(name)) for name in (*names, BLEND_JSON))
    return next(filter(None, found), None)


def say_remedy(path):
    """How a damaged file in a run's folder, or the blend's, is made anew, in words: the commands to type."""
    path = Path(path)
    remove = f"`rm {shlex.quote(str(path))}`"
    if path.parent.name == EPOCHS or path.name in (HISTORY_CSV, TEACHER_NPZ):  # they come of a training of the fold
        fold = path.parents[1] if path.parent.name == EPOCHS else path.parent
        remove = f"`rm -r {shlex.quote(str(fold))}`"
    if path.name == RUN_JSON:
        return f"bring it back, or `rm -r {shlex.quote(str(path.parent))}` and train it again"
    if (path.parent / BLEND_JSON).exists():
        return f"`make blend NAME={path.parents[1].name}` makes it anew"
    command = say_command(path)
    if command is None:
        return "it was not made here: bring it back from where it is from"
    if not path.exists():
        return f"the command that made it again, {command}, makes it anew"
    return f"{remove} and the command that made it again, {command}, make it anew"


def say_command(path):
    """The command that made a file in a run's folder or below, with what its record tells of it; None where that is none."""
    runs = [place for place in Path(path).parents if (place / RUN_JSON).exists()]
    if not runs:
        return None
    folder = runs[-1]  # a node of a double run lies in that
    try:
        config = read_json(folder / RUN_JSON)["config"]
        verb, model = ("double" if any(folder.glob(f"{NODE}*")) else "train"), config["model"]
    except (InputError, KeyError, TypeError):
        return None
    name = folder.parent.name
    if "soup" in config:
        return f"`make soup RUNS={','.join(config['soup'])} RUN={folder.name} NAME={name}`"
    if folder.parent.parent.name == "tune":
        return f"`make tune NAME={folder.parent.parent.parent.name}` with its other options"
    return f"`make {verb} MODEL={model} RUN={folder.name} NAME={name}` with its other options"
