import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode, smooth

from competition import formats
from competition.base.files import InputError, read_json, sha256_bytes, sha256_file, write_json
from competition.base.workspace import Workspace
from competition.blending.blend import make_blend
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.formats import kaggle_kernel, kernel_script
from competition.formats.kaggle_kernel import fetch_wheels, make_training, take
from competition.runs.oof import read_oof
from competition.runs.record import all_runs
from competition.submission.score_log import read_log
from competition.training.train import train

RUNS = Workspace().runs
KERNELS = Workspace().kernels

SETTINGS = ["epochs=2", "rate=0.003", "patience=2"]  # whose epochs no kernel takes along


def write_wheel(folder, name, code):
    """The smallest wheel: a module of one line."""
    info = f"{name}-1.0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def run_kernel(folder, root, unpacked=False):
    """Run a kernel as Kaggle does, below `root` in place of /kaggle; returns the finished process."""
    name = read_json(folder / "kernel-metadata.json")["dataset_sources"][0].split("/")[1]
    place = root / "input" / name
    place.mkdir(parents=True)
    if unpacked:
        with zipfile.ZipFile(folder / "dataset" / "toolkit.zip") as archive:
            archive.extractall(place / "toolkit")
    else:
        shutil.copy(folder / "dataset" / "toolkit.zip", place)
    (root / "working").mkdir(exist_ok=True)
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if key in os.environ}
    return subprocess.run(
        [sys.executable, folder / "kernel.py"],
        cwd=root / "working",
        text=True,
        capture_output=True,
        env=kept | {"KAGGLE_ROOT": str(root), "HOME": str(root)},
    )


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A work folder with folds and a training kernel, which has been run in a folder like Kaggle's."""
    root = tmp_path_factory.mktemp("kaggle")
    class_folders(root / "photos", {"oak": 6, "ash tree": 7}, height=12, width=16)
    (root / "home").mkdir()
    with (
        contextlib.chdir(root / "home"),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        make_folds(root / "photos", name="toy", folds=2)
        # a module that Python imports by itself
        write_wheel(KERNELS / "wheels", "sitecustomize", "print('greetings from a wheel')")
        patch.setattr(kaggle_kernel, "WHEELS", ("sitecustomize",))
        patch.setattr(kaggle_kernel.metadata, "version", lambda name: "1.0")
        folder = make_training("baseline", run="far", overrides=SETTINGS, kaggle_user="me")
    done = run_kernel(root / "home" / folder, root / "far")
    return root, folder, printed.getvalue(), done


@pytest.fixture
def home(competition, tmp_path, monkeypatch):
    """The current directory is a copy of the work folder."""
    shutil.copytree(competition[0] / "home", tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(kaggle_kernel, "fetch_wheels", lambda workspace: [])
    return competition[0]


def test_the_folder_to_push(competition):
    root, folder, printed, _ = competition
    folder = root / "home" / folder
    assert folder.name == "toy-train-far"
    assert sorted(path.name for path in folder.iterdir()) == ["dataset", "kernel-metadata.json", "kernel.py"]
    kernel, dataset = (read_json(folder / name) for name in ("kernel-metadata.json", "dataset/dataset-metadata.json"))
    assert kernel["id"] == "me/toy-train-far" and kernel["title"].replace(" ", "-") == "toy-train-far"
    assert kernel["enable_gpu"] is True and kernel["enable_internet"] is False and kernel["is_private"] is True
    assert kernel["dataset_sources"] == [dataset["id"]] == ["me/toy-train-far-files"]
    for line in (
        "kaggle kernels push -p kernels/toy-train-far",
        "kaggle datasets create -p kernels/toy-train-far/dataset",
        "kaggle kernels output me/toy-train-far",
        "make take FROM=",
    ):
        assert line in printed
    with zipfile.ZipFile(folder / "dataset/toolkit.zip") as archive:
        names = archive.namelist()
        assert {"images/oak/000.png", "work/folds/toy.csv", "code/competition/recipes/quick.toml"} <= set(names)
        for name in names:  # nobody's paths go to Kaggle
            assert str(root).encode() not in archive.read(name) and "__pycache__" not in name
    record = read_json(root / "home/kernels/toy-train-far.json")
    assert record["format"] == "kaggle-kernel" and record["sha256"] == sha256_file(folder / "dataset/toolkit.zip")


def test_kaggle_s_own_package_finds_nothing_wrong(competition, monkeypatch):
    """All that it checks before it asks for an account, where it is installed."""
    api = pytest.importorskip("kaggle.api.kaggle_api_extended")
    found = api.KaggleApi()
    found.config_values = {"username": "me"}
    folder = competition[0] / "home" / competition[1]

    def stop(*_, **__):
        raise RuntimeError("asked for an account")

    for name in ("build_kaggle_client", "dataset_status"):
        monkeypatch.setattr(found, name, stop)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for check, part in ((found.kernels_push, folder), (found.dataset_create_new, folder / "dataset")):
            with pytest.raises(RuntimeError, match="asked for an account"):
                check(str(part))
    assert "does not resolve" not in printed.getvalue()


def test_a_kernel_trains_what_is_taken_in_and_blends(competition, home):
    done = competition[3]
    assert done.returncode == 0, done.stderr
    assert "OOF accuracy" in done.stdout and sorted(os.listdir(home / "far/working")) == ["run-toy-far.zip"]
    assert "greetings from a wheel" in done.stdout
    assert take(home / "far/working") == [RUNS / "toy/far"]
    table = read_folds()
    train("baseline", run="near", overrides=SETTINGS)
    assert read_json(RUNS / "toy/far/run.json")["config"] == read_json(RUNS / "toy/near/run.json")["config"]
    far, near = (read_oof(RUNS / "toy" / run, table).probs for run in ("far", "near"))
    np.testing.assert_allclose(far, near, atol=1e-5)
    assert all_runs(Workspace().competition("toy")) == {"far": True, "near": True}
    assert set(make_blend("toy", ["far", "near"])["weights"]) <= {"far", "near"}
    before = sha256_file(RUNS / "toy/far/oof.npz")
    take(home / "far/working/run-toy-far.zip")
    assert sha256_file(RUNS / "toy/far/oof.npz") == before


def test_another_kernel_predicts(competition, home, tmp_path):
    take(home / "far/working")
    test = tmp_path / "root/input/competitions/some/data/test"
    test.mkdir(parents=True)
    for number in range(3):
        (test / f"{number}.png").write_bytes(encode(smooth(50 + number, 12, 16)))
    (test / "3.png").write_bytes(b"")
    (test.parent / "sample_submission.csv").write_text("id,oak,ash tree\n2,0,0\n0,0,0\n1,0,0\n3,0,0\n4,0,0\n")
    folder = formats.make(
        "kaggle-kernel", run="far", kaggle_user="me", competition="some", sample="sample_submission.csv"
    )
    assert read_json(folder / "kernel-metadata.json")["competition_sources"] == ["some"]
    done = run_kernel(Path.cwd() / folder, tmp_path / "root", unpacked=True)
    assert done.returncode == 0, done.stderr
    assert "warning:" in done.stderr and "3.png: the file is empty" in done.stderr and "4: no such file" in done.stderr
    there = (tmp_path / "root/working/submission.csv").read_bytes()
    assert pd.read_csv(io.BytesIO(there))["id"].tolist() == [2, 0, 1, 3, 4]
    here = formats.make("kaggle-csv", run="far", test=test, sample=test.parent / "sample_submission.csv")
    np.testing.assert_allclose(pd.read_csv(io.BytesIO(there)), pd.read_csv(here), atol=1e-5)
    formats.make("kaggle-kernel", run="far", kaggle_user="me", competition="some", labels="ids", strict=True)
    with zipfile.ZipFile(KERNELS / "toy-predict-far/dataset/toolkit.zip") as archive:
        assert json.loads(archive.read("toolkit-job.json"))["arguments"][-3:] == ["--labels", "ids", "--strict"]
    record = read_json(KERNELS / "toy-predict-far.json")
    assert record["source"] == "run far"
    assert ("toy-predict-far", record["sha256"]) in [(row["zip"], row["sha256"]) for row in read_log()]


def test_a_kernel_of_the_sample_competition_leaves_its_predictions(home, tmp_path):
    """What lies in sample/ here lies in a kernel's own folders there, and its outputs are found."""
    sample = Workspace().sample
    make_folds(home / "photos", name="sample", folds=2, workspace=sample)
    assert Workspace().of("sample") == sample
    train("baseline", name="sample", run="far", overrides=SETTINGS, workspace=sample)
    test = tmp_path / "root/input/competitions/some/test"
    test.mkdir(parents=True)
    for number in range(3):
        (test / f"{number}.png").write_bytes(encode(smooth(50 + number, 12, 16)))
    folder = formats.make(
        "kaggle-kernel", "sample", "far", Workspace().of("sample"), kaggle_user="me", competition="some"
    )
    assert folder == KERNELS / "sample-predict-far" and len(read_log(sample)) == 1
    done = run_kernel(Path.cwd() / folder, tmp_path / "root")
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "root/working/submission.csv")["id"].tolist() == ["0.png", "1.png", "2.png"]


def test_a_training_kernel_of_the_sample_competition_is_taken_home(competition, home, tmp_path):
    """The same for a run: its kernel finds the table, `take` the competition that it belongs to."""
    sample = Workspace().sample
    make_folds(home / "photos", name="sample", folds=2, workspace=sample)
    folder = make_training(
        "baseline", name="sample", run="there", overrides=SETTINGS, kaggle_user="me", workspace=sample
    )
    with zipfile.ZipFile(folder / "dataset/toolkit.zip") as archive:
        assert {"work/folds/sample.csv", "work/folds/sample.json"} <= set(archive.namelist())
        assert json.loads(archive.read("toolkit-job.json"))["output"] == {"runs/sample/there": "run-sample-there.zip"}
    brought = tmp_path / "run-sample-there.zip"
    with zipfile.ZipFile(home / "far/working/run-toy-far.zip") as source, zipfile.ZipFile(brought, "w") as target:
        for name in source.namelist():
            target.writestr(name.replace("runs/toy/far/", "runs/sample/there/"), source.read(name))
    assert take(brought) == [sample.runs / "sample/there"]


def parts(archive, folder, keep):
    """A zip with what `keep` of the names in a zip."""
    target = folder / "run-toy-part.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as part:
        for name in filter(keep, source.namelist()):
            content = source.read(name)
            if name.endswith("/run.json"):
                content = json.dumps(json.loads(content) | {"finished": False}).encode()
            part.writestr(name, content)
    return target


def test_a_run_that_was_trained_in_parts_is_put_together(competition, home, tmp_path):
    whole = home / "far/working/run-toy-far.zip"
    for fold, finished in ((None, False), (0, False), (1, True)):
        take(parts(whole, tmp_path, lambda name: name.endswith("/run.json") or f"/fold_{fold}/" in name))
        assert all_runs(Workspace().competition("toy")) == {"far": finished}
    together = read_oof(RUNS / "toy/far", read_folds()).probs
    shutil.rmtree(RUNS / "toy/far")
    take(whole)
    assert np.array_equal(read_oof(RUNS / "toy/far", read_folds()).probs, together)


def test_what_is_no_run_of_this_table_is_refused(competition, home, tmp_path):
    whole = home / "far/working/run-toy-far.zip"
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        take(tmp_path / "nowhere")
    with pytest.raises(InputError, match="found home, expected run-<table>-<run>.zip"):
        take(tmp_path)
    (tmp_path / "run-half.zip").write_bytes(b"half of it")
    with pytest.raises(InputError, match="run-half.zip: not a whole zip"):
        take(tmp_path)
    with zipfile.ZipFile(tmp_path / "run-half.zip", "w") as archive:
        archive.writestr("../../evil.txt", "")
    with pytest.raises(InputError, match="expected one run"):
        take(tmp_path)
    take(whole)
    changed = read_json(RUNS / "toy/far/run.json")
    changed["config"]["recipe"]["seed"] = 9
    write_json(RUNS / "toy/far/run.json", changed)
    with pytest.raises(InputError, match="another run of that name is here already, with another config"):
        take(whole)
    shutil.rmtree(RUNS)
    with contextlib.redirect_stdout(io.StringIO()):
        make_folds(home / "photos", name="toy", folds=2, seed=1, force=True)
    with pytest.raises(InputError, match="run-toy-far.zip: run.json: made on another fold table"):
        take(whole)
    assert not (RUNS / "toy/far").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "KAGGLE_USER= is missing"),
        ({"kaggle_user": "me@home"}, "KAGGLE_USER=me@home: expected"),
        ({"kaggle_user": "me", "competition": "https://kaggle.com/c/x"}, "COMPETITION=https"),
        ({"kaggle_user": "me", "dataset": "photos"}, "DATASET=photos: expected <owner>/<dataset>"),
    ],
)
def test_names_that_cannot_be_on_kaggle(home, options, message):
    with pytest.raises(InputError, match=message):
        make_training("baseline", overrides=SETTINGS, **options)
    assert not (KERNELS / "toy-train-baseline-quick").exists()


