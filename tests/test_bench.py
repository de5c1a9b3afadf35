"""The bench: its table and results.csv, what becomes of a theme that fails, and each measurement once on tiny data."""

import importlib.util
import itertools
import os
import shutil
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders

from bench import __main__ as program
from bench import accuracy, finetune, frozen, gpu, heads, scale, startup, step
from bench.figures import Figure, Options
from bench.reference import run_loop
from bench.tools import call_apart, copy_images, deal, stream_apart
from competition.base import files
from competition.data import images
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.sources import open_source
from competition.models.backbones import backbone_names, build_backbone
from competition.training import train_folds

SLOW = Figure("a", "s", 3.0, 2.0, 3, "<= 0.04", 'a, "b"\nc')
QUICK = Figure("b", "accuracy", -0.001, target=">= -0.005")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 pictures of 16x16 in 2 classes."""
    return class_folders(tmp_path_factory.mktemp("data") / "Zwei Arten", {"b c": 20, "é": 20}, height=16, width=16)


@pytest.fixture
def options(data, tmp_path):
    return Options(data, tmp_path, quick=True)


@pytest.fixture
def in_process(monkeypatch):
    """Measurements in this process, where TensorFlow is loaded already."""
    for module in (accuracy, frozen, heads, startup):
        monkeypatch.setattr(module, "call_apart", lambda function, *arguments: function(*arguments))


def stub(theme, options):
    """In place of the themes, in their processes."""
    assert options.work.is_dir() and not any(options.work.iterdir()) and options.data.is_absolute()
    print("what a theme prints is not the bench's")
    yield SLOW if theme == "frozen" else QUICK
    if theme == "finetune":
        raise ValueError("no such\nluck")
    if theme == "step":
        os.kill(os.getpid(), signal.SIGKILL)


def bench(data, monkeypatch, *arguments):
    monkeypatch.setattr(program, "measure_theme", stub)
    return program.main(["--data", str(data), "--results", "results.csv", *arguments])


@pytest.mark.parametrize(
    "line, words",
    [
        ("SEED=1", "make bench: unknown variable SEED=, expected one of DATA, ONLY, RESULTS, QUICK, LONG"),
        ("QUIK=1", "; did you mean QUICK=?"),
        ("QUICK=1 LONG=1", "QUICK=1 and LONG=1: expected one of them"),
        ("QUICK=0 LONG=1 ONLY=nothing", "ONLY=nothing: found nothing"),
    ],
)
def test_make_s_variables_are_read(line, words, capsys):
    assert program.main(line.split()) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def test_rows_and_a_theme_that_fails_or_dies(data, workdir, monkeypatch, capfd):
    assert bench(data, monkeypatch, "--quick", "--only", "frozen,finetune,step,scale") == 1
    rows = pd.read_csv("results.csv", dtype=str, keep_default_na=False)
    assert rows["figure"].tolist() == ["a", "b", "finetune", "b", "step", "b"]
    assert rows["reached"].tolist() == ["no", "yes", "failed", "yes", "failed", "yes"]
    assert rows["note"][2] == "failed: ValueError: no such luck" and "exit code -9" in rows["note"][4]
    first = rows.iloc[0]
    assert first[["ours", "reference", "ratio", "n", "unit", "note"]].tolist() == ["3", "2", "1.5", "3", "s", SLOW.note]
    assert set(rows["data"]) == {"Zwei Arten, 40 images, 2 classes, 16x16"} and set(rows["mode"]) == {"quick"}
    assert "GiB" in first["hardware"] and "numpy" in first["versions"] and first["date"] > "2024"
    out = capfd.readouterr().out
    assert "is not the bench's" not in out and "failed: ValueError: no such luck" in out and "<= 0.04" in out

    before = Path("results.csv").read_bytes()
    assert bench(data, monkeypatch, "--only", "frozen") == 0
    assert Path("results.csv").read_bytes().startswith(before)
    assert pd.read_csv("results.csv")["mode"].tolist() == ["quick"] * 6 + ["default"]
    assert sorted(path.name for path in Path().iterdir()) == ["results.csv"]


def test_without_tensorflow_themes_are_absent(data, workdir, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    assert bench(data, monkeypatch, "--only", "frozen,gpu") == 0
    rows = pd.read_csv("results.csv", dtype=str, keep_default_na=False)
    assert rows["figure"].tolist() == ["frozen", "b"] and rows["reached"].tolist() == ["absent", "yes"]
    assert rows["note"][0].startswith("TensorFlow is not importable")


def test_the_processor_and_what_is_measured_beside(monkeypatch):
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t: avx2 avx512_bf16\n"
    assert {"opencv-python-headless", "keras"} < set(program._versions())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda path, encoding=None: text)
        assert program._processor() == "AMD EPYC (family 25 model 17), avx512_bf16"
        text = "model name : Neoverse\n"
        assert program._processor() == "Neoverse, no bfloat16 units"


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA L4", 60),
        ("NVIDIA L40S", 183),
        ("NVIDIA L40", None),
        ("Tesla T4", 8.1),
        ("NVIDIA A100-SXM4-80GB", 156),
        ("NVIDIA A10G", 35),
    ],
)
def test_a_device_is_known_by_its_whole_name(name, peak):
    assert gpu.find_peak(name, "float32", 1e12) == peak


def test_mistakes_end_with_one_line(data, workdir, monkeypatch, capsys):
    for arguments, words in ((["--only", "frozen,stpe"], "stpe"), (["--data", "nowhere"], "nowhere")):
        assert bench(data, monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert words in error and error.startswith("error: ") and error.count("\n") == 1
    assert not any(Path().iterdir())


@pytest.mark.parametrize(
    "figure, reached",
    [
        (Figure("a", "s", 1.0, 25.0, target="<= 0.04"), "yes"),
        (Figure("a", "s", 1.1, 25.0, target="<= 0.04"), "no"),
        (Figure("a", "s", 0.951, 1.0, target=">= 0.95"), "yes"),
        (Figure("a", "s", 0.949, 1.0, target=">= 0.95"), "no"),
        (Figure("a", "accuracy", -0.006, target=">= -0.005"), "no"),
        (Figure("a", "values", 0.0, target="<= 0"), "yes"),
        (Figure("a", "s", 1.0, 0.0, target="<= 0.04"), "absent"),
        (Figure("a", "s", None, 1.0, target="<= 0.04"), "absent"),
        (Figure("a", "s", 1.0), ""),
    ],
)
def test_is_reached(figure, reached):
    assert program.is_reached(figure) == reached


def test_processes_of_their_own():
    assert call_apart(os.getpid) != os.getpid()
    with pytest.raises(RuntimeError, match="TypeError"):
        call_apart(len, 1)
    numbers = stream_apart(range, 3)
    assert next(numbers) == 0
    numbers.close()  # ends the process as well


def deep():
    """A process that starts another one and dies once that is at work."""
    yield from stream_apart(endless)


def endless():
    yield os.getpid()
    time.sleep(600)


def test_no_process_is_left_behind():
    numbers = stream_apart(deep)
    process = next(numbers)
    os.kill(process, 0)
    numbers.close()  # kills the one between
    end = time.time() + 60
    with pytest.raises(ProcessLookupError):
        while time.time() < end:
            os.kill(process, 0)
            time.sleep(0.05)


def test_copy_images(data, tmp_path):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(data.rglob("*.png")):
            file.write(path, path.relative_to(data))
    for number, source in enumerate((data, archive)):
        copied = open_source(copy_images(source, tmp_path / str(number), 7, 2))
        assert len(copied.images) == 8 and copied.classes == ["000", "001"]
        assert {copied.read(image) for image in copied.images} <= {path.read_bytes() for path in data.rglob("*.png")}
    assert len(open_source(copy_images(data, tmp_path / "all", 1000, 2)).images) == 40
    few = open_source(copy_images(data, tmp_path / "few", 7, 6))
    assert [few.labels.count(label) for label in few.classes] == [6, 6], "at least as many of each class as folds"


def test_folds_are_as_many_as_the_smallest_class_allows_and_photographs_not_too_large(tmp_path, workdir):
    few = class_folders(tmp_path / "few", {"a": 12, "b": 3}, height=300, width=448)
    table = deal(few, "few", 10)
    assert (table.name, table.k, table.size) == ("few", 3, (150, 224))
    assert deal(class_folders(tmp_path / "more", {"a": 12, "b": 6}, height=16, width=24)).size == (16, 24)


def test_the_reference_loop(data, workdir):
    table = make_folds(data, folds=2)
    images = load_images(table)
    loop = run_loop(table, images, "baseline", frozen_epochs=2, full_epochs=1)
    assert loop.oof.shape == (40, 2) and loop.extrapolated == "" and loop.seconds > 0
    np.testing.assert_allclose(loop.oof.sum(1), 1, atol=1e-5)
    assert np.ptp(loop.oof[:, 0]) > 0

    part = run_loop(table, images, "baseline", frozen_epochs=50, run_epochs=3, most_seconds=1e-9)
    assert part.extrapolated == "extrapolated from 1 of 2 folds, 3 of 50 epochs each"
    assert (np.isnan(part.oof[:, 0]) == (table.fold == 1)).all()


def test_frozen(options, in_process):
    """With a network that has nothing to freeze: how it is timed and compared is the same."""
    settings = ("epochs=2", "batch_size=8", "views=identity")
    figures = list(frozen.measure(options, "baseline", "report", settings, epochs=4))
    assert [figure.unit for figure in figures] == ["s", "s", "accuracy"]
    assert all(figure.ours > 0 and figure.reference > 0 for figure in figures[:2]) and figures[2].ours is None
    assert "extrapolated from 1 of 5 folds, 3 of 4 epochs" in figures[0].note


def test_heads(options, in_process):
    ranked, grid = heads.measure(options)
    assert ranked.ours > 0 and ranked.n == 40 and "efficientnet_lite1" not in ranked.note
    assert grid.ours > 0 and grid.reference > 0 and grid.n == 12


def test_finetune(options):
    (figure,) = finetune.measure(options, "baseline")
    assert figure.ours > 0 and figure.reference > 0 and figure.n == 3 and figure.target == ">= 0.95"


def test_accuracy(options, in_process, workdir):
    assert all(figure.ours is None for figure in accuracy.measure(options))
    passes, seconds = accuracy.measure(replace(options, quick=False), "baseline")
    steps = [len(pd.read_csv(options.work / f"runs/accuracy/{run}/fold_0/history.csv")) for run in ("report", "best")]
    assert passes.reference == 2 * 64 * steps[0], "32 images to train on are repeated to a batch of 64"
    assert passes.ours in (2 * 32 * steps[1], np.inf) and steps[1] <= accuracy.count_epochs(
        make_folds(options.data, name="x", folds=5), passes.reference / 8
    )
    assert passes.n == 8 and seconds.reference > 0 and "report ends at" in passes.note

    shutil.rmtree(options.work / "runs")
    effort = accuracy.train_until(options.work, "baseline", "best", accuracy=0.0)
    assert (effort.epochs, effort.passes) == (1, 64), "it stops with the epoch that reaches it"


def test_gpu(options, monkeypatch):
    figures = list(gpu.measure(replace(options, quick=False)))
    assert len(figures) == 9 and all(figure.ours is None and "no GPU" in figure.note for figure in figures)

    monkeypatch.setattr(gpu, "has_gpu", lambda: True)
    monkeypatch.setattr(gpu, "describe_gpu", lambda: "Tesla T4")
    for name, value in {"MODELS": ["scratch"], "SIZES": [16], "PRECISIONS": ["float32"], "BATCH": 4}.items():
        monkeypatch.setattr(gpu, name, value)
    step, report = gpu.measure(options)
    assert 0 < step.ours < step.reference and report.ours is None


def test_flops():
    """ResNet50 at 224 pixels: 3.86 billion multiplications and additions (He et al. 2016, table 1: 3.8)."""
    assert gpu.count_flops(build_backbone("resnet50", (224, 224))) / 2e9 == pytest.approx(3.86, abs=0.05)


def test_startup(options, in_process, monkeypatch):
    assert list(startup.measure(options, "baseline"))[-1].ours is None
    for path in options.work.iterdir():
        shutil.rmtree(path)
    figures = list(startup.measure(replace(options, quick=False), "baseline"))
    assert [figure.unit for figure in figures] == ["s", "s", "MB", "values"]
    assert figures[1].n == 9 and figures[1].reference == figures[0].ours
    assert 0.99 < figures[2].ratio < 2 and figures[3].n > 1000

    runs = Path(options.work, "runs/startup")
    assert figures[3].ours == startup._compare_fold(runs, 9)[0] == 0
    path = runs / "alone/fold_9/views.npz"
    with np.load(path) as saved:
        files.write_npz(path, probs=saved["probs"] + np.float32(1))
        assert startup._compare_fold(runs, 9)[0] >= saved["probs"].size


def test_scale_goes_the_way_of_train(data, workdir, monkeypatch):
    """By the toolkit's own training, each time from the beginning; what a stage took is told for one image."""
    for name, value in {"SHORT": 240, "WARM_UP": 64}.items():
        monkeypatch.setattr(scale, name, value)
    for name in ("open_source", "open_reader"):
        monkeypatch.setattr(images, name, getattr(images, name))  # so that they are put back
    calls = []
    train_table = train_folds.train_table
    monkeypatch.setattr(train_folds, "train_table", lambda job: calls.append(job.table) or train_table(job))
    scale.deal(data, 120)
    found = scale.run(data, 120)
    assert [len(table.frame) for table in calls] == [64, 64, 120, 120] and [table.name for table in calls][0] == "warm"
    assert all(0 < found[stage] < 1 for stage in (*scale.STAGES, "CPU")) and found["start"] > 0 < found["peak"]
    assert found["d"] == 256 and Path("runs/scale/round/fold_0/fold.json").exists()


