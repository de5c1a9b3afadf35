"""The Python API: the same bytes as the commands write, from any folder, several workspaces at once, objects to look at."""

import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders

import competition
from competition import Competition, InputError
from competition.base import backend
from competition.cli.main import main
from competition.recipes.recipe import parse_override, write_override

pytest.importorskip("tensorflow")

CLASSES = {"ash & oak": 8, "<b>birch": 8, "été": 8}
LONG = "work of ünïcode " + "é" * 90  # twice that, a folder in a folder, and the path has more than 200 characters


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("data") / "my photos", CLASSES)


@pytest.fixture(scope="module")
def commands(photos, tmp_path_factory):
    """The folder in which the commands did what the fixture `played` does in Python."""
    folder, before = tmp_path_factory.mktemp("typed"), Path.cwd()
    try:
        os.chdir(folder)
        for line in (
            ["folds", f"DATA={photos}", "NAME=photos", "FOLDS=2", "SIZE=16x20"],
            ["train", "MODEL=baseline", "SET=epochs=2 batch_size=8", "RUN=one", "AGAIN=0"],
            ["train", "--model", "baseline", "--set", "epochs=1", "--set", 'augment=["hflip"]', "--again", "0"],
            ["blend", "--hidden-n", "50"],
            ["submission", "--max-mb", "100"],
            ["predict", "--test", str(photos / "été")],
        ):
            assert main(line) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def played(photos, tmp_path_factory):
    """(Competition, its results by name), in a folder with a long and odd name that is never the current one."""
    root = tmp_path_factory.mktemp("api") / LONG / LONG
    assert len(str(root)) > 200
    c = Competition(root, verbose=False)
    found = {
        "folds": c.folds(photos, "photos", 2, size=(16, 20)),
        "train": c.train("baseline", epochs=2, batch_size=8, run="one", again=False),
        "second": c.train("baseline", epochs=1, augment=["hflip"], again=0),
        "blend": c.blend(hidden_n=50),
        "submission": c.submission(max_mb=100),
        "predict": c.predict(photos / "été"),
    }
    return c, found


def test_a_command_and_the_method_of_the_same_arguments_write_the_same_bytes(commands, played):
    root = played[0].workspace.root
    for name in (
        "folds/photos.csv",
        "folds/photos.json",
        "runs/photos/one/oof.csv",
        "runs/photos/one/run.json",
        "runs/photos/one/fold_1/model.weights.h5",
        "runs/photos/baseline-quick/oof.csv",
        "runs/photos/baseline-quick/run.json",
        "runs/photos/blend/oof.csv",
        "submissions/photos.zip",
        "submissions/photos.csv",
    ):
        one, other = (folder / name for folder in (commands, root))
        assert one.read_bytes() == other.read_bytes(), name
    one, other = (
        json.loads((folder / "runs/photos/blend/blend.json").read_text("utf-8")) for folder in (commands, root)
    )
    for record in (one, other):
        for candidate in record["candidates"]:
            candidate.pop("ms")  # measured, and never twice the same
    assert one == other
    assert not (root / "work").exists() and {path.name for path in root.iterdir()} == {"folds", "runs", "submissions"}


