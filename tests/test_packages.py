"""The packages of `competition/`: no import runs upwards, no modules import each other in a circle.

`make packages` (python tests/test_packages.py) prints the graph. The order is that of the map in the docstring of
`competition/__init__.py`. Imports inside functions count: one that hides a circle is found as well.
"""

import graphlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # where it is run as a script

import competition  # noqa: E402


def read_map():
    """The names of the packages, bottom up, as the docstring of competition/__init__.py lists them."""
    return re.findall(r"^    (\w+)  +\S", competition.__doc__, flags=re.MULTILINE)


def read_imports():
    """{module: the modules of `competition` that it imports}, anywhere in its code."""
    import grimp

    graph = grimp.build_graph("competition", cache_dir=None)
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def package_of(module):
    """`competition.data.folds` -> `data`; "" for the root itself and its `__main__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else ""


def find_upward(imports, order):
    """(module, what it imports) for each import of a package that comes later in `order`."""
    place = {package: i for i, package in enumerate(order)} | {"": len(order)}
    return sorted(
        (module, other)
        for module, others in imports.items()
        for other in others
        if other != "competition" and place[package_of(other)] > place[package_of(module)]
    )


def find_circle(imports):
    """The modules of one circle of imports, [] where there is none."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def print_graph():
    """A line a package: its modules, and the packages that these import."""
    imports, order = read_imports(), read_map()
    for package in order:
        modules = sorted(module for module in imports if package_of(module) == package)
        below = {package_of(other) for module in modules for other in imports[module]} - {package, ""}
        names = [module.split(".", 2)[2] for module in modules if module.count(".") > 1]
        print(f"{package:<11} imports {', '.join(name for name in order if name in below) or 'nothing'}")
        print(f"{'':<11} {', '.join(names)}\n")
    upward, circle = find_upward(imports, order), find_circle(imports)
    print(f"{len(imports)} modules; imports upwards: {upward or 'none'}; circle: {' -> '.join(circle) or 'none'}")
    return bool(upward or circle)


@pytest.fixture(scope="module")
def imports():
    return read_imports()


def test_every_package_has_its_line_on_the_map():
    folders = {path.parent.name for path in (ROOT / "competition").glob("*/__init__.py")}
    assert set(read_map()) == folders
    assert len(read_map()) == len(folders)


def test_every_module_says_what_it_is_for():
    for path in sorted((ROOT / "competition").rglob("*.py")):
        assert path.read_text("utf-8").startswith(('"""', "#!")), path


def test_no_import_runs_upwards(imports):
    assert find_upward(imports, read_map()) == []


def test_no_circle(imports):
    assert find_circle(imports) == []


def test_what_is_wrong_would_be_found():
    wrong = {"competition.base.files": {"competition.cli.verbs"}, "competition.cli.verbs": {"competition.base.files"}}
    assert find_upward(wrong, ["base", "cli"]) == [("competition.base.files", "competition.cli.verbs")]
    assert set(find_circle(wrong)) == set(wrong)


if __name__ == "__main__":
    sys.exit(print_graph())
