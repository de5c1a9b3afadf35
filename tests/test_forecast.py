"""Forecasts of what is known: simulated predictions, and a run's folder written by hand."""

import dataclasses

import numpy as np
import pytest
from test_oof import make_table, random_probs, write_run

from competition.base import files
from competition.base.files import InputError, write_json, write_npz
from competition.base.metrics import METRICS
from competition.base.workspace import Workspace
from competition.blending.chooser import make_candidates, make_chooser
from competition.blending.forecast import check_hidden, forecast_blend, heaviest, lower_own_class, make_forecast
from competition.blending.forecast_report import print_forecast
from competition.blending.gains import again_gain, averaging_gain, seeds_gain
from competition.blending.trained_apart import stop_apart, stops_early, train_apart, train_loose, trained_again
from competition.features.extract import Shelf
from competition.recipes.recipe import Recipe
from competition.runs import oof

ACCURACY = METRICS["accuracy"]


def drawn(random, n, right):
    """Probabilities of 3 classes that are right where `right` holds, and labels."""
    labels = random.integers(0, 3, n)
    return 0.1 + 0.7 * np.eye(3)[np.where(right, labels, (labels + 1) % 3)], labels


def stratified_gain(probs, labels, groups, fold=None):
    """By how much stratified folds flatter, in accuracy."""
    if fold is None:
        fold = np.argsort(np.argsort(labels, kind="stable")) % 5
    return ACCURACY.score(probs, labels) - ACCURACY.score(lower_own_class(probs, labels, groups, fold), labels)