def test_what_the_methods_return(played, photos):
    c, found = played
    table, run, blend, submission = (found[name] for name in ("folds", "train", "blend", "submission"))
    assert table.classes == sorted(CLASSES) and len(table.frame) == 24 and table.counts().to_numpy().sum() == 24
    assert run.finished and run.name == "one" and list(run.oof.columns) == ["image", "label", "fold", *table.classes]
    right = run.oof[table.classes].to_numpy().argmax(1) == table.labels
    assert run.score == right.mean() == run.confusion().to_numpy().trace() / 24
    assert run.confusion().loc["été"].sum() == 8
    assert run.by_class["images"].tolist() == [8, 8, 8]
    assert run.history[["fold", "epoch"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert run.record["config"]["recipe"]["epochs"] == 2
    assert found["second"].record["config"]["recipe"]["augment"] == ["hflip"]
    assert sum(blend.weights.values()) == pytest.approx(1) and set(blend.weights) <= {"one", "baseline-quick"}
    assert blend.views and blend.forecast.hidden_n == 50 and blend.forecast.low <= blend.forecast.high
    assert submission.path.is_file() and submission.rehearsal["images"] == 24 and submission.format == "codalab"
    assert submission.forecast.expected == blend.forecast.expected
    assert found["predict"].frame["id"].tolist() == sorted(path.name for path in (photos / "été").iterdir())
    assert [run.name for run in c.runs()] == ["baseline-quick", "one"] and c.run("one").score == run.score


class Balance(HTMLParser):
    """Which tags are open at the end of a text, and all that was met."""

    def __init__(self, text):
        super().__init__()
        self.open, self.met = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.met.append(tag)
        if tag not in ("img", "meta", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.met.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("path", "use", "rect"):
            raise AssertionError(f"</{tag}> closes {self.open[-3:]}")


def test_results_show_themselves(played, capsys):
    c, found = played
    for name, thing in (("competition", c), *found.items(), ("pictures", found["folds"].show(2))):
        plain, rich = repr(thing), Balance(thing._repr_html_())
        assert rich.open == [] and "b" not in rich.met, name
        assert len(plain) < 2000 and "0x" not in plain and "array" not in plain
    assert repr(found["folds"]) == "FoldTable photos: 24 images of 16x20, 3 classes, 2 folds, accuracy"
    assert repr(found["train"]).startswith("TrainedRun one: OOF accuracy ")
    assert found["folds"].show(2).count("<img") == 6
    assert {"svg"} <= set(Balance(found["train"]._repr_html_()).met)
    assert (
        "svg" in Balance(found["blend"]._repr_html_()).met and "svg" in Balance(found["submission"]._repr_html_()).met
    )
    assert capsys.readouterr().out == ""


def test_two_workspaces_in_one_process_do_not_know_of_each_other(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one, other = (Competition(tmp_path / name, verbose=False) for name in ("one", "other"))
    tables = one.folds(photos, "a", folds=2), other.folds(photos, "a", folds=4, seed=1)
    runs = one.train("baseline", epochs=1, again=False), other.train("baseline", epochs=1, again=False)
    assert [table.k for table in tables] == [2, 4] and [run.table.k for run in runs] == [2, 4]
    assert one.table().k == 2 and other.table().k == 4
    assert [len(c.runs()) for c in (one, other)] == [1, 1]
    assert not runs[0].oof.equals(runs[1].oof)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "other"}


def test_one_folder_may_hold_several_competitions(photos, tmp_path):
    plants = Competition(tmp_path, "plants", verbose=False)
    assert plants.folds(photos, folds=2).name == "plants"
    whole = Competition(tmp_path, verbose=False)
    whole.folds(photos, "trees", folds=3)
    assert plants.table().k == 2 and plants.table("trees").k == 3
    with pytest.raises(InputError, match="2 fold tables, NAME= one of plants, trees"):
        whole.table()


def test_errors_are_one_line_and_value_errors(photos, tmp_path, capsys):
    c = Competition(tmp_path / "none", verbose=False)
    assert issubclass(InputError, ValueError) and competition.InputError is InputError
    for call, text in (
        (lambda: c.folds(tmp_path / "nothing"), "nothing"),
        (lambda: c.blend(), "no fold table yet"),
        (lambda: c.folds(photos, folds="x"), "FOLDS=x: expected a whole number"),
        (lambda: c.submission(format="tar"), "FORMAT=tar: expected one of codalab"),
    ):
        with pytest.raises(InputError, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
    c.folds(photos, "p", folds=2)
    for settings, text in (({"epoch": 1}, "epoch"), ({"epochs": "many"}, "epochs"), ({"augment": ["d5"]}, "d5")):
        with pytest.raises(InputError, match=text):
            c.train("baseline", **settings)
    with pytest.raises(InputError, match="no such run, expected one of"):
        c.run("x")
    with pytest.raises(TypeError):
        c.blend(weights=1)


def test_a_folder_that_cannot_be_written_gives_one_line(photos, tmp_path):
    """A file in the place of the folder; a folder of which nobody may write, be it by the kernel's word."""
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "work"]
    if Path("/proc/self").exists():
        places.append(Path("/proc/self/work"))
    if os.name == "posix" and os.geteuid():
        (tmp_path / "shut").mkdir(mode=0o500)
        places.append(tmp_path / "shut" / "work")
    for place in places:
        with pytest.raises(InputError) as caught:
            Competition(place, verbose=False).folds(photos, "p", folds=2)
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def test_python_s_values_become_those_of_the_recipe():
    for key, value in (
        ("epochs", 8),
        ("rate", 1e-3),
        ("head", [512, 256]),
        ("augment", ["d4", "light"]),
        ("precision", "float32"),
        ("class_weight", {'été "x" \U0001f33f': 2.5}),
        ("views", ["identity"]),
    ):
        assert parse_override(write_override(key, value)) == (key, value)
    assert parse_override(write_override("epochs", np.int64(3))) == ("epochs", 3)
    assert parse_override(write_override("rate", np.float32(0.5))) == ("rate", 0.5)
    assert parse_override(write_override("head", np.array([8, 4]))) == ("head", [8, 4])
    for value, text in ((None, "epochs=None: expected a value"), (object, "expected what TOML can hold")):
        with pytest.raises(InputError, match=text):
            write_override("epochs", value)


def test_keras_at_work_on_another_backend_is_said(monkeypatch):
    monkeypatch.setattr(backend, "_running_backend", lambda: "torch")
    with pytest.raises(InputError, match="train: Keras runs on torch in this process, expected tensorflow or jax"):
        Competition().train("baseline")


def test_every_public_name_is_there_and_its_import_takes_no_library():
    for name in competition.__all__:
        assert getattr(competition, name) is not None and name in dir(competition)
    page = (Path(__file__).parents[1] / "docs/reference/api.md").read_text("utf-8")
    listed = set(re.findall(r"^::: ([\w.]+)$", page, re.M))
    assert listed == {f"{module}.{name}" for name, module in competition.PUBLIC.items()}
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        competition.Nothing  # noqa: B018
    code = "import sys, competition; competition.Competition; print(*sorted({'numpy', 'pandas', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_pages_are_shown_in_a_notebook(played):
    page = played[0].look()
    assert page.path.name == "look.html" and isinstance(page.frame, pd.DataFrame) and len(page.frame) == 24
    rich = page._repr_html_()
    assert rich.startswith("<iframe srcdoc=") and "<b>birch" not in rich and rich.count("<") == 2
    assert played[0].audit().path.name == "audit.html"


def test_a_relative_root_is_that_of_the_call(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    c = Competition("work", verbose=False)
    c.folds(photos, "a", folds=2)
    run = c.train("baseline", epochs=1, again=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert c.table().k == 2 and c.run(run.name).score == run.score and c.blend().weights == {run.name: 1}
    assert c.look().path.is_file() and list((tmp_path / "elsewhere").iterdir()) == []


def test_a_result_keeps_what_it_was_made_of(played):
    c, found = played
    one, other = c.blend(runs=found["train"]), c.blend(runs=[found["second"]])
    assert (one.weights, other.weights) == ({"one": 1}, {"baseline-quick": 1})
    assert one.score == found["train"].score and other.score == found["second"].score
    assert c.blended().weights == other.weights and repr(c.blended()) == repr(other)
    assert found["train"] == found["train"] and found["train"] in {found["train"]} and found["train"] != one


def test_what_cannot_be_read_is_said_in_place_of_an_error(photos, tmp_path):
    c = Competition(tmp_path, verbose=False)
    c.folds(photos, "a", folds=2)
    half, whole = c.train("baseline", epochs=1, only_fold=[0]), c.train("baseline", epochs=1, run="whole", again=False)
    assert repr(half) == "TrainedRun baseline-quick: unfinished, 1 of 2 folds"
    assert "svg" in Balance(half._repr_html_()).met and "unfinished" in c._repr_html_()
    c.folds(photos, "a", folds=4, force=True)
    assert "another fold table" in repr(c.run("whole")) and "another fold table" in c.run("whole")._repr_html_()
    (whole.dir / "run.json").write_text("{")
    assert "expected a JSON file" in repr(whole) and "expected a JSON file" in c._repr_html_()


def test_a_silent_competition_silences_itself_alone(photos, tmp_path, capsys):
    """Not what other threads print meanwhile, nor what a callback prints; and standard output is what it was."""
    before, going = sys.stdout, threading.Event()

    class Print:
        def on_epoch(self, run, fold, epoch, row):
            print("told", fold, epoch)
            going.set()

    def speak():
        going.wait(60)
        print("another thread")

    c = Competition(tmp_path, verbose=False)
    c.folds(photos, "a", folds=2)
    thread = threading.Thread(target=speak)
    thread.start()
    c.train("baseline", epochs=2, again=False, callbacks=[Print()])
    thread.join()
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "another thread",
        *(f"told {f} {e}" for f in (0, 1) for e in (1, 2)),
    ]
    assert sys.stdout is before


def test_an_error_of_a_callback_stays_what_it_is(photos, tmp_path):
    class Tracker:
        def on_epoch(self, run, fold, epoch, row):
            raise ConnectionError("no server")

    c = Competition(tmp_path, verbose=False)
    c.folds(photos, "a", folds=2)
    with pytest.raises(ConnectionError, match="no server"):
        c.train("baseline", epochs=1, callbacks=[Tracker()])
    assert c.train("baseline", epochs=1, again=False).finished


def test_a_folder_that_became_read_only_gives_one_line(played, photos, monkeypatch):
    """Every method that writes; the system refuses a temporary file, as it does on a disk that is mounted read-only."""

    def refuse(*_, **options):
        raise OSError(30, "Read-only file system", str(options.get("dir")))

    c = played[0]
    monkeypatch.setattr("competition.base.files.tempfile.mkstemp", refuse)
    for call in (
        lambda: c.folds(photos, "more", 2),
        lambda: c.train("baseline", epochs=3, run="more"),
        lambda: c.submission(),
        lambda: c.predict(photos / "<b>birch"),
        lambda: c.look(),
        lambda: c.audit(runs="one"),
        lambda: c.blend(),
    ):
        with pytest.raises(InputError, match="Read-only file system") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_what_the_system_refuses_names_the_file_and_what_to_do(workdir, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "/home/me/.keras")

    monkeypatch.setattr("competition.insight.look.look", refuse)
    with pytest.raises(
        InputError, match=r"^/home/me/.keras: Permission denied; mend that and run the same command again$"
    ):
        Competition(workdir).look()
