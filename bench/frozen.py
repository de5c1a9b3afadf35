"""The frozen phase: five folds of 25 epochs with flips and shifts, against the loop that sees every image every epoch."""

import contextlib
import shutil
import time

import numpy as np

from bench.figures import Figure
from bench.reference import run_loop
from bench.tools import call_apart
from competition import oof
from competition.files import RUNS
from competition.folds import make_folds
from competition.images import load_images

MODEL = "efficientnet_lite0"
EPOCHS = 25
COPIES = 2  # augmented copies of each image whose features the head is trained on
SETTINGS = ("augment=hflip,vflip,shift", f"frozen_copies={COPIES}", f"frozen_epochs={EPOCHS}", "epochs=0", "image_size=0",
            "views=identity")
FULL_SECONDS = 240  # the reference's folds run in full are as many as end within this time, at least one


def measure(options, model=MODEL, recipe="report", settings=SETTINGS, epochs=EPOCHS):
    """Yield the time of the toolkit's frozen phase without and with features kept on disk, and its OOF accuracy.

    The reference is `bench/reference.py` with the same backbone, size, epochs and augmentations. By default it runs as
    many folds in full as fit into FULL_SECONDS, and its time is extrapolated to all folds; with QUICK=1 it runs three
    epochs of one fold, from which no accuracy can be told; with LONG=1 all of it.
    """
    with contextlib.chdir(options.work):
        table = make_folds(options.data, name="frozen")
        images = load_images(table)
        loop = call_apart(run_loop, table, images, model, epochs, 0, *(
            (3, 1) if options.quick else (None, None) if options.long else (None, FULL_SECONDS)))
        what = f"{model}, {table.k} folds, {epochs} epochs"
        against = f"reference: bench/reference.py{', ' if loop.extrapolated else ''}{loop.extrapolated}"
        for cached in (False, True):
            rounds = [call_apart(_train, str(options.work), model, recipe, settings, f"{cached}-{number}", cached)
                      for number in range(1 if options.quick else 3)]
            seconds = float(np.median(rounds))
            features = "features kept on disk" if cached else "no features kept"
            yield Figure(f"frozen phase, {features}: {what}", "s", seconds, loop.seconds, len(rounds), "<= 0.04",
                         f"from the call of train to the OOF; {', '.join(settings)}; {against}")
        ours = oof.read_oof(RUNS / table.name / "False-0", table).probs[0]
    if options.quick:
        yield Figure("frozen phase, OOF accuracy less the reference's", "accuracy", None, None, 1, ">= -0.005",
                     f"ours {oof.accuracy(ours, table.labels):.4f}; QUICK=1 runs no fold of the reference to its end")
        return
    both = ~np.isnan(loop.oof[:, 0])
    scores = [oof.accuracy(probs[both], table.labels[both]) for probs in (ours, loop.oof)]
    folds = ", ".join(str(fold) for fold in sorted(set(table.fold[both])))
    yield Figure("frozen phase, OOF accuracy less the reference's", "accuracy", scores[0] - scores[1], None, int(both.sum()),
                 ">= -0.005", f"{scores[0]:.4f} and {scores[1]:.4f} on the {both.sum()} images of folds {folds}")


def _train(work, model, recipe, settings, run, cached):
    """Seconds of a run of the toolkit, all folds."""
    from competition.train import train

    with contextlib.chdir(work):
        if not cached:
            shutil.rmtree(RUNS / "frozen/features", ignore_errors=True)
        before = time.perf_counter()
        train(model, recipe, "frozen", run=run, overrides=settings)
        return time.perf_counter() - before
