import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from competition import blend, simulate
from competition.features import hash_images
from competition.files import InputError, write_json
from competition.simulate import CONDITIONS, Condition, digits, play, summarise, train_ridge
from test_oof import make_table


@pytest.fixture(scope="module")
def pool():
    """A third of the digits: rounds that take little time."""
    whole = digits()
    rows = np.random.default_rng(0).permutation(len(whole.labels))[:600]
    features = {key: values[rows] for key, values in whole.features.items()}
    return dataclasses.replace(whole, features=features, labels=whole.labels[rows], groups=np.arange(600))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(blend, "BAGS", 1)


def rounds_of(pool, condition, count, hidden="random"):
    rounds = pd.DataFrame([play(pool, condition, hidden, seed) for seed in range(count)])
    return summarise(rounds.assign(data="digits", condition="x")).iloc[0]


def test_the_forecast_holds_in_whole_competitions(pool):
    line = rounds_of(pool, Condition(runs=2, label_noise=0.1), 24)
    assert abs(line["bias"]) <= max(0.5, 2 * line["error"])
    assert 75 <= line["held %"] <= 100 and line["rounds"] == 24


def test_copies_fool_the_naive_way_alone(pool):
    """The same rounds: what the naive way sees is higher than what it gets."""
    line = rounds_of(pool, dataclasses.replace(CONDITIONS["duplicates"], runs=2, label_noise=0.1), 8)
    assert line["naive bias"] > line["bias"] + 0.3


def test_the_same_seed_plays_the_same_round(pool):
    first, again, other = (play(pool, Condition(runs=2, duplicates=True), "random", seed) for seed in (3, 3, 4))
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
    monkeypatch.setattr(simulate, "digits", lambda: pool)
    monkeypatch.setattr(simulate, "CONDITIONS", {"plain": Condition(runs=2)})
    rounds = simulate.simulate(n="2", hidden="groups")
    written = pd.read_csv(Path("runs/simulate/digits-groups.csv"))
    assert len(written) == len(rounds) == 2 and written["seed"].tolist() == [0, 1]
    monkeypatch.setattr(simulate, "play", lambda *given: pytest.fail("it was played before"))
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
    monkeypatch.setattr(simulate, "read_folds", lambda name: table)
    with pytest.raises(InputError, match="no features, expected those of a frozen run"):
        simulate.read_pool("toy")
    folder, features = Path("runs/toy/features"), np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    for name, changes in {"a": {}, "b": {"view": "hflip"}, "c": {"images": "others"}}.items():
        write_json(folder / f"{name}.json",
                   {"view": "identity", "images": hash_images(table.frame["sha256"].tolist()), "model": "m"} | changes)
        np.save(folder / f"{name}.npy", features)
    pool = simulate.read_pool("toy")
    assert list(pool.features) == ["m a"] and np.array_equal(pool.labels, table.labels)
    assert pool.features["m a"].shape == (60, 8) and (pool.features["m a"] ** 2).mean() == pytest.approx(1)
