"""The tiny competition that `bench/faults.py` breaks, and the commands that it plays, in their order.

48 drawn pictures of 24 pixels in three classes, two folds, a backbone of one convolution: most commands take a second or
two here, as what costs time otherwise is the tracing of networks.
"""

import shutil
import zipfile
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

SIDE = 24  # pixels
COLOURS = {"ash": (200, 80, 80), "elm": (80, 200, 80), "oak": (80, 80, 200)}
TINY = "tiny_faults"  # the backbone
FROZEN = "frozen_epochs=4 frozen_rate=0.03 image_size=0"
FULL = "epochs=2 rate=0.003 batch_size=8"
GAN = "side=16 width=4 noise=4 batch_size=16 epochs=3 rate=2e-3 ema=0.9 features=baseline"


@dataclass(frozen=True)
class Step:
    """One command.

    words   what stands after `python -m competition`
    trials  how often it is broken, beside the others
    light   whether it needs no TensorFlow
    """

    name: str
    words: str
    trials: int = 4
    light: bool = False


STEPS = (
    Step("folds", "folds --data ../data --name toy --folds 2", 6, light=True),
    Step("look", "look", 2, light=True),
    Step("sanity", "sanity", 3),
    Step("train-frozen", f"train --model {TINY} --weights ../tiny.weights.h5 --run heads --set {FROZEN}", 8),
    Step(
        "train-both", f"train --model {TINY} --weights ../tiny.weights.h5 --run both --again 0 --set {FROZEN} {FULL}", 8
    ),
    Step("train-full", f"train --model baseline --run pixels --again 0 --set {FULL}", 8),
    Step("train-seed", f"train --model baseline --run pixels1 --again 0 --set {FULL} seed=1", 2),
    Step("train-again", f"train --model baseline --run twice --set {FULL} seed=5", 4),
    Step(
        "double-frozen",
        f"double --model {TINY} --weights ../tiny.weights.h5 --splits ash --run split --set {FROZEN}",
        8,
    ),
    Step("double-full", f"double --model baseline --splits ash --run parts --again 0 --set {FULL}", 8),
    Step("teach", f"train --model baseline --run taught --again 0 --teacher pixels --pseudo ../test --set {FULL}", 6),
    Step("soup", "soup --runs pixels,pixels1", 8),
    Step("tune", f"tune --model baseline --space rate=1e-3,1e-2 --folds-used 0 --run search --set {FULL}", 8),
    Step("gan", f"gan --set {GAN}", 8),
    Step("rank", "rank --models efficientnet_lite0 --grid frozen_rate=3e-4,1e-3", 3),
    Step("blend", "blend --runs heads,both,pixels,split", 8),
    Step("submission", "submission --run pixels", 6),
    Step("codabench", "submission --run heads --format codabench", 4),
    Step("predict", "predict --test ../test", 6),
    Step("check", "check --zip submissions/toy.zip", 2),
    Step("score", "score --zip submissions/toy.zip --value 0.5", 3),
    Step("audit", "audit", 5),
    Step("explain", "explain --run pixels", 5),
    Step("shift", "shift --test ../test --model baseline", 5),
    Step("kernel", "kernel --model baseline --run far --kaggle-user me", 5),
    Step("take", "take --from ../far", 6),
    Step("simulate", "simulate --n 2", 4),
    Step("study", "study --quick", 8),
    Step("train-scratch", "train --model scratch --run scratch --again 0 --set epochs=2 rate=0.003 batch_size=8", 6),
)
BY_NAME = {step.name: step for step in STEPS}


def draw(folder):
    """Write data/<class>/<i>.png, 16 of each class, test/<i>.png and an empty work/ below `folder`."""
    random = np.random.default_rng(0)
    for number in range(60):
        label = list(COLOURS)[number % 3]
        pixels = np.array(COLOURS[label]) + random.normal(0, 25, 3) + random.normal(0, 30, (SIDE, SIDE, 3))
        path = folder / "data" / label / f"{number:02}.png" if number < 48 else folder / "test" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir()


def register():
    """Make the tiny network a backbone of this process and of those that it forks."""
    from competition.models.backbones import register_backbone

    register_backbone(TINY, _build_tiny)


def save_weights(path):
    """Write random weights of the tiny network, from which it then begins as if it were pretrained."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3))
    keras.Model(image, _build_tiny(image)).save_weights(path)


def prepare(step, folder):
    """Write what a step finds besides what those before it left; `folder` holds work/."""
    if step == "take":  # what a kernel would have left: a run that is here, under another name
        run = folder / "work/runs/toy/pixels"
        (folder / "far").mkdir()
        with zipfile.ZipFile(folder / "far/run-toy-brought.zip", "w") as archive:
            for path in sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock"):
                archive.write(path, f"runs/toy/brought/{path.relative_to(run).as_posix()}")
    if step == "study":
        shutil.rmtree(folder / "far")


def make_small(step):
    """Replace, in this process, what makes a step take minutes: fewer rungs, fewer conditions, fewer pictures."""
    if step == "simulate":
        from competition.trials import simulate

        conditions = dict(list(simulate.CONDITIONS.items())[:2])
        whole = simulate.read_digits()
        features = {key: values[:300] for key, values in whole.features.items()}
        part = replace(whole, features=features, labels=whole.labels[:300], groups=whole.groups[:300])
        simulate.CONDITIONS, simulate.read_digits, simulate.WRITTEN = conditions, lambda: part, 1
    if step == "study":
        from competition.trials import ladder, study, study_rungs, study_table

        effort = {
            "pixels": ladder.Effort("quick", "0", tuple(FULL.split())),
            "head": ladder.Effort("quick"),
        }
        rungs = (
            ladder.Rung("zero inputs", "", "", how="zeros"),
            ladder.Rung("baseline", "zero inputs", "", "pixels", "baseline"),
            ladder.Rung("double", "baseline", "", "pixels", "baseline", how="double"),
            ladder.Rung("TTA", "baseline", "", keys=("identity", "hflip"), how="views"),
        )
        for module in (ladder, study_rungs, study_table):
            module.LADDER = rungs
        for module in (ladder, study, study_rungs):
            module.BUDGETS = {"quick": effort}


def _build_tiny(image):
    import keras

    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="tiny_conv")(x)
    x = keras.layers.BatchNormalization(name="tiny_norm")(x)
    return keras.layers.GlobalAveragePooling2D()(x)


def split(words):
    """A command's words as a list; settings are one word after --set."""
    first, given, settings = words.partition(" --set ")
    return first.split() + ["--set", settings] * bool(given)
