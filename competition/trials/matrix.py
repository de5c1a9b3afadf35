"""Rehearse a trained model of every backbone family with several releases of the scorer's TensorFlow, and every format.

A small sample competition is drawn, each model is trained on it for a moment, from random weights, and packed; then
each scorer's own environment runs each zip. What is proven is that the zip works there, not that it is good. The other
formats are made of one family, for the project's own Python: a zip for Codabench, a CSV, and a kernel that runs in a
folder laid out like Kaggle's.
"""

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from competition.base import files
from competition.base.files import InputError, sha256_file
from competition.base.text import text_table
from competition.base.workspace import MATRIX_MD, RESULTS_CSV, Workspace
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.sources import open_reader
from competition.data.table import choose_sample
from competition.formats import codabench, codalab, make
from competition.models.presets import file_name
from competition.rehearsal.content import check_package
from competition.rehearsal.judged import KEPT
from competition.rehearsal.rehearsal import TOLERANCE, Conditions, RehearsalError, rehearse
from competition.rehearsal.scorer_environments import find_python, is_path
from competition.submission.ensemble import read_ensemble
from competition.submission.expected_answers import average_by_hand, average_halved
from competition.submission.package import build_package, pack_folder
from competition.training.double import double
from competition.training.train import train
from competition.trials.sample import write_sample

SCORERS = ("2.12.1", "2.15.1", "current")
FAMILIES = (
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "efficientnet_lite0",
    "convnext_tiny",
    "scratch",
)
FORMATS = ("codabench", "kaggle-csv", "kaggle-kernel")  # beside codalab, in which every family is packed
IMAGES, SIDE, REHEARSED = 64, 32, 8

# two epochs of all layers, fast enough for answers that differ from image to image
BRIEFLY = ("epochs=2", "rate=0.003", "batch_size=4", "image_size=0")
HEADS = ("frozen_epochs=5", "frozen_rate=0.03", "image_size=0")  # random weights are not worth freezing


@dataclass(frozen=True)
class Case:
    """A network that is packed in another way than a family's plain one."""

    model: str
    settings: tuple = BRIEFLY
    weights: str = "none"
    double: bool = False  # the first class against the rest, then the rest among themselves
    options: dict = field(default_factory=dict)  # fields of the Ensemble that are other ones


CASES = {  # by the name under which they may be asked for, and stand in the table
    "heads": Case("efficientnet_lite0", HEADS, "imagenet"),
    "hidden-layer": Case("efficientnet_lite0", (*HEADS, "head=8"), "imagenet"),
    "double": Case("scratch", double=True),
    "float16": Case("scratch", options={"half": True}),
}
COLUMNS = ("row", "scorer", "sha256", "MB", "result")


def rehearse_matrix(scorers=None, families=None, folder=None, formats=None, workspace=Workspace()):
    """Print and return a table of what became of each zip: DataFrame, a row a family, case or format, a column a scorer.

    scorers   "2.12.1,current": releases of TensorFlow, each in an environment that is built once (find_python),
              and the project's own Python; default: SCORERS
    families  "vgg16,scratch,heads": backbones and CASES; default: FAMILIES and all CASES
    folder    where they are trained; default: .scorers/matrix/ in the Workspace. What was trained before is not trained
              again. A zip that a scorer ran before is not run again, as results.csv there says. The table is written
              there as well, as matrix.md
    formats   "codabench,kaggle-csv": of FORMATS, made of the first family; default: all, "none": none

    InputError where an environment cannot be built, and, after the table, where anything fails.
    """
    scorers, families = _split(scorers) or list(SCORERS), _split(families) or [*FAMILIES, *CASES]
    formats = [] if formats == "none" else _split(formats) or list(FORMATS)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise InputError(f"FORMATS={unknown[0]}: expected some of {', '.join(FORMATS)}, or none")
    pythons = {
        name: find_python(
            None if name == "current" else name if "=" in name or is_path(name) else f"tensorflow=={name}", workspace
        )
        for name in scorers
    }
    workspace = Workspace(folder or workspace.matrix)
    rows, broken = [], []
    write_sample(workspace.sample_data, IMAGES, 0)
    table = make_folds(workspace.sample_train, name="matrix", folds=2, size=SIDE, workspace=workspace)
    kept = workspace.root / RESULTS_CSV
    for family in families:
        with files.scratch() as work:
            packed = _pack(family, table, work)
            rows.append(_try(family, packed, pythons, broken, kept))
    for format in formats if "current" in pythons else ():
        with files.scratch() as work:
            rows.append(_try_format(format, families[0], table, work, pythons["current"], broken, kept))
    frame = pd.DataFrame(rows).fillna("-")
    lines = [
        "",
        *(
            f"| {' | '.join(map(str, row))} |"
            for row in (frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False))
        ),
    ]
    files.write_text(
        workspace.root / MATRIX_MD,
        "Labels as the toolkit's, the largest difference of a probability, seconds to load.\n"
        + "\n".join(lines)
        + "\n",
    )
    print(f"\nlabels as the toolkit's, the largest difference of a probability, seconds to load\n{text_table(frame)}")
    print(f"\n{workspace.root / MATRIX_MD}: the same")
    if broken:
        raise InputError("; ".join(broken))
    return frame


