"""Training on JAX, where TensorFlow cannot be imported: what the toolkit does on a machine that has only JAX."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import class_folders

pytestmark = pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")
ROOT = Path(__file__).parents[1]

# What runs there: {name: what it found} is the last line that it prints.
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import importlib.util as util

HIDDEN = {"tensorflow", "optuna"}


class Hide:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


find = util.find_spec
util.find_spec = lambda name, *rest: None if name.split(".")[0] in HIDDEN else find(name, *rest)
sys.meta_path.insert(0, Hide)

from competition import Competition, register_backbone
from competition.base import backend
from competition.cli.main import main


class Stop:
    def on_epoch(self, run, fold, epoch, row):
        if fold == epoch == 1:
            raise KeyboardInterrupt


def hash_oof(run):
    return hashlib.sha256(run.oof.to_csv().encode()).hexdigest()


here, found = Competition(".", "data", verbose=False), {}
here.folds("data", folds=2)
small = {"batch_size": 8, "image_size": 0, "least_size": 0}
recipe = {"epochs": 2, "ema": 0.9, "mixup": 0.5, "patience": 2} | small
whole = here.train("scratch", run="whole", again=False, **recipe)
found["losses"] = whole.history["val_loss"].tolist()
try:
    here.train("scratch", run="killed", again=False, callbacks=[Stop()], **recipe)
except KeyboardInterrupt:
    found["stopped"] = True
found["resumed"] = hash_oof(here.train("scratch", run="killed", again=False, **recipe)) == hash_oof(whole)



def build(x):
    from keras import layers

    x = layers.Rescaling(1 / 255)(x)
    for width in (4, 8):
        x = layers.BatchNormalization()(layers.Conv2D(width, 3, 2, activation="relu")(x))
    return layers.GlobalAveragePooling2D()(x)


register_backbone("tiny", build)
import keras

image = keras.Input((16, 16, 3))
keras.Model(image, build(image)).save_weights("tiny.weights.h5")
recipe = {"frozen_epochs": 2, "epochs": 1, "frozen_share": 0.5, "layer_decay": 0.8, "precision": "mixed_bfloat16"}
both = here.train("tiny", run="both", again=False, weights="tiny.weights.h5", **recipe, **small)
found["phases"] = both.history["phase"].unique().tolist()
(record,) = (json.loads(path.read_text()) for path in Path("runs/data/features").glob("*.json"))
found["features"] = "device" in record

import jax

backend.has_gpu = lambda: True
with backend.full_precision():
    found["precision"] = jax.config.jax_default_matmul_precision
found["after"] = jax.config.jax_default_matmul_precision
found["tune"] = main(["tune", "--name", "data", "--model", "scratch", "--set", "epochs=1", "--trials", "1"])
found["imported"] = sorted(HIDDEN & sys.modules.keys())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jax")
    class_folders(folder / "data", {"a": 12, "b": 12}, height=16, width=16)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}


def test_a_moving_average_of_the_weights_trains(found):
    """Its arrays became the model's, which JAX gives away at the next step."""
    assert len(found["losses"]) == 4 and all(loss > 0 for loss in found["losses"])


def test_a_stopped_run_goes_on_to_the_same_bits(found):
    assert found["stopped"] and found["resumed"]


def test_both_phases_train(found):
    assert found["phases"] == ["frozen", "full"] and not found["imported"]


def test_on_a_gpu_predictions_have_all_bits_of_float32(found):
    assert found["precision"] == "float32" and found["after"] != "float32"
    assert not found["features"]  # of a processor: those that older versions kept still serve


def test_a_package_that_lacks_is_named_in_one_line(found):
    assert found["tune"] == 2
    assert (
        found["stderr"].splitlines()[-1]
        == "error: this Python has no optuna, expected the packages of requirements.txt"
    )
