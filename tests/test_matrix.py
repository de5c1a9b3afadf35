import dataclasses

import pytest

from competition.base.files import InputError
from competition.rehearsal import rehearsal
from competition.rehearsal.rehearsal import RehearsalError
from competition.trials import matrix

pytest.importorskip("tensorflow")


# one network of each family of keras.applications; those of our own come below
COLUMN = ("resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0", "convnext_tiny")


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    """No call of 300 images: smaller ones show the same of a family, and test_submission.py makes it."""
    jobs = [dataclasses.replace(job, budget=job.budget and 1e-6) for job in rehearsal.JOBS]
    monkeypatch.setattr(rehearsal, "JOBS", tuple(jobs))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.parametrize("family", COLUMN)
def test_one_column(place, family, monkeypatch):
    """Every family, trained for a moment, packed, and rehearsed by the project's own Python."""
    assert set(COLUMN) <= set(matrix.FAMILIES)
    monkeypatch.chdir(place)
    monkeypatch.setitem(matrix.CASES, family, matrix.Case(family, ("epochs=1", *matrix.BRIEFLY[1:])))
    frame = matrix.rehearse_matrix("current", family, "models", "none")
    assert frame["network"].tolist() == [family] and frame["format"].tolist() == ["codalab"]
    assert frame["current"].str.startswith("ok, ").all()


def test_what_was_tried_is_not_tried_again(workdir, monkeypatch, capsys):
    """The project's own Python; then the same once more with a zip that fails, nothing trained or run anew."""
    frame = matrix.rehearse_matrix("current", "scratch,hidden-layer", "models", "codabench,kaggle-csv")
    assert frame["network"].tolist() == ["scratch", "hidden-layer", "scratch", "scratch"]
    assert frame["format"].tolist() == ["codalab", "codalab", "codabench", "kaggle-csv"]
    assert frame["current"].str.startswith("ok, ").all()
    assert (frame["MB"].iloc[:3].astype(float) > 0).all() and not (workdir / "submissions").exists()
    assert (workdir / "models" / "matrix.md").read_text().count("| ok, ") == 4
    assert "as before" not in capsys.readouterr().out

    def fail(*_):
        raise RehearsalError("it opens a socket")

    monkeypatch.setattr(matrix, "rehearse", fail)
    assert matrix.rehearse_matrix("current", "scratch", "models", "none")["current"].str.startswith("ok, ").all()
    out = capsys.readouterr().out
    assert "finished before, nothing to do" in out and "as before" in out
    (workdir / "models" / "results.csv").unlink()
    with pytest.raises(InputError, match="scratch as codalab with current: it opens a socket"):
        matrix.rehearse_matrix("current", "scratch", "models", "none")
    assert "FAILS" in capsys.readouterr().out


def test_names(workdir):
    with pytest.raises(InputError, match="SCORER=tensorflow==0.0.0.0|expected releases"):
        matrix.rehearse_matrix("a b", "scratch", "models")
    with pytest.raises(InputError, match="FORMATS=zip: expected some of codabench"):
        matrix.rehearse_matrix("current", "scratch", "models", "zip")
    assert matrix._split(" a, b,") == ["a", "b"] and matrix._split(None) == []
    assert {"scratch", "convnext_tiny", "vgg16"} < set(matrix.FAMILIES) and matrix.SCORERS[-1] == "current"