def test_step(options, monkeypatch):
    monkeypatch.setattr(step, "measure_setup", lambda setup: (step.time_keras(setup), ""))
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda package: None)
    monkeypatch.setattr(step, "VARIANTS", ())
    monkeypatch.setattr(step, "COMPARED", ())
    monkeypatch.setattr(step, "MODELS", ("baseline",))
    figures = list(step.measure(options))
    assert len(figures) == 10 and all(figure.ours > 0 for figure in figures[:2])
    assert {program.is_reached(figure) for figure in figures[2:]} == {"absent"}


def test_a_setup_that_fails_or_comes_too_late_is_absent(options, monkeypatch):
    timings = {("training", 32): step.Timing(2.0, 20.0, 3), ("prediction", 32): step.Timing(8.0, 1.0, 3)}
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(step, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    answers = iter([(timings, ""), (None, "RuntimeError: no")])
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda package: None)
    monkeypatch.setattr(step, "measure_setup", lambda setup: next(answers))
    figures = list(step.measure(options))
    assert [figure.ours for figure in figures[:2]] == [2.0, 8.0] and not any(figure.ours for figure in figures[2:])
    assert all("PyTorch is not importable" in figure.note for figure in figures[2:6]), "they come before all variants"
    assert figures[6].reference == 2.0 and "RuntimeError: no" in figures[6].note
    assert all("LONG=1" in figure.note or "importable" in figure.note for figure in figures[8:])


