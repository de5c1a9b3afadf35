"""The notebooks of examples/ run from start to end, on few images, and lie in git without outputs."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("nbclient", reason="the notebooks need nbclient and ipykernel, of requirements-test.txt")

EXAMPLES = Path(__file__).parents[1] / "examples"
PARAMETERS = {
    "quickstart": "IMAGES, HIDDEN = 96, 40\nFOLDER = 'quickstart'",
    "kaggle": "from pathlib import Path\nINPUT, ON_KAGGLE, WORK = Path('none'), False, Path('kaggle')\nIMAGES, HIDDEN = 80, 20",
    "own_backbone": "IMAGES, EPOCHS = 80, 1\nFOLDER = 'own_backbone'",
}
SHOWN = {  # what a cell's output must have, the text of the cell and the text of the output
    "quickstart": {
        "table.show(5)": "<img",
        'run = c.train("efficientnet_lite0")': "<svg",
        "blend = c.blend(": "forecast",
        "submission = c.submission(": "submissions/plants.zip",
        "hidden_score =": "hidden test ",
    },
    "kaggle": {
        "c.blend(": "forecast",
        "shutil.copy": "file,species",
        "predictions = c.predict": "submissions/plants.csv",
    },
    "own_backbone": {"c.backbones(": "separable", "best.found": "{0: (", "c.submission(": "rehearsed"},
}


def run_notebook(*arguments):
    spec = importlib.util.spec_from_file_location("run_examples", EXAMPLES / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_notebook(*arguments)


def test_each_notebook_is_here_and_stripped():
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == set(PARAMETERS)
    for path in EXAMPLES.glob("*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            assert not cell.get("outputs") and cell.get("execution_count") is None, path.name


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_runs_from_start_to_end(name, tmp_path):
    notebook = run_notebook(EXAMPLES / f"{name}.ipynb", tmp_path, PARAMETERS[name])
    cells = [(cell.source, json.dumps(cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"]
    for begin, text in SHOWN[name].items():
        (output,) = [output for source, output in cells if begin in source]
        assert text in output, begin
    assert not any("Traceback" in output for _, output in cells)
    assert [path.name for path in tmp_path.iterdir()] == [name]
