"""Double models: that the product rule holds, that no node learns from what is held out, that a run is like others.

Runs are shared, and as small as they come.
"""

import contextlib
import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import class_folders

from competition.base import files
from competition.base.arrays import Rows
from competition.base.files import InputError
from competition.blending.blend import make_blend
from competition.blending.trained_apart import trained_again
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import FoldTable, read_folds
from competition.formats.codalab import make as make_submission
from competition.recipes.recipe import Recipe
from competition.runs.kinds import read_run
from competition.runs.oof import read_oof
from competition.runs.predict import predict_folds
from competition.runs.seeds import gather_seeds
from competition.runs.splits import quote_name, read_splits
from competition.runs.tree import name_branches, take_part
from competition.training import train
from competition.training.double import double, fit_recipe
from competition.training.full_phase import Phase
from competition.training.gan import gan

ROOT = Path(__file__).parents[1]
COUNTS = {"a": 6, "b, b": 12, "été": 10, "d": 8}
FROZEN = ("frozen_epochs=10", "frozen_rate=0.03", "image_size=0")
FULL = ("epochs=2", "rate=0.003", "batch_size=8", "cutmix=0.5", "class_weight=a:3,d:2", "views=identity,hflip")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table of 36 pictures in 4 classes, 2 folds, and three runs: frozen, its like undivided, full."""
    place = tmp_path_factory.mktemp("place")
    with contextlib.chdir(place), contextlib.redirect_stdout(io.StringIO()):
        make_folds(class_folders(place / "toy", COUNTS, height=16, width=16), folds=2)
        double("efficientnet_lite0", "a", run="frozen", overrides=FROZEN)
        train.train("efficientnet_lite0", run="plain", overrides=FROZEN)
        double("baseline", 'a; d|"b, b"', run="full", overrides=FULL)
    return place


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def copied(place, tmp_path, monkeypatch):
    """The current directory is a copy, which a test may spoil."""
    shutil.copytree(place, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")


def table_of(classes, counts=None, folds=2):
    """A FoldTable that no file belongs to, with so many images a class."""
    rows = [(f"{name}{i}", name, i % folds) for name in classes for i in range((counts or {}).get(name, 4))]
    frame = pd.DataFrame(rows, columns=["image", "label", "fold"])
    return FoldTable("none", frame, list(classes), (8, 8), "", 0, "hash", "data")


# ------------------------------------------------------------------------------------------------------------ the tree


@pytest.mark.parametrize(
    "text, nodes",
    [
        ("a", [[["a"], ["b", "c", "d", "e"]], [["b"], ["c"], ["d"], ["e"]]]),
        ("a;", [[["a"], ["b", "c", "d", "e"]], [["b"], ["c"], ["d"], ["e"]]]),
        (" d , b ", [[["b", "d"], ["a", "c", "e"]], [["b"], ["d"]], [["a"], ["c"], ["e"]]]),
        ("a; b,c", [[["a"], ["b", "c", "d", "e"]], [["b", "c"], ["d", "e"]], [["b"], ["c"]], [["d"], ["e"]]]),
        ("a,b,c; c", [[["a", "b", "c"], ["d", "e"]], [["c"], ["a", "b"]], [["d"], ["e"]], [["a"], ["b"]]]),
        ("a,b|c", [[["a", "b"], ["c"], ["d", "e"]], [["a"], ["b"]], [["d"], ["e"]]]),
        ("a|b|c|d,e", [[["a"], ["b"], ["c"], ["d", "e"]], [["d"], ["e"]]]),
    ],
)
def test_a_text_says_what_tree_is_meant(text, nodes):
    found = [[list(branch) for branch in node] for node in read_splits(text, table_of("abcde")).nodes]
    assert found == nodes


def test_names_with_signs_go_in_quotes():
    table = table_of(["x; y", "a|b", "Füchse, rot", "plain name"])
    assert read_splits('"x; y" | "a|b"; plain name', table).nodes[0] == (
        ("x; y",),
        ("a|b",),
        ("Füchse, rot", "plain name"),
    )


@pytest.mark.parametrize("name", ['5" pot', '"x"', '"', " a", "b ", "x; y", "a|b", ",", "plain name", "été"])
def test_every_name_can_be_quoted(name):
    table = table_of([name, "other", "rest"])
    assert read_splits(quote_name(name), table).nodes[0] == ((name,), ("other", "rest"))
    assert read_splits(f"other | {quote_name(name)} ", table).nodes[0] == (("other",), (name,), ("rest",))
    assert quote_name("plain name") == "plain name"


@pytest.mark.parametrize(
    "text, message",
    [
        ("f", "unknown class 'f', expected classes of folds/none.csv: a, b, c, d, e"),
        ("a,a", "'a' is named twice"),
        ("a|a", "'a' is named twice"),
        ("", "names no class"),
        ("a;;b", "names no class"),
        ("a|", "names no class"),
        ("a,b,c,d,e", "leaves nothing"),
        ("a; b,c; b,c", "leaves nothing"),
        ("a; a", "leaves nothing"),
        ("a; b,c; b,d", "'b' and 'd' are parted before"),
        ('a; "b', "a quote has no end"),
    ],
)
def test_what_is_no_tree_is_refused(text, message):
    with pytest.raises(InputError, match="SPLITS=") as error:
        read_splits(text, table_of("abcde"))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_probabilities_are_the_product_of_the_branches_on_the_way():
    tree = read_splits("a; b,c", table_of("abcde"))
    first, second, third, fourth = (np.random.default_rng(i).dirichlet([1, 1], 3) for i in range(4))
    by_hand = np.stack(
        [
            first[:, 0],
            first[:, 1] * second[:, 0] * third[:, 0],
            first[:, 1] * second[:, 0] * third[:, 1],
            first[:, 1] * second[:, 1] * fourth[:, 0],
            first[:, 1] * second[:, 1] * fourth[:, 1],
        ],
        1,
    )
    parts = [first, second, third, fourth]
    np.testing.assert_allclose(tree.multiply(parts), by_hand, rtol=1e-12)
    np.testing.assert_allclose(tree.multiply(parts).sum(1), 1, rtol=1e-12)
    logits = np.concatenate([np.log(part) + 3 for part in parts], 1)  # softmax does not mind the 3
    np.testing.assert_allclose(tree(logits), by_hand, rtol=1e-12)


def test_branches_have_names_of_their_own():
    node = (("a",), ("b", "c"), ("b + 1 more",))
    assert name_branches(node, ["a", "b", "c", "b + 1 more"]) == ["a", "b + 1 more'", "b + 1 more"]


def test_a_part_has_the_images_of_its_classes_on_the_same_folds():
    table = table_of("abcd", {"a": 3})
    part = take_part(table, (("b",), ("a", "d")))
    assert part.classes == ["b", "a + 1 more"] and part.k == 2
    assert part.images == [image for image in table.images if image[0] in "abd"]
    assert (part.fold == table.fold[part.rows]).all() and part.whole is table
    assert part.labels.tolist() == [int(image[0] != "b") for image in part.images]
    assert part.take(np.array(table.images))[np.arange(len(part.images))].tolist() == part.images
    assert len({part.hash, table.hash, take_part(table, (("b",), ("a",), ("d",))).hash}) == 3


@pytest.mark.parametrize("metric, expected", [("quadratic_kappa", "accuracy"), ("log_loss", "log_loss")])
def test_branches_are_no_grades(metric, expected):
    table = dataclasses.replace(table_of("abcd"), metric=metric)
    assert take_part(table, (("b",), ("a", "d"))).metric == expected


def test_a_fold_without_images_of_a_branch_is_refused():
    table = table_of("abc", {"a": 1})  # the only one of fold 0
    with pytest.raises(InputError, match="folds/none.csv: fold 0 has no image of a to train on"):
        take_part(table, (("a",), ("b", "c")))
    table = dataclasses.replace(table, frame=table.frame.assign(fold=[0, 0, 0, 0, 0, 0, 1, 0, 1]))
    with pytest.raises(InputError, match="fold 0 has no image of b to train on"):
        take_part(table, (("b",), ("c",)))


def test_what_a_recipe_says_of_classes_is_said_of_branches():
    table = table_of("abcd", {"c": 12})
    settings = Recipe(
        class_weight={"a": 3.0, "b": 2.0, "c": 1.0, "d": 1.0},
        oversample_count=9,
        oversample_classes=["a", "b"],
        oversample_augment=["hflip"],
    )

    def fit(node):
        return fit_recipe(settings, table, take_part(table, node), node)

    found = fit((("a",), ("b", "c", "d")))
    assert found.class_weight == {"a": 3.0, "b + 2 more": (4 * 2 + 12 + 4) / 20}
    assert (found.oversample_count, found.oversample_classes) == (9, ["a"])
    found = fit((("c",), ("d",)))
    assert (found.oversample_count, found.oversample_classes, found.oversample_augment) == (0, [], [])
    node = (("a",), ("b", "c", "d"))
    assert fit_recipe(Recipe(class_weight="balanced"), table, take_part(table, node), node) == Recipe(
        class_weight="balanced"
    )


# ------------------------------------------------------------------------------------------------------------- the run


def heads_of(node, fold):
    with np.load(f"runs/toy/frozen/{node}/fold_{fold}/head.npz") as saved:
        return saved["kernel"], saved["bias"]


def test_the_oof_of_a_frozen_run_is_the_product_by_hand(inside):
    """Features of the plain run's backbone, times the two nodes' heads of the fold that held the image out."""
    table = read_folds()
    saved = read_oof("runs/toy/frozen", table)
    backbone = read_run("runs/toy/plain", table).build_shared(table)[0]
    features = np.asarray(backbone(load_images(table).astype(np.float32), training=False))

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    for fold in range(2):
        rows = table.fold == fold
        first, rest = (
            softmax(features[rows] @ kernel + bias)
            for kernel, bias in (heads_of("node_0", fold), heads_of("node_1", fold))
        )
        assert first.shape[1] == 2 and rest.shape[1] == 3
        by_hand = np.empty((rows.sum(), 4))
        alone = table.classes.index("a")
        by_hand[:, alone] = first[:, 0]
        by_hand[:, np.arange(4) != alone] = first[:, 1:] * rest
        np.testing.assert_allclose(saved.probs[0][rows], by_hand, atol=1e-4)
    np.testing.assert_allclose(saved.probs.sum(-1), 1, atol=1e-5)
    assert saved.probs[0].std(0).min() > 0.02  # there is something to compare


@pytest.mark.parametrize("run", ["frozen", "full"])
def test_fold_models_give_the_oof_and_each_node_its_own(inside, run):
    table = read_folds()
    found = read_run(f"runs/toy/{run}", table)
    images = load_images(table)
    saved = read_oof(found.dir, table)
    assert len(found.tree.nodes) == 2
    if run == "full":
        nodes = [
            read_oof(f"runs/toy/full/node_{i}", take_part(table, node)).probs for i, node in enumerate(found.tree.nodes)
        ]
        assert [probs.shape[-1] for probs in nodes] == [2, 3]
    folds = predict_folds(found, table, saved.views, images)
    for fold in range(2):
        rows = table.fold == fold
        model = found.build_fold_model(table, fold)
        np.testing.assert_allclose(np.asarray(model(images.astype(np.float32)))[rows], saved.probs[0][rows], atol=1e-4)
        np.testing.assert_allclose(folds[fold][:, rows], saved.probs[:, rows], atol=1e-4)


def test_a_node_s_own_oof_is_in_the_product(inside):
    """Of 'a' against the rest: the probability of 'a' is the first node's own, which was predicted while it trained."""
    table = read_folds()
    run = read_run("runs/toy/full", table)
    node = read_oof("runs/toy/full/node_0", take_part(table, run.tree.nodes[0]))
    np.testing.assert_allclose(
        read_oof(run.dir, table).probs[..., table.classes.index("a")], node.probs[..., 0], atol=1e-5
    )


