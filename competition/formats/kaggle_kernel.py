"""Kaggle, a kernel: a folder to push, and a dataset beside it with all that it needs there without network.

Two kinds. `make` packs the blend or a run, to predict the competition's test images; `make_training` packs the images,
if Kaggle does not have them, and a backbone's weights, to train a run on Kaggle's GPU, which `take` brings home. Either
runs the toolkit itself: kernel_script.py finds everything below /kaggle/input and calls `python -m competition`.

The metadata are those that github.com/Kaggle/kaggle-cli documents (docs/kernels_metadata.md, datasets_metadata.md).
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from competition.base import files
from competition.base.archives import check_sizes, unpack_all
from competition.base.arrays import gigabytes
from competition.base.bars import UNLESS_SEEN, tqdm
from competition.base.files import InputError, sha256_file, versions, write_json, write_with
from competition.base.partial import partial_folder
from competition.base.text import shorten
from competition.base.workspace import (
    BACKBONE_FILE,
    HEAD_FILE,
    MODEL_FILE,
    OOF_CSV,
    OOF_NPZ,
    RUN_JSON,
    Workspace,
    check_run_name,
    fold_dir,
)
from competition.blending.forecast_report import print_forecast
from competition.data.sources import open_reader
from competition.data.sources.source import UNREADABLE
from competition.data.table import fold_numbers, read_folds
from competition.formats import kernel_script
from competition.models.presets import Preset, file_name, files_of
from competition.recipes.settle import settle
from competition.rehearsal.content import check_package
from competition.rehearsal.rehearsal import RehearsalError
from competition.runs import oof
from competition.runs.finish_run import finish_run, print_folds
from competition.runs.folder import is_done
from competition.runs.kinds import read_run
from competition.runs.record import locked, read_run_record
from competition.submission.ensemble import read_ensemble
from competition.submission.package import pack_folder
from competition.submission.record import record_of
from competition.submission.sample_csv import check_labels
from competition.submission.score_log import log_submission

# what Kaggle's image has in other versions, none of it compiled
WHEELS = ("keras", "albumentations", "albucore", "filelock")
KEPT = (RUN_JSON, OOF_CSV, OOF_NPZ, BACKBONE_FILE, MODEL_FILE, HEAD_FILE)  # what predicts
LONGEST = 50  # signs of a title on Kaggle
NEXT = """
kaggle datasets create -p {folder}/dataset        (once; later: kaggle datasets version -m again -p {folder}/dataset)
kaggle kernels push -p {folder}"""
NEXT_TRAINING = """
kaggle kernels output {user}/{slug} -p {folder}/output     (when it is done)
make take FROM={folder}/output"""


def make(
    name=None,
    run=None,
    kaggle_user=None,
    competition=None,
    dataset=None,
    test=None,
    sample=None,
    probabilities=False,
    labels=None,
    strict=False,
    hidden_n=None,
    hidden=None,
    workspace=Workspace(),
):
    """Write `kernels/<name>-predict/`: a kernel that writes submission.csv of the competition's test images.

    name, run            as of make.make_submission
    kaggle_user          whose kernel and dataset they are
    competition, dataset slugs of what has the test images on Kaggle: "plant-seedlings", or "<owner>/<dataset>"
    test, sample         what the test folder (or zip) and sample_submission.csv are called there; default "test"
    probabilities, labels, strict  as of kaggle_csv.make
    hidden_n, hidden     as of make.make_submission
    workspace            where the table and its runs lie; in the kernel they lie in the folder that it works in

    Returns the folder. InputError for whatever cannot be used.
    """
    check_labels(labels)
    table = read_folds(name, workspace)
    ensemble = read_ensemble(table, run, hidden_n, hidden)
    if not (competition or dataset):
        raise InputError(
            "COMPETITION= is missing, expected the name that the competition with the test images has in "
            "its address on Kaggle, or DATASET=<owner>/<dataset>"
        )
    arguments = ["predict", "--name", table.name, "--test", ["input", test or "test"]]
    arguments += ["--run", run] if run else []
    arguments += ["--sample", ["input", sample]] if sample else []
    arguments += ["--probabilities"] if probabilities else []
    arguments += ["--labels", labels] if labels else []
    arguments += ["--strict"] if strict else []
    job = _Job(table.name, arguments, {_at_home(table, table.paths.predictions): "submission.csv"})

    def stage(folder):
        for member, _ in ensemble.members:
            kept = {path for path in member.dir.rglob("*") if path.name in KEPT}
            for path in sorted(kept | set(member.weight_files(table.k))):
                _copy(path, folder / "work" / _at_home(table, path))
        if not run:
            path = table.paths.blend_json
            _copy(path, folder / "work" / _at_home(table, path))

    slug = _slug(table.name, "predict", run or "blend")
    folder, payload = _write(slug, table, job, stage, kaggle_user, competition, dataset)
    record = record_of(payload, ensemble, table, "kaggle-kernel")
    write_json(workspace.kernel_record(slug), record)
    log_submission(slug, record, workspace)
    print_forecast(ensemble.forecast, table.classes)
    print(f"{folder}: {ensemble.source}" + NEXT.format(folder=folder))
    return folder


def make_training(
    model,
    recipe="quick",
    name=None,
    weights="imagenet",
    run=None,
    only_fold=None,
    overrides=(),
    kaggle_user=None,
    competition=None,
    dataset=None,
    workspace=Workspace(),
):
    """Write `kernels/<name>-train-<run>/`: a kernel that trains a run on Kaggle's GPU, for `take` to bring home.

    competition, dataset  as of `make`, where they have the training images as they are here; by default the images go
                          into the kernel's dataset

    The others are those of train.train. Returns the folder. InputError for whatever cannot be used.
    """
    table = read_folds(name, workspace)
    settled = settle(table, model, weights, recipe, overrides)
    chosen, settings = settled.weights, settled.recipe
    if settings.synthetic:
        raise InputError(f"synthetic is {settings.synthetic}, expected 0: a kernel takes no GAN along")
    settled.size_inside()  # refuses what the model cannot take
    fold_numbers("ONLY_FOLD", only_fold, table)
    run = check_run_name(run or f"{file_name(settled.model)}-{Path(recipe).stem}")
    preset = settled.model if isinstance(settled.model, Preset) else None
    arguments = ["train", "--name", table.name, "--model", str(settled.model), "--run", run, "--again", "0"]
    arguments += ["--recipe", ["payload", "recipe.toml"] if Path(recipe).suffix == ".toml" else recipe]
    arguments += [
        "--weights",
        ["payload", "weights" if preset else f"weights/{chosen.path.name}"] if chosen.path else "none",
    ]
    arguments += ["--only-fold", str(only_fold)] if only_fold is not None else []
    arguments += [part for override in overrides for part in ("--set", override)]
    first = table.frame.iloc[0]
    job = _Job(
        table.name,
        arguments,
        {_at_home(table, table.paths.run(run)): f"run-{table.name}-{run}.zip"},
        first["image"],
        first["sha256"],
    )

    def stage(folder):
        for path in files_of(preset, chosen.path) if preset else [chosen.path] if chosen.path else []:
            _copy(path, folder / "weights" / path.name)
        if Path(recipe).suffix == ".toml":
            _copy(recipe, folder / "recipe.toml")
        if not (competition or dataset):
            _copy_images(table, folder / "images")

    slug = _slug(table.name, "train", run)
    folder, payload = _write(slug, table, job, stage, kaggle_user, competition, dataset)
    write_json(
        workspace.kernel_record(slug),
        {
            "format": "kaggle-kernel",
            "zip": payload.name,
            "sha256": sha256_file(payload),
            "bytes": payload.stat().st_size,
            "run": run,
            "arguments": arguments,
            "weights": chosen.sha256,
            "recipe": dataclasses.asdict(settings),
            "table": table.hash,
            "data": table.data_hash,
            "versions": versions(),
        },
    )
    print(f"{folder}: trains {run}" + (NEXT + NEXT_TRAINING).format(folder=folder, user=kaggle_user, slug=slug))
    return folder


def take(source, workspace=Workspace()):
    """Take in the runs that training kernels left, `run-*.zip` in a folder or one such zip, as runs of their tables.

    Their hashes of fold table and images must be those of the table here. A run that was trained in parts (ONLY_FOLD=)
    grows with each part, and gets its OOF with the last. Returns the runs' folders. InputError for what does not fit,
    and for another run of that name.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source}: no such file or folder, expected what `kaggle kernels output` brought")
    zips = [source] if source.is_file() else sorted(source.rglob("run-*.zip"))
    if not zips:
        there = sorted(path.name for path in source.iterdir())
        raise InputError(
            f"{source}: found {shorten(there) or 'nothing'}, expected run-<table>-<run>.zip, which a "
            "training kernel leaves"
        )
    return [_take(path, workspace) for path in zips]


