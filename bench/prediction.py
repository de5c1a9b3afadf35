"""A packaged submission against the loop over Keras models that one would otherwise hand in.

Both are zips, run by the rehearsal's own scorer in fresh and isolated processes in turn: the cold start and the speed
that follows are what a competition's scorer would see. The members' weights do not matter for either, so they are
trained for an epoch on few images.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np

from bench.figures import Figure
from bench.tools import copy_images, deal
from competition.base import files
from competition.data.images import load_images
from competition.formats import codalab
from competition.rehearsal import rehearsal
from competition.runs.kinds import read_run
from competition.submission.ensemble import Ensemble
from competition.submission.package import build_package, pack_folder
from competition.training.train import train

FOLDS, QUICK_FOLDS = 5, 2
VIEWS = ["identity", "hflip"]
MODEL = "efficientnet_lite0"
IMAGES = 200  # that labels are asked for
TRAIN = 160  # images that the members learn from
FINE_TUNED = "frozen_epochs=0 epochs=1 rate=0.0005 dropout=0 batchnorm=train batch_size=32"
KINDS = [  # members, keys of the recipe, pixels inside the network
    ("fine-tuned", FINE_TUNED, 96),
    ("frozen", "frozen_epochs=20", 96),
    ("fine-tuned", FINE_TUNED, 128),
]
KINDS_BUT_LONG = 2  # the first of them; LONG=1 measures all

# The model.py of a good Keras user: every fold's model is loaded once, and predicts each view in batches of 64.
REFERENCE = """
import glob, os
import keras
import numpy as np
import tensorflow as tf

class model:
    def __init__(self, path):
        files = sorted(glob.glob(os.path.join(path, "fold_*.keras")))
        self.members = [keras.models.load_model(file, compile=False) for file in files]

    def predict(self, X):
        X = np.asarray(X, np.float32)
        views = [X, X[:, :, ::-1]]
        answers = [member.predict(view, batch_size=64, verbose=0) for view in views for member in self.members]
        return tf.constant(np.mean(answers, axis=0).argmax(1))
"""


def measure(options):
    """Yield the Figures of fine-tuned members at 96 pixels, with LONG=1 also at 128, and of heads on a frozen backbone.

    With QUICK=1 there are fewer members; then the import of TensorFlow, which both pay, is most of a cold start.
    Raises RuntimeError where the two zips do not give the same labels; of a hundred one may be a near tie.
    """
    rounds, folds = (1, QUICK_FOLDS) if options.quick else (3, FOLDS)
    kinds = KINDS if options.long else KINDS[:KINDS_BUT_LONG]
    data, work = Path(options.data).resolve(), Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(work):
        table = deal(copy_images(data, work / "images", TRAIN, folds), "prediction", folds)
        images = np.resize(load_images(table), (IMAGES, *table.size, 3))
    for kind, settings, side in kinds:
        with contextlib.chdir(work), tempfile.TemporaryDirectory() as folder:
            overrides = f"{settings} image_size={side}".split()
            run = read_run(train(MODEL, run=f"{kind}-{side}", name=table.name, overrides=overrides), table)
            zips = _pack_ours(run, table, Path(folder)), _pack_reference(run, table, Path(folder))
            speeds, starts, ties = _race(zips, images, rounds)
        what = f"{kind} {MODEL}, {table.k} folds, {len(VIEWS)} views, {side} pixels"
        note = "both on the CPU; reference: Keras predict, a call for each member and view, batch 64"
        note += f"; {ties} of {IMAGES} labels differ, by near ties" * bool(ties)
        target = 1.3 if kind == "fine-tuned" else table.k / 2
        yield Figure(f"prediction: {what}", "images/s", *speeds, rounds, f">= {target:g}", note)
        target = "" if options.quick else "<= 0.333"
        yield Figure(f"cold start to the labels of {IMAGES} images: {what}", "s", *starts, rounds, target, note)


def _pack_ours(run, table, folder):
    ensemble = Ensemble(f"run {run.name}", [(run, 1.0)], VIEWS, oof=None)
    build_package(ensemble, table, folder / "ours", codalab.write_code)
    pack_folder(folder / "ours", folder / "ours.zip")
    return folder / "ours.zip"


def _pack_reference(run, table, folder):
    files.write_text(folder / "reference" / "model.py", REFERENCE)
    for fold in range(table.k):
        run.build_fold_model(table, fold).save(folder / "reference" / f"fold_{fold}.keras")
    pack_folder(folder / "reference", folder / "reference.zip")
    return folder / "reference.zip"


def _race(zips, images, rounds):
    """Medians over the rounds, for each zip: images a second of a second call, and seconds from the import of model.py
    to the labels of a first call; then how many labels differ."""
    jobs = [rehearsal.Job(None, "uint8", probabilities=False)] * 2
    speeds, starts = np.zeros((2, rounds, len(zips)))
    for turn in range(rounds):
        found = [rehearsal.run_isolated(path, images, jobs) for path in zips]
        ours, reference = (answers.labels[1] for answers in found)
        ties = int((ours != reference).sum())
        if ties > len(images) // 100:
            raise RuntimeError(f"{ties} of {len(images)} labels differ from the reference's")
        speeds[turn] = [len(images) / answers.seconds[1] for answers in found]
        starts[turn] = [answers.load_seconds + answers.seconds[0] for answers in found]
    return np.median(speeds, 0).tolist(), np.median(starts, 0).tolist(), ties