def test_no_training_part_of_a_node_holds_what_its_fold_holds_out(copied, monkeypatch):
    """Of every batch of a node, told by the pixels: its images are of other folds, and in node 1 none is an a."""
    seen = []
    table, images = read_folds(), load_images(read_folds())
    numbers = {image.tobytes(): row for row, image in enumerate(images)}
    assert len(numbers) == len(images)
    epoch = Phase.train_epoch

    def spy(self, fold, number, steps, tick):
        for batch in self.batches(fold, number):
            seen.append(
                (self.model.output_shape[-1], fold, [numbers[image.astype(np.uint8).tobytes()] for image in batch[0]])
            )
        return epoch(self, fold, number, steps, tick)

    monkeypatch.setattr(Phase, "train_epoch", spy)
    double("baseline", "a", run="spied", overrides=["epochs=1", "batch_size=4", "augment="])
    used = {(outputs, fold): set() for outputs in (2, 3) for fold in (0, 1)}
    for outputs, fold, rows in seen:
        used[outputs, fold] |= set(rows)
    labels = np.array(table.frame["label"])
    for (outputs, fold), rows in used.items():
        rows = np.array(sorted(rows))
        assert len(rows) and (table.fold[rows] != fold).all()
        assert ("a" in labels[rows]) == (outputs == 2)
        allowed = (table.fold != fold) & ((outputs == 2) | (labels != "a"))
        assert len(rows) > allowed.sum() - 4  # but for what no full batch was left for