def fetch_wheels(workspace=Workspace()):
    """The wheels of WHEELS in the versions that are installed here, from `kernels/wheels/` or fetched there by pip.

    Without network, or pip, a warning says which are missing; the kernel then takes what Kaggle's image has.
    """
    folder = workspace.wheels
    wanted = {name: metadata.version(name) for name in WHEELS}

    def there(name):
        return [path for path in sorted(folder.glob(f"{name}-{wanted[name]}-*.whl")) if _is_whole(path)]

    if missing := [name for name in wanted if not there(name)]:
        folder.mkdir(parents=True, exist_ok=True)
        with partial_folder(folder) as temporary:
            found = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--disable-pip-version-check",
                    "--retries=1",
                    "--timeout=10",
                    "--no-deps",
                    "--only-binary=:all:",
                    "-d",
                    temporary,
                    *(f"{name}=={wanted[name]}" for name in missing),
                ],
                capture_output=True,
                text=True,
                errors="replace",
            )
            for path in temporary.iterdir():
                os.replace(path, folder / path.name)
        if found.returncode:
            reason = (found.stderr.strip().splitlines() or ["no reason given"])[-1]
            files.warn(
                f"{folder}: no wheels of {shorten(missing)}, which pip could not fetch ({reason}); the kernel "
                "will use what Kaggle has of them. The same command with a network adds them"
            )
    return [path for name in wanted for path in there(name)[:1]]


