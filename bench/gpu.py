"""On a GPU: images a second of the train step as a share of what the device can do, and `report` from end to end.

It runs under the Keras backend that is installed. Without a GPU every figure is absent, and says so.
"""

import contextlib
import itertools
import os
import re
import time
from importlib.util import find_spec

import numpy as np

from bench.figures import Figure
from bench.tools import deal, describe_gpu
from competition.base.backend import has_gpu, import_tensorflow, layers_of
from competition.features.on_gpu import draw_transforms, keep_on_device
from competition.training import train as training
from competition.training.batches import prefetch

MODELS = ("resnet50", "efficientnet_lite0")
SIZES = (96, 224)
PRECISIONS = ("float32", "mixed_bfloat16")
BATCH = 128
STEPS = 30
PEAKS = {  # dense TFLOP/s of NVIDIA's data sheets: float32 (TF32 where there is), bfloat16 (float16 on T4, V100, P100)
    "H200": (495, 989),
    "H100": (495, 989),
    "A100": (156, 312),
    "L40S": (183, 362),
    "L4": (60, 121),
    "A10G": (35, 70),
    "A10": (62, 125),
    "V100": (15.7, 125),
    "T4": (8.1, 65),
    "P100": (9.3, 18.7),
    "4090": (82.6, 165),
    "3090": (35.6, 71),
}


def measure(options):
    """Yield a Figure a model, size and precision, and the seconds of five folds of `report` on efficientnet_lite0."""
    os.environ["KERAS_BACKEND"] = "tensorflow" if find_spec("tensorflow") else "jax"
    if find_spec("tensorflow"):
        import_tensorflow()
    name = describe_gpu()
    lacks = "" if has_gpu() else "no GPU here, so this figure is missing"
    steps = 3 if options.quick else STEPS
    for model, size, precision in itertools.product(MODELS, SIZES, PRECISIONS):
        what = f"GPU: {model} training, {size}x{size}, batch {BATCH}, {precision}"
        if lacks:
            yield Figure(what, "images/s", None, note=lacks)
            continue
        rate, flops = time_step(model, size, precision, steps)
        yield Figure(
            what,
            "images/s",
            rate,
            find_peak(name, precision, flops),
            steps,
            note=f"{name}; {flops / 1e9:.2f} GFLOP an image; reference: what the device's peak would give",
        )
    what = "GPU: five folds of report, efficientnet_lite0"
    if lacks or options.quick:
        yield Figure(what, "s", None, note=lacks or "QUICK=1 has no time for it")
        return
    with contextlib.chdir(options.work):
        table = deal(options.data, "gpu")
        before = time.perf_counter()
        training.train("efficientnet_lite0", "report", "gpu")
        yield Figure(what, "s", time.perf_counter() - before, n=len(table.images), note=name)


def time_step(model, size, precision, steps):
    """Images a second of the toolkit's train step, drawing included, and its FLOP an image, forward and backward."""
    from bench.step import Setup, build_keras, compile_keras

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (4 * BATCH, size, size, 3), np.uint8)
    policies = ["d4", "affine", "light", "colour"]
    draw = keep_on_device(images, policies)
    with layers_of(precision):
        network = build_keras(Setup(model, (size, size), steps))
    compile_keras(network)
    targets = np.eye(network.output_shape[-1], dtype=np.float32)[np.arange(BATCH) % network.output_shape[-1]]

    def batches():
        transforms = draw_transforms(policies, 0)
        for _ in range(steps + 3):
            yield draw(transforms, random.integers(len(images), size=BATCH))

    for step, batch in enumerate(prefetch(batches())):
        if step == 3:
            before = time.perf_counter()
        network.train_on_batch(batch, targets)
    return steps * BATCH / (time.perf_counter() - before), 3 * count_flops(network)


def count_flops(model):
    """FLOP of one image forward through the convolutions and dense layers of a keras.Model; backward is twice that.

    A multiplication with its addition counts as two, as in the data sheets of GPUs.
    """
    from keras import layers

    total = 0
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)):
            positions = np.prod(layer.output.shape[1:-1], dtype=float)
            total += sum(2 * positions * np.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1)
    return total


def find_peak(name, precision, flops):
    """Images a second at the device's peak; None for a device that PEAKS does not have."""
    peak = next((peaks for gpu, peaks in PEAKS.items() if re.search(rf"\b{gpu}\b", name)), None)
    return peak and peak[PRECISIONS.index(precision)] * 1e12 / flops