def test_parts_use_the_features_of_the_whole(inside):
    """The plain run, which came after the double one, and all nodes: two views of the images, computed once."""
    assert len(list(Path("runs/toy/features").glob("*.npy"))) == 2
    images, rows = np.arange(24).reshape(4, 6), np.array([3, 1])
    table = dataclasses.replace(table_of("ab"), whole=table_of("ab"), rows=rows)
    assert isinstance(table.take(images), Rows) and (table.take(images)[:] == images[rows]).all()


def test_the_run_blends_and_packs_like_any_other(copied, capsys):
    """A frozen one and its like undivided share a backbone in the zip; whole networks beside them."""
    table = read_folds()
    record = make_blend()
    assert set(record["runs"]) == {"frozen", "plain", "full"}
    weights = {"frozen": 0.5, "full": 0.3, "plain": 0.2}
    path = Path("runs/toy/blend/blend.json")
    files.write_json(
        path,
        record
        | {
            "weights": weights,
            "views": ["identity", "hflip"],
            "members": [
                {"run": run, "weight": weight, "oof": files.sha256_file(f"runs/toy/{run}/oof.npz")}
                for run, weight in weights.items()
            ],
        },
    )
    make_submission()
    packed = files.read_json("submissions/toy.json")
    assert packed["rehearsal"]["probabilities_differ"] < 1e-4 and packed["rehearsal"]["oof_differs"] < 1e-3
    full = next(member for member in packed["members"] if member["run"] == "full")
    assert {"node_0/fold_0/model.weights.h5", "node_1/fold_1/model.weights.h5"} <= set(full["files"])
    whole = sum(np.prod(shape) for shape in _variables("submissions/toy.zip"))
    backbone = read_run("runs/toy/plain", table).build_shared(table)[0].count_params()
    assert whole < 1.5 * backbone