def _is_whole(path):
    """Whether a wheel is there as a whole: every part of it has its checksum."""
    try:
        with zipfile.ZipFile(files.plain_file(path)) as wheel:
            return wheel.testzip() is None
    except files.BROKEN:
        return False


@dataclasses.dataclass(frozen=True)
class _Job:
    """What kernel_script.py reads: what to call, and what of its outputs goes where."""

    table: str
    arguments: list  # of `python -m competition`; [where, name] for a path that is known there only
    output: dict  # {path below the work folder: name in /kaggle/working}
    image: str | None = None  # of a training: an image, by which the others are found
    sha256: str | None = None


def _write(slug, table, job, stage, user, competition, dataset):
    """Write the kernel's folder; `stage` adds to what the dataset holds. Returns the folder and the dataset's zip."""
    sources = _check_names(user, competition, dataset)
    folder = table.workspace.kernels / slug
    payload = folder / "dataset" / kernel_script.PAYLOAD
    with files.scratch() as temporary:
        (temporary / kernel_script.JOB).write_text(json.dumps(dataclasses.asdict(job), indent=2), "utf-8", newline="\n")
        _copy_table(table, Workspace(temporary / "work"))
        package = Path(__file__).parents[1]
        shutil.copytree(package, temporary / "code" / package.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        for wheel in fetch_wheels(table.workspace):
            _copy(wheel, temporary / "wheels" / wheel.name)
        stage(temporary)
        try:
            check_package(temporary, table.data, apart=("code", "wheels", "images"))
        except RehearsalError as error:
            raise InputError(f"{payload}: not written, {error}") from None
        write_with(payload, lambda path: pack_folder(temporary, path))
    title = slug.replace("-", " ")
    write_json(
        folder / "dataset" / "dataset-metadata.json",
        {"id": f"{user}/{slug}-files", "title": f"{title} files", "licenses": [{"name": "other"}]},
    )
    write_json(
        folder / "kernel-metadata.json",
        {
            "id": f"{user}/{slug}",
            "title": title,
            "code_file": "kernel.py",
            "language": "python",
            "kernel_type": "script",
            "is_private": True,
            "enable_gpu": True,
            "enable_tpu": False,
            "enable_internet": False,
            "dataset_sources": [f"{user}/{slug}-files", *sources["dataset"]],
            "competition_sources": sources["competition"],
            "kernel_sources": [],
            "model_sources": [],
        },
    )
    files.write_bytes(folder / "kernel.py", Path(kernel_script.__file__).read_bytes())
    print(f"{payload}: {gigabytes(payload.stat().st_size)}")
    return folder, payload


def _check_names(user, competition, dataset):
    """{"dataset": [...], "competition": [...]} to take along; InputError for names that cannot be on Kaggle."""
    slug = r"[A-Za-z0-9][A-Za-z0-9-]*"
    if not user:
        raise InputError("KAGGLE_USER= is missing, expected your name on Kaggle, as in the address of your profile")
    for variable, value, pattern, expected in (
        ("KAGGLE_USER", user, slug, "a name as in the address of your profile"),
        ("COMPETITION", competition, slug, "its name in its address, such as plant-seedlings-classification"),
        ("DATASET", dataset, f"{slug}/{slug}", "<owner>/<dataset> as in its address"),
    ):
        if value and not re.fullmatch(pattern, value):
            raise InputError(f"{variable}={value}: expected {expected}")
    return {"dataset": [dataset] if dataset else [], "competition": [competition] if competition else []}


def _slug(*words):
    """A name for addresses on Kaggle, with room for "-files" behind it: what is left out or cut off is hashed."""
    text = "-".join(words)
    slug = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    most = LONGEST - len("-files")
    if len(slug) <= most and text.isascii():
        return slug
    return f"{slug[: most - 9].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _at_home(table, path):
    """A path of the table's Workspace from its root on: a kernel has it there, in the folder that it works in."""
    return path.relative_to(table.workspace.root).as_posix()


def _copy_table(table, workspace):
    """The fold table, without the path that the images have here."""
    paths = workspace.competition(table.name)
    _copy(table.paths.csv, paths.csv)
    record = files.read_json(table.paths.json) | {"data": "", "root": ""}
    record.pop("reading", None)  # how images were found here, with paths
    paths.json.write_text(json.dumps(record, ensure_ascii=False), "utf-8")


def _copy_images(table, folder):
    """The images of the fold table, each checked by its sha256."""
    source = open_reader(table.data, table.root)
    pairs = list(zip(table.images, table.frame["sha256"]))
    for image, sha256 in tqdm(pairs, "pack images", unit=" images", disable=UNLESS_SEEN):
        data = source.read(image)
        if files.sha256_bytes(data) != sha256:
            raise InputError(f"{image} in {table.data}: changed since `make folds` (other sha256), rerun that")
        path = folder / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _take(path, workspace):
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(path, archive.infolist(), archive.start_dir)
            names = archive.namelist()
            tops = {tuple(name.split("/")[:3]) for name in names}
            if len(tops) != 1 or not re.fullmatch(r"runs/[^/]+/[^/]+/.+", names[0]) or ".." in Path(names[0]).parts:
                raise InputError(f"{path}: found {shorten(names)}, expected one run, runs/<table>/<run>/...")
            ((_, name, run),) = tops
            table = read_folds(name, workspace.of(name))
            folder = table.paths.run(check_run_name(run))
            folder.parent.mkdir(parents=True, exist_ok=True)
            with partial_folder(folder.parent) as temporary:
                files.check_room(temporary, sum(info.file_size for info in archive.infolist()), f"the run of {path}")
                unpack_all(archive, temporary)
                brought = Path(temporary, *names[0].split("/")[:3])
                _check(brought, path, table)
                with locked(folder):
                    _merge(brought, folder, table)
    except InputError:
        raise
    except (*UNREADABLE, ValueError) as error:
        if files.is_full(error):
            files.raise_full(workspace.runs, error)
        if isinstance(error, OSError) and error.errno in files.UNWRITABLE:
            raise
        raise InputError(
            f"{path}: not a whole zip ({error}), expected what a training kernel leaves; bring it again"
        ) from None
    return folder


def _check(brought, path, table):
    """InputError unless what was brought is a run of the table, and its OOF, if it has one, is one of the table."""
    try:
        run = read_run(brought, table)
        if run.finished:
            oof.read_oof(brought, table)
    except InputError as error:
        raise InputError(f"{path}: {str(error).replace(f'{brought}/', '')}") from None


def _merge(brought, folder, table):
    """Take in a new run, or, of one that is not finished here, the folds that are not done here and are there."""
    here = folder / RUN_JSON
    if not here.exists():
        for part in sorted(brought.iterdir(), key=lambda part: part.name == RUN_JSON):  # that last: then it is a run
            if (folder / part.name).is_dir():  # of a call that was killed
                shutil.rmtree(folder / part.name)
            os.replace(part, folder / part.name)
    run, record = read_run(folder, table), read_run_record(folder)
    if brought.joinpath(RUN_JSON).exists():
        theirs = read_run_record(brought)
        if different := [key for key in ("config", "precision") if record.get(key) != theirs.get(key)]:
            raise InputError(
                f"{here}: another run of that name is here already, with another {different[0]}; rename "
                "that folder, or give the kernel another RUN="
            )
        if run.finished:
            print(f"{folder}: finished here already, nothing is taken in")
            return
        for fold in range(table.k):
            part = fold_dir(folder, fold).name
            if is_done(brought, fold, run.recipe) and not is_done(folder, fold, run.recipe):
                shutil.rmtree(folder / part, ignore_errors=True)  # begun here
                os.replace(brought / part, folder / part)
        if run.frozen and not (folder / BACKBONE_FILE).exists():
            os.replace(brought / BACKBONE_FILE, folder / BACKBONE_FILE)
    done = [fold for fold in range(table.k) if is_done(folder, fold, run.recipe)]
    if len(done) == table.k and not run.finished:
        finish_run(folder, table, run.recipe, record)
    print_folds(folder, table, done)