def test_slugs_are_short_and_tell_names_apart():
    assert kaggle_kernel._slug("plants", "train", "vgg16-best") == "plants-train-vgg16-best"
    for words in (("a" * 60, "train", "b"), ("植物", "train", "r"), ("植木", "train", "r")):
        slug = kaggle_kernel._slug(*words)
        assert re.fullmatch("[a-z0-9][a-z0-9-]{4,43}", slug)
    assert kaggle_kernel._slug("植物", "x") != kaggle_kernel._slug("植木", "x")


def test_images_that_kaggle_has_are_not_packed_and_found_again(home, tmp_path):
    folder = make_training(
        "baseline", run="there", overrides=SETTINGS, only_fold=0, kaggle_user="me", dataset="you/photos"
    )
    with zipfile.ZipFile(folder / "dataset/toolkit.zip") as archive:
        assert not [name for name in archive.namelist() if name.startswith("images/")]
        job = json.loads(archive.read("toolkit-job.json"))
    assert job["arguments"][-2:] == ["--set", SETTINGS[-1]] and "--only-fold" in job["arguments"]
    done = run_kernel(Path.cwd() / folder, tmp_path / "root")
    assert done.returncode == 1
    assert "the training image ash tree/000.png, as it was at home, found nowhere" in done.stderr


