"""Run notebooks from start to end: python examples/run.py OUT examples/quickstart.ipynb ...

An executed copy of each, outputs and all, goes to OUT; what the cells write goes to a temporary folder. The test of the
notebooks and `make docs` use this.
"""

import os
import sys
import tempfile
from pathlib import Path

WIDGET = "application/vnd.jupyter.widget-view+json"
ROOT = Path(__file__).resolve().parents[1]


def run_notebook(path, folder, parameters=""):
    """The notebook of a path, executed in `folder`, as nbformat has it. CellExecutionError where a cell fails.

    parameters   Python that takes the place of the cell with the tag "parameters"; "": the cell as it is
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if parameters and "parameters" in cell.metadata.get("tags", ()):
            cell.source = parameters
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # or the kernel writes a warning on stderr
    NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell began and ended
        if cell.cell_type == "code":  # a progress bar is nothing but a text at 0 % once its notebook is closed
            cell.outputs = [
                one for one in cell.outputs if WIDGET not in one.get("data", ()) and one.get("name") != "stderr"
            ]
    notebook.metadata.pop("widgets", None)
    return notebook


def main(out, *paths):
    import nbformat

    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(path, folder)
        Path(out).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(out) / path.name)
        print(f"{Path(out) / path.name}: executed")


if __name__ == "__main__":
    main(*sys.argv[1:])
