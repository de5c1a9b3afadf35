import numpy as np
import pytest
from conftest import class_folders

from bench import prediction
from bench.figures import Options
from competition.rehearsal.rehearsal import Answers


def test_race_takes_medians_and_refuses_other_labels(monkeypatch):
    labels = np.arange(10)
    seconds = iter(
        [(1.0, 2.0, 1.0), (4.0, 5.0, 2.0), (1.0, 1.0, 2.0), (4.0, 8.0, 5.0), (1.0, 3.0, 5.0), (4.0, 6.0, 10.0)]
    )

    def run(path, images, jobs):
        load, first, second = next(seconds)
        given = labels if path == "ours" else other
        return Answers([given] * 2, [], [], [], [first, second], [], load, 0.0, 0)

    monkeypatch.setattr(prediction.rehearsal, "run_isolated", run)
    other = labels
    speeds, starts, ties = prediction._race(("ours", "reference"), np.zeros((10, 4, 4, 3)), 3)
    assert speeds == [5.0, 2.0] and starts == [3.0, 10.0] and ties == 0
    other = labels[::-1]
    seconds = iter([(1.0, 1.0, 1.0)] * 2)
    with pytest.raises(RuntimeError, match="10 of 10 labels differ"):
        prediction._race(("ours", "reference"), np.zeros((10, 4, 4, 3)), 3)
    labels = np.arange(100)
    seconds, other = iter([(1.0, 1.0, 1.0)] * 2), np.where(labels == 7, 0, labels)
    assert prediction._race(("ours", "reference"), np.zeros((100, 4, 4, 3)), 1)[2] == 1, "a near tie"


def test_both_zips_answer_alike(tmp_path, workdir, monkeypatch):
    """All of `measure` on a tiny network: what it trains, packs and runs, without what it takes at its real size."""
    monkeypatch.setattr(prediction, "MODEL", "scratch")
    monkeypatch.setattr(prediction, "QUICK_FOLDS", 2)
    monkeypatch.setattr(prediction, "IMAGES", 30)
    monkeypatch.setattr(prediction, "KINDS", [("fine-tuned", "epochs=1 rate=0.003", 32)])
    data = class_folders(tmp_path / "data", {"a": 12, "b": 10}, height=32, width=32)
    steady, cold = prediction.measure(Options(data, tmp_path / "bench", quick=True))
    assert (steady.unit, steady.target, cold.unit, cold.target) == ("images/s", ">= 1.3", "s", "")
    assert min(steady.ours, steady.reference, cold.ours, cold.reference) > 0
