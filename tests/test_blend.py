import dataclasses
import json
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_oof import make_table, random_probs, write_run

from competition.base.files import InputError, write_json
from competition.base.metrics import METRICS, accuracy, log_loss
from competition.base.workspace import Workspace
from competition.blending import blend
from competition.blending.blend import explain_choice, forecast_again, make_blend
from competition.blending.chooser import (
    BLEND_KINDS,
    SHOWN,
    Candidate,
    Chooser,
    calibrate_nested,
    combine,
    make_candidates,
    make_chooser,
    nest_parts,
    view_sets,
)
from competition.blending.price import price_networks, read_networks
from competition.blending.record import read_blend
from competition.blending.temperature import find_temperature, sharpen
from competition.blending.weights import WEIGH, select_greedily
from competition.data.folds import make_folds
from competition.runs.oof import OOF, read_oof, read_predictions, write_oof

RUNS = Workspace().runs


def predictions(labels, right, classes=3, sure=0.8):
    """Probabilities: `sure` for the true class where `right` [n] holds, for the next class elsewhere."""
    named = np.where(right, labels, (labels + 1) % classes)
    probs = np.full((len(labels), classes), (1 - sure) / (classes - 1), np.float32)
    probs[np.arange(len(labels)), named] = sure
    return probs


def specialists(table):
    """Three runs, each wrong about a third of the images that both others know, and one bad run."""
    n, rng = len(table.frame), np.random.default_rng(0)
    third, probs = rng.integers(0, 3, n), {}
    for i, run in enumerate("pqr"):
        known = predictions(table.labels, np.full(n, True))
        probs[run] = np.where((third == i)[:, None], predictions(table.labels, third != i, sure=0.9), known)
    probs["bad"] = predictions(table.labels, rng.random(n) < 0.05, sure=0.98)
    return {run: values.astype(np.float32) for run, values in probs.items()}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """600 images in 3 classes; `make_blend` finds this table whatever the name."""
    monkeypatch.chdir(tmp_path)
    table = make_table(n=600)
    monkeypatch.setattr(blend, "read_folds", lambda name, workspace: table)
    return table


def write_runs(table, probs, finished=True):
    """Write {run: [n, C] or {view: [n, C]}} below runs/toy/."""
    for run, views in probs.items():
        views = views if isinstance(views, dict) else {"identity": views}
        write_run(RUNS / "toy" / run, table, views, finished)


def candidate(kind, nested, behind=0.0, error=0.0, weights=("a",), views=("identity",)):
    return Candidate(kind, list(views), dict.fromkeys(weights, 1 / len(weights)), nested, nested, 1.0, behind, error)


def noise(seed, runs=15, n=400, classes=3):
    """Runs that know nothing, and labels."""
    random = np.random.default_rng(seed)
    return random.dirichlet(np.ones(classes), (runs, n)), random.integers(0, classes, n)


def chooser_of(probs, labels, kinds=BLEND_KINDS, metric="accuracy", views=1):
    stacks = {
        ("identity", "hflip")[: view + 1]: np.roll(probs, view, axis=0) * (1 - 0.1 * view) + 0.1 * view / 3
        for view in range(views)
    }
    n = len(labels)
    return Chooser(stacks, labels, np.arange(n) % 4, np.arange(n), METRICS[metric], kinds)


def rows_of(record, **wanted):
    return [row for row in record["candidates"] if all(row[key] == value for key, value in wanted.items())]


