"""Rehearse a trained model of every backbone family with several releases of the scorer's TensorFlow.

A small sample competition is drawn, each model is trained on it for a moment, from random weights, and packed; then
each scorer's own environment runs each zip. What is proven is that the zip works there, not that it is good.
"""

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path

import pandas as pd

from competition.content import check_package
from competition.files import InputError
from competition.folds import make_folds
from competition.images import load_images
from competition.oof import text_table
from competition.rehearsal import Conditions, RehearsalError, rehearse
from competition.sample import write_sample
from competition.scorers import find_python
from competition.submission import average_by_hand, build_package, choose_sample, pack, read_ensemble
from competition.train import train

SCORERS = ("2.12.1", "2.15.1", "current")
FAMILIES = ("resnet50", "resnet50_v2", "vgg16", "mobilenet", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
            "efficientnet_v2_b0", "efficientnet_lite0", "convnext_tiny", "scratch")
IMAGES, SIDE, REHEARSED = 64, 32, 8
# two epochs of all layers, fast enough for answers that differ from image to image
BRIEFLY = ("epochs=2", "rate=0.003", "batch_size=4", "image_size=0")


def play(scorers=None, families=None, folder=".scorers/matrix"):
    """Print and return a table scorers x families, DataFrame, of what became of each zip.

    scorers   "2.12.1,current": releases of TensorFlow, each in an environment that is built once (scorers.find_python),
              and the project's own Python; default: SCORERS
    families  "vgg16,scratch": backbones; default: FAMILIES
    folder    where they are trained; what was trained before is not trained again

    InputError where an environment cannot be built, and, after the table, where any zip fails.
    """
    scorers, families = _split(scorers) or list(SCORERS), _split(families) or list(FAMILIES)
    pythons = {name: find_python(None if name == "current" else name if "=" in name or "/" in name
                                 else f"tensorflow=={name}") for name in scorers}
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows, broken = [], []
    with contextlib.chdir(folder):
        write_sample(Path("data"), IMAGES, 0)
        table = make_folds(Path("data") / "train", name="matrix", folds=2, size=SIDE)
        for family in families:
            with tempfile.TemporaryDirectory() as work:
                zip_path, images, expected, entry = _pack(family, table, Path(work))
                row = {"backbone": family, "MB": f"{zip_path.stat().st_size / 1e6:.1f}"}
                for name, python in pythons.items():
                    start = time.time()
                    try:
                        found = rehearse(zip_path, images, expected, entry, Conditions(python=python))
                        row[name] = f"ok, {found['probabilities_differ']:.0e}, {found['load_seconds']:.1f} s to load"
                    except RehearsalError as error:
                        row[name] = "FAILS"
                        broken.append(f"{family} with {name}: {error}")
                    print(f"{family} with {name}: {row[name]} ({time.time() - start:.0f} s)", flush=True)
            rows.append(row)
    frame = pd.DataFrame(rows)
    print(f"\nlabels as the toolkit's, the largest difference of a probability, seconds to load\n{text_table(frame)}")
    if broken:
        raise InputError("; ".join(broken))
    return frame


def _pack(family, table, work):
    """Train a family's model, pack it as CodaLab has it: the zip, images, expected probabilities, its Entry."""
    from competition.formats.codalab import LAYOUT

    train(family, "quick", table.name, "none", overrides=BRIEFLY)
    ensemble = read_ensemble(table, f"{family}-quick")
    rows = choose_sample(table, REHEARSED)
    images = load_images(dataclasses.replace(table, frame=table.frame.iloc[rows]))
    expected, _ = average_by_hand(ensemble, table, images, rows)
    build_package(ensemble, table, work / "package", LAYOUT.write_code)
    check_package(work / "package", table.data)
    pack(work / "package", work / f"{family}.zip")
    return work / f"{family}.zip", images, expected, LAYOUT.entry


def _split(names):
    return [name.strip() for name in (names or "").split(",") if name.strip()]
