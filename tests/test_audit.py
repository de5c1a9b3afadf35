"""What `audit` says of labels: planted wrong ones come first, good ones are left in peace, files and page hold."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders, encode

from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.blending.blend import make_blend
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.insight import foreign
from competition.insight.audit import audit, confused_pairs, find_suspects
from competition.insight.look import robust_z
from competition.recipes import settle
from competition.runs.oof import write_oof
from competition.training.train import train


def predict(truth, classes, seed, noise=1.0):
    """Probabilities float64 [n, C] of a model that is nearly always right: the true logit 5 higher, and noise."""
    logits = 5 * np.eye(classes)[truth] + np.random.default_rng(seed).normal(0, noise, (len(truth), classes))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 8, 50])
def test_planted_wrong_labels_are_found_and_come_first(classes):
    random = np.random.default_rng(classes)
    truth = random.choice(classes, 2000, p=random.dirichlet(np.full(classes, 20)))
    wrong = np.zeros(2000, bool)
    wrong[random.choice(2000, 200, replace=False)] = True
    labels = np.where(wrong, (truth + random.integers(1, classes, 2000)) % classes, truth)
    probs = predict(truth, classes, 1)
    suspects = find_suspects(probs, labels)
    assert wrong[suspects.order[:200]].mean() > 0.97
    assert wrong[suspects.found].mean() > 0.98 and suspects.found[wrong].mean() > 0.6
    assert (suspects.suggested == truth)[suspects.found & wrong].mean() > 0.97
    clean = find_suspects(probs, truth)
    assert clean.found.mean() < 0.005
    assert (clean.suggested == truth)[~clean.found].all()


def test_the_definition_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.45, 0.55]])
    suspects = find_suspects(probs, labels)
    assert suspects.thresholds == pytest.approx([0.6, 2.05 / 3])
    assert suspects.ranked.tolist() == [2] and suspects.suggested.tolist() == [0, 0, 1, 1, 1, 1]
    assert suspects.trust.tolist() == [0.9, 0.8, 0.1, 0.7, 0.8, 0.55] and suspects.order.tolist()[:3] == [2, 5, 3]


def test_a_threshold_is_each_class_s_own():
    """0.5 is much for a class that models never see clearly, and little for one that they do."""
    labels = np.repeat([0, 1, 2], 20)
    probs = np.repeat([[0.98, 0.01, 0.01], [0.3, 0.4, 0.3], [0.01, 0.01, 0.98]], 20, axis=0)
    probs[0], probs[40] = [0.25, 0.5, 0.25], [0.6, 0.1, 0.3]
    suspects = find_suspects(probs, labels)
    assert suspects.found.nonzero()[0].tolist() == [0] and suspects.suggested[0] == 1


def test_a_class_without_images_is_never_suggested():
    probs = np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    suspects = find_suspects(probs, np.array([0, 0, 1]))
    assert not suspects.found.any() and suspects.thresholds[2] == np.inf


def test_confused_pairs_by_hand():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 0, 1, 2])
    pairs = confused_pairs(np.eye(3)[predicted], labels, np.array([0, 1, 0, 0, 0, 0, 0], bool))
    assert [tuple(pair.values()) for pair in pairs] == [(0, 1, 2, 0.5, 1), (1, 0, 1, 0.5, 0), (0, 2, 1, 0.25, 0)]


CLASSES = {"a <b> & c": 20, "label": 15, "été rank": 10}  # hostile to pages, and to columns of the same name


@pytest.fixture
def played(tmp_path, workdir):
    """A table with two finished runs, which agree that two images have wrong labels; returns those images' names."""
    make_folds(class_folders(tmp_path / "odd", CLASSES), folds=2)
    table = read_folds()
    rows = [3, 41]
    truth = table.labels.copy()
    truth[rows] = [1, 0]
    for seed, run in enumerate(("one", "two")):
        probs = predict(truth, 3, seed, 0.1)
        probs[rows] = 0.99 * np.eye(3)[truth[rows]] + 0.01 / 3  # surer than is common
        write_oof(f"runs/odd/{run}", table, {"identity": probs.astype(np.float32)})
        files.write_json(f"runs/odd/{run}/run.json", {"finished": True, "table": table.hash, "data": table.data_hash})
    return [table.images[row] for row in rows]


