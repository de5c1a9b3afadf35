"""Folds side by side: the command `train` with two workers beside the same command alone, start-up included.

Both train the second phase of `best` on as many images, with the fold that is trained once more for the forecast. A run
of a few epochs says what start-up costs; the whole recipe's time follows from it and from the seconds of its epochs,
unless LONG=1 trains all of them.
"""

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import psutil

from bench.figures import Figure
from bench.tools import copy_images, deal
from competition.base.workspace import HISTORY_CSV, Workspace, fold_dir
from competition.recipes.recipe import read_recipe

MODELS, LONG_MODELS = ("efficientnet_lite0",), ("efficientnet_lite0", "resnet50", "mobilenet_v2")
FOLDS, WORKERS = 5, 2
EPOCHS = 2  # that are trained where the rest is extrapolated
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """What a command took."""

    seconds: float  # of all
    epochs: float  # of its epochs, as they passed on the clock
    peak: float  # MB, of the command and its workers, shared pages counted once


def measure(options):
    """Yield the images a second of the whole command and its memory, with WORKERS beside one process."""
    images = 320 if options.quick else 960
    whole = read_recipe("best").epochs
    epochs = whole if options.long else EPOCHS
    if not find_spec("ray"):
        yield Figure("workers", "images/s", None, note="Ray is not installed: make setup CLUSTER=1")
        return
    with contextlib.chdir(options.work):
        table = deal(copy_images(options.data, "workers", images, FOLDS), folds=FOLDS)
        for model in LONG_MODELS if options.long else MODELS:
            weights = "imagenet" if model.startswith("efficientnet_lite") else "none"
            shared = f"--weights={weights}", f"--set=epochs={epochs}{' frozen_epochs=0' * (weights == 'none')}"
            alone = _time(table, model, "alone", *shared)
            many = _time(table, model, "many", f"--workers={WORKERS}", *shared)
            seen = len(table.images) * (table.k - 1) / table.k * (table.k + 1) * whole
            rates = [seen / (run.seconds + run.epochs * (whole / epochs - 1)) for run in (many, alone)]
            how = "all epochs trained" if options.long else f"{epochs} of {whole} epochs trained, the rest extrapolated"
            yield Figure(
                f"{WORKERS} workers, {model}, {FOLDS} folds of best and one once more, start-up included",
                "images/s",
                *rates,
                target=">= 1.15",
                note=f"{how}; {len(table.images)} images; reference: one process",
            )
            yield Figure(f"{WORKERS} workers, {model}, peak memory", "MB", many.peak, alone.peak, target="<= 1.9")


def _time(table, model, name, *words):
    """The Run of `train`, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "competition",
        "train",
        f"--model={model}",
        "--recipe=best",
        f"--name={table.name}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before, peak = time.perf_counter(), 0.0
    with open(f"{name}.log", "w+") as log:
        process = psutil.Popen([*command, f"--run={name}", *words], stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            peak = max(peak, _memory(process))
            time.sleep(0.2)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"train ended with exit code {process.returncode}: {log.read().splitlines()[-1]}")
    seconds = time.perf_counter() - before
    paths = Workspace().competition(table.name)
    folders = [fold_dir(paths.run(name), fold) for fold in range(table.k)] + [fold_dir(paths.run(f"{name}-seed1"), 0)]
    histories = [pd.read_csv(folder / HISTORY_CSV).query("phase == 'full'")["seconds"].to_numpy() for folder in folders]
    side_by_side = WORKERS if name == "many" else 1
    rounds = -(-len(histories) // side_by_side)
    return Run(seconds, rounds * sum(history.sum() for history in histories) / len(histories), peak)


def _memory(process):
    """MB that a process and its children hold; a page that several share counts once."""
    found = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            found += getattr(one.memory_full_info(), "pss", 0) or one.memory_info().rss
    return found / 1e6
