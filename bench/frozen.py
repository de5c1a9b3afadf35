"""The frozen phase: folds of 25 epochs with flips and shifts, against the loop that sees every image every epoch."""

import contextlib
import shutil
import time
from pathlib import Path

import numpy as np

from bench.figures import Figure
from bench.reference import run_loop
from bench.tools import call_apart, deal
from competition.base.backend import import_tensorflow
from competition.base.metrics import accuracy
from competition.base.workspace import Workspace
from competition.data.images import load_images
from competition.recipes.recipe import read_recipe
from competition.runs import oof
from competition.training.train import train

RUNS = Workspace().runs
MODEL = "efficientnet_lite0"
EPOCHS = 25
SETTINGS = (f"frozen_epochs={EPOCHS}", "epochs=0", "patience=0", "views=identity")  # all else is the recipe's
FULL_SECONDS = 240  # the reference's folds run in full are as many as end within this time, at least one


def measure(options, model=MODEL, recipe="report", settings=SETTINGS, epochs=EPOCHS):
    """Yield the time of the toolkit's frozen phase without and with features kept on disk, and its OOF accuracy.

    The reference is `bench/reference.py` with the same backbone, size, epochs and augmentations. By default it runs as
    many folds in full as fit into FULL_SECONDS, and its time is extrapolated to all folds; with QUICK=1 it runs three
    epochs of one fold, from which no accuracy can be told; with LONG=1 all of it.
    """
    with contextlib.chdir(options.work):
        table = deal(options.data, "frozen")
        images = load_images(table)
        loop = call_apart(
            run_loop,
            table,
            images,
            model,
            epochs,
            0,
            *((3, 1) if options.quick else (None, None) if options.long else (None, FULL_SECONDS)),
        )
        what = f"{model}, {table.k} folds, {epochs} epochs"
        shipped = read_recipe(recipe)
        drawn = f"{shipped.frozen_copies} copies an image with {', '.join(shipped.augment)}"
        against = f"reference: bench/reference.py{', ' if loop.extrapolated else ''}{loop.extrapolated}"
        rounds = range(1 if options.quick else 3)
        places = [Path(shutil.copytree("folds", f"round_{number}/folds")).parent.absolute() for number in rounds]
        for run in ("first", "again"):  # nothing kept from an earlier run lies in a place of its own
            seconds = [call_apart(_train, str(place), model, recipe, settings, run) for place in places]
            kept = "no features kept" if run == "first" else "features kept on disk"
            yield Figure(
                f"frozen phase, {kept}: {what}",
                "s",
                float(np.median(seconds)),
                loop.seconds,
                len(seconds),
                "<= 0.04",
                f"from the call of train to the OOF; {recipe}: {drawn}; {', '.join(settings)}; {against}",
            )
        ours = oof.read_oof(places[0] / RUNS / table.name / "first", table).probs[0]
    name = "frozen phase, OOF accuracy less the reference's"
    if options.quick:
        note = f"ours {accuracy(ours, table.labels):.4f}; QUICK=1 runs no fold of the reference to its end"
        yield Figure(name, "accuracy", None, target=">= -0.005", note=note)
        return
    both = ~np.isnan(loop.oof[:, 0])
    scores = [accuracy(probs[both], table.labels[both]) for probs in (ours, loop.oof)]
    folds = ", ".join(str(fold) for fold in sorted(set(table.fold[both].tolist())))
    yield Figure(
        name,
        "accuracy",
        scores[0] - scores[1],
        n=int(both.sum()),
        target=">= -0.005",
        note=f"{scores[0]:.4f} and {scores[1]:.4f} on the {both.sum()} images of folds {folds}",
    )


def _train(place, model, recipe, settings, run):
    """Seconds of a run of the toolkit, all folds."""
    import_tensorflow()
    with contextlib.chdir(place):
        before = time.perf_counter()
        train(model, recipe, "frozen", run=run, overrides=settings)
        return time.perf_counter() - before
