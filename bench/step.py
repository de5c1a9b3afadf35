"""The step: what precision, oneDNN, XLA, threads, batch size and frozen first layers do to training and prediction.

Each setup is measured in a process of its own, with random weights and pixels; prediction is that of the network with
BatchNormalization folded, which is what makes features and submissions. Where JAX or PyTorch is importable, the same
step runs on it through Keras, and the same architectures are timed in plain PyTorch, at the same batch.
"""

import contextlib
import importlib
import importlib.util
import itertools
import os
import time
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from bench.figures import Figure
from bench.tools import call_apart, fit
from competition.base.backend import import_tensorflow, start_keras, use_xla
from competition.data.decode import decode
from competition.data.sources import open_source
from competition.models.backbones import Weights
from competition.models.classifier import build_classifier
from competition.models.fuse import fuse_batchnorm
from competition.recipes.recipe import Recipe
from competition.training.optimizer import compile_model

MODELS = ("efficientnet_lite0", "mobilenet_v2", "resnet50")
FAMILIES = (
    "baseline",
    "scratch",
    "hyperresnet",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "inception_v3",
    "mobilenet",
    "mobilenet_v3_small",
    "nasnet_mobile",
    "resnet50_v2",
    "vgg16",
    "xception",
)
BATCH = 32
LEAST, ENOUGH = 2.0, 15.0  # seconds of one kind of step
CLASSES = 8
TORCH = {  # where PyTorch has these architectures: package -> our name -> its name
    "timm": {"efficientnet_lite0": "efficientnet_lite0", "mobilenet_v2": "mobilenetv2_100", "resnet50": "resnet50"},
    "torchvision": {"mobilenet_v2": "mobilenet_v2", "resnet50": "resnet50"},
}


@dataclass(frozen=True)
class Setup:
    """A way to run the step; the defaults are the toolkit's own."""

    model: str
    size: tuple[int, int]  # height, width
    steps: int  # that are timed, after two to warm up
    name: str = "float32"
    precision: str = "float32"
    onednn: bool = True
    xla: bool = False
    threads: int = 0  # of an operation; 0: one a core
    repeatable: bool = True  # the same each time, as the toolkit trains: backend.start_keras
    batches: tuple[int, ...] = (BATCH,)
    frozen_share: float = 0.0
    cached: bool = False  # training begins at what the frozen layers made of the images
    backend: str = "tensorflow"  # of Keras
    torch: str = ""  # "eager" or "compiled": PyTorch in place of Keras


@dataclass(frozen=True)
class Timing:
    """How fast a step is."""

    rate: float  # images a second, median
    first: float  # seconds that the first step takes, with tracing and compiling
    n: int  # steps that were timed


UNREPEATABLE = "op determinism off, operations side by side"
VARIANTS = (
    {"name": "mixed_bfloat16", "precision": "mixed_bfloat16"},
    {"name": "oneDNN off", "onednn": False},
    {"name": UNREPEATABLE, "repeatable": False},
    {"name": "first blocks frozen (frozen_share=0.08)", "frozen_share": 0.08},
    {"name": "first blocks frozen, their activations cached", "frozen_share": 0.08, "cached": True},
    {"name": "1 thread", "threads": 1},
    {"name": "XLA, op determinism off", "xla": True, "repeatable": False},  # Keras compiles none with it
)
COMPARED = VARIANTS[:2]  # of every model; the others of efficientnet_lite0 alone, unless LONG=1
FIRST = (
    ("float32",),
    ("PyTorch eager",),
    ("PyTorch compiled",),  # of every model, before there is no time any more
    tuple(variant["name"] for variant in COMPARED),
    (UNREPEATABLE,),
)


def measure(options, size=None, models=None):
    """Yield images a second in training and in prediction: a Figure a setup, beside the toolkit's default (float32).

    A setup that would not end within the time there is (QUICK=1: 30 seconds, LONG=1: no limit, otherwise 7 minutes) is
    left out, and one that fails is absent; the note says so.
    """
    size = size or data_size(options)
    most_seconds = 30 if options.quick else np.inf if options.long else 420
    models = models or (MODELS[:1] if options.quick else (*MODELS, *FAMILIES) if options.long else MODELS)
    steps = 3 if options.quick else 5
    setups = [setup for model in models for setup in list_setups(model, size, steps, options)]
    if not options.long:  # then what is compared is measured next to each other, on a machine that changes by the hour
        setups.sort(key=lambda setup: next((i for i, name in enumerate(FIRST) if setup.name in name), len(FIRST)))
    base, began, longest = {}, time.perf_counter(), 0.0
    for setup in tqdm(setups, "steps", unit="setup", leave=False):
        before = time.perf_counter()
        timings, note = None, lacks(setup)
        if not note and before - began + longest > most_seconds:
            note = "left out for want of time; LONG=1 measures it"
        elif not note:
            timings, note = measure_setup(setup)
            longest = max(longest, time.perf_counter() - before)
        if setup.name == "float32":
            base[setup.model] = timings or {}
        yield from tell(setup, timings, base.get(setup.model, {}), note)


