"""Run a zip as a scorer would, in a fresh and isolated process, and compare its answers with those expected."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.files import InputError

TOLERANCE = 1e-4  # of probabilities; labels may differ only where the first two classes are closer than that
CPU = "-1"  # CUDA_VISIBLE_DEVICES of the rehearsal: the GPU's memory is this process'


@dataclass(frozen=True)
class Job:
    """One call of a zip's code, with the first `count` images, None for all, maybe for probabilities too."""

    count: int | None
    dtype: str
    tensor: bool = False
    probabilities: bool = True

    def describe(self, n):
        count = n if self.count is None else min(n, self.count)
        return f"{count} {self.dtype} {'tensor' if self.tensor else 'array'}"


@dataclass(frozen=True)
class Entry:
    """How a format's scorer makes the class in `model.py`, and what it wants of `predict`."""

    class_name: str = "model"
    with_path: bool = True  # made with the path of the folder that holds the zip's files, or without arguments
    returns: str = "tensor"  # integers as a "tensor" or as a numpy "array"


# A zip is rehearsed on these calls; the last one tells its speed.
JOBS = (Job(1, "float32", tensor=True), Job(0, "uint8"), Job(7, "float64"), Job(None, "uint8"))


class RehearsalError(Exception):
    """A zip does not do what it must; one line."""


# Run by `python -I -c` with these arguments: the unpacked zip, images.npy, jobs and Entry as JSON, where answers go
SCORER = """
import json, sys, time
folder, images, jobs, entry, answers = sys.argv[1:]
entry = json.loads(entry)
sys.path.insert(0, folder)
import numpy as np
start = time.perf_counter()
import model
import tensorflow as tf
network = getattr(model, entry["class_name"])(*[folder] * entry["with_path"])
found = {"load_seconds": time.perf_counter() - start}
images = np.load(images)
for number, job in enumerate(json.loads(jobs)):
    batch = images[: job["count"]].astype(job["dtype"])
    batch = tf.constant(batch) if job["tensor"] else batch
    start = time.perf_counter()
    labels = network.predict(batch)
    found[f"seconds{number}"] = time.perf_counter() - start
    right = tf.is_tensor(labels) if entry["returns"] == "tensor" else isinstance(labels, np.ndarray)
    if not (right and tf.as_dtype(labels.dtype).is_integer):
        raise TypeError(f"predict returned {type(labels).__name__}, expected an integer {entry['returns']}")
    found[f"labels{number}"] = np.asarray(labels)
    if job["probabilities"]:
        found[f"probabilities{number}"] = np.asarray(network.predict_proba(batch))
if any(name.split(".")[0] == "competition" for name in sys.modules):
    raise ImportError("the zip's code imports this project")
np.savez(answers, **found)
"""


def rehearse(zip_path, images, expected, entry=Entry()):
    """Run a zip on images uint8 [n, h, w, 3] in a fresh process, as `entry` says; what was found, as a dict.

    Raises RehearsalError, one line, where it does not run, or where its answers are not the `expected`
    probabilities [n, C] within TOLERANCE, and the labels that these give.
    """
    answers = run_isolated(zip_path, images, JOBS, entry)

    order = np.sort(expected, axis=1)
    clear = order[:, -1] - order[:, -2] >= TOLERANCE
    largest = 0.0
    for number, job in enumerate(JOBS):
        labels, probabilities = answers[f"labels{number}"], answers[f"probabilities{number}"]
        wanted = expected[: job.count]
        if labels.shape != wanted.shape[:1] or probabilities.shape != wanted.shape:
            raise RehearsalError(
                f"for images as {job.describe(len(images))} its labels have the shape {list(labels.shape)} "
                f"and its probabilities {list(probabilities.shape)}, expected {list(wanted.shape)}"
            )
        wrong = int((labels != wanted.argmax(1))[clear[: job.count]].sum())
        difference = float(np.abs(probabilities - wanted).max(initial=0))
        largest = max(largest, difference)
        if wrong or not difference <= TOLERANCE:
            raise RehearsalError(
                f"for images as {job.describe(len(images))} {wrong} of its labels differ from the toolkit's "
                f"own average of the same members and views, probabilities by up to {difference:.2g} "
                f"(allowed {TOLERANCE:g})"
            )
    return {
        "images": len(images),
        "near_ties": int((~clear).sum()),
        "probabilities_differ": largest,
        "calls": [job.describe(len(images)) for job in JOBS],
        "load_seconds": float(answers["load_seconds"]),
        "images_a_second": len(images) / float(answers[f"seconds{len(JOBS) - 1}"]),
    }


def predict_zip(zip_path, images, entry=Entry()):
    """Class ids int64 [n] of images uint8 [n, h, w, 3], by a zip's own code in a fresh, isolated process.

    InputError when that fails.
    """
    job = Job(None, "uint8", probabilities=False)
    try:
        return run_isolated(zip_path, images, [job], entry)["labels0"].astype(np.int64)
    except RehearsalError as error:
        raise InputError(f"{zip_path}: {error}") from None


def run_isolated(zip_path, images, jobs, entry=Entry()):
    """Unpack a zip into a folder of its own and run it by `python -I`, without this project, on the CPU.

    Returns {"labels<i>", "probabilities<i>", "seconds<i>" of the i-th job's call of `predict`, "load_seconds" from
    the import of `model.py` to the loaded model}. Raises RehearsalError when the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        for part in ("zip", "home"):
            (folder / part).mkdir()
        with zipfile.ZipFile(zip_path) as archive:
            archive.extractall(folder / "zip")
        np.save(folder / "images.npy", images)
        kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
        quiet = {"CUDA_VISIBLE_DEVICES": CPU, "TF_CPP_MIN_LOG_LEVEL": "3"}
        jobs = json.dumps([dataclasses.asdict(job) for job in jobs])
        entry = json.dumps(dataclasses.asdict(entry))
        arguments = [folder / "zip", folder / "images.npy", jobs, entry, folder / "answers.npz"]
        process = subprocess.run(
            [sys.executable, "-I", "-c", SCORER, *map(str, arguments)],
            cwd=folder / "home", env=kept | quiet | {"HOME": str(folder / "home")}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace",
        )  # fmt: skip
        if process.returncode:
            last = ([line for line in process.stderr.splitlines() if line.strip()] or ["no message"])[-1]
            raise RehearsalError(f"it fails in a fresh process (exit code {process.returncode}): {last}")
        with np.load(folder / "answers.npz") as answers:
            return dict(answers)
