"""competition/formats: the table of formats, and the zips. What Kaggle wants is in test_kaggle_*.py."""

import contextlib
import inspect
import io
import re
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from conftest import class_folders

from competition import formats
from competition.base.files import InputError, read_json
from competition.base.workspace import Workspace
from competition.data.folds import make_folds
from competition.formats import codabench, codalab
from competition.rehearsal.rehearsal import Entry
from competition.training.train import train

SUBMISSIONS = Workspace().submissions


def test_every_format_is_a_module_with_a_make():
    for name in formats.FORMATS:
        module = import_module(f"competition.formats.{name.replace('-', '_')}")
        assert list(inspect.signature(module.make).parameters)[:2] == ["name", "run"] and module.__doc__
    folder = Path(formats.__file__).parent
    modules = {path.stem.replace("_", "-") for path in folder.glob("*.py")} - {"--init--", "kernel-script"}
    assert modules == set(formats.FORMATS)


def test_unknown_formats_and_options_of_others_are_refused():
    with pytest.raises(InputError, match="FORMAT=zip: expected one of codalab, codabench"):
        formats.make("zip")
    with pytest.raises(InputError, match="TEST=x: not an option of FORMAT=codabench, which has none of its own"):
        formats.make("codabench", test="x", sample=None, probabilities=False)
    with pytest.raises(InputError, match="TEST= is missing"):
        formats.make("kaggle-csv", test=None)


def test_codalab_s_files(tmp_path):
    codalab.write_code(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata", "model.py"]
    assert (tmp_path / "metadata").read_text() == codalab.DESCRIPTION + "\n"
    assert not re.search("^class Model", (tmp_path / "model.py").read_text(), re.M)


def test_codabench_s_zip_is_asked_as_codabench_asks(tmp_path, monkeypatch):
    """A whole zip, made and rehearsed in its own process: nobody else makes `Model` without a path."""
    data = class_folders(tmp_path / "two classes", {"a b": 6, "ä": 7}, height=16, width=12)
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_folds(data, name="toy", folds=2)
        train("baseline", run="pixels", overrides=["epochs=2", "rate=0.003"])
        path = formats.make("codabench", run="pixels")
    record = read_json(SUBMISSIONS / "toy.json")
    assert record["format"] == "codabench" and record["rehearsal"]["probabilities_differ"] < 1e-5
    assert codabench.LAYOUT.entry == Entry("Model", with_path=False, returns="array")
    with zipfile.ZipFile(path) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"model.py", "SubmissionModel"}