def _variables(path):
    """Shapes of the variables in a zip's network."""
    import tempfile
    import zipfile

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        return [shape for _, shape in tf.train.list_variables(f"{folder}/SubmissionModel/variables/variables")]


def test_run_twice_it_says_that_nothing_is_to_do(copied, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path("runs/toy/full").rglob("*") if path.is_file()}
    double("baseline", 'a; d|"b, b"', run="full", overrides=FULL)
    printed = capsys.readouterr().out
    assert printed.count("nothing to do") == 2 and "node 0: 36 images, OOF accuracy" in printed
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs/toy/full").rglob("*") if path.is_file()}


def test_another_tree_recipe_or_kind_of_run_is_refused(copied, monkeypatch):
    with pytest.raises(InputError, match="run.json: this run was begun with splits = "):
        double("baseline", "d", run="full", overrides=FULL)
    with pytest.raises(InputError, match="run.json: this run was begun with recipe.epochs = 2 .now 3"):
        double("baseline", 'a; d|"b, b"', run="full", overrides=[*FULL, "epochs=3"])
    with pytest.raises(InputError, match="run.json: this run was begun with splits = "):
        train.train("baseline", run="full", overrides=FULL)
    with pytest.raises(InputError, match="run.json: this run was begun with .*splits = None"):
        double("efficientnet_lite0", "a", run="plain", overrides=FROZEN)
    with pytest.raises(InputError, match="gan.json: no such GAN, but synthetic takes"):
        double("baseline", "a", overrides=["epochs=1", "synthetic=5"])
    assert not Path("runs/toy/baseline-quick-double").exists()
    assert main(["double", "--model", "baseline", "--splits", "nobody"]) == 2
    assert main(["explain", "--run", "full"]) == 2