def test_a_payload_that_tells_of_this_machine_is_refused(home):
    Path("mine.toml").write_text(f"batch_size = 4  # as in {home}/photos\n[scratch]\nepochs = 1\n")
    with pytest.raises(InputError, match="toolkit.zip: not written, recipe.toml holds the path"):
        make_training("baseline", "mine.toml", run="mine", kaggle_user="me", dataset="you/photos")


def test_the_kernel_looks_for_images_by_name_and_content(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_script, "INPUT", tmp_path / "input")
    for folder, content in (("decoy", b"other"), ("some/deep/train", b"right")):
        (tmp_path / "input" / folder / "oak").mkdir(parents=True)
        (tmp_path / "input" / folder / "oak" / "1.png").write_bytes(content)
    record = tmp_path / "work/folds/toy.json"
    write_json(record, {"data": "", "classes": ["oak", "ähre"]})
    job = {"table": "toy", "image": "oak/1.png", "sha256": sha256_bytes(b"right")}
    kernel_script.place_images(job, tmp_path / "work", tmp_path / "payload")
    found = read_json(record)
    assert found["data"] == (tmp_path / "input/some/deep/train").as_posix() and found["classes"] == ["oak", "ähre"]
    assert kernel_script.place(["input", "oak/1.png"], None) == str(tmp_path / "input/decoy/oak/1.png")
    for path in (tmp_path / "input/some", tmp_path / "input"):
        shutil.rmtree(path)
        with pytest.raises(SystemExit, match="the training image oak/1.png.*(decoy|nothing); add"):
            kernel_script.place_images(job, tmp_path / "work", tmp_path / "payload")


