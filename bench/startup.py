"""Start-up: how long until a fold's first step is done, whether folds leave traces in each other, and in memory."""

import contextlib
import time
from unittest import mock

import numpy as np

from bench.figures import Figure
from bench.tools import call_apart, copy_images, deal, memory
from competition.base.backend import import_tensorflow
from competition.base.workspace import MODEL_FILE, VIEWS_NPZ, Workspace, fold_dir
from competition.training import full_phase
from competition.training import train as training
from competition.training.full_phase import Phase

RUNS = Workspace().runs
MODEL = "efficientnet_lite0"
FOLDS, QUICK_FOLDS = 10, 5
SETTINGS = ("least_size=0", "frozen_epochs=0", "epochs=1", "views=identity")
TOGETHER, ALONE = "together", "alone"


def measure(options, model=MODEL, recipe="best"):
    """Yield the seconds to the first step of the first fold and of later ones, and how memory grows over ten folds.

    The first fold's seconds count from the call of the toolkit's `train`, the others' from their own begin.
    Then how many values of the last fold are not, bit for bit, what they become when a process trains it alone. QUICK=1
    trains five folds and does not look at that.
    """
    images, batch, folds = (40, 16, QUICK_FOLDS) if options.quick else (160, 32, FOLDS)
    with contextlib.chdir(options.work):
        table = deal(copy_images(options.data, "startup", images, folds), folds=folds)
        folds = table.k
        arguments = table.name, model, recipe, (*SETTINGS, f"batch_size={batch}")
        first_steps, peaks = call_apart(_train, str(options.work), *arguments, TOGETHER, None)
        later = float(np.median(first_steps[1:]))
        what = f"{model}, {table.size[0]}x{table.size[1]}, batch {batch}"
        yield Figure("start-up: first step of fold 1", "s", first_steps[0], note=f"from the call of train; {what}")
        yield Figure(
            f"start-up: first step of folds 2 to {folds}",
            "s",
            later,
            first_steps[0],
            folds - 1,
            note="from their own begin; reference: fold 1, which traces and compiles",
        )
        yield Figure(
            f"peak memory after {folds} folds",
            "MB",
            peaks[-1],
            peaks[1],
            1,
            "<= 1.02",
            f"reference: after 2 folds, growth {peaks[-1] - peaks[1]:.1f} MB; {what}",
        )
        name = f"values of fold {folds} that differ from those of fold {folds} trained alone"
        if options.quick:
            yield Figure(name, "values", None, target="<= 0", note="QUICK=1 trains no fold alone")
            return
        call_apart(_train, str(options.work), *arguments, ALONE, folds - 1)
        differing, compared = _compare_fold(RUNS / table.name, folds - 1)
        yield Figure(
            name,
            "values",
            float(differing),
            n=compared,
            target="<= 0",
            note=f"weights and predictions, n: how many were compared; {what}",
        )


def _train(work, name, model, recipe, overrides, run, only_fold):
    """Train; seconds to the first step of each fold, and the peak memory of the process after each in MB.

    A fold ends with what it leaves: its predictions of all views and its weights.
    """
    import_tensorflow()
    starts, first_steps, peaks = [time.perf_counter()], {}, []
    train_fold, save_fold, train_epoch = full_phase._train_fold, full_phase.save_fold, Phase.train_epoch

    def noted_fold(*arguments):
        if peaks:
            starts.append(time.perf_counter())
        return train_fold(*arguments)

    def noted_end(*arguments):
        save_fold(*arguments)
        peaks.append(memory("VmHWM"))

    def noted_epoch(phase, fold, epoch, steps, tick):
        def noted_tick(*values):
            first_steps.setdefault(fold, time.perf_counter() - starts[-1])
            tick(*values)

        return train_epoch(phase, fold, epoch, steps, noted_tick)

    with (
        contextlib.chdir(work),
        mock.patch.object(full_phase, "_train_fold", noted_fold),
        mock.patch.object(full_phase, "save_fold", noted_end),
        mock.patch.object(Phase, "train_epoch", noted_epoch),
    ):
        training.train(model, recipe, name, run=run, only_fold=only_fold, overrides=overrides)
    return list(first_steps.values()), peaks


def _compare_fold(runs, fold):
    """How many weights and predictions of a fold differ between the two runs, and how many there are.

    RuntimeError when the runs do not have the same arrays.
    """
    import h5py

    def arrays(run):
        folder = fold_dir(runs / run, fold)
        found = {}

        def keep(name, item):
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]

        with h5py.File(folder / MODEL_FILE) as file:
            file.visititems(keep)
        with np.load(folder / VIEWS_NPZ) as saved:
            return found | {"probabilities": saved["probs"]}

    together, alone = arrays(TOGETHER), arrays(ALONE)
    if together.keys() != alone.keys():
        raise RuntimeError(f"other arrays in fold {fold + 1}: {', '.join(sorted(together.keys() ^ alone.keys())[:3])}")
    differing = sum(int((array != alone[name]).sum()) for name, array in together.items())
    return differing, sum(array.size for array in together.values())