def test_greedy_beats_its_parts_and_the_mean(table, capsys):
    write_runs(table, specialists(table))
    record = make_blend()
    single, mean, greedy = (rows_of(record, kind=kind)[0] for kind in ("single", "mean", "greedy"))
    assert greedy["nested"] > 0.99 > 0.8 > max(single["nested"], mean["nested"]) and not single["within_noise"]
    assert set(record["weights"]) == {"p", "q", "r"} and sum(record["weights"].values()) == pytest.approx(1)
    assert record["kind"] in ("greedy", "convex") and record["accuracy"] > 0.99
    out = capsys.readouterr().out
    assert f"chosen: {record['kind']} of 3 with identity (nested accuracy {record['nested']:.4f})" in out
    line = next(line for line in out.split("\n") if line.startswith("*"))
    assert line.split()[:5] == ["*", record["kind"], "identity", "15", f"{record['nested']:.4f}"]
    assert out.count("\n*") == 1 and f"p {record['weights']['p']:.2f}" in line and "not packable" in out
    assert not any(row["chosen"] for row in record["candidates"] if row["kind"] in SHOWN)
    forecast = record["forecast"]
    assert forecast["hidden_n"] == 120 and forecast["low"] <= forecast["expected"] <= forecast["high"]
    assert f"forecast: accuracy {forecast['expected']:.4f} on a hidden test" in out and "not measured" in out


def test_blend_json_reproduces_the_oof(table):
    rng = np.random.default_rng(1)
    views = ["identity", "hflip", "rot180"]
    write_runs(
        table,
        {
            run: {view: 0.6 * probs + 0.4 * random_probs(table, rng.integers(1000)) for view in views}
            for run, probs in specialists(table).items()
        },
    )
    returned = make_blend("toy", "p,q,r,bad")
    record = json.loads((RUNS / "toy" / "blend" / "blend.json").read_text("utf-8"))
    assert record == returned == read_blend(table)
    oofs = {run: read_oof(RUNS / "toy" / run, table) for run in record["weights"]}
    again = sharpen(combine(oofs, record["weights"], record["views"]), record["temperature"])
    written = read_predictions(RUNS / "toy" / "blend", table)
    assert written.probs[0].tobytes() == again.tobytes()
    frame = pd.read_csv("runs/toy/blend/oof.csv")
    assert frame.columns.tolist() == ["image", "label", "fold", *table.classes]
    assert frame[table.classes].to_numpy(np.float32).tobytes() == again.tobytes()
    assert record["accuracy"] == accuracy(again, table.labels)
    assert record["log_loss"] == log_loss(again, table.labels)
    assert [member["weight"] for member in record["members"]] == list(record["weights"].values())
    assert record["table"] == table.hash and record["data"] == table.data_hash
    assert record["classes"] == table.classes and record["size"] == [8, 8] and "numpy" in record["versions"]
    assert len(record["candidates"]) == 18 and sum(row["chosen"] for row in record["candidates"]) == 1


def test_combine_is_the_weighted_mean_of_the_views_means(table):
    a, b = (np.stack([random_probs(table, seed) for seed in seeds]) for seeds in ((0, 1), (2, 3)))
    oofs = {"a": OOF("a", ["identity", "hflip"], a), "b": OOF("b", ["hflip", "identity"], b)}
    both = combine(oofs, {"a": 0.25, "b": 0.75}, ["identity", "hflip"])
    np.testing.assert_allclose(both, 0.25 * a.mean(0) + 0.75 * b.mean(0), atol=1e-6)
    one = combine(oofs, {"b": 1.0}, ["identity"])
    assert one.dtype == np.float32 and one.tobytes() == b[1].tobytes()


def test_the_order_of_runs_changes_nothing(table):
    write_runs(table, specialists(table))
    folder = RUNS / "toy" / "blend"
    contents = []
    for runs in ("p,q,r,bad", " bad, r,q ,p,", ["r", "bad", "q", "p"], None):
        make_blend("toy", runs)
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert len(contents[0]) == 3 and all(content == contents[0] for content in contents)


def test_greedy_ties_in_accuracy_go_by_log_loss():
    labels = np.arange(90) % 3
    unsure, sure = (predictions(labels, labels < 2, sure=sure) for sure in (0.5, 0.6))
    assert select_greedily(np.stack([unsure, sure]), labels).tolist() == [0, 1]
    assert select_greedily(np.stack([sure, unsure]), labels).tolist() == [1, 0]
    assert select_greedily(np.stack([sure, sure]), labels).tolist() == [1, 0]  # the smallest of equals


