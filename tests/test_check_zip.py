"""`make check`: broken zips, each named in plain words. Most are of numpy alone, so that each takes a blink."""

import contextlib
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import encode

from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.checking import check_zip as checking
from competition.checking import diagnose, reading
from competition.checking.answers import _judge_accuracy
from competition.checking.check_zip import check_zip, print_check
from competition.checking.finding import Reading
from competition.checking.remedies import explain_error
from competition.data.folds import make_folds
from competition.rehearsal import sandbox
from competition.rehearsal.rehearsal import RehearsalError

CLASSES = ["oak", "ash", "yew", "elm"]  # not in alphabetical order
CENTRES = np.float32([[110, 30, 40], [60, 40, 60], [100, 160, 100], [220, 210, 190]])
MODEL = """
import os
import numpy as np


class model:
    def __init__(self, path):
        self.centres = np.load(os.path.join(path, "centres.npy"))

    def predict(self, X):
        X = np.asarray(X).astype("float32")
        colours = X.mean((1, 2))
        scores = -((colours[:, None] - self.centres) ** 2).sum(2)
        return np.argmax(scores, axis=1)
"""
BENCH = (
    MODEL.replace("class model", "class Model")
    .replace("(self, path)", "(self)")
    .replace("(path,", "(os.path.dirname(os.path.abspath(__file__)),")
)
METADATA = "description: Provides prediction model to be executed by the ingestion program\n"


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def keras_file(version):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", "{}")
    return buffer.getvalue()


PARTS = {"model.py": MODEL, "metadata": METADATA, "centres.npy": npy(CENTRES)}


