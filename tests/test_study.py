"""The study: its ladder can be run and typed, its figures are right, and it goes on after a kill.

No network is trained here but a linear model and a tiny CNN on pictures of 12 x 12 pixels.
"""

import contextlib
import dataclasses
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders

from competition.api.competition import commands
from competition.base import files
from competition.base.files import InputError
from competition.base.metrics import METRICS, accuracy, per_class_accuracy
from competition.base.statistics import accuracy_interval, compare_accuracies
from competition.base.workspace import Workspace
from competition.blending.blend import make_blend
from competition.cli.main import main
from competition.cli.parser import parse
from competition.cli.verbs import BY_NAME
from competition.data.folds import make_folds
from competition.data.table import read_folds
from competition.insight import explain as explaining
from competition.models.backbones import ALWAYS_RANDOM, backbone_names
from competition.recipes.recipe import Recipe, read_recipe
from competition.runs import oof
from competition.training import train as training
from competition.trials import ladder, study_rungs, study_table
from competition.trials import study as studying
from competition.trials.ladder import BUDGETS, LADDER, MEMBERS, TUNER, Effort, Rung
from competition.trials.search_space import read_space
from competition.trials.study_rungs import (
    HOW,
    RUNS,
    Result,
    Skipped,
    Study,
    _blend,
    _fill,
    _gan,
    find_rarest,
    print_command,
    read_held_out,
    train_options,
)
from competition.trials.study_table import describe_study, format_table, score_rung

