import ast
import contextlib
import dataclasses
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import class_folders

from competition.base.files import InputError, read_json, sha256_file, write_json
from competition.base.workspace import Workspace
from competition.blending.record import FORMAT
from competition.blending.temperature import sharpen
from competition.checking.check_zip import print_check
from competition.data.decode import resize
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import choose_sample, read_folds
from competition.features.views import VIEWS
from competition.formats.codalab import make as make_submission
from competition.models.backbones import build_backbone
from competition.models.fuse import fuse_batchnorm
from competition.rehearsal.rehearsal import predict_zip
from competition.runs.kinds import read_run
from competition.submission import expected_answers, package
from competition.submission import make_zip as submission
from competition.submission import network as network_module
from competition.submission.ensemble import Ensemble, _read_blend
from competition.submission.expected_answers import average_halved
from competition.submission.fit_limits import Choice
from competition.submission.limits import Cost, Limits
from competition.submission.make_zip import _take_what_fits
from competition.submission.network import ROWS, Network, build_networks, export_network
from competition.submission.package import pack_folder
from competition.training.train import train

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

RUNS = Workspace().runs
SUBMISSIONS = Workspace().submissions
COUNTS = {"a": 20, "b": 25, "c": 18}
RUN_SETTINGS = {  # the rates are high enough for probabilities that differ
    "pixels": ("baseline", ["epochs=2", "rate=0.003"]),
    "convolutions": ("scratch", ["epochs=1", "rate=0.003"]),
    "lite": ("efficientnet_lite0", ["frozen_epochs=10", "frozen_rate=0.03", "image_size=0"]),
    "lite_again": (
        "efficientnet_lite0",
        ["frozen_epochs=10", "frozen_rate=0.01", "image_size=0", "seed=1", "head=8,5"],
    ),
}
WEIGHTS = {"lite": 0.4, "convolutions": 0.3, "lite_again": 0.2, "pixels": 0.1}
VIEWS_OF_BLEND = ["identity", "hflip"]


def write_blend(weights, views=VIEWS_OF_BLEND):
    """A blend.json as `make blend` writes it, of weights that a test chooses."""
    table = read_folds("toy")
    write_json(
        RUNS / "toy" / "blend" / "blend.json",
        {
            "format": FORMAT,
            "metric": table.metric,
            "weights": weights,
            "views": views,
            "temperature": 1.0,
            "forecast": None,
            "members": [{"run": run, "oof": sha256_file(RUNS / "toy" / run / "oof.npz")} for run in weights],
            "table": table.hash,
            "data": table.data_hash,
            "classes": table.classes,
        },
    )


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """A folder with a fold table, four runs, a blend of them and its zip; and what `make_submission` said."""
    data = class_folders(tmp_path_factory.mktemp("data") / "toy", COUNTS, height=32, width=32)
    folder = tmp_path_factory.mktemp("work")
    printed = io.StringIO()
    with contextlib.chdir(folder):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_folds(data, folds=2)
            for run, (model, settings) in RUN_SETTINGS.items():
                train(model, run=run, overrides=settings)
        write_blend(WEIGHTS)
        with contextlib.redirect_stdout(printed):
            assert make_submission() == SUBMISSIONS / "toy.zip"
    return folder, printed.getvalue()


@pytest.fixture
def inside(competition, monkeypatch):
    """The current directory is the module's; blend.json is set back afterwards."""
    folder, _ = competition
    monkeypatch.chdir(folder)
    blend = RUNS / "toy" / "blend" / "blend.json"
    before = blend.read_bytes()
    yield folder
    blend.write_bytes(before)


