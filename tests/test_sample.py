import csv
import os

import numpy as np
import pytest
from PIL import Image

from competition.base.files import InputError, read_json
from competition.trials import sample
from competition.trials.sample import plan_sample, write_sample
from competition.trials.sample_scenes import CLASSES, SPECIES, Hour, choose_hour, draw_frame, draw_scene, photograph

IMAGES, HIDDEN = 64, 16


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("data") / "sample", IMAGES, HIDDEN, seed=3)


def test_the_default_sample_is_as_large_and_as_unbalanced_as_it_says():
    frames = plan_sample(1200, 400, 0)
    counts = [sum(frame.path.startswith(f"train/{name}/") for frame in frames) for name in CLASSES]
    assert sum(counts) == 1200 and len(frames) == 1600 and len(CLASSES) == 8
    assert min(counts) / max(counts) == pytest.approx(186 / 532, rel=0.01)
    near_duplicates = sum(frame.frame > 0 for frame in frames)
    assert 0.03 < near_duplicates / 1600 < 0.08
    assert len({(frame.species, frame.scene, frame.frame) for frame in frames}) == 1600


def test_the_folder_holds_what_about_json_says(folder):
    about = read_json(folder / "about.json")
    assert (about["images"], about["hidden"], about["seed"], about["size"]) == (IMAGES, HIDDEN, 3, [96, 96])
    assert about["classes"] == {name: len(list((folder / "train" / name).glob("*.jpg"))) for name in CLASSES}
    assert sum(about["classes"].values()) == IMAGES
    assert sorted(path.name for path in (folder / "train").iterdir()) == CLASSES
    assert {path.name for path in folder.iterdir()} == {"train", "hidden", "about.json"}
    assert not list(folder.parent.glob(".partial-*"))


def test_every_image_is_a_small_rgb_jpeg_without_metadata(folder):
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))
            assert not image.getexif() and "comment" not in image.info


def test_labels_lie_apart_and_match_the_hidden_images(folder):
    labels = rows(folder / "hidden/labels.csv")
    assert [row["image"] for row in labels] == sorted(path.name for path in (folder / "hidden/images").iterdir())
    assert len(labels) == HIDDEN and {row["label"] for row in labels} <= set(CLASSES)
    truth = {frame.path: frame for frame in plan_sample(IMAGES, HIDDEN, 3)}
    for row in labels[:2]:
        frame = truth[f"hidden/images/{row['image']}"]
        assert CLASSES[frame.species] == row["label"]
        written = (folder / frame.path).read_bytes()
        assert sample.draw_jpeg(frame, 3) == written


def test_scenes_name_every_image_once(folder):
    scenes = [row["image"] for row in rows(folder / "hidden/scenes.csv")]
    assert sorted(scenes) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))


def test_names_and_their_order_give_no_label_away():
    frames = plan_sample(1200, 400, 0)
    ids = np.array([int(frame.path[-9:-4]) for frame in frames])
    species = np.array([frame.species for frame in frames])
    apart = np.array([frame.path.startswith("hidden/") for frame in frames])
    assert len(set(ids)) == 1600 and (np.diff(ids) > 0).all()  # files are written in the order of their ids
    assert abs(np.corrcoef(ids, apart)[0, 1]) < 0.1
    for k in range(8):
        assert abs(np.corrcoef(ids[apart], species[apart] == k)[0, 1]) < 0.2
    same = (np.diff(species[apart]) == 0).mean()  # neighbours agree as often as chance has it
    assert same == pytest.approx((np.bincount(species[apart]) ** 2).sum() / 400**2, abs=0.08)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(folder, tmp_path):
    again = write_sample(tmp_path / "again", IMAGES, HIDDEN, seed=3)
    assert contents(again) == contents(folder)
    assert not np.array_equal(draw_frame(0, 0, seed=3), draw_frame(0, 0, seed=4))


def test_processes_draw_what_one_process_draws(monkeypatch):
    frames = plan_sample(IMAGES, HIDDEN, 3)[:12]
    alone = list(sample.draw_jpegs(frames, 3))
    monkeypatch.setattr(sample, "MANY", 2)
    assert list(sample.draw_jpegs(frames, 3)) == alone


def test_a_sample_that_is_there_is_left_alone_and_an_incomplete_one_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "draw_jpeg", lambda frame, seed: b"drawn")
    folder = write_sample(tmp_path / "s", IMAGES, HIDDEN)
    first = next((folder / "train").rglob("*.jpg"))
    inode = os.stat(folder).st_ino
    write_sample(folder, IMAGES, HIDDEN)
    assert os.stat(folder).st_ino == inode
    first.unlink()
    write_sample(folder, IMAGES, HIDDEN)
    assert first.read_bytes() == b"drawn"
    write_sample(folder, IMAGES + 8, HIDDEN, seed=1)
    assert read_json(folder / "about.json")["images"] == IMAGES + 8
    assert len(list(folder.rglob("*.jpg"))) == IMAGES + 8 + HIDDEN


def test_it_refuses_a_folder_that_is_not_its_own(tmp_path):
    mine = tmp_path / "mine"
    (mine / "train").mkdir(parents=True)
    (mine / "train/holiday.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="mine"):
        write_sample(mine, IMAGES, HIDDEN)
    assert contents(mine) == {"train/holiday.jpg": b"precious"}
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(InputError, match="file"):
        write_sample(file, IMAGES, HIDDEN)
    with pytest.raises(InputError, match="images"):
        write_sample(tmp_path / "tiny", 10, 0)


def test_a_killed_drawing_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fail(frame, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "draw_jpeg", fail)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "s", IMAGES, HIDDEN)
    assert list(tmp_path.iterdir()) == []


def test_hours_and_casts_vary():
    hours = [choose_hour(np.random.default_rng(seed)) for seed in range(500)]
    assert 0.07 < np.mean([hour.red > 0 for hour in hours]) < 0.18
    assert 0.3 < np.mean([hour.shadow is not None for hour in hours]) < 0.5
    exposures = np.array([hour.exposure for hour in hours])
    assert exposures.max() / exposures.min() > 2
    assert np.std([hour.warmth for hour in hours]) > 0.05


def test_light_shows_in_the_pictures(folder):
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.jpg"))]).astype(float)
    brightness = images.mean((1, 2, 3))
    assert brightness.max() > 1.8 * brightness.min() and brightness.min() > 8 and brightness.max() < 235
    assert images.std((1, 2, 3)).min() > 5  # there is something to see in each
    scene, _ = draw_scene(SPECIES[2], np.random.default_rng(0))
    hour = choose_hour(np.random.default_rng(1))
    plain, red = (
        photograph(scene, Hour(**{**hour.__dict__, "red": cast}), np.random.default_rng(2)) for cast in (0.0, 0.8)
    )
    ratio = [x[..., 0].mean() / x[..., 1].mean() for x in (plain, red)]
    assert ratio[1] > 1.4 * ratio[0]


def test_near_duplicates_resemble_their_scene_more_than_other_scenes_do():
    def small(scene, frame):
        x = np.asarray(Image.fromarray(draw_frame(5, scene, frame)).convert("L").resize((12, 12))).astype(float)
        return (x - x.mean()).ravel() / x.std() / 12

    near = [small(scene, 0) @ small(scene, 1) for scene in range(6)]
    far = [small(scene, 0) @ small(scene + 1, 0) for scene in range(6)]
    assert not np.array_equal(draw_frame(5, 0, 0), draw_frame(5, 0, 1))
    assert np.mean(near) > 0.55 and np.mean(near) > np.mean(far) + 0.4
