"""The small pictures: deterministic SVG that stands in any page."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from competition.base import plot
from competition.base.page import Html

NAMES = ["oak & <ash>", "élm $x$ and $y$", "日本", "yew" * 30]
MATRIX = np.diag([9, 8, 7, 6]) + np.eye(4, k=1, dtype=int)
DRAWN = {
    "curves": lambda: plot.curves(
        {"fold 0": ([1, 2, 3], [0.2, np.nan, 0.6]), "fold 1": ([1], [0.4])}, "epoch", "accuracy"
    ),
    "one curve": lambda: plot.curves({"loss": ([0.5, 1.5], [2, 1])}, "x", "y"),
    "heatmap": lambda: plot.heatmap(MATRIX, NAMES),
    "large heatmap": lambda: plot.heatmap(np.eye(60, dtype=int) * 5, [f"class {i}" for i in range(60)]),
    "no images": lambda: plot.heatmap(np.zeros((2, 2), int), ["a", "b"]),
    "interval": lambda: plot.interval(0.79, 0.76, 0.82, [0.7, 0.8, float("nan")]),
    "point": lambda: plot.interval(1.0, 1.0, 1.0),
    "bars": lambda: plot.bars({"gain": 0.01, "early $stop": -0.004}),
    "no bars": lambda: plot.bars({}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_stand_in_any_page(name):
    first = DRAWN[name]()
    assert isinstance(first, Html) and first == DRAWN[name]()  # bit for bit
    root = ET.fromstring(first)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and 200 <= float(root.get("width")) <= 560
    ids = re.findall(r' id="([^"]+)"', first)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', first)) <= set(ids)
    assert "currentColor" in first and plot.CURRENT not in first and "<style" not in first
    assert "fill: #ffffff" not in first and "fill: #000000" not in first and "metadata" not in first


def test_no_two_pictures_share_an_id():
    ids = [set(re.findall(r' id="([^"]+)"', draw())) for draw in DRAWN.values()]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0


def test_text_is_text_and_escaped():
    texts = [element.text for element in ET.fromstring(DRAWN["heatmap"]()).iter("{http://www.w3.org/2000/svg}text")]
    assert {"oak & <ash>", "élm $x$ and $y$", "日本", "9", "1", "predicted", "true"} <= set(texts)
    assert any(text.endswith("…") for text in texts) and "0" not in texts


def test_matplotlib_s_settings_stay():
    code = (
        "import sys; from competition.base import plot; assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; before = dict(dict.items(matplotlib.rcParams)); plot.bars({'a': 1.0})\n"
        "assert dict(dict.items(matplotlib.rcParams)) == before and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