def test_greedy_gives_weights_that_equal_shares_cannot():
    """The first is wrong about 20 images that the second knows, which knows little else: 2 to 1 is right."""
    labels = np.arange(300) % 3
    first = predictions(labels, np.arange(300) >= 20, sure=0.45)
    known = np.arange(300) < 120
    guess = predictions(labels, known, sure=0.5)
    second = np.where(known[:, None], predictions(labels, known, sure=0.75), guess)
    counts = select_greedily(np.stack([first, second]), labels)
    share = counts / counts.sum()
    assert counts.sum() <= 50 and 0.58 < share[0] < 0.79
    assert accuracy(np.tensordot(share, [first, second], 1), labels) == 1
    assert accuracy((first + second) / 2, labels) < 0.5


def test_greedy_keeps_the_number_of_picks():
    labels = np.arange(60) % 3
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (5, 60))
    assert select_greedily(probs, labels, picks=1).sum() >= 1
    assert select_greedily(probs, labels, picks=7).sum() <= 7
    scores = [accuracy(run, labels) for run in probs]
    counts = select_greedily(probs, labels)
    assert accuracy(np.tensordot(counts, probs, 1), labels) >= max(scores)


@pytest.mark.parametrize("metric, views", [("accuracy", 2), ("log_loss", 1), ("macro_f1", 1)])
def test_nested_scores_are_those_of_a_loop_by_hand(metric, views):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 120)
    odds = np.exp(random.normal(0, 1, (4, 120, 3)) + np.eye(3)[labels] * [[[0.2]], [[1.0]], [[1.1]], [[0.9]]])
    chooser = chooser_of(odds / odds.sum(-1, keepdims=True), labels, metric=metric, views=views)
    parts, groups = chooser.parts, chooser.groups
    for kind, key in chooser.keys:
        by_hand = np.zeros((120, 3))
        for part in range(4):
            seen, rows = parts != part, parts == part
            shares = WEIGH[kind](chooser.stacks[key][:, seen], labels[seen], chooser.metric)
            by_hand[rows] = sum(share * run[rows] for share, run in zip(shares, chooser.stacks[key]))
        np.testing.assert_allclose(chooser.nested(kind, key), by_hand, atol=1e-12)
    whole = np.zeros((120, 3))
    for part in range(4):  # someone who has never had that part makes the choice
        seen, rows = parts != part, parts == part
        other = Chooser(
            {key: stack[:, seen] for key, stack in chooser.stacks.items()},
            labels[seen],
            parts[seen],
            groups[seen],
            chooser.metric,
        )
        kind, key = other.choose()
        whole[rows] = np.tensordot(other.shares(kind, key), chooser.stacks[key][:, rows], 1)
    np.testing.assert_allclose(chooser.whole(), whole, atol=1e-12)


def test_nested_sees_what_picking_from_noise_is_worth():
    """15 runs that know nothing of 3 classes: the naive figure is well above chance, the nested one is not."""
    naive, nested = [], []
    for seed in range(8):
        probs, labels = noise(seed)
        chooser = chooser_of(probs, labels, ("single", "mean"))
        naive.append(accuracy(chooser.predict("single", ("identity",)), labels))
        nested.append(accuracy(chooser.whole(), labels))
    assert np.mean(naive) > 0.36 and abs(np.mean(nested) - 1 / 3) < 0.02


def test_the_simplest_within_noise_wins():
    """Two runs that differ by a hair, and a third of which the mean is no better by more than noise."""
    labels = np.arange(1000) % 3
    base = np.arange(1000) < 800
    probs = np.stack([predictions(labels, base), predictions(labels, base ^ (np.arange(1000) % 250 == 0))])
    chooser = chooser_of(probs, labels)
    assert chooser.choose() == ("single", ("identity",))
    _, behind, error = chooser.compare()
    assert (behind <= error).sum() > 1
    worse = chooser_of(np.stack([probs[0], predictions(labels, np.arange(1000) % 2 == 0)]), labels)
    candidates, chosen = make_candidates(worse, [["a"], ["b"]])
    assert candidates[chosen].kind == "single" and candidates[chosen].weights == {"a": 1.0}
    assert {c.kind for c in candidates} == {*BLEND_KINDS, *SHOWN}