def coverage(groups_of, known, hidden="groups", rounds=300, share=0.8):
    """How often the interval held, where images come in groups that stand or fall together and `known` says so."""
    held = 0
    for seed in range(rounds):
        random = np.random.default_rng(seed)
        groups = np.arange(400) // groups_of
        probs, labels = drawn(random, 400, random.random(400)[groups] < share)
        truth = (random.random(200)[np.arange(200) // groups_of] < share).mean()
        found = make_forecast(
            ACCURACY, probs, labels, groups if known else np.arange(400), np.arange(400) // 80, 0.9, 200, hidden
        )
        held += found["low"] <= truth <= found["high"]
    return held / rounds


def test_the_interval_holds_nine_times_in_ten():
    assert 0.86 <= coverage(1, True) <= 0.94
    assert 0.84 <= coverage(1, True, share=0.97, rounds=200) <= 0.96


def test_groups_widen_it():
    assert 0.86 <= coverage(5, True) <= 0.95
    assert coverage(5, False) < 0.8  # who takes them for single images is wrong


def test_what_it_is_made_of():
    random = np.random.default_rng(0)
    probs, labels = drawn(random, 500, random.random(500) < 0.8)
    fold = np.argsort(np.argsort(labels, kind="stable")) % 5
    found = make_forecast(
        ACCURACY, probs, labels, np.arange(500), fold, 0.85, 100, gain=(0.01, 0.002), early=(0.004, 0.001)
    )
    nested = ACCURACY.score(probs, labels)
    assert found["nested"] == nested and found["optimism"] == pytest.approx(0.85 - nested)
    assert found["expected"] == pytest.approx(nested + 0.01 - 0.004)
    assert found["low"] < found["expected"] < found["high"]
    errors = found["standard_errors"]
    assert errors["hidden_noise"] == pytest.approx(np.sqrt(5) * errors["oof_noise"]) and errors["gain_noise"] == 0.002
    assert errors["early_noise"] == 0.001 and errors["scenes_noise"] == 0
    assert errors["fold_spread"] == 0
    recalls = np.array([float((probs.argmax(1) == c)[labels == c].mean()) for c in range(3)])
    expected = np.array([row["expected"] for row in found["classes"]])
    assert (expected > recalls).all() and expected @ np.bincount(labels) / 500 == pytest.approx(found["expected"])
    balanced = make_forecast(
        METRICS["balanced_accuracy"], probs, labels, np.arange(500), fold, 0.85, 100, gain=(0.02, 0.0)
    )
    assert np.mean([row["expected"] for row in balanced["classes"]]) == pytest.approx(balanced["expected"])
    larger = make_forecast(ACCURACY, probs, labels, np.arange(500), fold, 0.85, 10_000)
    assert larger["high"] - larger["low"] < found["high"] - found["low"]
    order = np.argsort(np.argsort(probs.argmax(1) != labels, kind="stable"))  # all that is wrong in the last fold
    uneven = make_forecast(ACCURACY, probs, labels, np.arange(500), order * 5 // 500, 0.85, 100)
    assert uneven["standard_errors"]["fold_spread"] > 0.05
    loss = make_forecast(METRICS["log_loss"], probs, labels, np.arange(500), fold, 0.5, 100, gain=(-0.1, 0.01))
    assert loss["stratified"] < 0
    assert loss["expected"] == pytest.approx(loss["nested"] - 0.1 - loss["stratified"])
    assert loss["optimism"] == pytest.approx(loss["nested"] - 0.5)


def test_stratified_folds_flatter():
    """A classifier that knows all but the classes' shares, which it takes from the images that it is scored on."""
    random, means, off, found = np.random.default_rng(0), np.array([0.0, 1.0, 2.0]), [], []
    grid = np.linspace(-5, 7, 2401)
    density = np.exp(-((grid[:, None] - means) ** 2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])

    def predict(values, shares):
        probs = shares * np.exp(-((values[:, None] - means) ** 2) / 2)
        return probs / probs.sum(1, keepdims=True)

    for _ in range(1500):
        labels = np.append(np.arange(3), random.integers(0, 3, 57))
        shares = np.bincount(labels) / 60
        probs = predict(labels + random.normal(size=60), shares)
        truth = density[np.arange(len(grid)), predict(grid, shares).argmax(1)].sum() / 3  # classes are even there
        off.append(ACCURACY.score(probs, labels) - truth)
        found.append(stratified_gain(probs, labels, np.arange(60)))
    rest = np.array(off) - found
    assert np.mean(off) > 4 * np.std(off) / np.sqrt(1500)
    assert abs(rest.mean()) < 3 * rest.std() / np.sqrt(1500)
    twice = stratified_gain(probs, labels, np.where(labels == 0, np.arange(60) // 10, np.arange(60)))
    assert twice > found[-1]  # the images of a group are left out together
    assert stratified_gain(probs, np.arange(60) % 3, np.arange(60)) == 0  # counted out, not drawn
    nearly = np.append(np.arange(58) % 3, [0, 0])
    lowered = lower_own_class(probs, nearly, np.arange(60), np.arange(60) % 5)
    assert 0 < np.abs(lowered - probs).max() < 0.005  # two images do not make it another case


@pytest.mark.parametrize("sites", [5, 10, 25])
def test_groups_of_all_classes_lose_no_class(sites):
    """Sites, patients or cameras that have images of every class: leaving one out leaves the classes as they are."""
    random = np.random.default_rng(1)
    labels = random.choice(8, 1000, p=np.arange(1, 9) / 36)
    sure = 0.3 + 0.7 * random.random(1000)[:, None]
    probs = sure * np.eye(8)[np.where(random.random(1000) < 0.9, labels, (labels + 1) % 8)] + (1 - sure) / 8
    groups = random.integers(0, sites, 1000)
    assert abs(stratified_gain(probs, labels, groups, groups % 5)) < 0.01


def test_a_class_that_lies_in_one_group_is_left_as_it_is():
    labels, fold = np.repeat([0, 1, 2], [5, 40, 55]), np.arange(100) // 5 % 5
    probs = np.full((100, 3), 1 / 3)
    lowered = lower_own_class(probs, labels, np.where(labels == 0, 0, np.arange(100)), fold)
    assert np.isfinite(lowered).all() and np.allclose(lowered.sum(1), 1)
    assert lowered[0, 0] == pytest.approx(1 / 3, abs=0.02)  # the models of fold 0 never saw this class either


def test_what_other_pictures_of_a_scene_tell_is_of_random_images_alone():
    random = np.random.default_rng(0)
    groups = np.arange(500) // 2
    probs, labels = drawn(random, 500, random.random(500) < 0.8)
    given = (ACCURACY, probs, labels, groups, groups % 5, 0.85, 100)
    one, other, none = (
        make_forecast(*given, hidden, scenes=scenes)
        for hidden, scenes in (("random", (0.05, 0.01)), ("groups", (0.05, 0.01)), ("random", (0.0, 0.0)))
    )
    assert one["expected"] == pytest.approx(none["expected"] + 0.05) and one["scenes"] == other["scenes"] == 0.05
    assert one["expected"] - other["expected"] == pytest.approx(0.05, abs=0.005)
    assert one["standard_errors"]["scenes_noise"] == 0.01 and other["standard_errors"]["scenes_noise"] == 0
    assert one["groups"] == 250 and one["grouped_images"] == 500


def test_nothing_is_certain():
    probs, labels = drawn(np.random.default_rng(0), 300, np.full(300, True))
    found = make_forecast(ACCURACY, probs, labels, np.arange(300), np.arange(300) % 5, 1.0, 60)
    assert found["expected"] == 1 and 0.9 < found["low"] < 1


def models_of_parts(random, labels, lacking):
    """Models that know what five parts of the images say, each part with noise of its own, but lack some of them."""
    parts = random.normal(0, 2.5, (5, len(labels), 3))
    base = 1.2 * np.eye(3)[labels] + random.normal(0, 0.7, (len(labels), 3))
    odds = [np.exp(base + np.delete(parts, list(left_out), 0).mean(0)) for left_out in lacking]
    return np.stack([values / values.sum(-1, keepdims=True) for values in odds])


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy"])
def test_the_gain_of_averaging_is_found(name):
    """Of images of the first fold: models that lack it and one other tell what five that lack one each will gain."""
    random, metric, alone = np.random.default_rng(0), METRICS[name], np.arange(30_000)
    labels = random.integers(0, 3, 30_000)
    models = models_of_parts(random, labels, [(f,) for f in range(5)] + [(0, g) for g in range(1, 5)])
    truth = metric.score(models[:5].mean(0), labels) - metric.score(models[0], labels)
    gain, error = averaging_gain(metric, {"a": 1.0}, {"a": models[5:]}, labels, alone, 5)
    assert truth > 0.02 and gain == pytest.approx(truth, rel=0.2) and 0 < error < 0.01
    halves = averaging_gain(metric, {"a": 0.5, "b": 0.5}, {"a": models[5:], "b": models[5:]}, labels, alone, 5)
    assert halves == pytest.approx((gain, error))
    mixed, _ = averaging_gain(metric, {"a": 0.5, "b": 0.5}, {"a": models[5:], "b": models[:1]}, labels, alone, 5)
    assert mixed < gain  # that of b is not known, and counts as none
    assert averaging_gain(metric, {"a": 1.0}, {"a": models[:1]}, labels, alone, 5) == (0.0, 0.0)


def test_seeds_tell_what_averaging_gives():
    """Models whose logits carry noise of their own: of 3 for each image is told what 15 gain over 3."""
    random, alone = np.random.default_rng(0), np.arange(30_000)
    labels = random.integers(0, 3, 30_000)
    odds = np.exp(1.2 * np.eye(3)[labels] + random.normal(0, 0.7, (30_000, 3)) + random.normal(0, 0.4, (15, 30_000, 3)))
    models = odds / odds.sum(-1, keepdims=True)
    truth = ACCURACY.score(models.mean(0), labels) - np.mean(
        [ACCURACY.score(models[i::5].mean(0), labels) for i in range(5)]
    )
    plain = {f"s{i}": models[i] for i in range(3)}
    weights = dict.fromkeys(plain, 1 / 3)
    gain, error = seeds_gain(ACCURACY, weights, plain, list(plain), labels, alone, 5)
    assert truth > 0.003 and gain == pytest.approx(truth, rel=0.25) and 0 < error < 0.01


def test_one_fold_trained_again_tells_what_averaging_gives():
    """Models whose logits carry noise of their own, in a blend with another: what 5 gain over one, from a second seed."""
    random, alone = np.random.default_rng(0), np.arange(30_000)
    labels = random.integers(0, 3, 30_000)
    base = 1.2 * np.eye(3)[labels] + random.normal(0, 0.7, (30_000, 3))
    odds = np.exp(base + random.normal(0, 0.8, (7, 30_000, 3)))
    models = odds / odds.sum(-1, keepdims=True)
    weights, other, rows = {"a": 0.7, "b": 0.3}, models[6], alone[:20_000]

    def score(probs):
        return ACCURACY.score(0.7 * probs + 0.3 * other, labels)

    truth = score(models[:5].mean(0)) - np.mean([score(model) for model in models[:5]])
    gain, error = again_gain(
        ACCURACY, weights, {"a": models[0], "b": other}, "a", rows, [models[5][rows]], labels, alone, 5
    )
    assert truth > 0.01 and gain == pytest.approx(truth, rel=0.2) and 0 < error < 0.01


@pytest.fixture
def again(tmp_path, monkeypatch):
    """A finished run of all folds and a second seed of which only fold 1 is done; the table."""
    monkeypatch.chdir(tmp_path)
    table, folder = make_table(n=90), Workspace().runs / "toy"
    probs = random_probs(table)
    for seed, run in enumerate(["net", "net-seed1"]):
        write_run(folder / run, table, {"identity": probs, "hflip": probs})
        record = files.read_json(folder / run / "run.json")
        record["config"] |= {"recipe": {"seed": seed, "rate": 1.0}}
        write_json(folder / run / "run.json", record | {"finished": not seed})
    write_fold(folder / "net-seed1", table, 1)
    return folder, table


def write_fold(run_dir, table, fold):
    rows = np.flatnonzero(table.fold == fold)
    views = {"identity": random_probs(table, 7)[rows], "hflip": random_probs(table, 8)[rows]}
    oof.write_fold(run_dir / f"fold_{fold}", table, fold, views)
    write_json(run_dir / f"fold_{fold}" / "fold.json", {})


def test_folds_of_another_seed_are_found(again, capsys):
    folder, table = again
    rows, others = trained_again(folder / "net", table, ["hflip"])
    assert np.array_equal(rows, np.flatnonzero(table.fold == 1))
    np.testing.assert_array_equal(others, random_probs(table, 8)[rows][None])
    write_fold(folder / "net-seed1", table, 3)
    rows, others = trained_again(folder / "net", table, ["identity", "hflip"])
    assert set(table.fold[rows]) == {1, 3} and others.shape == (1, len(rows), 3)

    for fold in range(table.k):
        write_fold(folder / "net", table, fold)
    assert len(trained_again(folder / "net-seed1", table, ["identity"])[0]) == 90, "the first seed is one of its others"
    (folder / "net-seed2").mkdir()
    record = files.read_json(folder / "net-seed1" / "run.json")
    write_json(folder / "net-seed2" / "run.json", record)
    write_fold(folder / "net-seed2", table, 4)
    rows, others = trained_again(folder / "net", table, ["identity"])
    assert set(table.fold[rows]) == {1, 3} and len(others) == 1, "no fold in common: those of the one that has more"
    write_fold(folder / "net-seed2", table, 3)
    rows, others = trained_again(folder / "net", table, ["identity"])
    assert set(table.fold[rows]) == {3} and len(others) == 2

    oofs = {"net": oof.read_oof(folder / "net", table)}
    chooser = make_chooser(oofs, table)
    candidates, chosen = make_candidates(chooser, [["net"]])
    found = forecast_blend(table, oofs, chooser, candidates[chosen])
    assert found["averaging_gain"] != 0 < found["standard_errors"]["gain_noise"] and not found["not_measured"]
    print_forecast(found, table.classes)
    assert f"(of net by another seed, on {len(rows)} images)" in capsys.readouterr().out


def test_a_key_that_came_later_makes_no_other_run(again):
    folder, table = again
    record = files.read_json(folder / "net-seed1" / "run.json")
    record["config"]["recipe"] |= {"ema": 0.0, "head": []}  # the defaults, which the older run does not name
    write_json(folder / "net-seed1" / "run.json", record)
    assert trained_again(folder / "net", table, ["identity"]) is not None


def test_the_heaviest_are_measured():
    assert heaviest({"a": 0.05, "b": 0.6, "c": 0.35}) == ["b", "c"]
    assert len(heaviest({f"r{i}": 1 / 8 for i in range(8)})) == 8
    assert len(heaviest({f"r{i}": 1 / 15 for i in range(15)})) == 10


@pytest.mark.parametrize("change", ["config", "table", "images", "unfinished", "broken", "views"])
def test_folds_of_other_runs_tell_nothing(again, change, capsys):
    folder, table = again
    path, fold_dir = folder / "net-seed1" / "run.json", folder / "net-seed1" / "fold_1"
    record = files.read_json(path)
    if change == "config":
        record["config"]["recipe"]["rate"] = 2.0
    elif change == "table":
        record["table"] = "c" * 64
    elif change == "images":
        write_fold(folder / "net-seed1", dataclasses.replace(table, frame=table.frame.iloc[::-1]), 1)
    elif change == "unfinished":
        (fold_dir / "fold.json").unlink()
    elif change == "broken":
        (fold_dir / "views.npz").write_bytes(b"PK")
    write_json(path, record)
    assert trained_again(folder / "net", table, ["vflip" if change == "views" else "identity"]) is None
    if change == "unfinished":
        oofs = {"net": oof.read_oof(folder / "net", table)}
        chooser = make_chooser(oofs, table)
        candidates, chosen = make_candidates(chooser, [["net"]])
        print_forecast(forecast_blend(table, oofs, chooser, candidates[chosen]), table.classes)
        expected = "counted as 0: net; the same `make train` (or `make double`) with SEEDS=2 ONLY_FOLD=0 tells"
        assert expected in capsys.readouterr().out


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """A frozen run's folder on 90 images with its features, and the table."""
    monkeypatch.chdir(tmp_path)
    table = make_table(n=90)
    folder = write_run(Workspace().runs / "toy" / "net", table, {"identity": random_probs(table)})
    recipe = dataclasses.asdict(
        Recipe(frozen_epochs=5, frozen_rate=0.1, epochs=0, batch_size=16, views=["identity"], dropout=0.0)
    )
    write_json(folder / "run.json", {"config": {"model": "m", "weights": "w", "recipe": recipe}, "frozen": True})
    features = np.random.default_rng(0).normal(size=(90, 6)).astype(np.float32)
    features[:, :3] += 2 * np.eye(3)[table.labels]
    cache = Workspace().runs / "toy" / "features"
    images = Shelf(cache, table.frame["sha256"].tolist(), {}).images
    write_json(
        cache / "key.json",
        {
            "data": table.data_hash,
            "images": images,
            "size": [8, 8],
            "model": "m",
            "weights": "w",
            "image_size": 0,
            "least_size": 0,
            "view": "identity",
        },
    )
    np.save(cache / "key.npy", features)
    return folder, table


def test_heads_that_never_saw_an_image(frozen, capsys):
    folder, table = frozen
    probs = train_apart(folder, table, ["identity"])
    assert probs.shape == (4, 90, 3) and np.allclose(probs.sum(-1), 1, atol=1e-5)
    assert all(ACCURACY.score(model, table.labels) > 0.6 for model in probs)
    assert np.abs(probs[0] - probs[1]).max() > 1e-3
    again = train_apart(folder, table, ["identity"])  # kept
    assert again.tobytes() == probs.tobytes() and len(list((folder.parent / "blend").glob("apart-net.npz"))) == 1

    kept = folder.parent / "blend" / "apart-net.npz"
    kept.write_bytes(kept.read_bytes()[:-100])
    again = train_apart(folder, table, ["identity"])
    assert again.tobytes() == probs.tobytes() and f"warning: {kept}: cannot be read" in capsys.readouterr().err

    kept.unlink()
    labels = table.frame["label"].where(table.fold != 0, "a")  # what fold 0 is called changes nothing in fold 0
    other = train_apart(folder, dataclasses.replace(table, frame=table.frame.assign(label=labels)), ["identity"])
    held_out = table.fold == 0
    assert np.array_equal(other[:, held_out], probs[:, held_out])
    assert not np.allclose(other[:, ~held_out], probs[:, ~held_out])


def test_heads_that_saw_the_other_pictures_of_a_scene(frozen):
    """Labels that go by scene alone: heads on folds of scenes cannot know them, those on folds of images can."""
    folder, table = frozen
    scene = np.arange(90) // 3
    place = np.random.default_rng(2).normal(size=(30, 40)).astype(np.float32)
    np.save(folder.parent / "features" / "key.npy", place[scene])
    tied = dataclasses.replace(
        table,
        frame=table.frame.assign(
            label=np.array(table.classes)[np.random.default_rng(3).integers(0, 3, 30)[scene]],
            fold=scene % 5,
            group=[table.images[3 * i] for i in scene],
        ),
    )
    probs = train_loose(folder, tied, ["identity"])
    assert probs.shape == (90, 3) and np.allclose(probs.sum(-1), 1, atol=1e-5)
    assert (
        ACCURACY.score(probs, tied.labels)
        > ACCURACY.score(train_apart(folder, tied, ["identity"])[0], tied.labels) + 0.2
    )


def test_a_tree_of_heads_is_no_plain_head(frozen):
    folder, table = frozen
    record = files.read_json(folder / "run.json")
    write_json(folder / "run.json", record | {"config": record["config"] | {"splits": "a"}})
    assert train_apart(folder, table, ["identity"]) is None and train_loose(folder, table, ["identity"]) is None


def test_without_features_nothing_is_measured(frozen):
    folder, table = frozen
    (folder.parent / "features" / "key.npy").unlink()
    assert train_apart(folder, table, ["identity"]) is None


def test_the_epoch_comes_from_the_other_folds(tmp_path):
    table = make_table(n=20)
    table = dataclasses.replace(table, frame=table.frame.assign(fold=np.arange(20) % 2))
    curves = {0: [0.5, 0.9, 0.6], 1: [0.5, 0.6, 0.8, 0.7]}  # each would take its own best, 2 and 3
    write_json(tmp_path / "run.json", {"config": {"recipe": {"patience": 1}}})
    for fold, curve in curves.items():
        rows = ["epoch,phase,val_accuracy", "1,frozen,0.99"]
        rows += [f"{epoch},full,{value}" for epoch, value in enumerate(curve, 2)]
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "history.csv").write_text("\n".join(rows))
        images = np.array(table.images)[table.fold == fold][::-1]
        for epoch in range(1, len(curve) + 2):
            probs = np.full((len(images), 3), epoch, np.float32)
            write_npz(tmp_path / f"fold_{fold}" / "epochs" / f"{epoch:03d}.npz", image=images, probs=probs)
    found = stop_apart(tmp_path, table)
    assert set(found[table.fold == 0].ravel()) == {4} and set(found[table.fold == 1].ravel()) == {3}
    (tmp_path / "fold_1" / "epochs" / "003.npz").unlink()
    assert stop_apart(tmp_path, table) is None
    (tmp_path / "fold_1" / "history.csv").unlink()  # as of a soup or a double run, and in a kernel
    assert stop_apart(tmp_path, table) is None and stops_early(tmp_path)
    write_json(tmp_path / "run.json", {"config": {"recipe": {"patience": 0}}})
    assert stop_apart(tmp_path, table) is None and not stops_early(tmp_path)


def test_the_metric_that_the_run_chose_by_chooses_on_the_other_folds_too(tmp_path):
    table = make_table(n=20)
    table = dataclasses.replace(table, frame=table.frame.assign(fold=np.arange(20) % 2))
    write_json(tmp_path / "run.json", {"config": {"recipe": {"patience": 1}, "metric": "log_loss"}})
    sure = {0: [0.4, 0.9, 0.5], 1: [0.4, 0.5, 0.8]}  # of the true class, at accuracies that say otherwise
    for fold, values in sure.items():
        (tmp_path / f"fold_{fold}").mkdir()
        rows = [f"{epoch},full,{accuracy}" for epoch, accuracy in enumerate([0.9, 0.5, 0.5], 1)]
        (tmp_path / f"fold_{fold}" / "history.csv").write_text("\n".join(["epoch,phase,val_accuracy", *rows]))
        images, labels = np.array(table.images)[table.fold == fold], table.labels[table.fold == fold]
        for epoch, value in enumerate(values, 1):
            probs = np.where(np.eye(3)[labels] > 0, value, (1 - value) / 2).astype(np.float32)
            write_npz(tmp_path / f"fold_{fold}" / "epochs" / f"{epoch:03d}.npz", image=images[::-1], probs=probs[::-1])
    true = stop_apart(tmp_path, table)[np.arange(20), table.labels]
    np.testing.assert_allclose(true, 0.5)  # the third epoch of fold 0, the second of fold 1
    write_json(tmp_path / "run.json", {"config": {"recipe": {"patience": 1}}})
    np.testing.assert_allclose(stop_apart(tmp_path, table)[np.arange(20), table.labels], 0.4)
    write_json(tmp_path / "run.json", {"config": {"recipe": {"patience": 1}, "metric": "auc"}})
    (tmp_path / "fold_1" / "epochs" / "001.npz").unlink()
    assert stop_apart(tmp_path, table) is None


def test_what_stopping_early_flatters_is_said_to_be_unknown(frozen, capsys):
    """A run with patience and no epochs on disk, such as a soup, is forecast all the same."""
    folder, table = frozen
    record = files.read_json(folder / "run.json")
    record["config"]["recipe"]["patience"] = 2
    write_json(folder / "run.json", record)
    oofs = {"net": oof.OOF("net", ["identity"], random_probs(table)[None])}
    chooser = make_chooser(oofs, table)
    candidates, chosen = make_candidates(chooser, [["net"]])
    found = forecast_blend(table, oofs, chooser, candidates[chosen])
    assert found["stop_not_measured"] == ["net"] and found["early_stop"] == 0
    print_forecast(found, table.classes)
    assert "stopping early -0.0000 (not measured, counted as 0: net)" in capsys.readouterr().out


def test_hidden_is_checked():
    assert check_hidden("", "groups") == (None, "groups") and check_hidden("40", "random") == (40, "random")
    for given, match in ((("x", "random"), "HIDDEN_N=x"), ((5, "scenes"), "HIDDEN=scenes: expected random or groups")):
        with pytest.raises(InputError, match=match):
            check_hidden(*given)
