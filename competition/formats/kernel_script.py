"""This script runs on Kaggle: it trains a run, or predicts test images, with the toolkit beside it in the dataset.

`make kernel` and `make submission FORMAT=kaggle-kernel` put it there. No network is needed. It can be tried elsewhere:
KAGGLE_ROOT=<folder> stands for /kaggle, with the dataset's files and the competition's below <folder>/input.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(os.environ.get("KAGGLE_ROOT", "/kaggle"))
INPUT, OUTPUT = ROOT / "input", ROOT / "working"
DEPTH = 6  # folders below INPUT that are looked into
PAYLOAD, JOB = "toolkit.zip", "toolkit-job.json"  # Kaggle unpacks the zips of a dataset: then JOB is found


def main():
    work = Path(tempfile.mkdtemp())
    payload = open_payload(work / "payload")
    job = json.loads((payload / JOB).read_text("utf-8"))
    copy(payload / "work", work / "run")
    if job["image"]:
        place_images(job, work / "run", payload)
    site = install(sorted((payload / "wheels").glob("*.whl")), work / "site")
    arguments = [place(argument, payload) for argument in job["arguments"]]
    paths = [str(site), str(payload / "code"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    print("python -m competition", *arguments, flush=True)
    command = [sys.executable, "-m", "competition", *arguments]
    code = subprocess.run(command, cwd=work / "run", env=environment).returncode
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for source, target in job["output"].items():  # a failed training hands over what it finished
        write(work / "run" / source, OUTPUT / target)
    shutil.rmtree(work)
    if code:
        sys.exit(code)


def find(fits, what):
    """The first folder below INPUT that fits, those near the top first."""
    level = [INPUT] if INPUT.is_dir() else []
    for _ in range(DEPTH):
        if found := next((folder for folder in level if fits(folder)), None):
            return found
        level = [
            Path(entry)
            for folder in level
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
            if entry.is_dir()
        ]
    there = sorted(path.name for path in INPUT.glob("*"))
    sys.exit(
        f"error: {what} found nowhere below {INPUT}, which holds: {', '.join(there) or 'nothing'}; add to this "
        "kernel the dataset or the competition that has it"
    )


def open_payload(folder):
    """The folder of the dataset's files: where Kaggle has unpacked them, or `folder`, where they are unpacked now."""
    found = find(lambda folder: (folder / JOB).is_file() or (folder / PAYLOAD).is_file(), PAYLOAD)
    if (found / JOB).is_file():
        return found
    with zipfile.ZipFile(found / PAYLOAD) as archive:
        archive.extractall(folder)
    return folder


def copy(source, target):
    """Copy the files of a folder; unlike those of a dataset they can be changed."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def place_images(job, work, payload):
    """Write into the fold table's record where the images are here: in the payload, or anywhere below INPUT."""

    def fits(folder):
        image = folder / job["image"]
        return image.is_file() and hashlib.sha256(image.read_bytes()).hexdigest() == job["sha256"]

    packed = payload / "images"
    folder = packed if fits(packed) else find(fits, f"the training image {job['image']}, as it was at home,")
    path = work / "folds" / f"{job['table']}.json"
    record = json.loads(path.read_text("utf-8")) | {"data": folder.as_posix(), "root": ""}
    path.write_text(json.dumps(record), "utf-8")


def place(argument, payload):
    """The argument itself, or the path that [where, name] means: in the payload, or where INPUT has it."""
    if isinstance(argument, str):
        return argument
    where, name = argument
    return str((payload if where == "payload" else find(lambda folder: (folder / name).exists(), name)) / name)


def install(wheels, site):
    """Put what Kaggle's image lacks, or has in another version, in front of the rest."""
    if wheels:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site, *wheels],
            check=True,
        )
    return site


def write(source, target):
    """A file, or a folder as one zip."""
    if source.is_dir():
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith(".")):
                archive.write(path, path.relative_to(source.parents[2]))  # runs/<table>/<run>/...
    elif source.exists():
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
