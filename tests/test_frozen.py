"""Features are found by the key that they were written by, whoever looks for them, also when that key grows."""

import dataclasses

import numpy as np
import pytest
from test_oof import make_table, random_probs, write_run

from competition.base.files import write_json
from competition.base.workspace import Workspace
from competition.blending import trained_apart
from competition.blending.trained_apart import _plain_heads, train_apart
from competition.features import frozen
from competition.features.frozen import find_features, frozen_features
from competition.models.backbones import Weights
from competition.recipes.recipe import Recipe
from competition.trials import simulate

keras = pytest.importorskip("keras")

SETTINGS = Recipe(frozen_epochs=5, frozen_rate=0.1, epochs=0, batch_size=16, views=["identity", "hflip"], dropout=0.0)
MODEL, WEIGHTS = "m", Weights("file", None, "w")


def write_features(table, settings=SETTINGS, model=MODEL):
    """What frozen_features computes and keeps, with a backbone that is nothing but the mean of each channel."""
    image = keras.Input((*table.size, 3))
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    images = np.random.default_rng(0).integers(0, 256, (len(table.labels), *table.size, 3), np.uint8)
    return frozen_features(table, settings, model, WEIGHTS, images, backbone)[0]


@pytest.fixture
def table(tmp_path):
    """A table in another Workspace than the current folder."""
    return dataclasses.replace(make_table(n=90), workspace=Workspace(tmp_path / "there"))


def write_record(table, run="net"):
    folder = write_run(table.paths.run(run), table, {view: random_probs(table) for view in SETTINGS.views})
    write_json(
        folder / "run.json",
        {"config": {"model": MODEL, "weights": WEIGHTS.sha256, "recipe": dataclasses.asdict(SETTINGS)}, "frozen": True},
    )
    return folder


def test_the_forecast_finds_what_the_run_has_written(table):
    written, folder = write_features(table), write_record(table)
    settings, found = _plain_heads(folder, table)
    assert settings == SETTINGS and list(found) == SETTINGS.views
    assert all(np.array_equal(values, kept) for values, kept in zip(written, found.values()))
    assert train_apart(folder, table, ["identity"]).shape == (4, 90, 3)
    next(path for _, path in find_features(table, "hflip")).unlink()
    assert _plain_heads(folder, table) == (None, None)


def test_another_key_of_a_run_is_not_taken_for_it(table):
    folder = write_record(table)
    for changed in ({"image_size": 4}, {"least_size": 4}):
        write_features(table, dataclasses.replace(SETTINGS, **changed))
    write_features(table, model="other")
    assert _plain_heads(folder, table) == (None, None)
    assert len(find_features(table, "identity")) == 3


def test_a_key_that_grows_is_known_to_all_who_look_for_it(table, monkeypatch):
    """Features with another value of the new entry are others; those with the same one are found."""
    folder, known = write_record(table), frozen.features_key

    def grown(*arguments):
        return known(*arguments) | {"crop": crop}

    for module in (frozen, trained_apart):
        monkeypatch.setattr(module, "features_key", grown)
    for crop in ("none", "centre"):
        write_features(table)
        assert _plain_heads(folder, table)[1] is not None, crop
    crop = "border"
    assert _plain_heads(folder, table) == (None, None), "none of them is of this crop"
    assert len(simulate._read_features(table)) == 2, "of any run"


def test_simulate_finds_features_of_any_run_of_these_images(table):
    write_features(table)
    write_features(table, model="other")
    assert sorted(name.split()[0] for name in simulate._read_features(table)) == ["m", "other"]
    fewer = dataclasses.replace(table, frame=table.frame.iloc[:50].reset_index(drop=True))
    assert simulate._read_features(fewer) == {}
