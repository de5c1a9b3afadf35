import pytest

from competition import matrix
from competition.files import InputError
from competition.rehearsal import RehearsalError

pytest.importorskip("tensorflow")


def test_one_column(workdir, monkeypatch, capsys):
    """The project's own Python on two families; then the same once more with a zip that fails, nothing trained anew."""
    frame = matrix.play("current", "scratch,mobilenet", "models")
    assert frame["backbone"].tolist() == ["scratch", "mobilenet"] and frame["current"].str.startswith("ok, ").all()
    assert (frame["MB"].astype(float) > 0).all() and not (workdir / "submissions").exists()
    capsys.readouterr()

    def fail(*_):
        raise RehearsalError("it opens a socket")

    monkeypatch.setattr(matrix, "rehearse", fail)
    with pytest.raises(InputError, match="scratch with current: it opens a socket"):
        matrix.play("current", "scratch", "models")
    out = capsys.readouterr().out
    assert "finished before, nothing to do" in out and "FAILS" in out


def test_names(workdir):
    with pytest.raises(InputError, match="SCORER=tensorflow==0.0.0.0|expected releases"):
        matrix.play("a b", "scratch", "models")
    assert matrix._split(" a, b,") == ["a", "b"] and matrix._split(None) == []
    assert {"scratch", "convnext_tiny", "vgg16"} < set(matrix.FAMILIES) and matrix.SCORERS[-1] == "current"
