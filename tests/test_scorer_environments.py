import subprocess
import sys
import zipfile

import pytest

from competition.base.files import InputError
from competition.base.workspace import Workspace
from competition.rehearsal import scorer_environments
from competition.rehearsal.scorer_environments import find_python


def test_own_python_and_paths(tmp_path):
    assert find_python() == sys.executable and find_python(sys.executable) == sys.executable
    for path in (f"{tmp_path}/nothing", str(tmp_path)):
        with pytest.raises(InputError, match="no such program"):
            find_python(path)


@pytest.mark.parametrize("scorer", ["tensorflow", "tensorflow>=2.12", "2.12.1", "-r requirements.txt", "a==1;b", " "])
def test_names_that_are_no_releases(workdir, scorer):
    with pytest.raises(InputError, match="expected releases such as|no such program"):
        find_python(scorer)
    assert not Workspace().scorers.exists()


def test_windows_parts_folders_by_either_slash(monkeypatch):
    assert not scorer_environments.is_path("tensorflow==2.12.1")
    monkeypatch.setattr(scorer_environments.os, "altsep", "\\")
    for scorer in ("C:/python/python.exe", r"C:\python\python.exe"):
        assert scorer_environments.is_path(scorer) and scorer_environments.read_releases(scorer) == []


def test_environment_is_built_once(workdir, tmp_path, monkeypatch):
    """A real one, of a wheel that holds one module: pip takes what it is told to take."""
    with zipfile.ZipFile(tmp_path / "tinything-1.5-py3-none-any.whl", "w") as wheel:
        about = "tinything-1.5.dist-info"
        wheel.writestr("tinything.py", "answer = 42\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.5\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", f"tinything.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(InputError, match=r"pip has no tinything==1.6 for Python 3.*\(it has 1.5\); expected another"):
        find_python("tinything==1.6")
    assert not list(Workspace().scorers.iterdir())
    python = find_python("tinything==1.5")
    code = "import tinything, sys; print(tinything.answer, sys.prefix != sys.base_prefix)"
    assert subprocess.check_output([python, "-I", "-c", code], text=True).split() == ["42", "True"]
    monkeypatch.setattr(scorer_environments, "_run", None)  # nothing is built again
    assert find_python("tinything==1.5") == python
