"""Scale: what an image costs in time and memory among 3 thousand, 30 thousand and 300 thousand of them.

The pictures are drawn from those of the data, each with a name and bytes of its own, as they are asked for: none is
written. Every number of images is measured in a process of its own, which goes the way of `make train` with a small
MEMORY=: decode, features of a frozen network, an epoch of a head on them, an epoch of all layers, prediction. What the
toolkit writes on that way, decoded images and features, is small here and removed at the end.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.figures import Figure
from bench.tools import call_apart, import_tensorflow, memory
from competition import files, folds, heads, images
from competition.arrays import Rows, read_memory
from competition.images import Source, open_source

MEMORY = "64M"  # so little that 30 thousand images of SIZE do not fit
SIZE = 32  # pixels
SIZES, LONG_SIZES, QUICK_SIZES = (3_000, 30_000), (3_000, 30_000, 300_000), (3_000, 12_000)
FOLDS, QUICK_FOLDS = 100_000, 10_000
SHORT = 9_000  # images that a stage sees at least: fewer pass it several times, and the median counts
STAGES = ("decode", "features", "head", "train", "predict")


def measure(options):
    """The figures of scale, as bench.figures.Figure."""
    sizes = QUICK_SIZES if options.quick else LONG_SIZES if options.long else SIZES
    few = _in_a_process(run, sizes[0], options)
    for n in sizes[1:]:
        found = _in_a_process(run, n, options)
        beside = f"{n} images beside {sizes[0]}"
        stages = ", ".join(f"{stage} {found[stage] / few[stage]:.2f}" for stage in [*STAGES, "CPU"])
        yield Figure(f"time an image, {beside}", "ms", _total(found) * 1e3, _total(few) * 1e3, target="<= 1.1",
                     note=f"{stages}; {SIZE}x{SIZE}, scratch, MEMORY={MEMORY}, tracing left out")
        yield Figure(f"images a second through all stages, {beside}", "images/s", 1 / _total(found), 1 / _total(few))
        yield Figure(f"peak memory, {beside}", "MB", found["peak"], few["peak"], target="<= 1.1",
                     note="of the whole process, TensorFlow included")
        yield Figure(f"memory that {n} images add, beside MEMORY={MEMORY}", "MB", found["peak"] - found["start"],
                     read_memory(MEMORY).total / 1e6, target="<= 1", note=f"decoded they are "
                     f"{n * SIZE * SIZE * 3 / 1e6:.0f} MB, their features {n * found['d'] * 4 / 1e6:.0f} MB")
    n = QUICK_FOLDS if options.quick else FOLDS
    found = _in_a_process(deal, n, options)
    yield Figure(f"make folds on {n} images, apart from reading the bytes", "s", found["seconds"],
                 target=f"<= {120 * n // FOLDS}", note=f"peak memory {found['peak']:.0f} MB")


def _total(found):
    return sum(found[stage] for stage in STAGES)


def _in_a_process(what, n, options):
    """What `run` or `deal` finds, in a process of its own and a folder of its own that is removed afterwards."""
    folder = Path(options.work).resolve() / f"scale-{what.__name__}-{n}"
    folder.mkdir(parents=True)
    try:
        return call_apart(_in_folder, folder, what, Path(options.data).resolve(), n)
    finally:
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------- in a process of its own


def _in_folder(folder, what, data, n):
    os.chdir(folder)
    import_tensorflow()
    return what(data, n)


@dataclass(frozen=True)
class Drawn(Source):
    """A source of as many pictures as wanted, made of a few: the number in its name makes each another file."""

    pictures: tuple = ()

    def read(self, image):
        return self.pictures[int(Path(image).stem) % len(self.pictures)] + image.encode()  # what follows a picture's end


def draw_source(data, n, few=64):
    """A Drawn source of n images, made of a few pictures of `data` that are spread evenly over its classes."""
    source = open_source(data)
    chosen = np.linspace(0, len(source.images) - 1, few).astype(int)
    kinds = [(source.labels[i], Path(source.images[i]).suffix) for i in chosen]
    pairs = sorted((label, f"{label}/{k:07}{suffix}") for k in range(n) for label, suffix in [kinds[k % few]])
    labels, names = map(list, zip(*pairs))
    pictures = tuple(source.read(source.images[i]) for i in chosen)
    return Drawn(source.data, "", names, labels, source.classes, pictures=pictures)


def _make_folds(data, n):
    """Fold table "scale" of n drawn images, and the seconds that it took."""
    source = draw_source(data, n)
    folds.open_source = lambda data: source
    images.open_reader = lambda data, root: source
    before = time.perf_counter()
    table = folds.make_folds(data, "scale", size=SIZE, near=False)  # they show the same few pictures
    return table, time.perf_counter() - before


def deal(data, n):
    """Seconds that `make folds` takes, and memory at its highest in MB."""
    seconds = _make_folds(data, n)[1]
    return {"seconds": seconds, "peak": memory("VmHWM")}


def run(data, n):
    """Seconds an image of every stage, memory before the images were loaded and at its highest, in MB."""
    import keras

    from competition.backbones import build_backbone
    from competition.features import predict, view_features
    from competition.recipes import Recipe
    from competition.views import VIEWS

    table, limit = _make_folds(data, n)[0], read_memory(MEMORY)
    backbone = build_backbone("scratch", table.size)
    d = backbone.output_shape[-1]
    blank = np.zeros((64, *table.size, 3), np.uint8)
    whole = keras.Sequential([backbone, keras.layers.Dense(len(table.classes), activation="softmax")])
    whole.compile("adam", "sparse_categorical_crossentropy")
    whole.train_on_batch(blank.astype(np.float32), np.zeros(64, int))
    for model in (backbone, whole):
        predict(model, blank)
    found = {"d": d, "start": memory("VmRSS")}
    labels, random = table.labels, np.random.default_rng(0)

    def decode():
        shutil.rmtree(files.RUNS / table.name, ignore_errors=True)
        return images.load_images(table, limit)

    def features():
        shutil.rmtree("features", ignore_errors=True)
        return view_features(backbone, pictures, ["identity"], Path("features"), {}, limit)

    def train_head():
        state = heads.start_heads(1, 1, d, len(table.classes))
        heads.train_epoch(state, [Recipe(frozen_epochs=1)], pool, pool[0], labels, table.fold, [0])

    def train():
        for rows in random.permutation(n)[: n // 64 * 64].reshape(-1, 64):
            whole.train_on_batch(pictures[rows].astype(np.float32), labels[rows])

    def timed(stage, work):
        seconds = []
        for _ in range(max(1, SHORT // n)):
            before = time.perf_counter(), time.process_time()
            result = work()
            seconds.append((time.perf_counter() - before[0], time.process_time() - before[1]))
        wall, cpu = np.median(seconds, 0) / n
        found[stage] = wall
        found["CPU"] = found.get("CPU", 0) + cpu  # which other processes disturb less
        return result

    pictures = timed("decode", decode)
    pool = timed("features", features)
    timed("head", train_head)
    timed("train", train)
    timed("predict", lambda: predict(whole, Rows(pictures, np.arange(n), VIEWS["hflip"])))
    return found | {"peak": memory("VmHWM")}
