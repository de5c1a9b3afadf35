import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from competition.base.files import InputError
from competition.recipes.recipe import ENTRIES, FOLDER, Recipe, read_recipe, recipe_names


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    """A recipe to override that does not change as the shipped ones may."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.toml").write_text("frozen_epochs = 5")


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def refused(*words, recipe="base.toml", overrides=(), from_random=False):
    with pytest.raises(InputError) as error:
        read_recipe(recipe, overrides, from_random)
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in words), line


@pytest.mark.parametrize("from_random", [False, True])
@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_can_be_used(name, from_random):
    recipe = read_recipe(name, from_random=from_random)
    assert recipe.frozen_epochs + recipe.epochs > 0 and recipe.scratch == {}
    if from_random:
        assert recipe.frozen_epochs == 0 < recipe.epochs
    for field in dataclasses.fields(Recipe):  # a run's record gives the recipe back
        assert isinstance(getattr(recipe, field.name), list if field.name in ENTRIES else field.type)
    assert Recipe(**dataclasses.asdict(recipe)) == recipe


def test_quick_is_there_and_trains_heads_alone():
    assert "quick" in recipe_names()
    assert read_recipe("quick").epochs == 0


def test_report_is_the_original_team_s_best_model():
    """25 epochs of a single softmax layer, then all layers at 1e-5 until they get no better; flips and shifts in both."""
    recipe = read_recipe("report")
    expected = {
        "frozen_epochs": 25,
        "frozen_schedule": "constant",
        "rate": 1e-5,
        "schedule": "constant",
        "patience": 10,
        "augment": ["hflip", "vflip", "shift"],
        "augment_phases": "both",
        "head": [],
        "dropout": 0.0,
        "label_smoothing": 0.0,
        "batch_size": 64,
        "batchnorm": "frozen",
        "class_weight": "none",
        "oversample_count": 0,
        "frozen_share": 0.0,
        "layer_decay": 1.0,
        "ema": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "fmix": 0.0,
        "image_size": 0,
    }
    assert {key: getattr(recipe, key) for key in expected} == expected
    assert recipe.epochs > 120 and recipe.frozen_copies, "its 120 epochs are reached, its first phase is augmented"


def test_keys_left_out_have_their_defaults(toml):
    assert read_recipe(toml("epochs = 2")) == Recipe(epochs=2)


def test_a_whole_number_will_do_for_a_float_and_one_entry_for_a_list(toml):
    recipe = read_recipe(toml('epochs = 2\nrate = 1\nviews = "identity"\naugment = "hflip"'))
    assert type(recipe.rate) is float and recipe.views == ["identity"] and recipe.augment == ["hflip"]


def test_the_scratch_table_counts_from_random_weights_only(toml):
    path = toml("frozen_epochs = 5\nepochs = 2\nrate = 1e-4\n[scratch]\nepochs = 9\ndropout = 0.5")
    trained, random = read_recipe(path), read_recipe(path, from_random=True)
    assert (trained.frozen_epochs, trained.epochs, trained.dropout, trained.rate) == (5, 2, 0, 1e-4)
    assert (random.frozen_epochs, random.epochs, random.dropout, random.rate) == (0, 9, 0.5, 1e-4)
    assert read_recipe(path, ["epochs=3"], True).epochs == 3
    assert (trained.batchnorm, random.batchnorm) == ("frozen", "train")  # which has no statistics to keep
    for override in ("frozen_epochs=3", "frozen_share=0.5"):
        refused("random weights", recipe=path, overrides=[override], from_random=True)


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("batch_size=16", "batch_size", 16),
        (" batch_size = 16 ", "batch_size", 16),
        ("rate=1e-3", "rate", 1e-3),
        ("rate=2", "rate", 2.0),
        ("schedule=one_cycle", "schedule", "one_cycle"),
        ('schedule="one_cycle"', "schedule", "one_cycle"),
        ("views=identity,hflip", "views", ["identity", "hflip"]),
        ("views=identity, rot180", "views", ["identity", "rot180"]),
        ('views=["identity", "vflip"]', "views", ["identity", "vflip"]),
        ("views=identity", "views", ["identity"]),
        ("augment=d4,light", "augment", ["d4", "light"]),
        ("augment=", "augment", []),
        ("augment=[]", "augment", []),
        ("class_weight=balanced", "class_weight", "balanced"),
        ("class_weight=Species1:3,Species6:2.5", "class_weight", {"Species1": 3.0, "Species6": 2.5}),
        ("class_weight=a: b:3", "class_weight", {"a: b": 3.0}),
        ("class_weight=été:2, a b:1", "class_weight", {"été": 2.0, "a b": 1.0}),
        ("class_weight=3:2", "class_weight", {"3": 2.0}),
        ('class_weight={ "Füchse, rot" = 3, b = 1 }', "class_weight", {"Füchse, rot": 3.0, "b": 1.0}),
        ("oversample_classes=a b, été", "oversample_classes", ["a b", "été"]),
        ("oversample_classes=Species1", "oversample_classes", ["Species1"]),
        ("oversample_classes=3", "oversample_classes", ["3"]),
        ("oversample_classes=1e3", "oversample_classes", ["1e3"]),
        ("oversample_classes=true", "oversample_classes", ["true"]),
        ("oversample_classes=2024-01-01", "oversample_classes", ["2024-01-01"]),
        ("oversample_classes=3,4", "oversample_classes", ["3", "4"]),
        ('class_weight={ " a " = 3 }', "class_weight", {" a ": 3.0}),
        ("head=512,256", "head", [512, 256]),
        ("head=[512, 256]", "head", [512, 256]),
        ("head=64", "head", [64]),
        ("head=", "head", []),
    ],
)
def test_overrides(override, key, value):
    found = getattr(read_recipe("base.toml", ["oversample_count=9", override]), key)
    assert found == value and type(found) is type(value)


def test_the_last_of_two_overrides_counts():
    assert read_recipe("base.toml", ["batch_size=16", "batch_size=8"]).batch_size == 8


@pytest.mark.parametrize(
    "override, words",
    [
        ("batch_sise=16", ["unknown key batch_sise", "batch_size"]),
        ("colour=red", ["unknown key colour"]),
        ("batch_size", ["batch_size", "key=value"]),
        ("batch_size=", ["batch_size", "str", "int"]),
        ("batch_size=many", ["batch_size", "'many'", "str", "int"]),
        ("batch_size=1.5", ["batch_size", "float", "int"]),
        ("batch_size=true", ["batch_size", "bool", "int"]),
        ("batch_size=0", ["batch_size", "above 0"]),
        ("epochs=-1", ["epochs", "from 0"]),
        ("rate=nan", ["rate", "nan"]),
        ("rate=inf", ["rate", "inf"]),
        ("rate=0", ["rate", "above 0"]),
        ("dropout=1.5", ["dropout", "0 to 1"]),
        ("mixup=2", ["mixup", "0 to 1"]),
        ("schedule=linear", ["schedule", "'linear'", "one_cycle"]),
        ("schedule=3", ["schedule", "int", "str"]),
        ("batchnorm=true", ["batchnorm", "bool", "str"]),
        ("augment=hflop", ["augment", "'hflop'", "hflip"]),
        ("augment=[1]", ["augment", "1"]),
        ('augment=[["hflip"]]', ["augment"]),
        ("views=hflip", ["views", "identity first"]),
        ("views=identity,identity", ["views", "once"]),
        ("views=", ["views", "identity"]),
        ("views=5", ["views", "int", "list"]),
        ("scratch=1", ["scratch", "int", "dict"]),
        ("augment_phases=second", ["augment_phases", "'second'", "full"]),
        ("oversample_augment=hflop", ["oversample_augment", "'hflop'", "hflip"]),
        ("oversample_classes=[1]", ["oversample_classes", "1", "class names"]),
        ("oversample_count=-5", ["oversample_count", "from 0"]),
        ("class_weight=balance", ["class_weight", "'balance'", "balanced"]),
        ("class_weight=3", ["class_weight", "3", "Name:3"]),
        ("class_weight=a:0", ["class_weight", "'a:0'", "above 0"]),
        ("class_weight=a:3,b", ["class_weight", "above 0"]),
        ("class_weight=a:inf", ["class_weight", "above 0"]),
        ("class_weight=:3", ["class_weight"]),
        ("class_weight={ a = true }", ["class_weight", "above 0"]),
        ("class_weight={ a = [1] }", ["class_weight", "above 0"]),
        ("cutmix_most=0", ["cutmix_most", "above 0"]),
        ("head=0", ["head is 0", "from 1"]),
        ("head=512,wide", ["head", "'wide'", "512,256"]),
        ("head=[512, true]", ["head", "whole numbers"]),
        ("head=[0.5]", ["head", "whole numbers"]),
        ("ema=1", ["ema is 1", "less than 1"]),
    ],
)
def test_what_no_recipe_can_have_is_refused_by_name(override, words, toml):
    refused("SET=", *words, overrides=[override])
    key, sign, value = override.partition("=")
    if (
        sign
        and override == f"{key}={value}".strip()
        and value in ("1.5", "true", "0", "-1", "nan", "inf", "2", "3", "5")
    ):
        refused("mine.toml", *words, recipe=toml(f"{key} = {value}"))


def test_the_scratch_table_is_checked_whether_it_counts_or_not(toml):
    refused("mine.toml", "unknown key epoch", "epochs", recipe=toml("epochs = 1\n[scratch]\nepoch = 5"))
    refused("mine.toml", "rate", "str", recipe=toml('epochs = 1\n[scratch]\nrate = "fast"'))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["frozen_epochs=0", "epochs=0"], ["nothing to train"]),
        (["dropout=1"], ["dropout is 1.0", "less than 1"]),
        (["plain_epochs=3", "epochs=2"], ["plain_epochs is 3", "epochs = 2"]),
        (["mixup=0.7", "cutmix=0.2", "fmix=0.4"], ["mixup + cutmix + fmix is 1.3"]),
        (["cutmix_least=0.5", "cutmix_most=0.4"], ["cutmix_least is 0.5", "cutmix_most = 0.4"]),
        (["oversample_classes=a"], ["oversample_count is 0"]),
        (["oversample_augment=hflip"], ["oversample_count is 0"]),
    ],
)
def test_keys_that_do_not_go_together(overrides, words):
    refused(*words, overrides=overrides)


def test_class_weights_as_a_table_of_a_file(toml):
    recipe = read_recipe(toml('epochs = 2\nclass_weight = { Species1 = 3, "a b" = 0.5 }\n[scratch]\nrate = 1'))
    assert recipe.class_weight == {"Species1": 3.0, "a b": 0.5}
    recipe = read_recipe(toml("epochs = 2\n[scratch.class_weight]\nSpecies1 = 3"), from_random=True)
    assert recipe.class_weight == {"Species1": 3.0}


def test_shares_may_come_to_one():
    assert read_recipe("base.toml", ["mixup=0.7", "cutmix=0.2", "fmix=0.1"]).fmix == 0.1


def test_unknown_recipes_and_files_that_are_none(toml, tmp_path):
    refused("quik", "no such recipe", "quick", recipe="quik")
    refused("nowhere.toml", recipe=tmp_path / "nowhere.toml")
    refused(str(tmp_path), recipe=tmp_path)
    refused("mine.toml", "not a TOML file", recipe=toml("epochs = = 1"))
    (tmp_path / "latin.toml").write_bytes("# é".encode("latin-1"))
    refused("latin.toml", "not a TOML file", recipe=tmp_path / "latin.toml")


def test_every_key_of_a_recipe_is_explained_where_it_is_defined():
    text = (FOLDER / "recipe.py").read_text("utf-8")
    assert all(f"    {field.name}: " in text for field in dataclasses.fields(Recipe))
    for path in FOLDER.glob("*.toml"):
        assert path.read_text("utf-8").startswith("#"), f"{path}: begins without a comment"


def test_reading_needs_no_tensorflow():
    code = "import sys, competition.recipes.recipe; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
