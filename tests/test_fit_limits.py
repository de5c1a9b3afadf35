import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.submission import fit_limits as fit
from competition.submission.ensemble import Ensemble
from competition.submission.fit_limits import (
    ASSUMED_GAIN,
    Choice,
    Part,
    _commands,
    _part,
    choose_fitting,
    find_averaging_gain,
    find_smallest,
    measure_flattery,
    print_choices,
    refine_choices,
    weigh_ensemble,
)
from competition.submission.limits import Cost, Limits, read_limits

K, N = 5, 300
PARTS = {
    "fine": Part("fine", 1_000_000, 0, 0.01),
    "head": Part("shared", 4_000_000, 1000, 0.02),
    "other_head": Part("shared", 4_000_000, 2000, 0.02),
}


def ensemble(weights=None, views=("identity", "hflip"), **changes):
    weights = weights or {"fine": 0.6, "head": 0.3, "other_head": 0.1}
    members = [
        (
            SimpleNamespace(
                name=run,
                frozen="head" in run,
                config={"model": "scratch"},
                recipe=SimpleNamespace(image_size=0, least_size=0, head=[]),
            ),
            weight,
        )
        for run, weight in weights.items()
    ]
    forecast = {"expected": 0.9, "low": 0.88, "high": 0.92, "averaging_gain": 0.02, "hidden_n": N}
    return Ensemble("blend", members, list(views), oof=np.zeros((N, 3)), forecast=forecast, **changes)


def test_limits_name_what_is_over_and_by_how_much():
    limits = read_limits("100", 60, "1G")
    assert limits.given and not Limits().given and Limits() == read_limits()
    assert limits.exceeded(Cost(99e6, 59, 1e9)) == []
    assert limits.exceeded(Cost(112.5e6, 75, 2 * 2**30)) == [
        "112.5 MB, 12.5 over MAX_MB (100.0)",
        "75.0 s, 15.0 over MAX_SECONDS (60.0)",
        "2147.5 MB of memory, 1073.7 over MAX_MEMORY (1073.7)",
    ]
    for given, message in (
        (("x",), "MAX_MB=x"),
        ((None, "-1"), "MAX_SECONDS=-1"),
        ((None, None, "1 pound"), "MAX_MEMORY=1"),
    ):
        with pytest.raises(InputError, match=message):
            read_limits(*given)


def test_backbones_that_are_shared_count_once():
    whole = ensemble()
    assert weigh_ensemble(whole, PARTS, K) == (
        5 * 1_000_000 + 4_000_000 + 5 * 3000,
        pytest.approx(2 * (5 * 0.01 + 0.02)),
    )
    assert weigh_ensemble(dataclasses.replace(whole, folds=(0, 1), half=True), PARTS, K) == (
        (2 * 1_000_000 + 4_000_000 + 2 * 3000) / 2,
        pytest.approx(2 * (2 * 0.01 + 0.02)),
    )
    assert weigh_ensemble(ensemble({"fine": 1.0}, ["identity"]), PARTS, K) == (5_000_000, pytest.approx(0.05))


@pytest.fixture
def chosen(monkeypatch):
    """The Choices for an ensemble of three runs, of which `fine` is right most often, with their OOF made up."""
    random = np.random.default_rng(0)
    labels = np.arange(N) % 3

    class Oof:
        views = ["identity", "hflip"]

        def __init__(self, right):
            wrong = (labels + random.integers(1, 3, (2, N))) % 3
            said = np.where(random.random((2, N)) < right, labels, wrong)
            self.probs = np.eye(3)[said] * 0.6 + 0.4 / 3

        def mean(self, views):
            return self.probs[[self.views.index(view) for view in views]].mean(0)

    oofs = {"fine": Oof(0.8), "head": Oof(0.7), "other_head": Oof(0.6)}
    table = SimpleNamespace(
        name="toy",
        k=K,
        labels=labels,
        fold=np.arange(N) % K,
        metric="accuracy",
        size=(32, 32),
        classes=["a", "b", "c"],
        frame=pd.DataFrame({"group": np.arange(N)}),
        paths=Workspace().competition("toy"),
    )
    whole = ensemble()
    runs = {run.name: run for run, _ in whole.members}
    monkeypatch.setattr(fit, "_read_oofs", lambda *_: oofs)
    monkeypatch.setattr(fit, "read_run", lambda path, _: runs[path.name])
    monkeypatch.setattr(fit, "measure_networks", lambda run, _: PARTS[run.name])
    cost = Cost(36e6, 5.0 + N * 0.14, 900e6)
    return whole, table, cost, choose_fitting(whole, table, 5.0, cost, N)


