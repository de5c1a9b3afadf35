"""Scale: what an image costs in time and memory among 3 thousand, 30 thousand and 300 thousand of them.

The pictures are drawn from those of the data, each with a name and bytes of its own, as they are asked for: none is
written. Every number of images is measured as `make folds` and `make train` are run, in a process each, of which the
second trains a fold with a small MEMORY=: it decodes, computes the features of a frozen network, trains a head on them
for an epoch, then all layers, with images drawn and augmented, and predicts what the fold holds out. What it writes on
that way, decoded images and features, is small here and removed at the end.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from bench.figures import Figure
from bench.tools import call_apart, memory
from competition.base.arrays import read_memory
from competition.base.backend import import_tensorflow
from competition.base.workspace import Workspace
from competition.data import folds, images
from competition.data.images import load_images
from competition.data.sources import Source, open_source
from competition.data.table import read_folds
from competition.features.extract import predict
from competition.features.frozen import frozen_features
from competition.models.backbones import Weights
from competition.recipes.recipe import Recipe
from competition.training import full_phase, train_folds
from competition.training.frozen_phase import train_heads
from competition.training.full_phase import Phase, predict_probabilities
from competition.training.job import Job

MEMORY = "64M"  # so little that 30 thousand images of SIZE do not fit
SIZE = 32  # pixels
SIZES, LONG_SIZES, QUICK_SIZES = (3_000, 30_000), (3_000, 30_000, 300_000), (2_000, 6_000)
FOLDS, QUICK_FOLDS = 100_000, 10_000
SHORT = 6_000  # images that a stage sees at least: fewer pass it several times, and the median counts
WARM_UP = 640  # images
STAGES = ("decode", "features", "head", "train", "predict")
RECIPE = Recipe(frozen_epochs=1, epochs=1, batchnorm="train", augment=["hflip"], precision="float32")


def measure(options):
    """The figures of scale, as bench.figures.Figure."""
    sizes = QUICK_SIZES if options.quick else LONG_SIZES if options.long else SIZES
    few = _in_processes(sizes[0], options, deal, run)
    for n in sizes[1:]:
        found = _in_processes(n, options, deal, run)
        beside = f"{n} images beside {sizes[0]}"
        stages = ", ".join(f"{stage} {found[stage] / few[stage]:.2f}" for stage in [*STAGES, "CPU"])
        yield Figure(
            f"time an image, {beside}",
            "ms",
            _total(found) * 1e3,
            _total(few) * 1e3,
            target="<= 1.1",
            note=f"{stages}; one fold of five by the toolkit's own train, {SIZE}x{SIZE}, scratch, "
            f"MEMORY={MEMORY}, tracing left out",
        )
        yield Figure(f"images a second through all stages, {beside}", "images/s", 1 / _total(found), 1 / _total(few))
        yield Figure(
            f"peak memory, {beside}",
            "MB",
            found["peak"],
            few["peak"],
            target="<= 1.1",
            note="of the whole process, TensorFlow included",
        )
        yield Figure(
            f"memory that {n} images add, beside MEMORY={MEMORY}",
            "MB",
            found["peak"] - found["start"],
            read_memory(MEMORY).total / 1e6,
            target="<= 1",
            note=f"the fold table counts; decoded "
            f"they are {n * SIZE * SIZE * 3 / 1e6:.0f} MB, their features {n * found['d'] * 4 / 1e6:.0f} MB",
        )
    n = QUICK_FOLDS if options.quick else FOLDS
    found = _in_processes(n, options, deal)
    yield Figure(
        f"make folds on {n} images, apart from reading the bytes",
        "s",
        found["seconds"],
        target=f"<= {120 * n // FOLDS}",
        note=f"peak memory {found['peak']:.0f} MB",
    )


def _total(found):
    return sum(found[stage] for stage in STAGES)


def _in_processes(n, options, *steps):
    """What the last of some steps finds, each in a process of its own, in one folder that is removed afterwards."""
    folder = Path(options.work).resolve() / f"scale-{n}"
    folder.mkdir(parents=True)
    try:
        return [call_apart(_in_folder, folder, step, Path(options.data).resolve(), n) for step in steps][-1]
    finally:
        shutil.rmtree(folder)


def _in_folder(folder, what, data, n):
    os.chdir(folder)
    import_tensorflow()
    return what(data, n)


@dataclass(frozen=True)
class Drawn(Source):
    """A source of as many pictures as wanted, made of a few: the number in its name makes each another file."""

    pictures: tuple = ()

    def read(self, image):
        return self.pictures[int(Path(image).stem) % len(self.pictures)] + image.encode()  # behind a picture's end


def draw_source(data, n, few=64):
    """A Drawn source of n images, made of a few pictures of `data` that are spread evenly over its classes."""
    source = open_source(data)
    chosen = np.linspace(0, len(source.images) - 1, few).astype(int)
    kinds = [(source.labels[i], Path(source.images[i]).suffix) for i in chosen]
    pairs = sorted((label, f"{label}/{k:07}{suffix}") for k in range(n) for label, suffix in [kinds[k % few]])
    labels, names = map(list, zip(*pairs))
    pictures = tuple(source.read(source.images[i]) for i in chosen)
    return Drawn(source.data, "", names, labels, source.classes, pictures=pictures)


def deal(data, n, name="scale"):
    """Make a fold table of n drawn images: the seconds that takes, and memory at its highest in MB."""
    source = draw_source(data, n)
    with mock.patch.object(folds, "open_source", lambda data: source):
        before = time.perf_counter()
        folds.make_folds(data, name, size=SIZE, near=False)  # they show the same few pictures
    return {"seconds": time.perf_counter() - before, "peak": memory("VmHWM")}


def run(data, n):
    """Seconds an image of every stage and of the CPU, on the table of n images that `deal` made; MB of memory before
    that is read, the network of the measured run included, and at its highest.
    """
    reader = draw_source(data, WARM_UP)  # reads any number of images, but lists few, which would count as memory
    images.open_source = images.open_reader = lambda *_: reader
    deal(data, WARM_UP, "warm")
    few, after = read_folds("warm"), []
    for _ in range(2):  # what TensorFlow takes once; then what each network that is traced takes
        _time_stages(few, "warm")
        after.append(memory("VmRSS"))
    found = {"start": after[1] + after[1] - after[0]}
    table = read_folds("scale")
    rounds = [_time_stages(table, "round")]
    found["peak"] = memory("VmHWM")  # before further rounds, which trace anew, and of which large sets have none
    rounds += [_time_stages(table, "round") for _ in range(SHORT // n - 1)]
    found |= {stage: float(np.median([one[stage] for one in rounds])) / n for stage in (*STAGES, "CPU")}
    return found | {"d": rounds[0]["d"]}


def _time_stages(table, name):
    """Seconds of each stage, and of the CPU in all of them, while the toolkit trains the first fold of the table.

    Tracing is left out: a network has its first step, or its first batch to predict, before its time counts.
    """
    found, traced = dict.fromkeys((*STAGES, "CPU"), 0.0), set()
    train_epoch = Phase.train_epoch

    def timed(stage, work, prepare=lambda *_: None):
        def measured(*arguments):
            prepare(*arguments)
            before = time.perf_counter(), time.process_time()
            result = work(*arguments)
            found[stage] += time.perf_counter() - before[0]
            found["CPU"] += time.process_time() - before[1]  # which other processes disturb less
            return result

        return measured

    def trace(model):
        if id(model) not in traced:
            predict(model, np.zeros((1, *model.input_shape[1:]), np.uint8))
            traced.add(id(model))

    def note_backbone(table, settings, model, weights, images, backbone, room):
        found["d"] = backbone.output_shape[-1]
        trace(backbone)

    def trace_step(phase, fold, epoch, steps, tick):
        before = phase.read()
        phase.model.train_on_batch(*next(iter(phase.batches(fold, epoch))))
        phase.write(before)

    shutil.rmtree(Workspace().runs / table.name, ignore_errors=True)  # each time from the beginning
    with (
        mock.patch.object(train_folds, "load_images", timed("decode", load_images)),
        mock.patch.object(train_folds, "frozen_features", timed("features", frozen_features, note_backbone)),
        mock.patch.object(train_folds, "train_heads", timed("head", train_heads)),
        mock.patch.object(Phase, "train_epoch", timed("train", train_epoch, trace_step)),
        mock.patch.object(
            full_phase, "predict_probabilities", timed("predict", predict_probabilities, lambda model, *_: trace(model))
        ),
    ):
        train_folds.train_table(
            Job(table.paths.run(name), table, "scratch", Weights("none"), RECIPE, [0], read_memory(MEMORY))
        )
    return found