def write_zip(path, parts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A folder with a fold table of 4 classes that their colours tell apart."""
    folder, data = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("data") / "trees"
    random = np.random.default_rng(0)
    for label, centre in zip(CLASSES, CENTRES):
        (data / label).mkdir(parents=True)
        for number in range(50):
            pixels = random.normal(centre, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            (data / label / f"{number:02}.png").write_bytes(encode(pixels))
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        make_folds(data, folds=2, classes=",".join(CLASSES), near=False)
    return folder


@pytest.fixture
def inside(competition, monkeypatch):
    monkeypatch.chdir(competition)


@pytest.fixture
def said(tmp_path, capsys):
    """What `check` says of a zip with these parts in place of PARTS: its last line, what was printed, the findings."""

    def said(parts=(), replaced=(), path=None, **options):
        parts = PARTS | dict(parts)
        for old, new in replaced:
            assert old in parts["model.py"]
            parts["model.py"] = parts["model.py"].replace(old, new)
        path = path or write_zip(tmp_path / "mine.zip", parts)
        capsys.readouterr()
        try:
            findings, line = print_check(str(path), **options).lines, ""
        except InputError as error:
            findings, line = None, str(error)
        out = capsys.readouterr().out
        assert "Traceback" not in out and "\n" not in line
        return line, out, findings

    return said


# ---------------------------------------------------------------------------------------------------- sound zips


def test_a_sound_zip_passes(inside, said):
    line, out, findings = said()
    assert line == "" and "FAILED" not in out and "checked as FORMAT=codalab (it has the file metadata)" in out
    found = {finding.check: finding.found for finding in findings}
    assert found["accuracy"].startswith("1.00 on 200 training images: a check, no forecast")
    assert found["preprocessing"].startswith("none of 9 other ways")
    assert found["kinds of calls"] == "float32 and float64, one image a call, odd batch, no image"
    warned = [finding.found for finding in findings if finding.result == "warning"]
    assert warned == ["int64 array of shape [200], expected an integer tensor"]


def test_without_a_competition_noise_is_asked(workdir, said):
    line, out, findings = said({"model.py": BENCH, "metadata": None}, size="12x10")
    assert line == "" and "FAILED" not in out and "warning" not in out
    assert "checked as FORMAT=codabench (its class is Model, made without a path, and it has no metadata)" in out
    assert "64 images of noise, 12x10, as there is no fold table" in out
    (skipped,) = [finding for finding in findings if finding.result == "not checked"]
    assert skipped.check == "labels and preprocessing" and "make folds" in skipped.found


def test_the_forecast_of_a_record_stands_beside(inside, said, tmp_path):
    path = write_zip(tmp_path / "own.zip", PARTS)
    record = {
        "sha256": files.sha256_file(path),
        "format": "codalab",
        "source": "blend",
        "metric": "accuracy",
        "forecast": {"expected": 0.87, "low": 0.85, "high": 0.89, "hidden_n": 321},
    }
    files.write_json(path.with_suffix(".json"), record)
    line, out, _ = said(path=path)
    assert (
        line == "" and "forecast accuracy 0.8700, 0.8500 to 0.8900 on 321 hidden images" in out and "s for 321" in out
    )
    files.write_json(path.with_suffix(".json"), record | {"sha256": "of another zip"})
    assert "forecast accuracy" not in said(path=path)[1]


# --------------------------------------------------------------------------------------- broken ones, one by one

ARGMAX = "np.argmax(scores, axis=1)"
LACKING = "no_such_library"
BROKEN = {  # what is changed: (parts, replacements in model.py, options), what is said about it
    "files inside a folder": (
        ({"mine/" + name: content for name, content in PARTS.items()} | dict.fromkeys(PARTS), (), {}),
        "the files lie inside a folder: found mine/model.py, expected model.py at the zip's root",
        "cd mine; zip -r",
    ),
    "Model in place of model": (
        ({}, [("class model", "class Model")], {}),
        "found class Model, expected class model: upper and lower case",
        "FORMAT=codalab asks for `class model`",
    ),
    "model in place of Model": (
        ({"model.py": BENCH}, [("class Model", "class model")], {"format": "codabench"}),
        "found class model, expected class Model",
        "FORMAT=codabench asks",
    ),
    "argmax is missing": (
        ({}, [(ARGMAX, "scores / 7.7")], {}),
        "probabilities of the classes in place of class ids: argmax is missing",
        "np.argmax(probabilities, axis=1)",
    ),
    "argmax over the images": (
        ({}, [(ARGMAX, "np.argmax(scores, axis=0)")], {}),
        "argmax over the wrong axis",
        "axis=1",
    ),
    "argmax without axis": (
        ({}, [(ARGMAX, "np.argmax(scores)")], {}),
        "one number for all images: argmax without axis",
        "",
    ),
    "one-hot": (
        ({}, [(ARGMAX, f"np.eye(4, dtype=int)[{ARGMAX}]")], {}),
        "one-hot rows in place of class ids",
        "argmax",
    ),
    "max in place of argmax": (
        ({}, [(ARGMAX, "np.max(scores, axis=1) / 7.7")], {}),
        "max in place of argmax",
        "argmax",
    ),
    "nothing is returned": (({}, [(f"return {ARGMAX}", "self.last = 1")], {}), "predict returns nothing", "return"),
    "labels off by one": (
        ({}, [(ARGMAX, ARGMAX + " + 1")], {}),
        "the labels are off by one: each is one too high (found 1 to 4, expected 0 to 3); accuracy 0.00 as sent, 1.00",
        "return `labels - 1`",
    ),
    "of other classes": (
        ({}, [(ARGMAX, f"({ARGMAX} + 1) * np.where({ARGMAX} == 3, 3, 1)")], {}),
        "labels from 1 to 12, expected 0 to 3",
        "Was it trained on other classes",
    ),
    "names in place of ids": (
        ({}, [(ARGMAX, f"np.array({CLASSES})[{ARGMAX}]")], {}),
        "names such as 'oak' in place of class ids",
        "0 oak, 1 ash",
    ),
    "classes in alphabetical order": (
        ({"centres.npy": npy(CENTRES[[CLASSES.index(name) for name in sorted(CLASSES)]])}, (), {}),
        "its classes are in alphabetical order: it answers 0 for ash, expected 1; it answers 1 for elm, expected 3; it "
        "answers 2 for oak, expected 0; it answers 3 for yew, expected 2; accuracy 0.00 as sent, 1.00",
        "0 oak, 1 ash, 2 yew, 3 elm",
    ),
    "preprocessing: / 255": (
        ({"centres.npy": npy(CENTRES / 255)}, (), {}),
        "model.py forgets to divide the images by 255: accuracy 0.25 as sent, 1.00 when the images are divided by 255 "
        "first",
        "`X = X / 255`",
    ),
    "preprocessing: / 127.5 - 1": (
        ({"centres.npy": npy(CENTRES / 127.5 - 1)}, (), {}),
        "model.py forgets to scale the images to -1..1",
        "X / 127.5 - 1",
    ),
    "preprocessing: twice / 255": (
        ({}, [('astype("float32")', 'astype("float32") / 255')], {}),
        "divided by 255 twice",
        "take `/ 255` out",
    ),
    "preprocessing: BGR": (
        ({"centres.npy": npy(CENTRES[:, ::-1])}, (), {}),
        "red and blue are swapped: the network was trained on BGR",
        "X[..., ::-1]",
    ),
    "preprocessing and off by one": (
        ({"centres.npy": npy(CENTRES / 255)}, [(ARGMAX, ARGMAX + " + 1")], {}),
        "forgets to divide the images by 255",
        "the labels are off by one",
    ),
    "weights that are not loaded": (
        ({"centres.npy": npy(CENTRES * 0)}, (), {}),
        "no better than guessing: it always answers 0 (oak)",
        "load_weights",
    ),
    "an answer that changes": (
        ({}, [("mean((1, 2))", "mean((1, 2)) + np.random.normal(0, 90, (len(X), 3))")], {}),
        "its answer changes from call to call: ",
        "dropout",
    ),
    "weights drawn anew": (
        ({}, [('np.load(os.path.join(path, "centres.npy"))', "np.random.normal(100, 60, (4, 3))")], {}),
        "a second fresh process gives other labels",
        "load_weights",
    ),
    "an answer that depends on the batch": (
        ({}, [("colours = X.mean((1, 2))", "colours = X.mean((1, 2)) - X.mean((0, 1, 2)) + 113")], {}),
        "its answers depend on how many images come at once",
        "no mean or deviation over the batch",
    ),
    "an answer that depends on the type": (
        ({}, [('X = np.asarray(X).astype("float32")', "X = X * 1.0 if X.dtype == np.uint8 else X * 255.0")], {}),
        "its answers depend on the type of the numbers",
        'astype("float32")',
    ),
    "in place": (
        ({"centres.npy": npy(CENTRES / 255)}, [('X = np.asarray(X).astype("float32")', "X /= 255")], {}),
        "it computes in place on images of whole numbers (model.py, line 11)",
        "X = X / 255.0",
    ),
    "import that the scorer lacks": (
        ({}, [("import os", f"import os\nimport {LACKING}")], {}),
        f"import {LACKING} (model.py, line 3): the scorer lacks {LACKING}",
        "installs nothing",
    ),
    "import by a module of the zip": (
        ({"tools/__init__.py": f"import {LACKING}"}, [("import os", "import os, tools")], {}),
        f"import {LACKING} (tools/__init__.py, line 1)",
        "installs nothing",
    ),
    "Keras 3 file, Keras 2 scorer": (
        ({"net.keras": keras_file("3.15.1")}, (), {"scorer": "tensorflow==2.12.1"}),
        "net.keras is a Keras 3 file (saved by 3.15.1), and the scorer has Keras 2.12.1 (TensorFlow 2.12.1)",
        "model.export",
    ),
    "network": (
        (
            {},
            [
                (
                    "self.centres =",
                    "import urllib.request\n        urllib.request.urlopen('http://10.1.2.3/w')\n"
                    "        self.centres =",
                )
            ],
            {},
        ),
        "opens a socket",
        "Scorers have no network",
    ),
    "a process": (
        ({}, [("self.centres =", "import subprocess\n        subprocess.run(['true'])\n        self.centres =")], {}),
        "it starts a process (true), which a scorer may not allow",
        "Do it in Python",
    ),
    "a file elsewhere": (
        (
            {},
            [("self.centres =", f"open({str(Path(__file__).parent)!r} + '/conf' + 'test.py')\n        self.centres =")],
            {},
        ),
        "conftest.py, which the scorer does not have",
        "Pack the file beside model.py",
    ),
    "writing beside it": (
        ({}, [("self.centres =", "open(os.path.join(path, 'log.txt'), 'w')\n        self.centres =")], {}),
        "it writes to log.txt in its own folder",
        "Compute it in memory",
    ),
    "a file by its name alone": (
        ({}, [('os.path.join(path, "centres.npy")', '"centres.npy"')], {}),
        "it opens centres.npy where the scorer happens to stand, and not where the zip lies (model.py, line 8)",
        'os.path.join(path, "centres.npy")',
    ),
    "a file that was not packed": (
        ({"centres.npy": None}, (), {}),
        "it opens centres.npy, which is not in the zip",
        "Pack it beside model.py",
    ),
    "a path of one's own computer": (
        ({}, [('os.path.join(path, "centres.npy")', '"/home/ann/centres.npy"')], {}),
        "model.py, line 8: /home/ann/centres.npy is a path of your own computer",
        "Pack the file",
    ),
    "a path of Windows": (
        ({}, [('os.path.join(path, "centres.npy")', 'r"C:\\Users\\ann\\centres.npy"')], {}),
        "is a path of your own computer",
        "Pack the file",
    ),
    "model.py with another name": (
        ({"model.py": None, "Model.py": MODEL}, (), {}),
        "model.py is missing: found Model.py, expected model.py",
        "small",
    ),
    "a notebook": (
        ({"model.py": None, "model.ipynb": "{}"}, (), {}),
        "model.py is missing: found model.ipynb",
        "notebook",
    ),
    "weights alone": (({"model.py": None}, (), {}), "model.py is missing: found centres.npy, metadata", "Write one"),
    "no metadata": (
        ({"metadata": None, "metadata.txt": METADATA}, (), {}),
        "the file metadata is missing at the zip's root: found metadata.txt",
        "without an ending",
    ),
    "not Python": (
        ({}, [("def predict(self, X):", "def predict(self, X)")], {}),
        "model.py, line 10: not Python",
        "Python",
    ),
    "a notebook's command": (
        ({}, [("import os", "!pip install timm")], {}),
        "model.py, line 2: not Python",
        "of notebooks",
    ),
    "predict with labels": (
        ({}, [("predict(self, X)", "predict(self, X, y)")], {}),
        "predict(self, X, y): expected predict(self, X)",
        "",
    ),
    "predict without self": (
        ({}, [("predict(self, X)", "predict(X)")], {}),
        "predict(X): self is missing",
        "images alone",
    ),
    "no predict": (
        ({}, [("def predict", "def forward")], {}),
        "class model has no predict; it has forward",
        "def predict",
    ),
    "no path": (
        ({"model.py": BENCH}, [("class Model", "class model")], {}),
        "__init__(self): expected __init__(self, path)",
        "with the path of the folder",
    ),
    "another class": (
        ({}, [("class model", "class Net")], {}),
        "model.py has no class model; it has Net",
        "Call the class",
    ),
    "too large": (
        ({"big.bin": np.random.default_rng(0).bytes(300_000)}, (), {"max_mb": "0.2"}),
        "0.1 over MAX_MB (0.2)",
        "FIT=1",
    ),
    "too slow": (
        ({}, [("self.centres =", "import time; time.sleep(1)\n        self.centres =")], {"max_seconds": "0.5"}),
        "over MAX_SECONDS (0.5)",
        "Fewer or smaller",
    ),
    "an exception": (
        ({}, [("colours = ", "colours = self.nothing + ")], {}),
        "it fails in predict (model.py, line 12): AttributeError",
        "fresh Python",
    ),
    "images of another size": (
        ({}, [("colours = X", "colours = X.reshape(len(X), 96, 96, 3)")], {}),
        "the images have another shape than the network takes (model.py, line 12)",
        "Resize them",
    ),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_each_mistake_is_named(mistake, inside, said, monkeypatch):
    monkeypatch.setattr("competition.rehearsal.scorer_environments._build", None)  # no environment is needed
    (parts, replaced, options), words, remedy = BROKEN[mistake]
    line, out, _ = said(parts, replaced, **options)
    assert line.count(words) == 1 and line.split(": ", 1)[1][0].isdigit(), (line, out)
    assert remedy in out and "FAILED" in out, out


def test_all_that_is_wrong_is_listed(inside, said):
    """A folder in the way does not hide that argmax is missing there, nor that metadata are."""
    parts = {
        "a/model.py": MODEL.replace(ARGMAX, "scores").replace("class model", "class Model"),
        "a/centres.npy": npy(CENTRES),
    }
    line, _, _ = said(parts | dict.fromkeys(PARTS), format="codalab")
    assert "4 checks failed" in line
    assert all(
        words in line for words in ("inside a folder", "metadata is missing", "found class Model", "argmax is missing")
    )


def test_a_zip_of_others_is_asked_for_where_it_cannot_be_kept_apart(inside, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "LEVELS", ())
    line, out, _ = said()
    assert line.startswith(f"ZIP={tmp_path / 'mine.zip'}: not run") and "expected TRUST=1" in line and out == ""
    line, out, findings = said(trust=True)
    found = {finding.check: finding for finding in findings}
    assert line == "" and found["isolation"].result == "warning" and "NOT isolated" in out
    path = tmp_path / "mine.zip"
    files.write_json(path.with_suffix(".json"), {"sha256": files.sha256_file(path), "format": "codalab"})
    assert said(path=path)[0] == "", "the toolkit's own zips are no others'"
    files.write_json(path.with_suffix(".json"), {"sha256": "0", "format": "codalab"})
    assert "TRUST=1" in said(path=path)[0]


def test_max_memory_stops_it(inside, said):
    line, _, _ = said({}, [("self.centres =", "self.x = np.ones(10**8)\n        self.centres =")], max_memory="300M")
    assert "more than the 315 MB" in line or "more than the 300 MB" in line


def test_few_images_and_a_slow_zip(inside, said, monkeypatch):
    """What would take too long is left out, and a few images are asked about."""
    monkeypatch.setattr(checking, "BUDGET", 1e-9)
    monkeypatch.setattr(checking, "LEAST", 20)
    monkeypatch.setattr(checking, "EACH", 5)
    line, _, findings = said()
    found = {finding.check: finding.found for finding in findings}
    assert line == "" and "preprocessing" not in found and found["accuracy"].startswith("1.00 on 20 training images")


def test_zips_that_are_none(inside, said, tmp_path):
    whole = write_zip(tmp_path / "whole.zip", PARTS).read_bytes()
    spoilt = bytearray(whole)
    at = whole.index(b"model.py") + 20
    spoilt[at : at + 9] = b"damaged!!"
    for content, words in (
        (whole[: len(whole) // 2], "the zip is damaged or cut off"),
        (bytes(spoilt), "the zip is damaged"),
        (b"\x1f\x8b" + bytes(99), "this is no zip, it is a .tar.gz"),
        (b"", "an empty file"),
        (b"hello", "something else"),
    ):
        path = tmp_path / "bad.zip"
        path.write_bytes(content)
        line, out, _ = said(path=path)
        assert words in line and "not run" in out
    for name, words in (
        ("../model.py", "lies outside the zip's own folder"),
        ("model\\model.py", "written with \\ in place"),
    ):
        assert words in said({name: "x"})[0]


def test_arguments_that_cannot_be(inside, said, tmp_path):
    assert said(path=tmp_path / "nothing.zip")[0].endswith("no such file, expected a submission's zip")
    assert "a folder; zip what is in it" in said(path=tmp_path)[0]
    assert "FORMAT=kaggle-csv: expected one of codalab, codabench" in said(format="kaggle-csv")[0]
    assert "no such fold table" in said(name="other")[0]
    assert "HIDDEN_N=x" in said(hidden_n="x")[0] and "SCORER=x" in said(scorer="x")[0]


def test_warnings_do_not_fail(inside, said):
    parts = {"__MACOSX/._model.py": "x", "net.keras": keras_file("3.1.0"), "extra.pkl": b"\x80\x04."}
    replaced = [
        ("import numpy", f"try:\n    import {LACKING}\nexcept ImportError:\n    pass\nimport numpy"),
        ("        X = ", "        assert len(X)\n        X = "),
    ]
    line, out, findings = said(parts, replaced)
    assert line == "" and {finding.check for finding in findings if finding.result == "warning"} >= {
        "litter",
        "Keras files",
        "safe files",
        "no image",
    }, out
    assert "a scorer with TensorFlow before 2.16 cannot read it" in out


def test_a_scorer_s_python_is_asked(inside, said, tmp_path):
    """What stands for one here: an interpreter that says that it has Keras 2 and is an old Python."""
    python = tmp_path / "python"
    answer = {
        "missing": ["numpy"],
        "versions": {"keras": "2.12.0"},
        "python": "3.8.1",
        "syntax": {"model.py": "invalid syntax, line 7"},
    }
    python.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{json.dumps(answer)}'\n")
    python.chmod(0o755)
    line, _, _ = said({"net.keras": keras_file("3.0.5")}, scorer=str(python))
    assert "3 checks failed" in line and "model.py is not Python 3.8.1" in line and "the scorer lacks numpy" in line
    assert "net.keras is a Keras 3 file (saved by 3.0.5), and the scorer has Keras 2.12.0" in line


def test_keras_files_tell_their_version(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for name in ("a.keras", "a.h5"):
        model.save(tmp_path / name)
        assert reading._read_keras((tmp_path / name).read_bytes())[0] == keras.__version__
    model.save_weights(tmp_path / "a.weights.h5")
    assert reading._read_keras((tmp_path / "a.weights.h5").read_bytes())[0] is None
    assert (
        reading.find_keras_version({"tensorflow": "2.15.1"})[0] == 2
        and reading.find_keras_version({"tensorflow": "2.16.0"})[0] == 3
    )
    assert (
        reading.find_keras_version({"tensorflow": "2.16.0", "keras": "2.15.0"})[0] == 2
        and reading.find_keras_version({}) == ()
    )


@pytest.mark.parametrize(
    "text, meaning",
    [  # as Keras 3, Keras 2, h5py, TensorFlow and numpy word it
        (
            "TypeError: Could not locate class 'Mine'. Full object config: {'module': 'keras.src', 'batch_shape': 1}",
            "of your own",
        ),
        ("ValueError: Unknown layer: 'x>Mine'. Please ensure", "of your own"),
        ("ValueError: Unknown layer: 'Functional'. Please ensure", "another Keras"),
        (
            "TypeError: Error when deserializing class 'InputLayer': Unrecognized keyword arguments: ['batch_shape']",
            "another Keras",
        ),
        ("ValueError: Requested the deserialization of a `Lambda` layer. Pass safe_mode=False", "Lambda layer"),
        (
            "ValueError: File format not supported: filepath=e/SubmissionModel. Keras 3 only supports",
            "that file or folder",
        ),
        (
            "ValueError: File not found: filepath=net.keras. Please ensure",
            "it opens net.keras where the scorer happens to",
        ),
        (
            "ValueError: File not found: filepath=/tmp/abc/zip/other.keras. Please ensure",
            "other.keras, which is not in the zip",
        ),
        (
            "FileNotFoundError: Unable to synchronously open file (unable to open file: name = 'net.keras', errno = 2, error "
            "message = 'No such file or directory')",
            "it opens net.keras where the scorer",
        ),
        (
            "OSError: SavedModel file does not exist at: Sub/{saved_model.pbtxt|saved_model.pb}",
            "Sub, which is not in the zip",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/a/zip/deep.npy'",
            "which lies at sub/deep.npy in",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/srv/x.npy'",
            "/srv/x.npy, a path of another computer",
        ),
        (
            "ValueError: Input 0 with name 'i' is incompatible with the layer: expected shape=(None, 8, 8, 3)",
            "another shape",
        ),
        ("ValueError: A total of 2 objects could not be loaded.", "those of another network"),
        ("AttributeError: 'numpy.ndarray' object has no attribute 'numpy'", "treated as a tensor"),
        ("TypeError: `x` and `y` must have the same dtype, got tf.uint8 != tf.float32.", "whole numbers as they come"),
        ("NameError: name 'np' is not defined", "np is used and defined nowhere"),
    ],
)
def test_errors_in_plain_words(text, meaning):
    kind, _, message = text.partition(": ")
    error = RehearsalError("", "error", "load", None, {"type": kind, "text": message, "trace": ""})
    read = Reading(names=["model.py", "net.keras", "sub/deep.npy"])
    found = explain_error(error, read)
    assert meaning in found.found and found.advice and found.result == "FAILED"


# ------------------------------------------------------------------------------------------------- the causes

TRUTH = np.tile(np.arange(4), 40)


def noisy(ids, share, seed=0):
    random = np.random.default_rng(seed)
    return np.where(random.random(len(ids)) < share, random.integers(0, 4, len(ids)), ids)


def test_causes():
    def cause(ids, **versions):
        return diagnose.find_cause({diagnose.AS_SENT: ids} | versions, TRUTH, 4)

    good = noisy(TRUTH, 0.3)
    assert cause(good) == diagnose.Cause(np.mean(good == TRUTH))
    assert cause((good + 1) % 4).shift == 1 and cause((good - 1) % 4).shift == -1
    swapped = cause(np.array([0, 2, 1, 3])[good])
    assert swapped.order == {0: 0, 1: 2, 2: 1, 3: 3} and swapped.accuracy > 0.7
    found = cause(noisy(TRUTH, 1), bgr=good)
    assert (found.version, found.shift, found.order) == ("bgr", 0, None)
    both = cause(noisy(TRUTH, 1), bgr=np.array([0, 2, 1, 3])[good])
    assert both.version == "bgr" and both.order[1] == 2


def test_a_low_accuracy_names_what_may_be():
    right = np.arange(len(TRUTH)) % 25
    wrong = (TRUTH + 1 + np.arange(len(TRUTH)) // 4 % 3) % 4
    sent, scaled = (np.where(right < limit, TRUTH, wrong) for limit in (10, 11))
    sample = checking.Sample(np.zeros((len(TRUTH), 2, 2, 3), np.uint8), TRUTH, list("abcd"), "")
    found = _judge_accuracy(sent, {diagnose.AS_SENT: sent, "255": scaled}, TRUTH, sample.classes)
    assert found.result == "warning" and found.found.startswith("0.44 on 160") and "What may be" not in found.advice
    scaled = np.where(right < 12, TRUTH, wrong)
    found = _judge_accuracy(sent, {diagnose.AS_SENT: sent, "255": scaled}, TRUTH, sample.classes)
    assert "What may be: model.py forgets to divide the images by 255" in found.advice


def test_noise_has_no_cause():
    """Of ids drawn at random no change is believed, though the best of thirty always looks better."""
    for seed in range(30):
        versions = {name: noisy(TRUTH, 1, 100 * seed + i) for i, name in enumerate(diagnose.VERSIONS)}
        found = diagnose.find_cause(versions, TRUTH, 4)
        assert (found.version, found.shift, found.order) == (diagnose.AS_SENT, 0, None)
    assert diagnose.is_chance(noisy(TRUTH, 1) == TRUTH, TRUTH) and not diagnose.is_chance(TRUTH == TRUTH, TRUTH)


def test_versions_are_those_of_keras():
    keras = pytest.importorskip("keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    names, found = diagnose.make_versions(images)
    found = dict(zip(names, found.reshape(len(names), *images.shape)))
    whole = images.astype(np.float32)
    for name, mode in (("caffe", "caffe"), ("torch", "torch"), ("-1..1", "tf")):
        expected = keras.applications.imagenet_utils.preprocess_input(whole.copy(), mode=mode)
        assert np.allclose(found[name], expected, atol=1e-4)
    assert np.array_equal(found[diagnose.AS_SENT], whole) and "sides" not in diagnose.make_versions(images[:, :2])[0]


def test_own_codabench_layout_is_recognised(tmp_path):
    """The toolkit's own zips hold both classes; the file metadata tells them apart."""
    for format, layout in checking.LAYOUTS.items():
        folder = tmp_path / format
        folder.mkdir()
        layout.write_code(folder)
        path = write_zip(tmp_path / f"{format}.zip", {file.name: file.read_bytes() for file in folder.iterdir()})
        read = reading.read_zip(path, None, checking.LAYOUTS)
        assert (read.format, read.entry) == (format, layout.entry)
        assert all(finding.result == "ok" for finding in read.findings), read.findings
        assert {"numpy", "tensorflow", "os"} == set(read.modules)


# ---------------------------------------------------------------------------------------------------- as a function


def test_a_report_prints_nothing_and_is_what_the_command_prints(inside, said, tmp_path, capsys):
    line, out, _ = said({"metadata": None, "readme.txt": "<b>hello</b>"}, format="codalab")
    assert "metadata" in line
    report = check_zip(tmp_path / "mine.zip", format="codalab", workspace=Workspace())
    assert capsys.readouterr() == ("", "")
    printed, told = (re.sub(r"[\d.]+| +", "#", text) for text in (out, f"{report!r}\n\n"))  # but for the times
    assert printed == told
    assert not report.passed and line == f"{report.path}: 1 check failed: {report.failed[0]}"
    assert list(report.findings) == ["check", "result", "found", "advice"]
    assert report.findings["found"][report.findings["result"] == "FAILED"].tolist() == report.failed
    html = report._repr_html_()
    assert "<b>FAILED</b>" in html and "<b>hello" not in html and html.count("<tr>") == len(report.findings) + 1


def test_a_zip_is_checked_wherever_one_is(competition, tmp_path, monkeypatch):
    """Of the current folder nothing is read where a workspace is given."""
    path = write_zip(tmp_path / "mine.zip", PARTS | {"metadata": None})
    (tmp_path / "elsewhere").mkdir()
    told = []
    for folder in (competition, tmp_path / "elsewhere"):
        monkeypatch.chdir(folder)
        told += [check_zip(path, "codalab", workspace=Workspace(competition)).title]
        told += [check_zip(path, "codalab", workspace=Workspace(tmp_path)).title]
    assert told[:2] == told[2:] and "200 training images" in told[0] and "images of noise" in told[1]
