"""Play the embedded sample competition from drawing it to the score of the zip on its hidden test."""

import csv
import time

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.files import InputError
from competition.base.text import text_table
from competition.base.workspace import LABELS_CSV, RUN_JSON, SAMPLE, SAMPLE_IMAGES, Workspace
from competition.blending.blend import make_blend
from competition.data.decode import decode, resize
from competition.data.folds import make_folds
from competition.formats import codalab
from competition.rehearsal.rehearsal import predict_zip
from competition.training.train import train_seeds
from competition.trials.sample import write_sample

# model, recipe and overrides: three networks with ImageNet weights that came by pip, and one from random weights
MODELS = (
    ("efficientnet_lite0", "quick", ()),
    ("efficientnet_lite1", "quick", ()),
    ("efficientnet_lite2", "quick", ()),
    ("baseline", "quick", ("epochs=10",)),
)


def play_demo(folder=None, images=1200, hidden=400, workspace=Workspace()):
    """Draw the sample into `folder`/data, make folds, train MODELS, blend, pack, score the zip on the hidden test.

    All that is written lies below `folder` (default: sample/ in the Workspace), in folds/, runs/ and submissions/ of
    its own, apart from the user's. The hidden labels are read only once the zip lies there. Prints a table of
    accuracies and of seconds; returns it as a DataFrame with the columns stage, seconds, oof, hidden. What was done
    before is not done again. InputError for counts that are too small, and for a folder that holds anything else.
    """
    if hidden < 1:
        raise InputError(f"--hidden {hidden}: expected at least 1 hidden image to score the zip on")
    workspace = Workspace(folder, workspace.shared) if folder else workspace.sample
    data, rows = workspace.sample_data, []

    def timed(stage, work):
        print(f"\n=== {stage}", flush=True)
        started = time.time()
        result = work()
        rows.append({"stage": stage, "seconds": time.time() - started})
        return result

    timed("sample", lambda: write_sample(data, images, hidden))
    table = timed("folds", lambda: make_folds(workspace.sample_train, name=SAMPLE, workspace=workspace))
    for model, recipe, overrides in MODELS:
        run = timed(
            f"train {model}",
            lambda: train_seeds(1, model, recipe, overrides=overrides, name=SAMPLE, workspace=workspace)[0],
        )
        rows[-1]["oof"] = files.read_json(run / RUN_JSON)["accuracy"]
    blend = timed(
        "blend", lambda: make_blend(SAMPLE, [f"{model}-{recipe}" for model, recipe, _ in MODELS], workspace=workspace)
    )
    rows[-1]["oof"] = blend["accuracy"]
    path = timed("submission", lambda: codalab.make(SAMPLE, workspace=workspace))
    rows[-1]["oof"] = blend["accuracy"]
    pictures, labels = _read_hidden(workspace.sample_hidden, table)
    predicted = timed("hidden test", lambda: predict_zip(path, pictures))
    rows[-1] |= {"oof": blend["accuracy"], "hidden": float(np.mean(predicted == labels))}
    frame = pd.DataFrame(rows)
    total = pd.DataFrame([{"stage": "all", "seconds": frame["seconds"].sum()}])
    shown = pd.concat([frame, total])
    for column, form in (("seconds", "{:.1f}"), ("oof", "{:.4f}"), ("hidden", "{:.4f}")):
        shown[column] = [form.format(value) if value == value else "" for value in shown[column]]
    print("\n" + text_table(shown))
    noise = 1.645 * np.sqrt(blend["accuracy"] * (1 - blend["accuracy"]) / len(labels))
    print(
        f"\n{path.absolute()}: OOF {blend['accuracy']:.4f}, hidden {rows[-1]['hidden']:.4f} on {len(labels)} images "
        f"(sampling noise alone: 90 % of such tests lie within {noise:.3f} of the truth)"
    )
    return frame


def _read_hidden(folder, table):
    """The hidden images uint8 [n, h, w, 3] at the competition's size and their labels int64 [n]."""
    with open(folder / LABELS_CSV, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = [
        resize(decode((folder / SAMPLE_IMAGES / row["image"]).read_bytes(), row["image"], table.ranges), table.size)
        for row in rows
    ]
    return np.stack(images), np.array([table.classes.index(row["label"]) for row in rows])