def test_generated_images_belong_to_the_nodes_of_their_classes(monkeypatch):
    table = table_of("abcd")
    part = take_part(table, (("d",), ("a", "b")))
    made, labels = (
        np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8),
        np.arange(8) // 2,
    )

    def read_synthetic(asked, fold, n):
        assert asked is table
        return made, labels

    monkeypatch.setattr(gan, "read_synthetic", read_synthetic)
    more, joined = gan.add_synthetic(part, made[: len(part.labels)], 1, 2)
    assert joined.second[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 6, 7]  # of a, b and d; none of c
    assert [part.classes[label] for label in more.labels[-6:]] == ["a + 1 more"] * 4 + ["d"] * 2
    assert not (more.fold[-6:] == 1).any()


def test_seeds_are_runs_that_blend_as_one(copied):
    options = {"run": "pair", "overrides": ["epochs=1", "batch_size=8"], "splits": "a", "how": double}
    folders = train.train_seeds(2, "baseline", **options)
    assert [folder.name for folder in folders] == ["pair", "pair-seed1"]
    assert gather_seeds(folders[0].parent, ["pair", "plain", "pair-seed1"]) == [["pair", "pair-seed1"], ["plain"]]


def test_a_fold_is_trained_once_more_for_the_forecast(copied):
    options = {"run": "more", "overrides": ["epochs=1", "batch_size=8"], "splits": "a", "how": double}
    folders = train.train_seeds(1, "baseline", **options)
    assert [folder.name for folder in folders] == ["more", "more-seed1"]
    table = read_folds("toy")
    rows, others = trained_again(folders[0], table, ["identity"])
    assert set(table.fold[rows]) == {0} and others.shape == (1, len(rows), len(table.classes))


def test_folds_one_by_one(copied, capsys):
    options = {"run": "single", "overrides": ["epochs=1", "batch_size=8"]}
    double("baseline", "a", only_fold=1, **options)
    assert "folds still to train before there is an OOF: 0" in capsys.readouterr().out
    assert not files.read_json("runs/toy/single/run.json")["finished"]
    double("baseline", "a", only_fold=0, **options)
    assert read_oof("runs/toy/single", read_folds()).probs.shape == (2, 36, 4)


def test_killed_it_goes_on_to_the_same(copied):
    """Killed in its second node, and with the merged predictions of a fold gone."""
    command = [
        sys.executable,
        "-m",
        "competition",
        "double",
        "--model",
        "baseline",
        "--splits",
        'a; d|"b, b"',
        "--run",
        "killed",
        *(part for override in FULL for part in ("--set", override)),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open("log", "ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    end = time.time() + 200
    while not Path("runs/toy/killed/node_1/fold_0/epochs/001.npz").exists():
        assert process.poll() is None and time.time() < end, Path("log").read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not files.read_json("runs/toy/killed/run.json")["finished"]
    double("baseline", 'a; d|"b, b"', run="killed", overrides=FULL)
    table = read_folds()
    np.testing.assert_allclose(
        read_oof("runs/toy/killed", table).probs, read_oof("runs/toy/full", table).probs, atol=1e-5
    )
