"""Kinds of run: whoever uses runs knows no kind by name, so that a new one in the table is used by all of them."""

import ast
import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import class_folders

import competition
from competition.base import files
from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.blending.price import read_networks
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.data.unlabelled import read_test
from competition.formats import kaggle_csv, kaggle_kernel
from competition.insight import explain
from competition.recipes import settle
from competition.runs import kinds, oof, tree
from competition.runs.kinds import KINDS, kind_of, read_run
from competition.runs.predict import each_fold, fold_models, predict_folds
from competition.runs.seeds import plain_heads
from competition.runs.single import SingleRun, softmax
from competition.runs.tree import TreeRun
from competition.submission.ensemble import Ensemble, check_weights
from competition.submission.expected_answers import average_by_hand
from competition.submission.fit_limits import measure_networks
from competition.submission.network import build_networks
from competition.submission.record import record_of
from competition.training import soup, teach
from competition.training import train as training

RUNS = Workspace().competition("toy").runs
VIEWS = ["identity", "hflip"]


def turn(logits, ops=np):
    return softmax(logits, ops)[..., ::-1]


class TurnedRun(SingleRun):
    """A kind of run that the toolkit does not have: what its models say of the classes, the last first."""

    kind = "a turned run"
    plain = False

    @staticmethod
    def fits(config):
        return "turned" in config

    @staticmethod
    def count_models(config):
        return 3

    @property
    def rule(self):
        return turn

    def weight_files(self, k):
        return [*super().weight_files(k), self.dir / "turn.txt"]

    def build_fold_model(self, table, fold):
        import keras

        model = super().build_fold_model(table, fold)
        return keras.Model(model.input, model.output[:, ::-1])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two runs of 2 folds, "full" and "frozen", and each of them again as a run of the new kind."""
    place = tmp_path_factory.mktemp("place")
    with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "is_pretrained", lambda model, weights: True)  # lets the cheapest network be frozen
        make_folds(class_folders(place / "toy", {"a": 6, "b": 7, "c": 8}, height=16, width=16), folds=2)
        class_folders(place / "test", {"x": 3, "y": 2}, height=16, width=16)
        table = read_folds()
        for run, key in (("full", "epochs"), ("frozen", "frozen_epochs")):
            keys = {"epochs": 0, "frozen_epochs": 0, key: 2}
            training.train(
                "scratch",
                run=run,
                overrides=[
                    "views=identity,hflip",
                    "rate=0.01",
                    "frozen_rate=0.3",
                    "batch_size=8",
                    "image_size=0",
                    *(f"{name}={value}" for name, value in keys.items()),
                ],
            )
            shutil.copytree(RUNS / run, RUNS / f"{run}-turned")
            record = files.read_json(RUNS / run / "run.json")
            del record["sha256"]  # of files that this test writes anew
            files.write_json(RUNS / f"{run}-turned/run.json", record | {"config": record["config"] | {"turned": True}})
            files.write_text(RUNS / f"{run}-turned/turn.txt", "the last first")
            found = oof.read_oof(RUNS / run, table)
            oof.write_oof(RUNS / f"{run}-turned", table, dict(zip(found.views, found.probs[..., ::-1])))
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(kinds, "KINDS", (TurnedRun, *KINDS))


@pytest.fixture
def table():
    return read_folds()


def ensemble_of(table, run, weight=1.0):
    return Ensemble(run, [(read_run(RUNS / run, table), weight)], VIEWS, oof.read_oof(RUNS / run, table).probs[0])


def test_the_config_tells_the_kind(table):
    assert kind_of({"splits": []}) is TreeRun and kind_of({"turned": True}) is TurnedRun
    assert kind_of({"model": "scratch"}) is kind_of(None) is SingleRun
    assert type(read_run(RUNS / "full", table)) is SingleRun
    assert type(read_run(RUNS / "full-turned", table)) is TurnedRun


@pytest.mark.parametrize("run", ["full", "frozen"])
def test_a_new_kind_is_predicted_packed_asked_and_measured(run, table):
    images = load_images(table)
    plain, turned = (read_run(RUNS / name, table) for name in (run, f"{run}-turned"))
    expected = predict_folds(plain, table, VIEWS, images)[..., ::-1]
    assert expected.shape == (2, 2, 21, 3) and expected.std(-1).max() > 0.01  # there is something to turn
    np.testing.assert_array_equal(predict_folds(turned, table, VIEWS, images), expected)

    ensemble = ensemble_of(table, turned.name)
    mean = expected.mean((0, 1))
    by_hand, differs = average_by_hand(ensemble, table, images, np.arange(21))
    assert differs < 1e-4
    np.testing.assert_allclose(by_hand, mean, atol=1e-6)
    packed = (
        sum(
            np.asarray(network.model(images[:, :, ::flip].astype(np.float32), training=False))
            for network in build_networks(ensemble, table)
            for weights in network.members
            for flip in (1, -1)
            if network.model.set_weights(weights) is None
        )
        / 2
    )
    np.testing.assert_allclose(packed, mean, atol=1e-5)

    unknown = read_test("test", table, table.paths.predict, fewest=1)
    said = predict_folds(plain, table, VIEWS, load_images(unknown)).mean((0, 1))[..., ::-1]
    np.testing.assert_allclose(kaggle_csv.predict_images(ensemble, table, unknown), said, atol=1e-5)
    asked = teach.Teaching([turned], np.ones((2, 1)), None, {})._ask(table, images, [1])
    np.testing.assert_allclose(asked[0], expected[1, 0], atol=1e-5)
    assert measure_networks(turned, table).numbers > 0


def test_its_files_are_recorded_and_looked_for(table, tmp_path, monkeypatch):
    ensemble = ensemble_of(table, "full-turned")
    files.write_text(tmp_path / "some.zip", "")
    (member,) = record_of(tmp_path / "some.zip", ensemble, table, "none")["members"]
    assert set(member["files"]) == {
        "run.json",
        "oof.npz",
        "turn.txt",
        "fold_0/model.weights.h5",
        "fold_1/model.weights.h5",
    }
    shutil.copytree(RUNS, tmp_path / "runs/toy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/toy/full-turned/turn.txt").unlink()
    with pytest.raises(InputError, match="turn.txt: no such file, expected a finished run's weights"):
        check_weights(read_run(RUNS / "full-turned", table), table)


def test_a_kernel_takes_its_files_along(table, tmp_path, monkeypatch):
    staged = []

    def write(slug, table, job, stage, *_):
        stage(tmp_path)
        staged.extend(path.relative_to(tmp_path / "work/runs/toy") for path in tmp_path.rglob("*") if path.is_file())
        raise InputError("far enough")

    monkeypatch.setattr(kaggle_kernel, "_write", write)
    with pytest.raises(InputError, match="far enough"):
        kaggle_kernel.make(run="full-turned", kaggle_user="me", competition="some")
    assert {Path("full-turned/turn.txt"), Path("full-turned/fold_1/model.weights.h5")} <= set(staged)


def test_what_it_costs_is_known(table):
    costs = {
        run: read_networks(RUNS / run, table.k).passes for run in ("full", "full-turned", "frozen", "frozen-turned")
    }
    assert costs == {"full": 2, "full-turned": 6, "frozen": 1, "frozen-turned": 1}


def test_where_only_single_runs_will_do_others_are_refused(table):
    with pytest.raises(InputError, match="full-turned: a turned run, expected one of a single model a fold"):
        explain.explain_run(run="full-turned")
    with pytest.raises(InputError, match="run.json: a turned run, expected one of a single model a fold"):
        soup.soup(runs="full,full-turned")
    assert not explain.best_run(table).endswith("turned")
    assert plain_heads(files.read_json(RUNS / "frozen/run.json"))
    assert plain_heads(files.read_json(RUNS / "frozen-turned/run.json")) is None


def asks_for(module, key):
    """Whether code looks a key up: `key in x`, `x[key]`, `x.get(key)`, or a set of keys that has it."""

    def is_key(node):
        return isinstance(node, ast.Constant) and node.value == key

    for node in ast.walk(module):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn) and is_key(node.left):
            return True
        if isinstance(node, ast.Subscript) and is_key(node.slice):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and any(map(is_key, node.args)):
            return True
        if isinstance(node, ast.Set) and any(map(is_key, node.elts)):
            return True
    return False


@pytest.mark.parametrize(
    "code, asks",
    [
        ('"splits" in run.config', True),
        ('"splits" not in run.config', True),
        ('run.config["splits"]', True),
        ('config.get("splits")', True),
        ('{"splits", "teacher"} & set(config)', True),
        ('{"splits": nodes}', False),
    ],
)
def test_looking_a_key_up_is_recognised(code, asks):
    assert asks_for(ast.parse(code), "splits") is asks


def test_nobody_else_asks_whether_a_run_is_a_tree():
    package, own = Path(competition.__file__).parent, Path(tree.__file__)
    paths = sorted(package.rglob("*.py"))
    assert own in paths and len(paths) > 40
    asking = [path.name for path in paths if path != own and asks_for(ast.parse(path.read_text("utf-8")), "splits")]
    assert asking == []
    assert asks_for(ast.parse(own.read_text("utf-8")), "splits")


# ------------------------------------------------------------------------------------------------------------ the loop


def test_the_fold_models_are_one_network_with_other_weights(table):
    run, images = read_run(RUNS / "full", table), load_images(table).astype(np.float32)
    found = [
        (fold, model, np.asarray(model(images, training=False))) for fold, model in fold_models(run, table, [1, 0])
    ]
    assert [fold for fold, _, _ in found] == [1, 0] and found[0][1] is found[1][1]
    for fold, _, probs in found:
        np.testing.assert_allclose(probs, np.asarray(run.build_fold_model(table, fold)(images)), atol=1e-5)
    assert not np.allclose(found[0][2], found[1][2], atol=1e-3)


@pytest.mark.parametrize("part", [None, 8, 21])
def test_parts_of_the_images_make_the_whole(part, table):
    run, images = read_run(RUNS / "frozen", table), load_images(table)
    whole, found = predict_folds(run, table, VIEWS, images), np.zeros((2, 2, 21, 3), np.float32)
    places = []
    for fold, rows, said in each_fold(run, table, [0, 1], VIEWS, images, fused=False, part=part):
        found[fold, :, rows] = np.stack([said[view] for view in VIEWS])
        places.append((rows.start, rows.stop, fold))
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert places == [
        (start, min(start + (part or 21), 21), fold) for start in range(0, 21, part or 21) for fold in (0, 1)
    ]
    assert list(each_fold(run, table, [], VIEWS, images)) == []
