"""Teachers: that they never tell a fold model of what it holds out, and that what they say is what is learnt."""

import contextlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Calling, encode

from competition.base import arrays, files
from competition.base.files import InputError
from competition.base.workspace import TEACHER_NPZ, Workspace
from competition.cli.main import main
from competition.data.folds import make_folds
from competition.data.images import load_images
from competition.data.table import read_folds
from competition.features import heads
from competition.features.extract import predict
from competition.models.backbones import Weights
from competition.recipes import settle
from competition.recipes.recipe import Recipe
from competition.runs import oof
from competition.runs.kinds import read_run
from competition.training import full_phase, teach
from competition.training import train as training
from competition.training.full_phase import _build_phase
from competition.training.job import Job
from competition.training.lessons import Taught

RUNS = Workspace().runs / "toy"
TINY = "batch_size = 8\n[scratch]\nepochs = 2\nrate = 1e-2\n"
BOTH = ("frozen_epochs=2", "epochs=2", "batch_size=4", "oversample_count=12", "class_weight=balanced", "cutmix=0.5")


def scene(seed, shade):
    """uint8 [24, 32, 3]: spots at random places, on a ground of the class."""
    spots = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (24, 32)), (0, 0), 1.5)
    return np.clip(np.array([shade, 90, 200 - shade]) + 300 * spots[..., None], 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two classes, three folds, two finished runs and their blend, and 16 unlabelled images, two of them copies."""
    place = tmp_path_factory.mktemp("work")
    data, other = place.parent / "toy", place.parent / "neue Bilder"
    other.mkdir()
    for label, (name, count) in enumerate({"a b": 14, "ä": 10}.items()):
        (data / name).mkdir(parents=True)
        for i in range(count):
            (data / name / f"{i}.png").write_bytes(encode(scene(100 * label + i, 60 + 80 * label)))
    for i in range(14):
        (other / f"{i:02}.png").write_bytes(encode(scene(500 + i, 60 + 80 * (i % 2))))
    (other / "copy.png").write_bytes((data / "ä" / "3.png").read_bytes())
    (other / "mirrored.png").write_bytes(encode(np.ascontiguousarray(scene(5, 60)[:, ::-1])))
    with contextlib.chdir(place):
        make_folds(data, folds=3)
        files.write_text("tiny.toml", TINY)
        training.train("baseline", "tiny.toml", run="one")
        training.train("baseline", "tiny.toml", run="two", overrides=["seed=1", "epochs=3"])
        assert main(["blend", "--runs", "one,two"]) == 0
    return place


@pytest.fixture(autouse=True)
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(settle, "is_pretrained", lambda model, weights: True)  # the cheap models have a frozen phase


@pytest.fixture
def table():
    return read_folds()


def job_of(folder, table, settings):
    return Job(folder, table, "baseline", Weights("none"), settings, list(range(table.k)))


def new_images():
    return str(Path("..") / "neue Bilder")


def test_each_fold_is_taught_by_the_models_that_never_saw_it(place, table):
    teaching = teach.read_teaching(table, "one,two")
    images = load_images(table)
    settings = Recipe(teacher_weight=0.25, teacher_temperature=2.0)
    taught = teaching.teach(
        job_of(place / "asked", table, settings), images, dict.fromkeys([0, 2], Taught(table, images))
    )
    for fold in (0, 2):
        held_out = table.fold == fold
        soft = taught[fold].soft
        assert np.isnan(soft[held_out]).all()
        said = np.mean(
            [
                predict(read_run(RUNS / run, table).build_fold_model(table, fold), images[~held_out])
                for run in ("one", "two")
            ],
            axis=0,
        )
        flat = said**0.5 / (said**0.5).sum(1, keepdims=True)
        expected = 0.75 * np.eye(2)[table.labels[~held_out]] + 0.25 * flat
        np.testing.assert_allclose(soft[~held_out], expected, atol=1e-5)


def test_the_weights_of_a_blend_are_fitted_without_the_fold_s_labels(table, monkeypatch):
    """Whichever labels fold 0 has, its teachers count the same; those of the other folds do not."""
    random = np.random.default_rng(0)
    oofs = {run: random.dirichlet([1, 1], len(table.labels)).astype(np.float32) for run in ("one", "two")}
    monkeypatch.setattr(teach, "read_oof", lambda path, table: oof.OOF(path.name, ["identity"], oofs[path.name][None]))
    monkeypatch.setattr(teach, "read_blend", lambda table: {"weights": {"one": 0.5, "two": 0.5}, "kind": "convex"})
    frame = table.frame.copy()
    frame.loc[table.fold == 0, "label"] = [table.classes[1 - label] for label in table.labels[table.fold == 0]]
    before, after = (teach.read_teaching(one).weights for one in (table, replace(table, frame=frame)))
    assert np.array_equal(before[0], after[0])
    assert not np.allclose(before[1:], after[1:])


def test_pictures_that_a_fold_holds_out_are_found():
    """Moved, mirrored and relit copies by their detail, images without any by their pixels."""
    images = np.stack([*(scene(i, 90) for i in range(9)), np.full((24, 32, 3), 7, np.uint8)])
    fold_of = np.arange(10) % 3
    others = np.stack(
        [
            images[4],
            images[2][:, ::-1],
            np.clip(images[3] * 0.9, 0, 255).astype(np.uint8),
            scene(77, 90),
            images[9],
            np.full((24, 32, 3), 9, np.uint8),
        ]
    )
    near = teach.find_near_folds(images, fold_of, others, 3)
    assert [np.flatnonzero(row).tolist() for row in near] == [[1], [2], [0], [], [0], []]


@pytest.mark.parametrize("phase", ["frozen", "full"])
def test_a_student_of_labels_alone_is_no_other(phase, table):
    """A teacher that says what the labels say changes nothing."""
    images = load_images(table)
    same = np.eye(2, dtype=np.float32)[table.labels]
    if phase == "frozen":
        recipe, found = Recipe(frozen_epochs=1, batch_size=8, label_smoothing=0.1), []
        for soft in (None, same, same[:, ::-1]):
            state = heads.start_heads(1, 1, 2304, 2)
            pool = images.reshape(len(images), -1).astype(np.float32) / 255
            heads.train_epoch(state, [recipe], [pool], pool, table.labels, table.fold, [1], soft=soft)
            found.append(state.weights)
        assert np.array_equal(found[0], found[1])
        np.testing.assert_allclose(found[0], found[2][..., ::-1], atol=1e-6)  # every label turned round
    else:
        settings = Recipe(epochs=1, batch_size=8, cutmix=0.5, mixup=0.5, class_weight="balanced", precision="float32")
        taught = {0: Taught(table, images), 1: Taught(table, images, same), 2: Taught(table, images, same[:, ::-1])}
        phase = _build_phase(job_of(Path("asked"), table, settings), images, taught, [])
        for fold in (1, 2):
            plain = _build_phase(job_of(Path("asked"), table, settings), images, {fold: taught[0]}, [])
            for (x, y, w), (x2, y2, w2) in zip(plain.batches(fold, 0), phase.batches(fold, 0), strict=True):
                assert np.array_equal(x, x2) and np.array_equal(y, y2 if fold == 1 else y2[:, ::-1])
                np.testing.assert_allclose(w, w2, rtol=1e-6)  # a class counts by the label
        assert len(np.unique(y)) > 2  # mixed


@pytest.fixture(scope="module")
def student(place):
    """A student in both phases of both kinds of labels, with copies, weights and CutMix."""
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "is_pretrained", lambda model, weights: True)
        taught, build, pools, train_epoch = {}, _build_phase, {}, heads.train_epoch

        def build_phase(job, images, given, start):
            taught.update(given)
            return build(job, images, given, start)

        def note(state, settings, pool, plain, labels, fold_of, folds, *others):
            pools[folds[0]] = pool
            return train_epoch(state, settings, pool, plain, labels, fold_of, folds, *others)

        patch.setattr(full_phase, "_build_phase", build_phase)
        patch.setattr(heads, "train_epoch", note)
        folder = training.train(
            "baseline", "tiny.toml", teacher="blend", pseudo=new_images(), overrides=[*BOTH, "pseudo_least=0.6"]
        )
        return folder, taught, pools


def test_unlabelled_images_join_the_training_part_alone(student, table):
    folder, taught, pools = student
    assert folder.name == "baseline-tiny-distilled-pseudo" and files.read_json(folder / "run.json")["finished"]
    held_out = {"pseudo/copy.png": "ä/3.png", "pseudo/mirrored.png": "a b/5.png"}
    joined = set()
    for fold, (more, images, soft, _) in taught.items():
        n = len(table.labels)
        assert len(more.labels) == len(images) == len(soft) and not (more.fold[n:] == fold).any()
        assert more.images[:n] == table.images and np.array_equal(more.fold[:n], table.fold)
        assert (soft[n:].max(1) >= 0.6).all() and np.array_equal(soft[n:].argmax(1), more.labels[n:])
        assert np.isnan(soft[:n][table.fold == fold]).all() and np.isfinite(soft[:n][table.fold != fold]).all()
        pixels = images[np.arange(len(images))].reshape(len(images), -1)
        np.testing.assert_allclose(
            pools[fold][0][np.arange(len(images))], pixels / 127.5 - 1, atol=1e-5
        )  # its features
        for name, image in zip(more.images[n:], images[np.arange(n, len(images))]):
            shown = held_out.get(name)
            assert shown is None or table.fold[table.images.index(shown)] != fold
            joined.add((name, fold))
            assert name == "pseudo/copy.png" or image.tobytes() not in {one.tobytes() for one in load_images(table)}
    assert len(joined) > 6 and len({fold for _, fold in joined}) == 3
    assert {name for name, _ in joined} & set(held_out)  # it joins the other folds
    found = oof.read_oof(folder, table)
    assert found.probs.shape[1] == len(table.labels) and np.isfinite(found.probs).all()


def test_run_again_it_says_so_and_interrupted_it_ends_the_same(student, table, capsys, monkeypatch):
    folder, *_ = student
    options = {"teacher": "blend", "pseudo": new_images(), "overrides": [*BOTH, "pseudo_least=0.6"]}
    training.train("baseline", "tiny.toml", **options)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError):
        training.train("baseline", "tiny.toml", run="again", **options, callbacks=[Calling(lambda: 1 / 0)])
    assert (RUNS / "again/fold_0/state.npz").exists()
    monkeypatch.setattr(teach.Teaching, "_ask", lambda *arguments: (_ for _ in ()))  # what was said is not asked again
    training.train("baseline", "tiny.toml", run="again", **options)
    once, twice = (oof.read_oof(path, table).probs for path in (folder, RUNS / "again"))
    assert np.array_equal(once, twice)


def test_what_was_learnt_from_is_in_the_record(student, table, capsys):
    config = files.read_json(student[0] / "run.json")["config"]
    record = files.read_json(RUNS / "blend/blend.json")
    assert config["teacher"] == {
        "kind": record["kind"],
        "runs": {run: files.sha256_file(RUNS / run / "oof.npz") for run, weight in record["weights"].items() if weight},
    }
    assert config["pseudo"] == teach.read_teaching(table, None, new_images()).unlabelled.data_hash
    command = [
        "train",
        "--model",
        "baseline",
        "--recipe",
        "tiny.toml",
        "--run",
        student[0].name,
        "--set",
        " ".join([*BOTH, "pseudo_least=0.6"]),
    ]
    for more, reason in (
        ([], "teacher.kind"),
        (["--teacher", "blend"], "pseudo ="),
        (["--teacher", "one", "--pseudo", new_images()], "teacher."),
        (["--pseudo", new_images()], "recipe.teacher_weight = 0.5 (now 0.0)"),
        (["--teacher", "none"], "no such run"),
        (["--pseudo", "nowhere"], "no such file"),
    ):
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert reason in error and error.count("\n") == 1, error


def test_hard_labels_alone(table, place):
    """Without TEACHER= the training images keep their labels."""
    folder = training.train(
        "baseline",
        "tiny.toml",
        run="hard",
        pseudo=new_images(),
        only_fold=1,
        overrides=["pseudo_labels=hard", "pseudo_least=0", "epochs=1"],
    )
    teaching = teach.read_teaching(table, None, new_images())
    settings = replace(read_run(folder, table).recipe)
    assert settings.teacher_weight == 0
    images = load_images(table)
    taught = teaching.teach(job_of(folder, table, settings), images, {1: Taught(table, images)})[1]
    rows = taught.table.fold != 1
    assert np.array_equal(taught.soft[rows], np.eye(2)[taught.table.labels[rows]])
    assert len(taught.soft) >= len(images) + 14


def test_a_broken_record_of_what_was_said_is_named(table, tmp_path):
    teaching, images = teach.read_teaching(table, "one"), load_images(table)
    path = tmp_path / "fold_0" / TEACHER_NPZ
    files.write_npz(path, image=np.array(["another"]), probs=np.zeros((1, 2)))
    with pytest.raises(InputError, match="teacher.npz"):
        teaching.teach(job_of(tmp_path, table, Recipe()), images, {0: Taught(table, images)})


def test_where_the_teachers_are_sure_of_none_none_joins(place, table, monkeypatch):
    teaching, images = teach.read_teaching(table, "one", new_images()), load_images(table)
    monkeypatch.setattr(
        teach.Teaching,
        "_ask",
        lambda self, table, images, folds: np.full((len(folds), len(images), 2), 0.5, np.float32),
    )
    job = job_of(place / "unsure", table, Recipe())
    one = teaching.teach(job, images, {0: Taught(table, images)})[0]
    assert len(one.images) == len(one.soft) == len(table.labels) and one.table.images == table.images
    assert np.array_equal(one.table.fold, table.fold) and one.behind[0][2].tolist() == []
    pool = arrays.Joined(images, arrays.Rows(one.behind[0][1], one.behind[0][2]))
    assert np.array_equal(pool[np.arange(3)], images[:3])
