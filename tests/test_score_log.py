import pytest

from competition.base.files import InputError, sha256_file
from competition.base.workspace import Workspace
from competition.submission.score_log import keep_older, log_score, log_submission, read_log

SUBMISSIONS = Workspace().submissions


def make_zip(name, content, expected=0.87):
    path = SUBMISSIONS / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    forecast = expected and {"expected": expected, "low": expected - 0.02, "high": expected + 0.02, "hidden_n": 500}
    log_submission(path, {"sha256": sha256_file(path), "metric": "accuracy", "forecast": forecast})
    return path


def test_forecast_and_score_stand_side_by_side(workdir, capsys):
    first = make_zip("plants.zip", b"1")
    kept = first.rename(workdir / "as_sent.zip")
    second = make_zip("plants.zip", b"2", None)
    log_score(str(kept), "public", "0.8512")
    log_score(str(kept), "final", "0.86")
    log_score(str(second), "", "1")
    capsys.readouterr()
    log_score()
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "plants.zip" in line]) == 3
    (public,) = [line for line in lines if "public" in line]
    assert public.split()[-8:] == ["0.8700", "0.8500", "to", "0.8900", "public", "0.8512", "-0.0188", "yes"]
    assert "-0.0100" in [line for line in lines if "final" in line][0]


def test_the_log_only_grows(workdir):
    make_zip("a.zip", b"1")
    before = (SUBMISSIONS / "log.csv").read_bytes()
    make_zip("a.zip", b"1")  # the same once more
    assert (SUBMISSIONS / "log.csv").read_bytes() == before
    path = make_zip("a.zip", b"2")
    log_score(str(path), "final", 0.5)
    after = (SUBMISSIONS / "log.csv").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 4
    rows = read_log()
    assert [row["value"] for row in rows] == ["", "", "0.5"] and rows[2]["forecast"] == "0.87"


@pytest.mark.parametrize(
    "value, message",
    [
        ("87.1", "expected accuracy from 0 to 1, a share and not per cent"),
        ("good", "expected the score"),
        (None, "VALUE="),
        ("nan", "from 0 to 1$"),
    ],
)
def test_values_that_cannot_be(workdir, value, message):
    path = make_zip("a.zip", b"1")
    with pytest.raises(InputError, match=message):
        log_score(str(path), "final", value)


def test_what_the_log_does_not_know(workdir):
    with pytest.raises(InputError, match="no submission yet"):
        log_score()
    with pytest.raises(InputError, match="ZIP= is missing"):
        log_score(None, "final", 0.5)
    path = make_zip("a.zip", b"1")
    with pytest.raises(InputError, match="b.zip: no such file"):
        log_score("b.zip", "final", 0.5)
    path.write_bytes(b"changed")
    with pytest.raises(InputError, match=r"is not in submissions/log.csv, expected one of a.zip \("):
        log_score(str(path), "final", 0.5)
    (SUBMISSIONS / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="expected the columns date"):
        log_score()


@pytest.mark.parametrize("name, record_name", [("a.zip", "a.json"), ("a.csv", "a.csv.json")])
def test_what_may_have_been_handed_in_is_kept(workdir, capsys, name, record_name):
    path, fresh = make_zip(name, b"1"), workdir / "fresh"
    record = path.with_name(record_name)
    record.write_text("{}")
    fresh.write_bytes(b"1")
    keep_older(path, record, fresh)
    assert path.exists() and not capsys.readouterr().out, "the same once more"
    fresh.write_bytes(b"2")
    keep_older(path, record, fresh)
    kept = path.with_stem("a-6b86b273")
    assert kept.read_bytes() == b"1" and kept.with_name(record_name.replace("a.", "a-6b86b273.")).read_text() == "{}"
    assert not path.exists() and not record.exists() and f"{kept}: what lay at {path}" in capsys.readouterr().out
    log_score(str(kept), "final", 0.5)  # known by its content
    assert "0.5000" in capsys.readouterr().out
    log_score("6b86b273", "private", 0.25)  # or by what the table shows, when the file is gone
    assert "0.2500" in capsys.readouterr().out
    with pytest.raises(InputError, match="ZIP=6b86b274: no such file"):
        log_score("6b86b274", "private", 0.25)
    keep_older(path, record, fresh)  # there is none


def test_a_score_that_is_told_again_is_written_once(workdir):
    """As after a kill, when nobody knows whether it was written."""
    path = make_zip("a.zip", b"1")
    for phase, value in (("public", 0.5), ("public", "0.5"), ("final", 0.5), ("public", 0.6), ("public", 0.5)):
        log_score(str(path), phase, value)
    told = [(row["phase"], row["value"]) for row in read_log() if row["value"]]
    assert told == [("public", "0.5"), ("final", "0.5"), ("public", "0.6"), ("public", "0.5")]
