"""How well `make audit` and `make shift` find what is planted: `python -m bench.planted --data photos.zip`.

Wrong labels: of 5 % of the images the label is another one, drawn at random; how many of those that the audit names
first are these? Shifts: one random half of the images is trained on, the other half is the test, as it is, darkened, or
with another white balance; how well are the halves told apart (AUC), and what is it called?
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from competition.base.files import InputError
from competition.base.text import text_table
from competition.data.decode import decode
from competition.data.folds import make_folds
from competition.data.sources import open_source
from competition.insight.audit import audit
from competition.insight.shift import shift
from competition.training.train import train

MODEL = "efficientnet_lite0"
WRONG, FIRST = 0.05, 50  # share of wrong labels; of how many suspects it is counted how many are wrong
SHIFTS = {"as they are": (1, 1, 1), "20 % darker": (0.8, 0.8, 0.8), "redder": (1.15, 0.95, 0.95)}  # factors of R, G, B


def write_images(folder, source, rows, labels=None, factors=(1, 1, 1)):
    """Write these images as PNGs, in class folders where there are labels; returns the folder."""
    for row in rows:
        pixels = decode(source.read(source.images[row]), source.images[row]) * np.array(factors)
        place = Path(folder) / str(labels[row]) if labels is not None else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(place / f"{row:06}.png")
    return Path(folder)


def find_wrong_labels(source, random):
    """(a frozen run's OOF accuracy on the labels as planted, labels that are likely wrong, share of wrong ones among the
    FIRST of these, share of all wrong ones that are among all)."""
    classes = list(source.classes)
    given = np.array([classes.index(label) for label in source.labels])
    wrong = random.permutation(len(given))[: round(WRONG * len(given))]
    labels = given.copy()
    labels[wrong] = (given[wrong] + random.integers(1, len(classes), len(wrong))) % len(classes)
    make_folds(write_images("labels", source, range(len(given)), labels), near=0)
    train(MODEL)
    frame = audit()
    named = [int(Path(image).stem) for image in frame["image"][frame["suggested"] != ""]]
    right = (frame["predicted"].astype(str) == frame["label"].astype(str)).mean()
    return right, len(named), np.isin(named[:FIRST], wrong).mean(), np.isin(wrong, named).mean()


def find_shifts(source, random):
    """{what was done to the test half: shift.shift's record}."""
    order = random.permutation(len(source.labels))
    half = len(order) // 2
    make_folds(write_images("half", source, order[:half], source.labels), near=0)
    return {
        what: shift(write_images(f"test {number}", source, order[half:], factors=factors), name="half", model=MODEL)
        for number, (what, factors) in enumerate(SHIFTS.items())
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m bench.planted", description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder of class folders, a zip of one, or a CSV")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    random = np.random.default_rng(options.seed)
    try:
        source = open_source(options.data)
        with tempfile.TemporaryDirectory() as place, contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
            accuracy, named, share, recall = find_wrong_labels(source, random)
            Path("shifts").mkdir()
            with contextlib.chdir("shifts"):
                found = find_shifts(source, random)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{len(source.labels)} images, {WRONG:.0%} with a wrong label, {MODEL} frozen, {accuracy:.3f} accurate: {named} "
        f"suspects, wrong are {share:.0%} of the first {FIRST}; {recall:.0%} of all that are wrong are suspects\n"
    )
    told = [
        {
            "test half": what,
            "AUC": record["told"]["features"]["auc"],
            "95 %": "{:.3f} to {:.3f}".format(*record["told"]["features"]["interval"]),
            "called": record["told"]["features"]["verdict"],
        }
        for what, record in found.items()
    ]
    print(text_table(pd.DataFrame(told), 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
