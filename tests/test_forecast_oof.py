"""The forecast of any predictions, and the Forecast as an object."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from competition.base.files import InputError
from competition.base.metrics import METRICS
from competition.blending.forecast import make_forecast
from competition.blending.forecast_oof import Forecast, forecast

NAMES = ["oak", "ash", "élm"]


def drawn(n=300):
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, n)
    taken = np.where(random.random(n) < 0.8, labels, (labels + 1) % 3)
    return (0.1 + 0.7 * np.eye(3)[taken]).astype(np.float32), labels, np.arange(n) % 5


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_the_forecast_of_the_blend_without_what_predictions_cannot_tell(metric):
    probs, labels, folds = drawn()
    groups = np.arange(300) // 15 * 5 + folds
    found = forecast(probs, labels, folds, metric=metric, groups=groups, hidden_n=120, hidden="groups")
    ids = np.unique(groups, return_inverse=True)[1]
    score = METRICS[metric].score(probs, labels)
    expected = make_forecast(METRICS[metric], probs, labels, ids, folds, score, 120, "groups")
    assert found.parts == expected and found.parts["in_sample"] == found.parts["nested"] == score
    assert found.low < found.expected < found.high and len(found.parts["folds"]) == 5
    assert not any(found.parts[part] for part in ("averaging_gain", "early_stop", "scenes", "optimism"))


def test_names_and_numbers_give_the_same():
    probs, labels, folds = drawn()
    plain = forecast(probs, labels, folds)
    named = forecast(
        probs.tolist(),
        np.array(NAMES)[labels],
        [f"fold {fold}" for fold in folds],
        classes=NAMES,
        groups=np.arange(300),
    )
    assert named.parts == plain.parts and plain.hidden_n == 60
    assert named.classes["class"].tolist() == NAMES and plain.classes["class"].tolist() == ["0", "1", "2"]
    assert named.classes["images"].sum() == 300 and list(named.classes)[1:] == ["expected", "low", "high", "images"]


def test_it_reads_as_a_line_and_as_a_table_with_a_picture():
    probs, labels, folds = drawn()
    found = forecast(probs, labels, folds, hidden_n=567)
    line = f"accuracy {found.expected:.3f} ({found.low:.3f} to {found.high:.3f}, 90 %) on 567 hidden images"
    assert repr(found) == line
    tags = [element.tag for element in ET.fromstring(found._repr_html_()).iter()]
    assert "table" in tags and "{http://www.w3.org/2000/svg}svg" in tags and found._repr_html_().count("567") == 1


def test_stored_forecasts_become_one():
    found = forecast(*drawn())
    again = Forecast.from_record(json.loads(json.dumps(found.parts)), ["0", "1", "2"])
    assert again == found and again._repr_html_() == found._repr_html_()
    with pytest.raises(InputError, match="forecast: of 3 classes, expected 2"):
        Forecast.from_record(found.parts, NAMES[:2])
    for broken, words in ((None, "found NoneType"), ({"expected": 1}, "no low, high")):
        with pytest.raises(InputError, match=words):
            Forecast.from_record(broken, NAMES)


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


P, L, F = drawn(30)


@pytest.mark.parametrize(
    "arguments, options, words",
    [
        ((P[0], L, F), {}, r"probs: shape \[3\], expected \[images, classes\]"),
        ((P[:, :1], L, F), {}, r"probs: shape \[30, 1\]"),
        (([[0.5, 0.5], [1.0]], L, F), {}, "probs: no array"),
        ((P.astype(str), L, F), {}, "probs: values of type <U"),
        ((changed(P, (4, 1), np.nan), L, F), {}, r"probs: row 4 is \[.*nan"),
        ((changed(P, (4, 1), -1), L, F), {}, "probs: row 4 is"),
        ((changed(P, (4, 1), 0.5), L, F), {}, "probs: row 4 adds up to 1.4|probs: row 4 adds up to 1.*, expected 1"),
        ((P, L[:-1], F), {}, r"labels: shape \[29\], expected \[30\]"),
        ((P, L + 1, F), {}, "labels: 1 to 3, expected 0 to 2"),
        ((P, L / 2, F), {}, "labels: values of type float64"),
        ((P, np.array(NAMES)[L], F), {}, "labels: names such as .*, expected classes="),
        ((P, np.array(NAMES)[L], F), {"classes": ["oak", "ash", "yew"]}, "labels: élm not in classes"),
        ((P, L, F), {"classes": ["oak", "ash"]}, "classes: 2 names .*, expected 3 different ones"),
        ((P, L, F), {"classes": ["oak", "ash", "ash"]}, "classes: 2 names"),
        ((P, L, F * 0), {}, "folds: 1 different number, expected 2 or more"),
        ((P, L, F + 0.5), {}, "folds: values of type float64"),
        ((P, L, F), {"metric": "f2"}, "METRIC=f2: expected one of accuracy"),
        ((P, L, F), {"groups": np.zeros(30, int)}, "groups: 1 groups lie in several folds"),
        ((P, L, F), {"groups": [None] * 30}, "groups: found a missing value"),
        ((P, L, F), {"hidden": "groups"}, "hidden=groups: expected groups="),
        ((P, L, F), {"hidden": "all"}, "HIDDEN=all: expected random or groups"),
        ((P, L, F), {"hidden_n": 0}, "HIDDEN_N=0"),
    ],
)
def test_what_cannot_be_is_named(arguments, options, words):
    with pytest.raises(InputError, match=words) as error:
        forecast(*arguments, **options)
    assert "\n" not in str(error.value)