def test_without_network_a_line_says_which_wheels_are_missing(workdir, monkeypatch, capsys):
    monkeypatch.setattr(kaggle_kernel.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(kaggle_kernel, "WHEELS", ("keras", "greeting"))
    write_wheel(KERNELS / "wheels", "greeting", "")
    failed = subprocess.CompletedProcess([], 1, "", "Retrying\nERROR: No matching distribution found\n")
    monkeypatch.setattr(kaggle_kernel.subprocess, "run", lambda *_, **__: failed)
    assert [wheel.name for wheel in fetch_wheels()] == ["greeting-1.0-py3-none-any.whl"]
    error = capsys.readouterr().err
    assert "no wheels of keras, which pip could not fetch (ERROR: No matching" in error and error.count("\n") == 1


def test_a_table_on_kaggle_has_no_path_of_this_machine(tmp_path, workdir):
    data = class_folders(tmp_path / "far" / "photos", {"a": 4, "b": 4})
    files = sorted(data.rglob("*.png"))
    rows = [f"{file.relative_to(data).as_posix()},{file.parent.name}\n" for file in files]
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(rows))
    table = make_folds(tmp_path / "labels.csv", folds=2, images=str(data))
    assert str(tmp_path) in table.paths.json.read_text()
    there = Workspace(tmp_path / "there")
    there.folds.mkdir(parents=True)
    kaggle_kernel._copy_table(table, there)
    assert str(tmp_path) not in there.competition("labels").json.read_text()