def _try(name, packed, pythons, broken, kept, format="codalab"):
    """A row of the table: what each scorer made of a packed zip; what failed is added to `broken`."""
    zip_path, images, expected, entry = packed
    row = {"network": name, "format": format, "MB": f"{zip_path.stat().st_size / 1e6:.1f}"}
    for scorer, python in pythons.items():

        def run():
            found = rehearse(zip_path, images, expected, entry, Conditions(python=python))
            return f"ok, {found['probabilities_differ']:.0e}, {found['load_seconds']:.1f} s to load"

        row[scorer] = _once(f"{name} as {format}", scorer, zip_path, run, broken, kept)
    return row


def _once(row, scorer, path, run, broken, kept):
    """What `run` says, or FAILS; a file that was fine before is not run again. `kept`, a CSV, gets each result."""
    sha256 = sha256_file(path)
    before = list(csv.DictReader(kept.read_text("utf-8").splitlines())) if kept.exists() else []
    same = [line for line in before if (line["row"], line["scorer"], line["sha256"]) == (row, scorer, sha256)]
    if same and same[-1]["result"].startswith("ok"):
        print(f"{row} with {scorer}: {same[-1]['result']} (as before)", flush=True)
        return same[-1]["result"]
    start = time.time()
    try:
        result = run()
    except (RehearsalError, InputError) as error:
        result = "FAILS"
        broken.append(f"{row} with {scorer}: {error}")
    why = f": {broken[-1].split(': ', 1)[1]}" if result == "FAILS" else ""
    print(f"{row} with {scorer}: {result}{why} ({time.time() - start:.0f} s)", flush=True)
    line = dict(zip(COLUMNS, (row, scorer, sha256, f"{path.stat().st_size / 1e6:.1f}", result)))
    files.write_bytes(kept, files.csv_bytes(pd.DataFrame([*before, line], columns=list(COLUMNS))))
    return result


def _train(family, table):
    """The name of a family's or a Case's run, trained now or before."""
    case = CASES.get(family, Case(family))
    run = f"{file_name(family)}-quick"
    if case.double:
        double(
            case.model,
            table.classes[0],
            "quick",
            table.name,
            case.weights,
            run,
            overrides=case.settings,
            workspace=table.workspace,
        )
    else:
        train(case.model, "quick", table.name, case.weights, run, overrides=case.settings, workspace=table.workspace)
    return run, case


def _pack(family, table, work, layout=codalab.LAYOUT):
    """Train a family's or a Case's model and pack it: the zip, images, expected probabilities, its Entry."""
    run, case = _train(family, table)
    ensemble = dataclasses.replace(read_ensemble(table, run), **case.options)
    rows = choose_sample(table, REHEARSED)
    images = load_images(dataclasses.replace(table, frame=table.frame.iloc[rows]))
    expected, _ = average_by_hand(ensemble, table, images, rows)
    if ensemble.half:
        expected = average_halved(ensemble, table, images)
    build_package(ensemble, table, work / "package", layout.write_code)
    check_package(work / "package", table.data)
    pack_folder(work / "package", work / f"{file_name(family)}.zip")
    return work / f"{file_name(family)}.zip", images, expected, layout.entry


def _try_format(format, family, table, work, python, broken, kept):
    """A row of the table: what became of another format than CodaLab's, with the project's own Python."""
    if format == "codabench":
        return _try(family, _pack(family, table, work, codabench.LAYOUT), {"current": python}, broken, kept, format)
    run, _ = _train(family, table)
    rows = choose_sample(table, REHEARSED)
    expected, _ = average_by_hand(
        read_ensemble(table, run), table, load_images(dataclasses.replace(table, frame=table.frame.iloc[rows])), rows
    )
    test = work / "input" / "competition" / "test"
    test.mkdir(parents=True)
    reader = open_reader(table.data, table.root)
    for number, row in enumerate(rows):  # their names are their order
        image = table.images[row]
        (test / f"{number:03}{Path(image).suffix}").write_bytes(reader.read(image))
    path, write = (_csv if format == "kaggle-csv" else _kernel)(run, test, work, table.workspace)

    def compare():
        found = pd.read_csv(write())[table.classes].to_numpy()
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise InputError(f"probabilities differ by up to {difference:.2g}")
        return f"ok, {difference:.0e}"

    result = _once(f"{family} as {format}", "current", path, compare, broken, kept)
    return {"network": family, "format": format, "MB": f"{path.stat().st_size / 1e6:.1f}", "current": result}


def _csv(run, test, work, workspace):
    path = make("kaggle-csv", "matrix", run, workspace, test=test, probabilities=True)
    return path, lambda: path


def _kernel(run, test, work, workspace):
    """A kernel's payload, and a function that runs the kernel below `work` in place of /kaggle: its submission.csv."""
    folder = make("kaggle-kernel", "matrix", run, workspace, kaggle_user="me", competition="some", probabilities=True)
    payload = folder / "dataset" / "toolkit.zip"

    def run_it():
        place = work / "input" / "files"
        place.mkdir()
        shutil.copy(payload, place)
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        done = subprocess.run(
            [sys.executable, folder.absolute() / "kernel.py"],
            cwd=work,
            capture_output=True,
            text=True,
            errors="replace",
            env=kept | {"KAGGLE_ROOT": str(work), "HOME": str(work), "CUDA_VISIBLE_DEVICES": "-1"},
        )
        if done.returncode:
            raise InputError(f"the kernel fails: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        return work / "working" / "submission.csv"

    return payload, run_it


def _split(names):
    return [name.strip() for name in (names or "").split(",") if name.strip()]