@pytest.fixture
def copied(competition, tmp_path, monkeypatch):
    """The current directory is a copy, which a test may spoil."""
    shutil.copytree(competition[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


@pytest.fixture(scope="module")
def unpacked(competition, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(competition[0] / "submissions" / "toy.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(unpacked):
    """The zip's own `model`, as a scorer makes it, but in this process."""
    spec = importlib.util.spec_from_file_location("zipped_model", unpacked / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.model(str(unpacked))


@pytest.fixture
def images(inside):
    return load_images(read_folds())


def average_of_fold_models(table, images):
    """The blend's probabilities [n, C] by definition, from whole fold models, also for the frozen runs."""
    total = 0
    for run, weight in WEIGHTS.items():
        for fold in range(table.k):
            model = read_run(RUNS / "toy" / run, table).build_fold_model(table, fold)
            for view in VIEWS_OF_BLEND:
                probabilities = np.asarray(model(VIEWS[view](images).astype(np.float32), training=False))
                total = total + weight * probabilities / table.k / len(VIEWS_OF_BLEND)
    return total


# ---------------------------------------------------------------------------------------------------- the zip


def test_layout(inside):
    with zipfile.ZipFile(SUBMISSIONS / "toy.zip") as archive:
        names = archive.namelist()
        metadata = archive.read("metadata").decode()
        code = archive.read("model.py").decode()
    assert {name.split("/")[0] for name in names} == {"model.py", "metadata", "SubmissionModel"}
    assert "SubmissionModel/saved_model.pb" in names and names == sorted(names)
    assert metadata.startswith("description: ") and metadata.count("\n") == 1
    imported = [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {name.name for node in imported for name in node.names}
    assert all(isinstance(node, ast.Import) for node in imported)
    assert modules - set(sys.stdlib_module_names) == {"numpy", "tensorflow"}


def test_record_and_table(competition, inside):
    record = read_json(SUBMISSIONS / "toy.json")
    assert record["format"] == "codalab" and record["sha256"] == sha256_file(SUBMISSIONS / "toy.zip")
    assert {member["run"]: member["weight"] for member in record["members"]} == WEIGHTS
    assert record["views"] == VIEWS_OF_BLEND and record["classes"] == {"0": "a", "1": "b", "2": "c"}
    for member in record["members"]:
        assert len(member["files"]) == 2 + 2 + member["frozen"]
        for file, sha256 in member["files"].items():
            assert sha256_file(RUNS / "toy" / member["run"] / file) == sha256
    assert 0 <= record["oof_accuracy"] <= 1
    assert record["rehearsal"]["images"] == 63 and record["rehearsal"]["probabilities_differ"] < 1e-5
    assert record["rehearsal"]["oof_differs"] < 1e-5
    printed = competition[1]
    for text in (
        "submissions/toy.zip: blend; views identity, hflip",
        "lite_again",
        " MB",
        "images a second",
        "second fresh process",
        "MB at most",
        f"OOF accuracy {record['oof_accuracy']:.4f}",
        "7 float64 array",
    ):
        assert text in printed


def test_probabilities_are_the_average(scorer, images):
    found = scorer.predict_proba(images)
    assert found.dtype == tf.float32 and found.shape == (63, 3)
    expected = average_of_fold_models(read_folds(), images)
    assert np.ptp(expected, axis=0).max() > 0.1  # they say something
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_labels_do_not_depend_on_the_batch(scorer, images):
    rows = np.random.default_rng(0).integers(0, len(images), 300)
    whole = scorer.predict(images[rows])
    assert tf.is_tensor(whole) and whole.dtype.is_integer and whole.shape == (300,)
    for size in (1, 7, 299):
        assert np.array_equal(scorer.predict(images[rows[:size]]), whole[:size])
        assert np.array_equal(scorer.predict(images[rows[-size:]]), whole[-size:])
    assert scorer.predict(images[:0]).shape == (0,)
    assert scorer.predict_proba(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "uint16", "float16", "float32", "float64"])
def test_any_numeric_type(scorer, images, dtype):
    expected = scorer.predict_proba(images[:5]).numpy()
    batch = images[:5].astype(dtype)
    for given in (batch, tf.constant(batch), list(batch)):
        assert np.array_equal(scorer.predict_proba(given), expected)


def test_other_shapes(scorer, images):
    assert scorer.predict(images[3]).shape == (1,)
    assert np.array_equal(scorer.predict(images[3]), scorer.predict(images[3:4]))
    for shape in ((2, 32, 32, 4), (32, 32), (0,)):
        with pytest.raises(ValueError, match="expected .n, height, width, 3"):
            scorer.predict(np.zeros(shape))


def test_grey_images(scorer, images):
    grey = images[:5, :, :, :1]
    expected = scorer.predict_proba(grey.repeat(3, 3))
    for given in (grey, grey[..., 0], tf.constant(grey)):
        assert np.array_equal(scorer.predict_proba(given), expected)
    assert scorer.predict(grey[0]).shape == (1,) and scorer.predict_proba(grey[:0]).shape == (0, 3)


def test_other_sizes_are_resized_as_in_training(scorer, images):
    large = images[:3].repeat(2, 1).repeat(3, 2)
    as_in_training = np.stack([resize(image, (32, 32)) for image in large])
    found = np.array(scorer._batch(large))[:3]
    assert np.abs(found - as_in_training).max() <= 2
    assert np.array_equal(scorer._batch(images[:3])[:3], images[:3])
    assert scorer.predict(large).shape == (3,) and scorer.predict(tf.constant(large[:0])).shape == (0,)


def test_shared_backbone_is_stored_and_run_once(unpacked):
    from tensorflow.core.protobuf import saved_model_pb2

    def count(variables):
        return sum(int(np.prod(shape)) for _, shape in variables)

    stored = tf.train.list_variables(str(unpacked / "SubmissionModel" / "variables" / "variables"))
    numbers = count((name, shape) for name, shape in stored if not name.startswith("_CHECKPOINTABLE"))
    models = "efficientnet_lite0", "scratch", "baseline"
    lite, small, flat = (build_backbone(model, (32, 32)) for model in models)
    heads = [2 * (model.output_shape[1] + 1) * 3 for model in (lite, small, flat)]
    heads.append(2 * ((lite.output_shape[1] + 1) * 8 + 9 * 5 + 6 * 3))  # with hidden layers
    folded = fuse_batchnorm(lite)
    assert numbers == folded.count_params() + 2 * small.count_params() + sum(heads)

    content = (unpacked / "SubmissionModel" / "saved_model.pb").read_bytes()
    functions = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def.library.function
    run = [node.op for function in functions for node in function.node_def]
    layers = [type(layer).__name__ for layer in lite.layers]
    assert run.count("DepthwiseConv2dNative") == layers.count("DepthwiseConv2D")
    assert run.count("MaxPool") == [type(layer).__name__ for layer in small.layers].count(
        "MaxPooling2D"
    )  # for both folds
    assert not {"Rsqrt", "FusedBatchNormV3"} & set(run)  # BatchNormalization is in the kernels


def test_all_views_are_averaged(tmp_path):
    image = keras.Input((6, 6, 3))
    models = [keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image))) for _ in range(3)]
    weights = [model.get_weights() for model in models]
    networks = [Network(models[0], weights[:2]), Network(models[2], weights[2:])]
    for views in (list(VIEWS), ["identity", "rot90", "hflip"], ["identity"]):
        images = np.random.default_rng(0).uniform(0, 1, (ROWS // len(views), 6, 6, 3)).astype(np.float32)
        export_network(networks, views, (6, 6), tmp_path / "net")
        loaded = tf.saved_model.load(str(tmp_path / "net"))
        expected = sum(np.mean([np.asarray(model(VIEWS[view](images))) for view in views], axis=0) for model in models)
        np.testing.assert_allclose(loaded.serve(images), expected, atol=1e-5)


def test_temperature_is_in_the_network(tmp_path):
    image = keras.Input((6, 6, 3))
    model = keras.Model(image, keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(image)))
    images = np.random.default_rng(0).uniform(0, 1, (ROWS, 6, 6, 3)).astype(np.float32)
    export_network([Network(model, [model.get_weights()])], ["identity"], (6, 6), tmp_path / "net", 0.5)
    expected = sharpen(np.asarray(model(images)), 0.5)
    loaded = tf.saved_model.load(str(tmp_path / "net"))
    np.testing.assert_allclose(loaded.serve(images), expected, atol=1e-5)


def test_same_content_makes_the_same_zip(tmp_path):
    for name, order in (("one", "ab"), ("two", "ba")):
        for letter in order:
            file = tmp_path / name / letter / "file"
            file.parent.mkdir(parents=True)
            file.write_text(letter)
        pack_folder(tmp_path / name, tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


EXPORT = """
import sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
from keras import layers
from competition.rehearsal import content
from competition.submission import network, package

def make(units):
    image = keras.Input((6, 6, 3))
    pixels = keras.Input((6, 6, 3))  # constants of its own, and a gradient of its own: silu's
    found = layers.Conv2D(4, 3, padding="same")(layers.Normalization(mean=0.5, variance=2.0)(pixels))
    inner = keras.Model(pixels, layers.Activation("silu")(layers.BatchNormalization()(found)))
    found = layers.Dense(units, "softmax")(layers.GlobalAveragePooling2D()(inner(image)))
    return keras.Model(image, keras.ops.sum(keras.ops.stack([found, found], 1) * 0.5, axis=1))

if sys.argv[3] == "later":  # a process that has done other things before
    for _ in range(7):
        make(5)(np.zeros((1, 6, 6, 3)))
        tf.function(lambda x: x + 1)(tf.zeros(3))
    keras.layers.Dense(2)(np.zeros((1, 2)))
networks = [network.Network(model := make(3), [[np.ones(value.shape, np.float32) for value in model.get_weights()]] * 2)
            for _ in range(2)]
folder = Path(sys.argv[1])
network.export_network(networks, ["identity", "hflip"], (6, 6), folder / "SubmissionModel", half=True)
content.check_package(folder)
package.pack_folder(folder, sys.argv[2])
images = np.random.RandomState(0).uniform(0, 1, (16, 6, 6, 3)).astype(np.float32)
loaded = tf.saved_model.load(str(folder / "SubmissionModel"))
assert loaded.serve(images).shape == (16, 3)
assert np.allclose(list(loaded.signatures["serving_default"](tf.constant(images)).values())[0], loaded.serve(images))
"""


def test_two_processes_make_the_same_zip(tmp_path):
    """Whatever they did before: Keras numbers its layers, TensorFlow its functions."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", EXPORT, str(tmp_path / f"{i}"), str(tmp_path / f"{i}.zip"), when],
            env=os.environ | {"PYTHONHASHSEED": str(i + 1), "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        for i, when in enumerate(("at once", "later"))
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()


def test_half_of_the_weights(tmp_path):
    image = keras.Input((6, 6, 3))
    model = keras.Model(image, keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(image)))
    weights = [np.random.default_rng(0).normal(0, 0.1, value.shape).astype(np.float32) for value in model.get_weights()]
    weights[1][0] = 1e5  # more than float16 holds: the bias stays as it is
    images = np.random.default_rng(0).uniform(0, 1, (ROWS, 6, 6, 3)).astype(np.float32)
    export_network([Network(model, [weights])], ["identity"], (6, 6), tmp_path / "net", half=True)
    stored = tf.saved_model.load(str(tmp_path / "net"))
    assert [str(variable.dtype.name) for variable in stored.weights[0]] == ["float16", "float32"]
    model.set_weights([weights[0].astype(np.float16).astype(np.float32), weights[1]])
    np.testing.assert_allclose(stored.serve(images), np.asarray(model(images)), atol=1e-5)


def test_limits_and_what_fits(copied, capsys, monkeypatch):
    """Without FIT=1 nothing is written; with it the best that fits is made, and rehearsed like any other zip."""
    rehearsed = []

    def note(path, images, expected, *_):
        rehearsed.append(expected)
        return {
            "images": len(images),
            "near_ties": 0,
            "probabilities_differ": 0.0,
            "processes_differ": 0.0,
            "calls": [],
            "left_out": [],
            "load_seconds": 1.5,
            "warm_seconds": 0.5,
            "images_a_second": 10.0,
            "peak_bytes": 7e8,
            "no_network": "none",
            "versions": {},
        }

    monkeypatch.setattr(submission, "rehearse", note)  # what it does is tested elsewhere, and takes long
    before = (SUBMISSIONS / "toy.zip").read_bytes()
    refused("toy.zip: not written, it takes .* MB, .* over MAX_MB .*; FIT=1 takes", run="pixels", max_mb=0.04)
    refused("102.0 s, 92.0 over MAX_SECONDS", run="pixels", max_seconds=10, hidden_n=1000)
    refused("1928.8 MB of memory, 855.1 over MAX_MEMORY", run="pixels", max_memory="1G", hidden_n=100_000)
    assert (SUBMISSIONS / "toy.zip").read_bytes() == before
    capsys.readouterr()
    make_submission(run="pixels", max_mb=0.04, fit=True)
    out = capsys.readouterr().out
    record = read_json(SUBMISSIONS / "toy.json")
    assert record["bytes"] <= 40000 and record["limits"]["megabytes"] == 0.04  # whole it takes 48512 bytes
    assert "the whole takes" in out and "assumed" in out and len(rehearsed) == 5
    assert record["weights"] == "float16" and record["rehearsal"]["float16_differs"] > 0
    assert not np.array_equal(rehearsed[-1], rehearsed[-2]) and np.allclose(rehearsed[-1], rehearsed[-2], atol=0.2)


def test_the_last_that_is_tried_is_the_smallest(monkeypatch, workdir):
    """Estimates that are far too low, each of another cut, so that refining them does not help."""
    whole = Ensemble("blend", [], ["identity"], None)
    choices = [
        Choice(dataclasses.replace(whole, source=str(n)), 0.9 - n / 100, Cost(9e5 - n, 1, 1), ()) for n in range(20)
    ]
    monkeypatch.setattr(submission, "choose_fitting", lambda *_: choices)
    monkeypatch.setattr(
        submission, "refine_choices", lambda choices, choice, _: [other for other in choices if other is not choice]
    )
    monkeypatch.setattr(submission, "print_choices", lambda *_: None)
    tried = []

    def prove(ensemble, *_):
        tried.append(ensemble.source)
        size = smallest if ensemble.source == "19" else 2e6
        return {"bytes": size, "hidden_seconds": 1, "hidden_bytes": 1}

    monkeypatch.setattr(submission, "prove", prove)
    found = {"bytes": 9e6, "hidden_seconds": 1, "hidden_bytes": 1, "load_seconds": 1, "warm_seconds": 0}
    given = (
        whole,
        SimpleNamespace(paths=Workspace().competition("toy")),
        None,
        None,
        None,
        1,
        Limits(megabytes=1),
        found,
        True,
    )
    smallest = 1e5
    assert _take_what_fits(*given)[0].source == "19" and tried == ["0", "1", "2", "3", "19"]
    smallest = 2e6
    with pytest.raises(InputError, match="the smallest that was found does not fit: 2.0 MB"):
        _take_what_fits(*given)


def test_float16_is_decided_alike_for_all_members(tmp_path, monkeypatch):
    """One member's weight that float16 cannot hold keeps that of all in float32, in the zip and in what it is compared to."""
    image = keras.Input((6, 6, 3))
    model = keras.Model(image, keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(image)))
    random = np.random.default_rng(0)
    members = [
        [random.normal(0, 0.1, value.shape).astype(np.float32) for value in model.get_weights()] for _ in range(2)
    ]
    members[1][0][0] = 1e5
    network = Network(model, members)
    images = random.uniform(0, 1, (ROWS, 6, 6, 3)).astype(np.float32)
    export_network([network], ["identity"], (6, 6), tmp_path / "net", half=True)
    monkeypatch.setattr(expected_answers, "build_networks", lambda *_: [network])
    monkeypatch.setattr(network_module, "build_networks", lambda *_: [network])
    monkeypatch.setattr(package, "build_networks", lambda *_: [network])
    ensemble = Ensemble("blend", [], ["identity"], None, half=True)
    expected = average_halved(ensemble, None, images)
    loaded = tf.saved_model.load(str(tmp_path / "net"))
    found = loaded.serve(images).numpy()
    np.testing.assert_allclose(
        found / found.sum(1, keepdims=True), expected / expected.sum(1, keepdims=True), atol=1e-6
    )


# ---------------------------------------------------------------------------------------------- the rehearsal


def test_make_check_finds_nothing_wrong_with_it(inside, capsys):
    findings = print_check("submissions/toy.zip").lines
    assert {finding.check for finding in findings if finding.result != "ok"} == {"accuracy"}  # of toys it is low
    out = capsys.readouterr().out
    assert "checked as FORMAT=codalab (submissions/toy.json says so)" in out and "on 63 training images of toy" in out


def test_fresh_process_gives_the_same_labels(inside, images, scorer):
    labels = predict_zip(SUBMISSIONS / "toy.zip", images[:20])
    assert labels.dtype == np.int64 and np.array_equal(labels, scorer.predict(images[:20]))


def test_fresh_process_does_not_know_the_project(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("model.py", "import competition")
    with pytest.raises(InputError, match="it fails in a fresh process.*No module named 'competition'"):
        predict_zip(tmp_path / "bad.zip", np.zeros((1, 8, 8, 3), np.uint8))


def test_wrong_answers_make_no_zip(inside, monkeypatch, capsys):
    kept = {path.name: path.read_bytes() for path in SUBMISSIONS.iterdir()}
    write_blend({"pixels": 1.0})
    build = build_networks

    def rotate_classes(network):
        model = keras.Model(network.model.input, keras.ops.roll(network.model.output, 1, axis=1))
        return dataclasses.replace(network, model=model)

    monkeypatch.setattr(expected_answers, "build_networks", lambda *given: list(map(rotate_classes, build(*given))))
    monkeypatch.setattr(network_module, "build_networks", lambda *given: list(map(rotate_classes, build(*given))))
    monkeypatch.setattr(package, "build_networks", lambda *given: list(map(rotate_classes, build(*given))))
    with pytest.raises(InputError, match="toy.zip: not written, .* differ from the toolkit's own.*older zip"):
        make_submission()
    out = capsys.readouterr().out
    assert "FAILS: for images as 1 float32 tensor" in out and "not reached" in out
    assert {path.name: path.read_bytes() for path in SUBMISSIONS.iterdir()} == kept


def test_sample_takes_the_classes_in_turn(inside):
    table = read_folds()
    rows = choose_sample(table, 12)
    assert np.bincount(table.labels[rows]).tolist() == [4, 4, 4] and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, choose_sample(table, 12))
    assert np.array_equal(choose_sample(table, 1000), np.arange(63))


# -------------------------------------------------------------------------------------- one run, zero weights


def test_one_run(inside, capsys):
    before = {path: path.read_bytes() for path in SUBMISSIONS.iterdir()}
    assert make_submission("toy", "pixels") == SUBMISSIONS / "toy.zip"
    record = read_json(SUBMISSIONS / "toy.json")
    for path, content in before.items():  # the blend's, for the other tests
        path.write_bytes(content)
    assert record["source"] == "run pixels" and [member["run"] for member in record["members"]] == ["pixels"]
    out = capsys.readouterr().out
    assert set(record["views"]) <= {"identity", "hflip"} and "run pixels" in out
    assert record["metric"] == "accuracy" and record["forecast"]["hidden_n"] == 31 and "forecast: accuracy" in out


def test_runs_without_weight_are_left_out(inside):
    write_blend({"pixels": 1.0, "lite": 0.0})
    ensemble = _read_blend(read_folds())
    assert [(run.name, weight) for run, weight in ensemble.members] == [("pixels", 1.0)]


# --------------------------------------------------------------------------------------- what can't be packed


def change_json(path, **changes):
    write_json(path, read_json(path) | changes)


def refused(match, **arguments):
    before = sorted(SUBMISSIONS.rglob("*"))
    with pytest.raises(InputError, match=match):
        make_submission(**arguments)
    assert sorted(SUBMISSIONS.rglob("*")) == before


def test_no_blend(copied):
    shutil.rmtree(RUNS / "toy" / "blend")
    refused("make blend")


@pytest.mark.parametrize("run", ["nothing", "blend", "../toy/lite"])
def test_unknown_run(inside, run):
    refused("no such run", run=run)


def test_unfinished_run(copied):
    change_json(RUNS / "toy" / "lite" / "run.json", finished=False)
    refused("unfinished", run="lite")
    refused("unfinished")


def test_predictions_from_elsewhere_have_no_models(copied):
    """What another tool predicted can be blended; its record has no config."""
    change_json(RUNS / "toy" / "lite" / "run.json", config=None)
    refused("lite/run.json: found no config, expected a run of `make train`", run="lite")
    refused("lite/run.json: found no config")


def test_run_of_the_blend_gone_or_changed(copied):
    shutil.rmtree(RUNS / "toy" / "lite_again")
    refused("lite_again.*make blend")
    shutil.copytree(RUNS / "toy" / "lite", RUNS / "toy" / "lite_again")
    refused("lite_again.*make blend")


def test_another_fold_table(copied):
    blend = RUNS / "toy" / "blend" / "blend.json"
    change_json(blend, table="0" * 64)
    refused("another fold table")
    change_json(RUNS / "toy" / "pixels" / "run.json", table="0" * 64)
    refused("another fold table", run="pixels")


def test_weights_missing_or_not_those_of_the_oof(copied):
    weights = [RUNS / "toy" / "pixels" / f"fold_{fold}" / "model.weights.h5" for fold in range(2)]
    weights[0].write_bytes(weights[1].read_bytes())
    refused("fold_0/model.weights.h5: damaged or changed.*`rm .*make train MODEL=baseline", run="pixels")
    change_json(weights[0].with_name("fold.json"), sha256={})  # as of a version without hashes
    refused("its weights do not give its OOF", run="pixels")
    weights[0].unlink()
    refused("fold_0/model.weights.h5: no such file", run="pixels")
