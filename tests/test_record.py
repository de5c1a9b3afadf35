"""Records of runs and GANs: begun, gone on with, refused."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from competition.base import backend, files
from competition.base.files import InputError, read_json, write_json
from competition.recipes.recipe import Recipe
from competition.runs import record
from competition.runs.record import Begun, describe_difference, locked, open_run_record

TABLE = SimpleNamespace(hash="t" * 64, data_hash="d" * 64)
RECIPE = Recipe(epochs=2, precision="float32")
CONFIG = {"model": "baseline", "weights": None, "recipe": asdict(RECIPE), "folds": 3}


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """The folder of a run that has a fold begun."""
    monkeypatch.setattr(backend, "backend_versions", lambda: {"keras": "3.0"})
    monkeypatch.setattr(record, "backend_versions", lambda: {"keras": "3.0"})
    open_run_record(tmp_path / "run", TABLE, CONFIG, RECIPE)
    write_json(tmp_path / "run/fold_0/fold.json", {})
    return tmp_path / "run"


def test_a_record_is_as_it_was_before(begun):
    assert read_json(begun / "run.json") == {
        "format": 5,
        "config": CONFIG,
        "table": TABLE.hash,
        "data": TABLE.data_hash,
        "versions": {"keras": "3.0"},
        "precision": "float32",
        "frozen": False,
        "views": RECIPE.views,
        "finished": False,
    }
    assert list(read_json(begun / "run.json"))[:5] == ["format", "config", "table", "data", "versions"]


def test_the_same_goes_on(begun, capsys):
    assert open_run_record(begun, TABLE, CONFIG, RECIPE) == read_json(begun / "run.json")
    known = read_json(begun / "run.json")
    del known["config"]["recipe"]["ema"]  # a key that came later, at its default
    write_json(begun / "run.json", known)
    assert open_run_record(begun, TABLE, CONFIG, RECIPE)["config"] == CONFIG
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "table, config, words",
    [
        (SimpleNamespace(hash=TABLE.hash, data_hash="other"), CONFIG, "with another set of images; take another name"),
        (
            SimpleNamespace(hash="other", data_hash=TABLE.data_hash),
            CONFIG,
            "with another fold table; take another name",
        ),
        (
            TABLE,
            CONFIG | {"recipe": asdict(replace(RECIPE, epochs=3))},
            r"with recipe.epochs = 2 \(now 3\); take another",
        ),
    ],
)
def test_what_was_begun_from_something_else_is_refused(begun, table, config, words):
    before = (begun / "run.json").read_bytes()
    with pytest.raises(InputError, match=f"run.json: this run was begun {words}"):
        open_run_record(begun, table, config, RECIPE)
    assert (begun / "run.json").read_bytes() == before


def test_without_anything_trained_a_record_is_begun_anew(begun):
    (begun / "fold_0/fold.json").unlink()
    other = CONFIG | {"folds": 5}
    assert open_run_record(begun, TABLE, other, RECIPE)["config"] == other == read_json(begun / "run.json")["config"]


def test_other_versions_and_formats(begun, monkeypatch, capsys):
    """Of a finished run neither matters."""
    monkeypatch.setattr(backend, "backend_versions", lambda: {"keras": "4.0"})
    monkeypatch.setattr(record, "backend_versions", lambda: {"keras": "4.0"})
    open_run_record(begun, TABLE, CONFIG, RECIPE)
    assert "begun with keras = 3.0 (now 4.0); the rest may come out differently" in capsys.readouterr().err
    monkeypatch.setattr(record, "TRAIN_FORMAT", 6)
    with pytest.raises(InputError, match="begun by a version of the toolkit that trains otherwise; take another name"):
        open_run_record(begun, TABLE, CONFIG, RECIPE)
    write_json(begun / "run.json", read_json(begun / "run.json") | {"finished": True})
    open_run_record(begun, TABLE, CONFIG, RECIPE)
    assert capsys.readouterr().err == ""


def test_a_gan_is_refused_by_its_own_name(tmp_path):
    gan = Begun(tmp_path / "gan.json", {"config": {"side": 32}}, "GAN", "remove it to train it anew")
    gan.check_config({"side": 32})
    with pytest.raises(InputError, match=r"gan.json: this GAN was begun with side = 32 \(now 64\); remove it to"):
        gan.check_config({"side": 64})


def test_a_difference_names_every_key():
    assert (
        describe_difference({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}})
        == "a.c = 2 (now 4); d = 3 (now None)"
    )
    assert describe_difference(None, {"a": 1}) == "a = None (now 1)"


def test_a_lock_is_for_one_and_ends_with_the_work(tmp_path):
    folder = tmp_path / "new/run"
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(folder):
            (folder / f"{files.PARTIAL}x").write_text("half")
            with pytest.raises(InputError, match="another process is at work there"), locked(folder):
                pass
            raise ZeroDivisionError
    with locked(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]  # what was killed is gone