def test_why_it_was_chosen():
    best = candidate("greedy", 0.801, weights="abc", views=("identity", "hflip"))
    single = candidate("single", 0.8, behind=0.001, error=0.0017)
    shown = candidate("stacking", 0.9, behind=-0.099)
    assert explain_choice([best, single, shown], 1) == (
        "chosen: single with identity (nested accuracy 0.8000), the simplest of the 2 within one standard error "
        "of the best, greedy of 3 with identity+hflip (0.8010)"
    )
    behind = candidate("single", 0.78, behind=0.021, error=0.004)
    assert "more than one standard error ahead of the others" in explain_choice([best, behind], 0)


def test_parts_are_the_folds_and_never_fewer_than_three():
    groups = np.arange(40) // 2
    assert np.array_equal(nest_parts(np.arange(40) % 5, np.arange(40)), np.arange(40) % 5)
    assert len(np.unique(nest_parts(np.arange(40) % 20, np.arange(40)))) == 10
    parts = nest_parts((groups % 2), groups)
    assert len(np.unique(parts)) >= 2 and all(len(set(parts[groups == group])) == 1 for group in groups)
    assert len(np.unique(nest_parts(np.arange(40) % 2, np.arange(40) // 4))) == 4


def test_convex_weights_are_those_of_least_log_loss():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 300)
    odds = np.exp(random.normal(0, 1, (2, 300, 3)) + np.eye(3)[labels] * [[[1.5]], [[0.8]]])
    probs = odds / odds.sum(-1, keepdims=True)
    share = WEIGH["convex"](probs, labels, METRICS["accuracy"])[0]
    grid = np.linspace(0, 1, 101)
    losses = [log_loss(w * probs[0] + (1 - w) * probs[1], labels) for w in grid]
    assert share == pytest.approx(grid[np.argmin(losses)], abs=0.011)


def test_temperature_mends_what_is_too_sure():
    random = np.random.default_rng(0)
    logits = random.normal(0, 1.5, (600, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (honest.cumsum(1) < random.random((600, 1))).sum(1)
    too_sure = sharpen(honest, 1 / 3)
    assert find_temperature(too_sure, labels) == pytest.approx(3, rel=0.2)
    np.testing.assert_allclose(sharpen(too_sure, 3.0), honest, atol=1e-4)
    for probs, applied in ((too_sure, True), (honest, False)):
        chooser = chooser_of(probs[None], labels)
        temperature, found = calibrate_nested(chooser, candidate("single", 0.5))
        assert (temperature != 1) == found["applied"] == applied
    assert (
        calibrate_nested(chooser_of(too_sure[None], labels), candidate("single", 0.5))[1]["calibration_error"][1] < 0.1
    )


def test_a_metric_is_carried_through(table, monkeypatch, capsys):
    table = dataclasses.replace(table, metric="log_loss")
    monkeypatch.setattr(blend, "read_folds", lambda name, workspace: table)
    rng = np.random.default_rng(0)
    write_runs(
        table,
        {
            run: 0.5 * random_probs(table, seed) + 0.5 * predictions(table.labels, rng.random(600) < 0.7)
            for seed, run in enumerate("ab")
        },
    )
    record = make_blend(hidden_n="50")
    assert record["metric"] == "log_loss" == record["forecast"]["metric"] and record["forecast"]["hidden_n"] == 50
    best = min(row["nested"] for row in record["candidates"] if row["packable"])
    assert record["nested"] <= best + 0.05 and "forecast: log_loss" in capsys.readouterr().out


def test_views_are_those_that_every_run_has_and_the_size_allows():
    def oof(*views):
        return OOF("x", list(views), np.zeros((len(views), 1, 2), np.float32))

    flips = oof("vflip", "hflip", "identity")
    every = oof("identity", "hflip", "rot90", "vflip")
    assert view_sets([oof("identity"), flips], (8, 8)) == [["identity"]]
    assert view_sets([oof("identity", "vflip"), flips], (8, 8)) == [["identity"], ["identity", "vflip"]]
    assert view_sets([oof("hflip", "identity"), flips], (8, 8)) == [["identity"], ["identity", "hflip"]]
    sets = [["identity"], ["identity", "hflip"]]
    assert view_sets([every], (8, 8)) == [*sets, ["identity", "hflip", "vflip", "rot90"]]
    assert view_sets([every], (8, 9)) == [*sets, ["identity", "hflip", "vflip"]]


def test_views_are_used_where_they_help(table):
    """Each view is unsure and wrong about another half; their mean is right."""
    first = np.random.default_rng(0).random(600) < 0.5
    probs = {}
    for view, right in (("identity", first), ("hflip", ~first)):
        sure = predictions(table.labels, np.full(600, True))
        probs[view] = np.where(right[:, None], sure, predictions(table.labels, right, sure=0.5))
    write_runs(table, {"a": probs})
    record = make_blend()
    assert record["views"] == ["identity", "hflip"] and record["accuracy"] == 1


def test_one_run_is_the_blend(table, capsys):
    write_runs(table, {"a": random_probs(table)})
    record = make_blend()
    assert record["weights"] == {"a": 1.0} and record["views"] == ["identity"]
    assert len(record["candidates"]) == 1
    assert "the only candidate; there is only one run, so the blend is that run" in capsys.readouterr().out
    folder = RUNS / "toy"
    expected = sharpen(read_oof(folder / "a", table).mean(["identity"]), record["temperature"])
    assert read_predictions(folder / "blend", table).probs[0].tobytes() == expected.tobytes()


def test_a_run_named_twice_counts_once(table, capsys):
    write_runs(table, {"a": random_probs(table), "b": random_probs(table, 1)})
    record = make_blend("toy", "a,b,a,a")
    assert record["runs"] == ["a", "b"]
    assert "named more than once, counted once: a" in capsys.readouterr().err


def test_unfinished_runs_are_left_out_or_refused(table, capsys):
    write_runs(table, {"b": random_probs(table)}, finished=False)
    with pytest.raises(InputError, match="no finished run"):
        make_blend()
    write_runs(table, {"a": random_probs(table)})
    assert make_blend()["runs"] == ["a"]
    assert "left out, since unfinished: b" in capsys.readouterr().err
    with pytest.raises(InputError, match="b.run.json.*unfinished"):
        make_blend("toy", "a,b")


def test_refuses_unknown_runs(table):
    write_runs(table, {"a": random_probs(table)})
    make_blend()
    for runs in ("a,c", "blend", "../toy/a", "."):
        with pytest.raises(InputError, match="no such run, expected some of a$"):
            make_blend("toy", runs)
    for runs in (",", []):
        with pytest.raises(InputError, match="no run named"):
            make_blend("toy", runs)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hash": "c" * 64}, "another fold table"),
        ({"data_hash": "c" * 64}, "other images"),
        ({"classes": ["b", "a", "c"]}, "classes b, a, c"),
    ],
)
def test_refuses_runs_of_another_table(table, changes, words):
    write_runs(table, {"a": random_probs(table)})
    write_runs(dataclasses.replace(table, **changes), {"b": random_probs(table)})
    with pytest.raises(InputError, match=f"b.run.json.*{words}.*RUNS="):
        make_blend()
    assert not (RUNS / "toy" / "blend").exists()


def test_a_blend_that_no_longer_fits_is_refused(table):
    with pytest.raises(InputError, match="make blend"):
        read_blend(table)
    write_runs(table, {"a": random_probs(table)})
    make_blend()
    with pytest.raises(InputError, match="another fold table"):
        read_blend(dataclasses.replace(table, hash="c" * 64))
    write_oof(RUNS / "toy" / "a", table, {"identity": random_probs(table, 1)})
    with pytest.raises(InputError, match="a.oof.npz: not the predictions that were blended"):
        read_blend(table)
    write_json(RUNS / "toy" / "blend" / "blend.json", {"weights": {}})
    with pytest.raises(InputError, match="not a blend's record"):
        read_blend(table)


def test_greedy_selection_is_fast():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, 4000)
    probs = rng.random((10, 4000, 20)) + np.eye(20)[labels] * rng.random((10, 4000, 1))
    start = time.perf_counter()
    select_greedily(probs / probs.sum(-1, keepdims=True), labels)
    assert time.perf_counter() - start < 10  # 0.2 s on a quiet machine


def test_on_a_real_fold_table(tmp_path, monkeypatch):
    """The table that `make folds` writes, its name left out, with class names that are columns of oof.csv."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label in ("fold", "image", "1.0"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(6):
            picture = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
            picture.save(tmp_path / "data" / label / f"{i}.png")
    table = make_folds(tmp_path / "data", folds=3)
    for seed, run in enumerate("ab"):
        write_run(tmp_path / "runs" / "data" / run, table, {"identity": random_probs(table, seed)})
    record = make_blend()
    assert read_blend(table) == record and record["runs"] == ["a", "b"]
    assert read_predictions(tmp_path / "runs" / "data" / "blend", table).views == ["blend"]


def test_seeds_of_one_run_are_one_member(table):
    """Three seeds and another run: the mean of members weighs the other as much as the three together."""
    probs = specialists(table)
    names = {"p": "p", "q": "p-seed1", "bad": "p-seed2", "r": "r"}
    write_runs(table, {name: probs[run] for run, name in names.items()})
    for seed, run in enumerate(["p", "p-seed1", "p-seed2", "r"]):
        path = RUNS / "toy" / run / "run.json"
        record = json.loads(path.read_text())
        recipe = {"seed": seed, "rate": 2.0 if run == "r" else 1.0}
        write_json(path, record | {"config": record["config"] | {"recipe": recipe}})
    record = make_blend()
    (mean,) = rows_of(record, kind="mean")
    assert mean["weights"] == pytest.approx({"p": 1 / 6, "p-seed1": 1 / 6, "p-seed2": 1 / 6, "r": 1 / 2})
    assert mean["passes"] == 4 * table.k
    for row in record["candidates"]:
        seeds = [row["weights"].get(run, 0.0) for run in ("p", "p-seed1", "p-seed2")]
        assert seeds == pytest.approx([seeds[0]] * 3)
    (single,) = rows_of(record, kind="single")
    averaged = np.mean([probs[run] for run in ("p", "q", "bad")], axis=0)
    best = max(accuracy(averaged, table.labels), accuracy(probs["r"], table.labels))
    assert single["in_sample"] == pytest.approx(best)
    oofs = {run: read_oof(RUNS / "toy" / run, table) for run in record["weights"]}
    blended = sharpen(combine(oofs, record["weights"], record["views"]), record["temperature"])
    np.testing.assert_allclose(read_predictions(RUNS / "toy/blend", table).probs[0], blended, atol=1e-6)


def test_another_hidden_test_is_forecast_anew(table):
    write_runs(table, specialists(table))
    record = make_blend()
    assert forecast_again(table, record) == forecast_again(table, record, 120, "random") == record["forecast"]
    larger = forecast_again(table, record, 10_000, "groups")
    assert larger["hidden_n"] == 10_000 and larger["hidden"] == "groups"
    assert larger["high"] - larger["low"] < record["forecast"]["high"] - record["forecast"]["low"]
    (RUNS / table.name / "q" / "oof.npz").unlink()  # as in a kernel
    assert forecast_again(table, record, 10_000) == record["forecast"]


def test_a_blend_for_another_metric_is_refused(table):
    write_runs(table, specialists(table))
    make_blend()
    with pytest.raises(InputError, match="a blend for accuracy, expected log_loss"):
        read_blend(dataclasses.replace(table, metric="log_loss"))


def test_the_temperature_is_part_of_the_forecast(table):
    """Of probabilities that are far too sure the log-loss is forecast as the zip's will be."""
    right = np.random.default_rng(0).random(len(table.labels)) < 0.8
    sure = np.eye(3)[np.where(right, table.labels, (table.labels + 1) % 3)] * 0.9996 + 0.0001
    sure = (sure / sure.sum(1, keepdims=True)).astype(np.float32)
    oofs = {"a": OOF("a", ["identity"], sure[None])}
    chooser = make_chooser(oofs, dataclasses.replace(table, metric="log_loss"))
    plain, tempered = (log_loss(chooser.whole(tempered), table.labels) for tempered in (False, True))
    assert plain > 1.5 and tempered < 0.8


def test_two_folds_of_two_sites_have_three_parts():
    fold = np.arange(40) % 2
    for groups in (fold, np.arange(40), np.arange(40) // 8 * 2 + fold):
        assert len(np.unique(nest_parts(fold, groups))) >= 3


def test_heads_that_share_a_backbone_cost_one_pass(table):
    """Two runs of heads on one backbone, one on another, one fine-tuned, one double run; a run that says nothing."""

    def write(run, ms=None, frozen=False, splits=None, **config):
        write_runs(table, {run: random_probs(table)})
        path = RUNS / "toy" / run / "run.json"
        record = json.loads(path.read_text())
        record["config"] |= {"model": "net", "weights": "w", "recipe": {"image_size": 96, "seed": run} | config}
        record["config"] |= {"splits": splits} if splits else {}
        write_json(path, record | {"frozen": frozen})
        for fold in range(table.k if ms else 0):
            write_json(path.parent / f"fold_{fold}" / "fold.json", {"ms_an_image": ms + fold})
        return read_networks(path.parent, table.k)

    one, two = write("one", 4.0, frozen=True), write("two", 5.0, frozen=True, rate=0.1)
    assert one.key == two.key and price_networks([one], 2) == price_networks([one, two], 2) == {"passes": 2, "ms": 8.0}
    larger = write("larger", 9.0, frozen=True, image_size=160)
    assert price_networks([one, two, larger], 1) == {"passes": 2, "ms": 13.0}
    fine = write("fine", 3.0)
    assert price_networks([fine], 1) == {"passes": table.k, "ms": 3.0 * table.k}
    assert price_networks([fine, one], 2) == {"passes": 2 * table.k + 2, "ms": 6.0 * table.k + 8}
    double = write("double", 7.0, splits=[[["a"], ["b", "c"]], [["b"], ["c"]], [["b"], ["c"]]])
    assert price_networks([double], 1) == {"passes": 3 * table.k, "ms": 7.0 * table.k}
    assert price_networks([fine, write("elsewhere")], 1) == {"passes": 2 * table.k, "ms": None}


def test_what_a_candidate_costs_is_shown(table, capsys):
    write_runs(table, {run: dict.fromkeys(("identity", "hflip"), probs) for run, probs in specialists(table).items()})
    for run in specialists(table):
        for fold in range(table.k):
            write_json(RUNS / "toy" / run / f"fold_{fold}" / "fold.json", {"ms_an_image": 2.5})
    record = make_blend()
    for row in record["candidates"]:
        runs = len(row["weights"] or record["runs"])
        assert row["passes"] == runs * table.k * len(row["views"]) and row["ms"] == 2.5 * row["passes"]
    assert "ms an image" in capsys.readouterr().out


def test_runs_that_are_left_out_by_hand_are_said(table, capsys):
    write_runs(table, specialists(table))
    write_runs(table, {"study-default-head": random_probs(table, 5)})
    assert make_blend("toy")["forecast"]["left_out"] == 0 and "left out by hand" not in capsys.readouterr().out
    assert make_blend("toy", "p,q")["forecast"]["left_out"] == len(specialists(table)) - 2
    assert "other finished runs were left out by hand" in capsys.readouterr().out
