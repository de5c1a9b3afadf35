"""The demo, with networks that take no time: it plays the whole competition, and learns of hidden labels last."""

import builtins
from pathlib import Path

import pytest

from competition.base.files import read_json
from competition.cli.main import main
from competition.trials import demo


def test_the_whole_competition(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ("epochs=3", "image_size=0")
    monkeypatch.setattr(demo, "MODELS", (("baseline", "quick", quick), ("scratch", "quick", quick)))
    opened, real = [], builtins.open

    def spy(file, *rest, **named):
        if str(file).endswith("labels.csv") and "w" not in str(rest):
            opened.append(Path("sample/submissions/sample.zip").exists())
        return real(file, *rest, **named)

    monkeypatch.setattr(builtins, "open", spy)
    table = demo.play_demo("sample", images=96, hidden=24)

    assert table["stage"].tolist() == [
        "sample",
        "folds",
        "train baseline",
        "train scratch",
        "blend",
        "submission",
        "hidden test",
    ]
    assert opened == [True]
    assert sorted(path.name for path in Path().iterdir()) == ["sample"]
    record = read_json("sample/submissions/sample.json")
    assert table["oof"].iloc[-1] == pytest.approx(record["oof_accuracy"])
    assert 0 <= table["hidden"].iloc[-1] <= 1 and table["hidden"].notna().sum() == 1
    assert (table["seconds"] >= 0).all()
    shown = capsys.readouterr().out
    assert "hidden" in shown and "on 24 images" in shown


def test_no_hidden_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--hidden", "0"]) == 2
    assert "--hidden 0" in capsys.readouterr().err