def test_every_model_is_compared_before_anything_else(options, monkeypatch):
    monkeypatch.setattr(step, "lacks", lambda setup: "")
    tried = []
    monkeypatch.setattr(step, "measure_setup", lambda setup: tried.append((setup.model, setup.name)) or (None, "no"))
    list(step.measure(replace(options, quick=False)))
    wanted = [(model, name) for name in ("float32", "PyTorch eager", "PyTorch compiled") for model in step.MODELS]
    assert tried[: len(wanted)] == wanted
    assert len(set(tried)) == len(tried) and ("efficientnet_lite0", step.UNREPEATABLE) in tried


def test_without_a_limit_a_model_follows_another(options, monkeypatch):
    tried = []
    monkeypatch.setattr(step, "lacks", lambda setup: "")
    monkeypatch.setattr(step, "measure_setup", lambda setup: tried.append(setup.model) or (None, "no"))
    list(step.measure(replace(options, quick=False, long=True)))
    assert [model for model, _ in itertools.groupby(tried)] == [*step.MODELS, *step.FAMILIES]


def test_what_is_measured_of_a_model(options):
    setups = [setup.name for setup in step.list_setups("efficientnet_lite0", (96, 96), 5, Options(Path(), Path()))]
    assert setups[0] == "float32" and {"1 thread", "oneDNN off", "mixed_bfloat16"} < set(setups)
    long = Options(Path(), Path(), long=True)
    assert len(step.list_setups("vgg16", (96, 96), 5, long)) == 8
    assert len(step.list_setups("resnet50", (96, 96), 5, long)) == len(setups)
    assert set(step.MODELS + step.FAMILIES) <= set(backbone_names())