def data_size(options):
    """The (height, width) of the data's first picture, of a large one made smaller."""
    source = open_source(options.data)
    return fit(decode(source.read(source.images[0]), source.images[0]).shape[:2])


def list_setups(model, size, steps, options):
    """The float32 setup of a model, then what is compared with it."""
    plain = Setup(model, size, steps)
    whole = model == MODELS[0] or options.long
    batches = (BATCH, 16, 64) if whole and not options.quick else (BATCH,)
    variants = [replace(plain, **variant) for variant in (VARIANTS if whole and not options.quick else COMPARED)]
    if model in MODELS:
        variants += [
            replace(plain, name=f"Keras on {name}", backend=backend)
            for backend, name in (("jax", "JAX"), ("torch", "PyTorch"))
        ]
        variants += [replace(plain, name=f"PyTorch {kind}", torch=kind) for kind in ("eager", "compiled")]
    return [replace(plain, batches=batches), *variants]


def lacks(setup):
    """Why a setup cannot be measured here; "" when it can."""
    if setup.backend != "tensorflow" and not importlib.util.find_spec(setup.backend):
        return f"{setup.name[len('Keras on ') :]} is not importable"
    if setup.torch and not importlib.util.find_spec("torch"):
        return "PyTorch is not importable"
    if setup.torch and not torch_package(setup.model):
        return f"neither of {', '.join(TORCH)} is importable and has {setup.model}"
    return ""


def torch_package(model):
    """The package that has an architecture for PyTorch, or None."""
    return next((name for name in TORCH if model in TORCH[name] and importlib.util.find_spec(name)), None)


def measure_setup(setup):
    """{(what, batch): Timing} and ""; None and the reason when it fails."""
    try:
        time_setup = time_torch if setup.torch else time_keras if setup.backend == "tensorflow" else time_backend
        return call_apart(time_setup, setup), ""
    except RuntimeError as error:
        return None, str(error)


def tell(setup, timings, base, note):
    """The Figures of a setup. The toolkit is to be no slower than PyTorch, so that is the reference there."""
    size = f"{setup.size[0]}x{setup.size[1]}"
    kinds = ("training",) if setup.frozen_share else ("training", "prediction")  # predicting is the same
    for batch, what in itertools.product(setup.batches, kinds):
        name = f"{setup.model} {what}, batch {batch}: "
        found, plain = (timings or {}).get((what, batch)), base.get((what, BATCH))
        rate, plain_rate = found and found.rate, plain and plain.rate
        n = found.n if found else 1
        more = note or f"{size}; first step {found.first:.1f} s"
        if setup.torch:
            yield Figure(
                f"{name}float32 beside {setup.name}",
                "images/s",
                found and plain_rate,
                rate,
                n,
                ">= 1",
                f"{more}; reference: {setup.name}",
            )
        elif setup.name == "float32" and batch == BATCH:
            yield Figure(name + setup.name, "images/s", rate, None, n, note=more)
        else:
            more = f"{more}; reference: float32, batch {BATCH}"
            yield Figure(name + setup.name, "images/s", rate, plain_rate, n, note=more)


def time_keras(setup):
    """{("training" or "prediction", batch): Timing} of the toolkit's model and train step under a setup."""
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(setup.onednn))  # TensorFlow reads it when it is imported
    import_tensorflow()
    import keras
    import tensorflow as tf

    if setup.threads:
        tf.config.threading.set_intra_op_parallelism_threads(setup.threads)
    if setup.repeatable:
        start_keras(0)
    keras.config.set_dtype_policy(setup.precision)
    whole = build_keras(setup)
    fused = fuse_batchnorm(whole)
    model = begin_late(whole, setup.frozen_share) if setup.cached else whole
    compile_keras(model)
    for network in (model, fused):
        network.jit_compile = setup.xla
    model.make_train_function()
    fused.make_predict_function()
    timings = {}
    for batch in setup.batches:
        images, targets = (tf.constant(values) for values in draw_batch(setup, batch))
        seen = tf.random.normal((batch, *model.input_shape[1:])) if setup.cached else images
        inputs, data = [(images,)], itertools.repeat((seen, targets, tf.ones(batch)))
        timings |= time_both(
            setup,
            batch,
            lambda: float(model.train_function(data)["loss"]),
            lambda: np.asarray(fused.predict_function(inputs)),
        )
    return timings


