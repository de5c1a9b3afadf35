"""The script of kills, damage and full disks: its short form, and that it sees what is not as it should be."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.fault_play import differences, fingerprint, steady
from bench.faults import DAMAGES, content, spoil

ROOT = Path(__file__).parents[1]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bench.faults needs Linux")


@linux
def test_its_short_form_finds_nothing():
    command = [sys.executable, "-m", "bench.faults", "--steps", "folds", "--count", "2", "--only", "kills,damage,pairs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "faults" in done.stdout and "seed 0" in done.stdout


def test_what_differs_is_named(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, seconds in ((one, 1.5), (two, 2.5)):
        (folder / "work").mkdir(parents=True)
        (folder / "work/run.json").write_text(f'{{"accuracy": 0.5, "seconds": {seconds}, "a": {{"b": [1]}}}}')
        (folder / "work/history.csv").write_text(f"epoch,loss,seconds\n1,0.25,{seconds}\n")
        (folder / "work/.lock").write_text("")
    expected = steady(fingerprint(one), fingerprint(two))
    assert expected["work/run.json"] == {"accuracy": "0.5", "a.b": "[1]"}
    assert differences(expected, fingerprint(two)) == []
    (two / "work/.partial-abc").write_text("")
    (two / "work/history.csv").write_text("epoch,loss,seconds\n1,0.5,1\n")
    (two / "work/run.json").unlink()
    assert differences(expected, fingerprint(two)) == [
        "left behind: work/.partial-abc",
        "missing: work/run.json",
        "other content: work/history.csv loss",
    ]


@linux
@pytest.mark.parametrize("way", DAMAGES)
def test_each_damage_damages(way, tmp_path):
    path = tmp_path / "fold_0" / "fold.json"
    path.parent.mkdir()
    path.write_text('{"accuracy": 0.5}')
    (tmp_path / "fold.json").write_text("{}")
    before, mode = content(path), path.stat().st_mode
    spoil(path, way, random.Random(0), tmp_path)
    assert content(path) != before or (way == "read-only" and os.stat(path).st_mode != mode)