def test_choices_are_forecast_from_the_oof(chosen):
    whole, table, cost, choices = chosen
    expected = [choice.expected for choice in choices]
    assert (np.diff(expected) < 1e-9).all() and all(choice.cuts for choice in choices)

    def only(*cuts, folds=None):
        return [
            choice
            for choice in choices
            if choice.cuts == cuts and (folds is None or len(choice.ensemble.folds or range(K)) == folds)
        ]

    (half,) = only("float16")
    assert half.expected == pytest.approx(0.9) and half.cost.bytes == pytest.approx(cost.bytes / 2)
    assert half.cost.seconds == pytest.approx(cost.seconds)
    (one,), (two,) = only("folds", folds=1), only("folds", folds=2)
    assert one.expected == pytest.approx(0.88) and two.expected == pytest.approx(0.9 - 0.02 * (1 - 0.5 / 0.8))
    assert two.cost.seconds == pytest.approx(5 + N * 0.14 * (2 * 0.01 + 0.02) / (5 * 0.01 + 0.02))
    (fewer,) = only("views")
    assert fewer.ensemble.views == ["identity"] and fewer.cost.seconds == pytest.approx(5 + N * 0.07)
    weak = [choice for choice in only("members") if [run.name for run, _ in choice.ensemble.members] == ["other_head"]]
    assert weak[0].expected < 0.8 and weak[0].ensemble.views == whole.views


def test_table_shows_what_fits(chosen, capsys):
    whole, table, cost, choices = chosen
    limits = Limits(megabytes=19, seconds=40)
    print_choices(whole, table, cost, choices, limits)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[2].split()[-1] == "no" or "no" in lines[1].split()
    (best,) = [line for line in lines if line.lstrip().startswith("*")]
    first = next(choice for choice in choices if not limits.exceeded(choice.cost))
    assert f"{first.expected:.4f}" in best and best.endswith("yes")
    assert "0.0200 better than one, as measured" in out and "TEACHER=blend" in out


def test_what_takes_training_is_offered_with_its_cost(chosen):
    whole, table, cost, choices = chosen
    (distilled,) = _commands(whole, table, cost, choices)
    seconds = 5 + N * 0.14 * 0.05 / (5 * 0.01 + 0.02)  # that of `fine` alone
    assert f", {seconds:.1f} s," in distilled and "its own OOF tells when it is made" in distilled
    (alone,) = [
        choice.expected
        for choice in choices
        if choice.cuts == ("members",)
        and [run.name for run, _ in choice.ensemble.members] == [whole.members[0][0].name]
    ]
    assert f"; forecast between {alone:.4f}, without the others, and 0.9000, the whole's;" in distilled
    part = _part(whole.members[0][0], whole, table, choices)
    assert part.seconds == pytest.approx(seconds - 5) and part.bytes == pytest.approx(cost.bytes * 5 / 9.015)
    twice = dataclasses.replace(whole, members=[whole.members[0]] * 2)
    soup, _ = _commands(twice, table, cost, choices)
    assert (
        "make soup" in soup and f"{(cost.bytes - part.bytes) / 1e6:.1f} MB, {cost.seconds - part.seconds:.1f} s" in soup
    )
    assert all("about" not in line and "forecast" not in line for line in _commands(twice, table, cost, []))


def test_the_best_of_many_is_known_to_flatter():
    """Of 30 that know nothing the best looks good; what each part would get, chosen on the others, does not."""
    random, labels = np.random.default_rng(0), np.arange(600) % 3
    table = SimpleNamespace(
        metric="accuracy", labels=labels, fold=np.arange(600) // 3 % 5, frame=pd.DataFrame({"image": np.arange(600)})
    )
    rivals = [
        Choice(None, float((probs.argmax(1) == labels).mean()) + 0.3, None, (), probs)
        for probs in random.dirichlet(np.ones(3), (30, 600))
    ]
    best = max(rivals, key=lambda one: one.expected)
    honest = best.expected - 0.3 - measure_flattery(best, rivals, table)
    assert best.expected - 0.3 > 0.36 and honest == pytest.approx(1 / 3, abs=0.025)
    assert measure_flattery(best, [best], table) == 0
    better = dataclasses.replace(best, nested=np.eye(3)[labels], expected=1.0)
    assert measure_flattery(better, [*rivals, better], table) == 0, "there is no doubt about it"
    assert measure_flattery(best, [dataclasses.replace(best, nested=None)], table) == 0


def test_the_smallest_is_the_farthest_below_the_limits(chosen):
    *_, choices = chosen
    smallest = find_smallest(choices, Limits(seconds=1))
    assert smallest.cost.seconds == min(choice.cost.seconds for choice in choices)
    assert find_smallest(choices, Limits(megabytes=1)).ensemble.half


def test_estimates_learn_from_a_rehearsal(chosen):
    *_, choices = chosen
    first = choices[0]
    found = Cost(first.cost.bytes * 2, first.cost.seconds, first.cost.memory)
    refined = refine_choices(choices, first, found)
    assert len(refined) == len(choices) - 1
    assert refined[0].cost.bytes == pytest.approx(2 * choices[1].cost.bytes)


def test_gain_that_was_not_measured_is_assumed(chosen):
    whole, table, *_ = chosen
    heaviest, lightest = (pick(whole.members, key=lambda member: member[1])[0].name for pick in (max, min))
    for unknown, known, expected in (
        ([heaviest], 0.0, (ASSUMED_GAIN, False)),
        ([heaviest], 0.02, (0.02, False)),
        ([lightest], 0.02, (0.02, True)),
    ):
        members = [(run, 0.9 if run.name == heaviest else 0.1 / (len(whole.members) - 1)) for run, _ in whole.members]
        forecast = whole.forecast | {"averaging_gain": known, "not_measured": unknown}
        some = dataclasses.replace(whole, forecast=forecast, members=members)
        assert find_averaging_gain(some, table)[1:] == expected
    assert find_averaging_gain(whole, table)[1:] == (0.02, True)