def time_backend(setup):
    """The same on another backend of Keras, as the toolkit's training calls it."""
    os.environ["KERAS_BACKEND"] = setup.backend
    start_keras(0)
    whole = build_keras(setup)
    fused = fuse_batchnorm(whole)
    compile_keras(whole)
    fused.jit_compile = use_xla()
    timings = {}
    for batch in setup.batches:
        images, targets = draw_batch(setup, batch)
        timings |= time_both(
            setup,
            batch,
            lambda: whole.train_on_batch(images, targets),
            lambda: np.asarray(fused.predict_on_batch(images)),
        )
    return timings


def build_keras(setup):
    import keras

    keras.utils.set_random_seed(0)
    recipe = Recipe(batchnorm="train", frozen_share=setup.frozen_share)
    model = build_classifier(setup.model, setup.size, CLASSES, recipe, Weights("none"))
    layers = len(model.get_layer("backbone").layers)
    if setup.frozen_share and not round(setup.frozen_share * layers):
        raise ValueError(f"{setup.frozen_share:.0%} of the {layers} layers of {setup.model} are none")
    return model


def compile_keras(model):
    compile_model(model, 0.05, 0.1, {})
    model.optimizer.learning_rate = 1e-4


def begin_late(model, share):
    """The model from the output of its frozen layers on: what trains where their activations are cached."""
    import keras

    backbone = model.get_layer("backbone")
    for last in range(round(share * len(backbone.layers)) - 1, -1, -1):
        with contextlib.suppress(ValueError):  # a layer that others bypass: Keras wants all inputs
            rest = keras.Model(backbone.layers[last].output, backbone.output, name="backbone")
            break
    image = keras.Input(rest.input_shape[1:])
    return keras.Model(image, model.get_layer("logits")(rest(image)))


def time_torch(setup):
    """The same of PyTorch's model of that name, with AdamW as it comes, channels_last."""
    import torch

    if setup.threads:
        torch.set_num_threads(setup.threads)
    torch.manual_seed(0)
    model = build_torch(setup.model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    network = torch.compile(model) if setup.torch == "compiled" else model
    timings = {}
    for batch in setup.batches:
        pixels, targets = (torch.from_numpy(values) for values in draw_batch(setup, batch))
        images = (pixels / 255).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

        def train():
            model.train()
            optimizer.zero_grad()
            loss = criterion(network(images), targets)
            loss.backward()
            optimizer.step()
            return loss.item()

        def predict():
            model.eval()
            with torch.inference_mode():
                return network(images).numpy()

        timings |= time_both(setup, batch, train, predict)
    return timings


def build_torch(model):
    package = torch_package(model)
    create = (
        importlib.import_module("timm").create_model
        if package == "timm"
        else (importlib.import_module("torchvision.models").get_model)
    )
    return create(TORCH[package][model], num_classes=CLASSES)


def draw_batch(setup, batch):
    """Random pixels float32 [batch, h, w, 3], 0..255, and one-hot targets float32 [batch, classes]."""
    random = np.random.default_rng(0)
    pixels = random.uniform(0, 255, (batch, *setup.size, 3)).astype(np.float32)
    return pixels, np.eye(CLASSES, dtype=np.float32)[random.integers(CLASSES, size=batch)]


def time_both(setup, batch, train, predict):
    """{(what, batch): Timing}: two steps to warm up, then the setup's, more where they are short, fewer where long."""
    timings = {}
    for what, step in (("training", train), ("prediction", predict)):
        ends = [time.perf_counter()]
        while (
            len(ends) < 4 or ends[-1] - ends[2] < LEAST or (len(ends) < 3 + setup.steps and ends[-1] - ends[2] < ENOUGH)
        ):
            step()
            ends.append(time.perf_counter())
        seconds = np.diff(ends)
        timings[what, batch] = Timing(batch / float(np.median(seconds[2:])), float(seconds[0]), len(seconds) - 2)
    return timings
