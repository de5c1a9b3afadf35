"""The wheel that pyproject.toml describes: its files, its script, and that its dependencies are the pinned ones."""

import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import competition

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def pins(*names):
    """{package: [versions]} of the files of requirements."""
    found = {}
    for name in names:
        for line in (ROOT / name).read_text("utf-8").splitlines():
            if match := re.match(r"([\w-]+)==([\w.]+)", line):
                found.setdefault(plain(match[1]), []).append(match[2])
    return found


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_holds_the_package_and_nothing_else(wheel):
    package = ROOT / "competition"
    here = {path.relative_to(ROOT).as_posix() for path in package.rglob("*") if path.is_file()}
    here = {name for name in here if not re.search(r"(^|/)(__pycache__/|\.)", name)}
    about = f"competition_toolkit-{competition.__version__}.dist-info/"
    packed = {name for name in wheel.namelist() if not name.startswith(about)}
    assert packed == here
    assert {"competition/recipes/best.toml", "competition/submission/submission_model.py"} <= packed
    assert f"{about}licenses/LICENSE" in wheel.namelist()


def test_its_script_is_the_command_line(wheel):
    about = f"competition_toolkit-{competition.__version__}.dist-info"
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(f"{about}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == {"competition": "competition.__main__:main"}
    metadata = wheel.read(f"{about}/METADATA").decode()
    assert f"\nVersion: {competition.__version__}\n" in metadata and "\nRequires-Python: <3.14,>=3.11\n" in metadata


def test_every_dependency_is_pinned_to_a_version_in_its_range():
    pinned = pins("requirements.txt")
    pinned["tensorflow"] += pinned["tensorflow-cpu"]  # the same thing, without CUDA
    for line in PROJECT["dependencies"]:
        wanted = Requirement(line)
        versions = pinned.get(plain(wanted.name), [])
        assert versions and all(version in wanted.specifier for version in versions), (line, versions)


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_an_extra_admits_what_is_pinned(extra):
    """Those of tests and docs are all pinned."""
    pinned = pins(*(path.name for path in ROOT.glob("requirements*.txt")))
    for line in PROJECT["optional-dependencies"][extra]:
        wanted = Requirement(line)
        versions = pinned.get(plain(wanted.name), [])
        assert all(version in wanted.specifier for version in versions), (line, versions)
        assert versions or extra not in ("test", "docs"), line


def test_an_extra_of_tests_or_docs_has_what_their_requirements_ask_for():
    """Those above the line "What ... along", which were not asked for."""
    for extra, name in (("test", "requirements-test.txt"), ("docs", "requirements-docs.txt")):
        asked = re.split(r"\n# What .* along", (ROOT / name).read_text("utf-8"))[0]
        names = {plain(found) for found in re.findall(r"^([\w-]+)==", asked, re.M)}
        assert names <= {plain(Requirement(line).name) for line in PROJECT["optional-dependencies"][extra]}