RAREST = 'b; 5" c '  # as odd as a class name may be
RECIPE_KEYS = {field.name for field in dataclasses.fields(Recipe)}
SMALL_LADDER = (
    Rung("zero inputs", "", "worse", how="zeros"),
    Rung("baseline", "zero inputs", "25 %", "pixels", "baseline"),
    Rung("scratch", "baseline", "77 %", "scratch", "scratch"),
    Rung("unheard of", "baseline", "", "scratch", "scratch", ("colour_blindness=1",)),
    Rung("elsewhere", "baseline", "", "pixels", "resnet152_v2"),
    Rung("too large", "baseline", "", "scratch", "scratch", ("cutmix=0.7", "mixup=0.7")),
    Rung("double", "baseline", "", "pixels", "baseline", how="double"),
    Rung("search", "scratch", "", "scratch", "scratch", how="tune"),
    Rung("TTA", "scratch", "marginal", keys=("identity", "hflip"), how="views"),
    Rung("TTA of nothing", "too large", "marginal", keys=("all",), how="views"),
)
SMALL_BUDGETS = {
    "default": {
        "pixels": Effort("quick", None, ("epochs=2", "batch_size=8")),
        "scratch": Effort("quick", "1", ("epochs=2", "batch_size=8")),
        "head": Effort("quick"),
    }
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    with contextlib.chdir(place):
        counts = {"a": 9, RAREST: 4, 'ö "x"': 7}
        make_folds(class_folders(place / "data", counts, height=12, width=12), "arten", folds=2)
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


def a_plan(budget="default", backbone="efficientnet_lite0"):
    return Study(read_folds("arten"), backbone, budget, {}, None, {})


# --------------------------------------------------------------------------------------------------------- the ladder


@pytest.mark.parametrize("budget", BUDGETS)
def test_each_rung_is_compared_with_one_before_it_and_has_a_run_of_its_own(budget):
    plan, seen, runs = a_plan(budget), [], set()
    assert plan.rungs
    for rung in plan.rungs:
        assert rung.how in HOW and (rung.reference in seen or rung.name in ("zero inputs", "batch 64")), rung.name
        assert rung.how != "soup" or set(rung.keys) < set(seen)
        assert rung.kind in BUDGETS[budget] and rung.budgets and set(rung.budgets) <= set(BUDGETS)
        assert plan.model(rung) in backbone_names()
        assert files.check_name("RUN", plan.run(rung)).startswith("study-")
        seen.append(rung.name)
        runs.add(plan.run(rung))
    assert len(runs) == len(seen) == len(set(seen))


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "vgg16"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_each_command_can_be_typed_and_has_a_recipe_that_can_be_read(budget, backbone):
    plan = a_plan(budget, backbone)
    for rung in (rung for rung in plan.rungs if rung.how in ("train", "gan", "double")):
        options = train_options(plan, rung)
        make, verb, *words = shlex.split(print_command("train", options))
        assert make == "make"
        found, typed = parse([verb, *words])
        assert (
            found.name == "train"
            and typed["overrides"] == options["SET"]
            and typed["only_fold"] == options["ONLY_FOLD"]
        )
        assert (typed["model"], typed["recipe"], typed["run"]) == (plan.model(rung), options["RECIPE"], plan.run(rung))
        known = [key for key in options["SET"] if key.partition("=")[0] in RECIPE_KEYS]
        recipe = read_recipe(options["RECIPE"], known, plan.model(rung) in ALWAYS_RANDOM)
        assert recipe.epochs + recipe.frozen_epochs


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_commands_of_rungs_that_are_no_training_can_be_typed(budget, monkeypatch):
    plan, asked = a_plan(budget), []
    plan.weights = dict.fromkeys(backbone_names(), "imagenet")
    shape = len(plan.table.labels), len(plan.table.classes)
    monkeypatch.setattr(study_rungs, "read_held_out", lambda *_: {"identity": np.full(shape, 1 / shape[1])})
    plan.commands = {verb: lambda verb=verb, **given: asked.append((verb, given)) for verb in ("tune", "soup", "train")}
    for rung in plan.rungs:
        plan.results[rung.name] = Result(rung, views={"identity": np.full(shape, 1 / shape[1])})
    for how, verb, most in (("tune", "tune", 1), ("soup", "soup", 1), ("distil", "train", 1), ("blend", "blend", 9)):
        for rung in [rung for rung in plan.rungs if rung.how == how]:
            result = plan.results[rung.name]
            with contextlib.suppress(FileNotFoundError):  # the trials, which nobody has made
                HOW[how](plan, rung, result)
            make, typed, *words = shlex.split(result.command)
            _, options = parse([typed, *words])
            assert (make, typed, options["name"]) == ("make", verb, "arten")
            if how != "blend":
                given = {option.key: option.default for option in BY_NAME[verb].options} | asked[-1][1]
                assert given.pop("workspace") == plan.table.workspace
                assert {key: list(value) if key == "overrides" else value for key, value in given.items()} == options
            if how == "tune":
                assert asked[-1][0] == "tune" and options["model"] == "hyperresnet" and options["folds_used"] == "0"
                space = options["space"] if options["space"] != "auto" else "version=v1,v2"
                assert [key.name for key in read_space(space, "hyperresnet", "quick", [], True)] == ["version"]
            if how == "distil":
                assert len(options["teacher"].split(",")) == 3
    assert {rung.how for rung in plan.rungs} - {"zeros", "views", "double", "gan"} <= {
        "train",
        "tune",
        "soup",
        "distil",
        "blend",
    }


def test_no_network_sees_fewer_pixels_than_it_can():
    small, large = a_plan("quick"), a_plan("quick", "xception")
    coarse = next(rung for rung in small.rungs if rung.name == "head, one view")
    assert "image_size=64" in train_options(small, coarse)["SET"]
    assert "image_size=71" in train_options(large, coarse)["SET"]


def test_a_weighted_ensemble_weighs():
    """The first member is right, the second says the same of every image: their mean is worse than the weighted."""
    plan = a_plan()
    labels, classes = plan.table.labels, len(plan.table.classes)
    good = np.where(np.eye(classes)[labels] > 0, 0.5, 0.25)
    poor = np.tile([0.98, 0.01, 0.01], (len(labels), 1))
    for name, probs in (("head", good), ("head vgg16", poor)):
        rung = next(rung for rung in LADDER if rung.name == name)
        plan.results[name] = Result(rung, views={"identity": probs})

    def right(kind):
        rung = Rung("two", "head", "", keys=(kind, "2"), how="blend")
        return (_blend(plan, rung, Result(rung))["identity"].argmax(1) == labels).mean()

    assert right("greedy") == 1 > right("mean")


def test_the_ladder_s_budgets_and_systems_are_those_of_the_report():
    assert all(rung.report or rung.name in ("all layers", "report, first phase", "head, one view") for rung in LADDER)
    keys = " ".join(key for rung in LADDER for key in rung.keys)
    for word in (
        "class_weight=balanced",
        "oversample_count",
        "cutmix",
        "mixup",
        "fmix",
        "randaugment",
        "gridmask",
        "erase",
        "augment_phases=full",
        "head=",
        "plain_epochs",
        "progressive",
        "ema",
        "layer_decay",
    ):
        assert word in keys
    assert {rung.how for rung in LADDER} == set(HOW)


def test_what_depends_on_the_competition():
    plan = a_plan()  # 9, 4 and 7 images: the mean class has 6.67
    assert find_rarest(plan.table) == RAREST
    assert _fill(plan, "oversample_count={count}") == "oversample_count=3"  # of 6.67, one of two folds
    weights = read_recipe("quick", [_fill(plan, "class_weight={given}")]).class_weight
    assert weights == {RAREST: 1.7}


# ------------------------------------------------------------------------------------------------------- the figures


def test_a_paired_test_and_an_interval_by_hand():
    right = np.array([1] * 6 + [0] * 1 + [1] * 10 + [0] * 3, bool)
    other = np.array([0] * 6 + [1] * 1 + [1] * 10 + [0] * 3, bool)
    difference, p = compare_accuracies(right, other)
    assert difference == pytest.approx(5 / 20)
    assert p == pytest.approx(2 * (math.comb(7, 0) + math.comb(7, 1)) / 2**7)  # 6 of 7 by a coin, either way
    assert compare_accuracies(other, right) == (pytest.approx(-5 / 20), pytest.approx(p))
    assert compare_accuracies(right, right) == (0, 1)

    n, share, z = 20, 16 / 20, 1.6448536
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert accuracy_interval(right) == (
        pytest.approx((centre - spread) / (1 + z * z / n), abs=1e-6),
        pytest.approx((centre + spread) / (1 + z * z / n), abs=1e-6),
    )


def test_only_images_that_both_held_out_are_compared():
    plan = a_plan()
    labels, n = plan.table.labels, len(plan.table.labels)
    good, bad = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    first, second = good.copy(), bad.copy()
    first[: n // 2] = np.nan  # b, and what comes after it
    second[-2:] = np.nan
    for name, probs, reference in (("one", first, ""), ("two", second, "one")):
        plan.results[name] = Result(Rung(name, reference, ""), views={"identity": probs})
    one, two = (score_rung(plan, result) for result in plan.results.values())
    assert (one["images"], one["accuracy"], one["rarest"]) == (n - n // 2, 1.0, 1.0)
    assert math.isnan(one["difference"]) and two["images"] == n - 2
    assert two["difference"] == -1 and two["p"] == pytest.approx(2 / 2 ** (n - n // 2 - 2)) and two["rarest"] == 0


def test_the_metric_has_a_column_and_what_stays_of_accuracy_is_said():
    plan = a_plan()
    plan = dataclasses.replace(plan, table=dataclasses.replace(plan.table, metric="macro_f1"))
    labels = plan.table.labels
    probs = np.eye(3)[np.where(labels == labels[-1], 0, labels)]
    plan.results = {
        "one": Result(Rung("one", "", ""), views={"identity": probs}),
        "two": Result(Rung("two", "one", ""), "skipped"),
    }
    frame = pd.DataFrame([score_rung(plan, result) for result in plan.results.values()])
    assert frame["macro_f1"][0] == METRICS["macro_f1"].score(probs, labels) != frame["accuracy"][0]
    shown = format_table(frame)
    assert shown["macro_f1"].tolist() == [f"{frame['macro_f1'][0]:.3f}", ""]
    assert "scored by macro_f1, beside which interval, difference and p are of accuracy" in describe_study(plan)
    plan = a_plan()
    plan.results["one"] = Result(Rung("one", "", ""), views={"identity": probs})
    frame = pd.DataFrame([score_rung(plan, plan.results["one"])])
    assert "macro_f1" not in [*frame, *format_table(frame)] and "scored by" not in describe_study(plan)


def test_predictions_of_another_table_or_of_diverged_training_are_refused(tmp_path):
    table = read_folds("arten")
    rows = np.flatnonzero(table.fold == 1)
    images, probs = np.array(table.images)[rows], np.full((1, len(rows), 3), 1 / 3, np.float32)
    path = tmp_path / "fold_1" / "views.npz"
    files.write_npz(path, image=images, views=np.array(["identity"]), probs=probs)
    found = read_held_out(tmp_path, table)["identity"]
    assert (np.isnan(found).all(1) == (table.fold != 1)).all() and (found[rows] == probs[0]).all()
    files.write_npz(path, image=images[::-1], views=np.array(["identity"]), probs=probs)
    with pytest.raises(InputError, match="views.npz: other images"):
        read_held_out(tmp_path, table)
    files.write_npz(path, image=images, views=np.array(["identity"]), probs=np.full_like(probs, np.nan))
    with pytest.raises(InputError, match="diverged"):
        read_held_out(tmp_path, table)
    with pytest.raises(InputError, match="no predictions"):
        read_held_out(tmp_path / "nowhere", table)


def test_an_ensemble_is_the_mean_of_its_first_members_on_the_images_of_all(monkeypatch):
    plan = a_plan()
    n = len(plan.table.labels)
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (3, n))
    probs[1, :3] = np.nan
    for rung, values in zip((rung for rung in LADDER if rung.name in MEMBERS), probs):
        plan.results[rung.name] = Result(rung, views={"identity": values})
    heads = list(plan.results)
    pair = next(rung for rung in LADDER if rung.keys == ("mean", "2"))
    members = sorted(heads, key=MEMBERS.index)[:2]
    expected = np.mean([plan.results[name].probs for name in members], axis=0)
    result = Result(pair)
    np.testing.assert_allclose(_blend(plan, pair, result)["identity"], expected, atol=1e-6)
    assert all(plan.run(plan.results[name].rung) in result.command for name in members)
    assert result.where == "candidate mean, views identity, column nested"
    with pytest.raises(Skipped, match="3 backbones"):
        _blend(plan, Rung("four", "head", "", keys=("mean", "4"), how="blend"), result)


def test_what_averages_weights_and_what_learns_of_heads_name_their_runs(monkeypatch):
    calls = []
    monkeypatch.setattr(study_rungs, "call_command", lambda plan, result, verb, options: calls.append((verb, options)))
    monkeypatch.setattr(study_rungs, "read_held_out", lambda folder, table: {"identity": folder.name})
    plan = a_plan("full")
    soup, distilled = (next(rung for rung in LADDER if rung.how == how) for how in ("soup", "distil"))
    for rung in (soup, distilled):
        with pytest.raises(Skipped):
            for name in (*soup.keys, "head"):
                plan.results[name] = Result(next(rung for rung in LADDER if rung.name == name))
            HOW[rung.how](plan, rung, Result(rung))
    for name in (*soup.keys, *MEMBERS[:4]):
        plan.results[name] = Result(next(rung for rung in LADDER if rung.name == name), views={"identity": 0})
    for rung in (soup, distilled):
        assert HOW[rung.how](plan, rung, Result(rung)) == {"identity": plan.run(rung)}
    (verb, options), (learns, taught) = calls
    assert (verb, learns) == ("soup", "train") and options["RUNS"].split(",") == [
        plan.run(plan.results[name].rung) for name in soup.keys
    ]
    assert taught["TEACHER"].split(",") == [plan.run(plan.results[name].rung) for name in MEMBERS[:3]]


@pytest.mark.parametrize("budget", BUDGETS)
def test_photographs_larger_than_a_budget_means_are_shrunk(budget):
    plan = a_plan(budget)
    rungs = [rung for rung in plan.rungs if rung.how in ("train", "double")]
    small = {rung.name: train_options(plan, rung)["SET"] for rung in rungs}
    plan.table = dataclasses.replace(plan.table, size=(400, 512))
    for rung in rungs:
        keys = train_options(plan, rung)["SET"]
        recipe = read_recipe(plan.effort(rung).recipe, keys, plan.model(rung) in ALWAYS_RANDOM)
        assert budget == "full" or 0 < recipe.image_size <= 160, rung.name
        capped = [key for key in keys if key not in small[rung.name]]
        assert capped == ([f"image_size={plan.effort(rung).most}"] if plan.effort(rung).most else [])


@pytest.mark.parametrize(
    "verdicts, called, made",
    [
        (["good", "good"], ["train"], True),
        (["none", "good"], ["gan", "train"], True),
        (["none", "poor"], ["gan"], False),
    ],
)
def test_only_a_good_gan_adds_images(verdicts, called, made, monkeypatch):
    def check_synthetic(table, folds):
        assert folds == [0]
        if (verdict := verdicts.pop(0)) != "good":
            raise InputError(f"the GAN is {verdict}")

    def call(plan, result, verb, options):
        calls.append(verb)
        result.command = print_command(verb, options)

    plan, calls = a_plan(), []
    rung = next(rung for rung in LADDER if rung.how == "gan")
    result = Result(rung)
    monkeypatch.setattr("competition.trials.study_rungs.check_synthetic", check_synthetic)
    monkeypatch.setattr(study_rungs, "call_command", call)
    monkeypatch.setattr(study_rungs, "read_held_out", lambda folder, table: {"identity": None})
    with contextlib.nullcontext() if made else pytest.raises(Skipped, match="is poor"):
        _gan(plan, rung, result)
        assert re.fullmatch(r"make gan .*epochs=\d+ && make train .*synthetic=50.*", result.command)
    assert calls == called


# ------------------------------------------------------------------------------------------------------ the whole thing


@pytest.fixture(scope="module")
def played(place):
    """The tables of a small study that was stopped in its third rung, and gone on with; and what both printed."""
    monkeypatch = pytest.MonkeyPatch()
    train, calls = training.train, []

    def stop(*arguments, run, **options):
        calls.append(run)
        if run == "study-default-scratch":
            raise KeyboardInterrupt
        return train(*arguments, run=run, **options)

    with contextlib.chdir(place), monkeypatch.context() as patch:
        patch.setattr(ladder, "LADDER", SMALL_LADDER)
        patch.setattr(study_rungs, "LADDER", SMALL_LADDER)
        patch.setattr(study_table, "LADDER", SMALL_LADDER)
        patch.setattr(ladder, "BUDGETS", SMALL_BUDGETS)
        patch.setattr(studying, "BUDGETS", SMALL_BUDGETS)
        patch.setattr(study_rungs, "BUDGETS", SMALL_BUDGETS)
        patch.setattr(ladder, "TUNER", {"default": {"SPACE": "rate=1e-5,1e-2"}})
        patch.setattr(study_rungs, "TUNER", {"default": {"SPACE": "rate=1e-5,1e-2"}})
        patch.setattr(studying, "find_weights_at_hand", lambda *_: ["efficientnet_lite0"])
        patch.setattr(training, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            studying.study("arten", commands=commands())
        first = pd.read_csv("runs/arten/study/study.csv")
        patch.setattr(training, "train", train)
        path = place / "runs/arten/study-default-baseline/oof.npz"
        before = path.stat().st_mtime_ns
        second = studying.study("arten", commands=commands())
        assert path.stat().st_mtime_ns == before, "what is finished is not trained again"
    return calls, first, second


def test_stopped_it_goes_on_where_it_was(played):
    calls, first, second = played
    assert calls == ["study-default-baseline", "study-default-scratch"]
    assert first["rung"].tolist() == ["zero inputs", "baseline"]
    assert second["rung"].tolist() == [rung.name for rung in SMALL_LADDER]
    assert second["seconds"][1] == first["seconds"][1] > 0, "what the run took, not what it takes to look at it"


def test_rungs_are_done_skipped_or_failed_and_say_why(played):
    rows = played[2].set_index("rung")
    assert rows["state"].to_dict() == {
        "zero inputs": "done",
        "baseline": "done",
        "scratch": "done",
        "unheard of": "skipped",
        "elsewhere": "skipped",
        "too large": "failed",
        "double": "done",
        "search": "done",
        "TTA": "done",
        "TTA of nothing": "skipped",
    }
    assert "no key colour_blindness" in rows["reason"]["unheard of"]
    assert "no weights of resnet152_v2 at hand" in rows["reason"]["elsewhere"]
    assert "shares up to 1" in rows["reason"]["too large"]
    assert "too large is failed" in rows["reason"]["TTA of nothing"]


def test_its_figures_are_those_of_the_runs(played):
    rows, table = played[2].set_index("rung"), read_folds("arten")
    assert rows["accuracy"]["zero inputs"] <= 9 / 20, "zero inputs know the most common class at best"
    baseline = oof.read_oof("runs/arten/study-default-baseline", table)
    assert rows["accuracy"]["baseline"] == pytest.approx(accuracy(baseline.probs[0], table.labels))
    assert rows["rarest"]["baseline"] == pytest.approx(per_class_accuracy(baseline.probs[0], table.labels)[1])
    assert rows["images"].loc[["baseline", "scratch"]].tolist() == [20, (table.fold == 1).sum()]
    with np.load("runs/arten/study-default-scratch/fold_1/views.npz") as saved:
        probs, mean = saved["probs"][0], saved["probs"].mean(0)
    labels = table.labels[table.fold == 1]
    assert rows["accuracy"]["scratch"] == pytest.approx(accuracy(probs, labels))
    assert rows["accuracy"]["TTA"] == pytest.approx(accuracy(mean, labels))
    held_out = baseline.probs[0][table.fold == 1]
    assert rows["difference"]["scratch"] == pytest.approx(accuracy(probs, labels) - accuracy(held_out, labels))
    assert (rows["low"] <= rows["accuracy"])[rows["state"] == "done"].all()


def test_a_double_rung_takes_the_rarest_class_out_whatever_it_is_called(played):
    rows = played[2].set_index("rung")
    run = files.read_json("runs/arten/study-default-double/run.json")
    assert [RAREST] in run["config"]["splits"][0]
    assert rows["accuracy"]["double"] == pytest.approx(run["accuracy"])
    command = shlex.split(rows["command"]["double"])
    assert command[-1] == 'SPLITS="b; 5"" c "' and "SET=epochs=2 batch_size=8" in command


def test_a_search_is_compared_with_as_many_epochs_on_the_same_fold(played):
    """Each trial has the reference's recipe, epochs and fold; the best of them is the rung's figure."""
    rows, table = played[2].set_index("rung"), read_folds("arten")
    trials = pd.read_csv("runs/arten/tune/study-default-search/trials.csv")
    assert len(trials) == 2 and rows["accuracy"]["search"] == pytest.approx(trials["accuracy"].max())
    assert rows["images"]["search"] == rows["images"]["scratch"] == (table.fold == 1).sum()
    reference = files.read_json("runs/arten/study-default-scratch/run.json")["config"]["recipe"]
    for run in trials["run"]:
        recipe = files.read_json(f"runs/arten/{run}/run.json")["config"]["recipe"]
        assert {key for key in recipe if recipe[key] != reference[key]} <= {"rate"} and recipe["epochs"] == 2
        assert [path.name for path in sorted((Workspace().runs / "arten" / run).glob("fold_*"))] == ["fold_1"]


@pytest.mark.parametrize("budget", TUNER)
def test_the_ladder_s_search_has_a_reference_of_its_effort(budget):
    plan = a_plan(budget)
    rung = next(rung for rung in plan.rungs if rung.how == "tune")
    reference = next(other for other in plan.rungs if other.name == rung.reference)
    assert rung.kind == reference.kind and plan.effort(rung).folds == "0"


def test_what_is_written_says_it_all(played):
    text = (Workspace().runs / "arten/study/study.md").read_text("utf-8")
    assert "| `make train NAME=arten MODEL=scratch RECIPE=quick RUN=study-default-scratch ONLY_FOLD=1 " in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "`: the mean of the views identity, hflip in its fold_*/views.npz |" in text
    assert len(lines) == len(SMALL_LADDER) + 2 and len({line.replace("\\|", "").count("|") for line in lines}) == 1
    record = files.read_json("runs/arten/study/study.json")
    assert record["table"] == read_folds("arten").hash and set(record["seconds"]) == {
        "study-default-baseline",
        "study-default-scratch",
        "study-default-double",
        "study-default-search",
    }


def test_explain_and_a_blend_take_the_study_s_runs_only_when_they_are_named(played, capsys):
    with pytest.raises(InputError, match="no finished run"):
        explaining.best_run(read_folds("arten"))
    with pytest.raises(InputError, match="no finished run"):
        make_blend("arten")
    assert re.search("left out, since they belong to the study: [0-9] run", capsys.readouterr().err)
    assert make_blend("arten", "study-default-baseline")["runs"] == ["study-default-baseline"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"budget": "huge"}, "BUDGET=huge: expected one of quick, default, full"),
        ({"backbone": "resnet5"}, "BACKBONE=resnet5: no such backbone"),
        ({"backbone": "scratch"}, "BACKBONE=scratch: expected one with weights at hand"),
        ({"weights": "none"}, "none: expected imagenet or a folder"),
        ({"name": "nothing"}, "nothing.json: no such fold table"),
    ],
)
def test_what_it_cannot_use_is_refused(options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        studying.study(**options, commands=commands())


@pytest.mark.parametrize("missing", ["train", "tune", "double", "gan", "soup"])
def test_a_command_that_is_missing_is_an_error_and_no_skipped_rung(missing, monkeypatch):
    monkeypatch.setattr(studying, "_climb", lambda plan: pytest.fail("no rung is run"))
    monkeypatch.setattr(studying, "_find_weights", lambda *_: {})
    given = {name: function for name, function in commands().items() if name != missing}
    with pytest.raises(LookupError, match=f"make {missing}`, which is no command"):
        studying.study("arten", budget="full", commands=given)


@pytest.mark.parametrize("how", RUNS)
def test_each_rung_runs_the_commands_that_are_looked_for(how, monkeypatch):
    plan, called = a_plan("full"), []
    plan.weights = dict.fromkeys(backbone_names(), "imagenet")
    monkeypatch.setattr(study_rungs, "read_held_out", lambda *_: {"identity": None})
    monkeypatch.setattr(
        "competition.trials.study_rungs.check_synthetic", lambda *_: None if "gan" in called else refuse()
    )
    trials = pd.DataFrame({"state": ["done"], "run": ["r"], "accuracy": [1.0], "log_loss": [0.0]})
    monkeypatch.setattr(pd, "read_csv", lambda *_: trials)
    plan.commands = {command: lambda command=command, **_: called.append(command) for command in commands()}
    for rung in plan.rungs:
        plan.results[rung.name] = Result(rung, views={"identity": 0})
    rung = next(rung for rung in plan.rungs if rung.how == how)
    HOW[how](plan, rung, plan.results[rung.name])
    assert tuple(called) == RUNS[how]


def refuse():
    raise InputError("no GAN yet")


def test_flags_name_one_budget(monkeypatch, capsys):
    asked = []
    states = iter([["done"], ["done", "skipped"], ["done", "failed"]])

    def study(*options, commands):
        assert set(RUNS) - {"distil"} <= set(commands)
        asked.append(options)
        return pd.DataFrame({"state": next(states)})

    monkeypatch.setattr(studying, "study", study)
    for flags in ([], ["--quick"], ["--budget", "full", "--backbone", "vgg16", "--name", "n"]):
        assert main(["study", *flags]) == int("--budget" in flags), "1 where a rung failed"
    assert [options[:3] for options in asked] == [
        (None, "efficientnet_lite0", "default"),
        (None, "efficientnet_lite0", "quick"),
        ("n", "vgg16", "full"),
    ]
    assert main(["study", "--quick", "--budget", "full"]) == 2
    assert "QUICK=1 and BUDGET=full" in capsys.readouterr().err


def test_the_sample_is_played_where_it_is_asked_for_or_where_there_is_nothing_else(tmp_path, monkeypatch):
    def wants_sample(name):
        return studying._wants_sample(name, Workspace())

    assert not wants_sample(None) and not wants_sample("arten")
    assert wants_sample("sample")
    monkeypatch.chdir(tmp_path)
    assert wants_sample(None) and not wants_sample("arten")
    files.write_text(Workspace().sample.folds / "sample.json", "{}")
    assert wants_sample("sample"), "folds/ is one's own"
    asked = []
    monkeypatch.setattr(
        "competition.insight.sanity.sanity",
        lambda **options: asked.append((options["name"], options["workspace"].runs)),
    )
    assert main(["sanity", "--name", "sample"]) == main(["sanity", "--name", "other"]) == 0
    assert asked == [("sample", Path("sample/runs")), ("other", Path("runs"))]
    files.write_text("folds/sample.json", "{}")
    assert not wants_sample("sample") and not wants_sample(None)


def test_a_full_disk_ends_the_study(monkeypatch):
    def full(*_):
        raise files.NoRoom("a.npz: not written, No space left on device")

    monkeypatch.setattr(studying, "find_weights_at_hand", lambda *_: ["efficientnet_lite0"])
    monkeypatch.setitem(HOW, "zeros", full)
    with pytest.raises(InputError, match="No space left"):
        studying.study("arten", commands=commands())
