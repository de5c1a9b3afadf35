"""What a training is settled on, alike for every command that trains."""

import pandas as pd
import pytest

from competition.base.files import InputError
from competition.data.table import FoldTable
from competition.models.backbones import Weights
from competition.recipes.recipe import read_recipe
from competition.recipes.settle import fit_to_table, settle

LARGER = ["image_size=0", "least_size=32"]


def table_of(size=(16, 16), classes=("a", "b")):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(4)], "label": list(classes) * 2, "fold": [0, 0, 1, 1]})
    return FoldTable("toy", frame, list(classes), size, "data", 0, "hash", "data")


def test_random_weights_have_their_own_recipe():
    settled = settle(table_of(), "scratch", "none", "quick", ["seed=4"])
    assert settled.weights == Weights("none") and settled.from_random and settled.model == "scratch"
    assert settled.recipe == read_recipe("quick", ["seed=4"], from_random=True)
    assert settled.recipe != read_recipe("quick", ["seed=4"])
    with pytest.raises(AttributeError):
        settled.model = "baseline"


def test_the_recipe_fits_the_table(capsys):
    table = table_of(size=(16, 24))
    settled = settle(
        table, "scratch", "none", "quick", ["augment=d4", "views=identity,transpose,hflip", "class_weight=b:2"]
    )
    assert settled.recipe.augment == ["hflip", "vflip"] and settled.recipe.views == ["identity", "hflip"]
    assert settled.recipe.class_weight == {"a": 1.0, "b": 2.0} and list(settled.recipe.class_weight) == ["a", "b"]
    assert "images of 16x24 (height x width) are not square" in capsys.readouterr().err
    assert fit_to_table(table, settled.recipe) == settled.recipe and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nothing", "none", "quick", ["rate=x"]), "nothing"),  # the model before the recipe
        (("scratch", "none", "quick", ["rate=x", "class_weight=z:2"]), "rate"),  # the recipe before the classes
        (("scratch", "none", "quick", ["class_weight=z:2"]), "class_weight names 'z', expected classes of"),
    ],
)
def test_what_is_refused_first(arguments, words):
    with pytest.raises(InputError, match=words):
        settle(table_of(), *arguments)


def test_the_size_inside_the_network():
    assert settle(table_of(), "scratch", "none", "quick", ["image_size=0"]).size_inside() == (16, 16)
    assert settle(table_of((16, 24)), "scratch", "none", "quick", LARGER).size_inside() == (32, 48)
    tiny = settle(table_of(), "mobilenet", "none", "quick", ["image_size=8"])  # settles, and is refused here
    with pytest.raises(InputError, match="image_size is 8, expected at least"):
        tiny.size_inside()