def test_files_are_keyed_by_image_and_a_second_time_there_is_nothing_to_do(played, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "odd").rglob("*")}
    frame = audit()
    assert "2 labels are likely wrong, 2 images get no right answer from any of 2 runs" in capsys.readouterr().out
    written = pd.read_csv("runs/odd/audit/audit.csv", header=None, keep_default_na=False)
    assert written.iloc[0].tolist() == [*frame.columns] and written.iloc[0].tolist()[-3:] == list(CLASSES)
    table = read_folds()
    assert sorted(written[0][1:]) == sorted(table.images) and sorted(written[0][1:3]) == sorted(played)
    assert (frame["suggested"] != "").tolist() == [True] * 2 + [False] * 43
    one = frame.set_index("image").loc[played[0]]
    assert (one["suggested"], one["runs right"]) == ("label", 0)
    labels = dict(zip(table.images, table.frame["label"]))
    assert [labels[image] for image in frame["image"]] == frame.iloc[:, 1].tolist()
    record = json.loads((Workspace().runs / "odd/audit/audit.json").read_text())
    assert sorted(record["likely_wrong"]) == sorted(record["no_run_right"]) == sorted(played)
    assert record["table"] == table.hash and list(record["oof"]) == ["one", "two"]
    text = (Workspace().runs / "odd/audit/audit.html").read_text("utf-8")
    assert "<b>" not in text and "a &lt;b&gt; &amp; c" in text
    assert re.findall(r'<img src="data:[^"]+" title="([^"]*)"', text)[:2] == [
        image.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for image in record["likely_wrong"]
    ]

    page = Workspace().runs / "odd/audit/audit.html"
    first = page.stat().st_mtime_ns
    audit()
    assert page.stat().st_mtime_ns == first and "nothing to do" in capsys.readouterr().out
    audit(runs="two")
    assert page.stat().st_mtime_ns != first and "by two," in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "odd").rglob("*")} == before


def test_the_blend_judges_where_there_is_one(played, capsys):
    make_blend()
    capsys.readouterr()
    audit()
    assert "images by the blend, accuracy" in capsys.readouterr().out
    assert set(json.loads((Workspace().runs / "odd/audit/audit.json").read_text())["oof"]) == {"one", "two", "blend"}


def test_nothing_to_go_by_is_refused(tmp_path, workdir):
    make_folds(class_folders(tmp_path / "new", {"a": 3, "b": 3}), folds=2)
    with pytest.raises(InputError, match="runs/new.*no finished run"):
        audit()
    with pytest.raises(InputError, match="runs/new/nowhere/run.json"):
        audit(runs="nowhere")


def test_an_image_far_from_all_others_stands_out_and_a_copy_does_not_hide_it():
    random = np.random.default_rng(0)
    features = (random.normal(size=(200, 8)) * 0.1 + np.repeat(np.eye(8)[:2], 100, 0)).astype(np.float32)
    features[[7, 150]] = np.eye(8)[5] * 3
    groups = np.arange(200)
    groups[150] = 7
    for order in (np.arange(200), random.permutation(200)):
        distances = foreign.measure_distances(features[order], groups[order])
        z = robust_z(np.log(distances))
        assert sorted(order[z > foreign.LIMIT].tolist()) == [7, 150]


def test_foreign_images_are_named_before_and_after_training(tmp_path, workdir, monkeypatch, capsys):
    monkeypatch.setattr(settle, "is_pretrained", lambda model, weights: True)
    folder, random = tmp_path / "data", np.random.RandomState(0)
    for label, red in (("a", 200), ("b", 60)):
        for i in range(20):
            noise = random.randint(-20, 20, (16, 16, 3))
            coloured = (np.array([red, 90, 60]) + noise).clip(0, 255).astype(np.uint8)
            (folder / label).mkdir(parents=True, exist_ok=True)
            (folder / label / f"{i:02}.png").write_bytes(encode(coloured))
    cartoon = np.zeros((16, 16, 3), np.uint8)
    cartoon[::2] = 255
    (folder / "a/cartoon.png").write_bytes(encode(cartoon))
    table = make_folds(folder, folds=2)
    with pytest.raises(InputError, match="no finished run"):
        audit()
    files.write_text("tiny.toml", "batch_size = 8\nfrozen_epochs = 2\nviews = ['identity']\n")
    run = train("baseline", "tiny.toml")
    capsys.readouterr()
    audit()
    assert "1 images are like no others, by frozen features of baseline: a/cartoon.png" in capsys.readouterr().out
    assert json.loads((table.paths.audit / "audit.json").read_text())["foreign"] == ["a/cartoon.png"]
    assert "Like no others: 1 of 41 images" in (table.paths.audit / "audit.html").read_text("utf-8")
    shutil.rmtree(run)
    frame = audit()
    assert frame["image"][0] == "a/cartoon.png" and len(frame) == 41
    assert "No run is finished" in capsys.readouterr().out