def test_half_a_wheel_is_fetched_again(workdir, monkeypatch):
    """As a kill leaves one; what is fetched comes to lie there as a whole."""
    monkeypatch.setattr(kaggle_kernel.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(kaggle_kernel, "WHEELS", ("greeting",))
    write_wheel(KERNELS / "wheels", "greeting", "")
    (path,) = (KERNELS / "wheels").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])

    def fetch(command, **_):
        folder = Path(command[command.index("-d") + 1])
        (folder / path.name).write_bytes(whole)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(kaggle_kernel.subprocess, "run", fetch)
    assert fetch_wheels() == [path] and path.read_bytes() == whole
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_run_that_was_taken_in_by_half_is_taken_in_again(home, monkeypatch):
    """As after a kill between two of its parts; nothing but the run itself is left."""
    whole = home / "far/working/run-toy-far.zip"
    take(whole)
    before = {path.relative_to(RUNS): sha256_file(path) for path in RUNS.rglob("*.*") if path.is_file()}
    shutil.rmtree(RUNS)
    moved, replace = [], os.replace

    def stop(source, target):
        if any(path.is_dir() for path in moved):
            raise KeyboardInterrupt
        moved.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(kaggle_kernel.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            take(whole)
    assert not (RUNS / "toy/far/run.json").exists()
    assert take(whole) == [RUNS / "toy/far"]
    assert {path.relative_to(RUNS): sha256_file(path) for path in RUNS.rglob("*.*") if path.is_file()} == before


def test_a_full_disk_is_no_broken_zip(home, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(kaggle_kernel, "unpack_all", full)
    with pytest.raises(InputError, match="No space left on device: it needs .* free; make room there"):
        take(home / "far/working/run-toy-far.zip")
