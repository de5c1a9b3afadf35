import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_oof import make_table

from competition.base.files import InputError, write_json
from competition.blending import weights
from competition.features.extract import Shelf
from competition.trials import simulate
from competition.trials.simulate import CONDITIONS, Condition, play_round, read_digits, summarise, train_ridge


@pytest.fixture(scope="module")
def pool():
    """A third of the digits: rounds that take little time."""
    whole = read_digits()
    rows = np.random.default_rng(0).permutation(len(whole.labels))[:600]
    features = {key: values[rows] for key, values in whole.features.items()}
    return dataclasses.replace(whole, features=features, labels=whole.labels[rows], groups=np.arange(600))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(weights, "BAGS", 1)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Sixteen whole competitions of each condition, a minute or two of one core."""
    with contextlib.chdir(tmp_path_factory.mktemp("competitions")):
        return simulate.simulate(n=16, seed=7)


def holds(rounds):
    """Whether forecasts are what they claim, as far as 112 rounds can tell: three standard errors or so."""
    line = summarise(rounds).iloc[-1]
    return abs(line["bias"]) <= 0.5 and 82 <= line["held %"] <= 97


def moved(rounds, by=0.0, wide=1.0):
    """The same rounds, had the forecasts been higher and their intervals wider."""
    expected = rounds["expected"] + by
    low, high = (expected + (rounds[side] - rounds["expected"]) * wide for side in ("low", "high"))
    return rounds.assign(expected=expected, low=low, high=high, held=rounds["truth"].between(low, high))


def test_the_forecast_holds_in_whole_competitions(rounds):
    assert len(rounds) == 16 * len(CONDITIONS) and holds(rounds) and holds(moved(rounds))


@pytest.mark.parametrize("change", [{"by": 0.01}, {"by": -0.01}, {"wide": 0.65}, {"wide": 1.6}])
def test_others_would_not_have_held(rounds, change):
    assert not holds(moved(rounds, **change))


def test_a_hidden_image_of_a_known_scene_is_easier(rounds):
    scenes = rounds[rounds["condition"] == "scenes"]
    line, without = (summarise(cell).iloc[-1] for cell in (scenes, moved(scenes, by=-scenes["scenes"])))
    assert abs(line["bias"]) < 1 and without["bias"] < -2
    assert (rounds.loc[rounds["condition"] != "scenes", "scenes"] == 0).all()


def test_copies_fool_the_naive_way_alone(pool):
    """The same rounds: what the naive way sees is higher than what it gets."""
    condition = dataclasses.replace(CONDITIONS["duplicates"], runs=2, label_noise=0.1)
    line = summarise(
        pd.DataFrame([play_round(pool, condition, "random", seed) for seed in range(8)]).assign(
            data="digits", condition="x"
        )
    ).iloc[0]
    assert line["naive bias"] > line["bias"] + 0.3 and line["images"] > 480


def test_the_same_seed_plays_the_same_round(pool):
    first, again, other = (play_round(pool, Condition(runs=2, duplicates=True), "random", seed) for seed in (3, 3, 4))
    assert first == again != other and first["images"] > 480 and first["hidden images"] == 120


def test_fold_models_and_pairs_are_what_a_plain_solution_gives():
    random = np.random.default_rng(0)
    inputs, hidden = random.normal(size=(40, 3)), random.normal(size=(7, 3))
    labels, fold, times = random.integers(0, 2, 40), np.arange(40) % 4, random.integers(1, 4, 40)
    oof, apart, answers = train_ridge(inputs, labels, fold, times, hidden, 2, penalty=0.1, sharpness=2.0)

    def predict(rows, left_out):
        kept = ~np.isin(fold, left_out)
        copies = np.repeat(np.flatnonzero(kept), times[kept])
        x = np.append(inputs[copies], np.ones((len(copies), 1)), 1)
        head = np.linalg.solve(x.T @ x + 0.1 * len(copies) * np.eye(4), x.T @ np.eye(2)[labels[copies]])
        odds = np.exp(2 * np.append(rows, np.ones((len(rows), 1)), 1) @ head)
        return odds / odds.sum(1, keepdims=True)

    np.testing.assert_allclose(oof[fold == 1], predict(inputs[fold == 1], [1]))
    np.testing.assert_allclose(apart[2, fold == 1], predict(inputs[fold == 1], [1, 3]))
    np.testing.assert_allclose(answers, np.mean([predict(hidden, [f]) for f in range(4)], axis=0))


def test_the_command_writes_its_rounds(tmp_path, monkeypatch, capsys, pool):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulate, "read_digits", lambda: pool)
    monkeypatch.setattr(simulate, "CONDITIONS", {"plain": Condition(runs=2)})
    rounds = simulate.simulate(n="2", hidden="groups")
    written = pd.read_csv(Path("runs/simulate/digits-groups.csv"))
    assert len(written) == len(rounds) == 2 and written["seed"].tolist() == [0, 1]
    monkeypatch.setattr(simulate, "play_round", lambda *given: pytest.fail("it was played before"))
    again = simulate.simulate(n="1", seed=1, hidden="groups")
    assert again.loc[0, "truth"] == rounds.loc[1, "truth"]
    out = capsys.readouterr().out
    assert "plain" in out and "2 rounds, hidden: groups" in out
    for given, match in (({"n": 0}, "N=0"), ({"hidden": "x"}, "HIDDEN=x"), ({"name": "nothing"}, "make folds")):
        with pytest.raises(InputError, match=match):
            simulate.simulate(**given)


def test_features_of_a_run_are_a_pool(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = make_table(n=60)
    monkeypatch.setattr(simulate, "read_folds", lambda name, workspace: table)
    images = Shelf(Path(), table.frame["sha256"].tolist(), {}).images
    folder, features = Path("runs/toy/features"), np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)

    def compute(name, workspace):
        for file, changes in {"a": {}, "b": {"view": "hflip"}, "c": {"images": "others"}}.items():
            write_json(folder / f"{file}.json", {"view": "identity", "images": images, "model": "m"} | changes)
            np.save(folder / f"{file}.npy", features)

    monkeypatch.setattr("competition.trials.simulate.rank", compute)
    pool = simulate.read_pool("toy")
    assert list(pool.features) == ["m a"] and np.array_equal(pool.labels, table.labels)
    assert pool.features["m a"].shape == (60, 8) and (pool.features["m a"] ** 2).mean() == pytest.approx(1)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "key,seed\nx,y\n", '"'])
def test_rounds_that_cannot_be_read_are_played_anew(tmp_path, capsys, content):
    path = tmp_path / "digits-random.csv"
    path.write_text(content)
    assert simulate._read_rounds(path) == {}
    assert "digits-random.csv: cannot be read" in capsys.readouterr().err
