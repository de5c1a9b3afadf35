"""What a sandbox shows of this machine, by each way to make one that works here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from competition.rehearsal import sandbox
from competition.rehearsal.sandbox import FOLDER, HOME, LEVELS, NONE, enclose, find_level, is_seen

LOOK = """
import json, os, sys
def can(path):
    try:
        with open(path, "w"):
            return True
    except OSError:
        return False
print(json.dumps({
    "seen": [os.path.exists(path) for path in sys.argv[1:]],
    "written": [can(path) for path in ("/x", "%(folder)s/zip/x", "/usr/x", "x", "/tmp/x", "/dev/shm/x")],
    "processes": sum(name.isdigit() for name in os.listdir("/proc")), "environment": sorted(os.environ),
    "working": os.getcwd(), "status": open("/proc/self/status").read(), "network": os.listdir("/sys/class/net")
    if os.path.exists("/sys/class/net") else [], "user": os.path.expanduser("~")}))
""" % {"folder": FOLDER}


def look(level, python, folder, *paths):
    """What a Python sees inside, or None where this machine has no such level."""
    for part in ("zip", "root"):
        (folder / part).mkdir(exist_ok=True)
    command, environment = enclose(level, python, folder, ["-I", "-c", LOOK, *map(str, paths)], {"A": "1"}, 1 << 20)
    if not command:
        return None
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.words)
def test_it_holds_a_python_and_nothing_of_people(level, tmp_path, monkeypatch):
    mine = tmp_path / "mine.txt"
    mine.write_text("1")
    monkeypatch.setenv("SECRET", "1")
    found = look(level, sys.executable, tmp_path, mine, Path(__file__), Path.cwd() / "pyproject.toml", sys.executable)
    if found is None:
        pytest.skip("this machine has no such level")
    assert found["seen"] == [False, False, False, True]
    assert found["written"] == [False, False, False, True, True, True]
    assert found["processes"] <= 3 and found["environment"][0] == "A" and "SECRET" not in found["environment"]
    assert found["working"] == found["user"] == HOME and found["network"] == []
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_it_works_for_whoever_lets_nobody_read_what_he_makes(tmp_path):
    works = [level for level in LEVELS if look(level, sys.executable, tmp_path) is not None]
    before = os.umask(0o077)
    try:
        assert all(look(level, sys.executable, tmp_path)["user"] == HOME for level in works)
    finally:
        os.umask(before)
    assert (tmp_path / "etc" / "passwd").stat().st_mode & 0o777 == 0o644


def venv(folder, python=sys.executable):
    """An environment without pip: its Python."""
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


def test_an_environment_that_lies_in_a_project_shows_no_project(tmp_path, monkeypatch):
    """Neither where it is a folder of the project, nor where it is made right there."""
    (tmp_path / "job").mkdir()
    for where in (".venv", "."):
        project = tmp_path / f"project {where}"
        project.mkdir()
        python = venv(project / where)
        (project / "photos").mkdir()
        monkeypatch.chdir(project)
        level = find_level(python)
        if not level.isolated:
            pytest.skip("this machine has no sandbox")
        found = look(level, python, tmp_path / "job", project / "photos", python)
        assert found["seen"] == [False, True]


def test_an_interpreter_behind_links_starts(tmp_path):
    """As uv, pyenv and conda make them: a link to an environment, in a folder that is a link itself."""
    real = tmp_path / "versions" / "python-1.2.3"
    venv(real)
    (tmp_path / "versions" / "python-1").symlink_to("python-1.2.3")
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "python"
    link.symlink_to("../versions/python-1/bin/python")
    if not find_level(sys.executable).isolated:
        pytest.skip("this machine has no sandbox")
    for python in (tmp_path / "versions" / "python-1" / "bin" / "python", link):
        assert find_level(str(python)).isolated, python


def test_where_nothing_works_it_says_so(monkeypatch):
    monkeypatch.setattr(sandbox, "LEVELS", ())
    assert find_level(sys.executable) == NONE and not NONE.isolated and NONE.words == "NOT isolated"
    with pytest.raises(OSError):
        find_level("/nowhere/python")


def test_a_level_that_cannot_start_the_interpreter_is_not_taken(monkeypatch):
    broken = sandbox.Level("broken", lambda plan, command: ["false"])
    strange = sandbox.Level("strange", lambda plan, command: ["echo", '{"executable": "another"}'])
    monkeypatch.setattr(sandbox, "LEVELS", (broken, strange, sandbox.Level("nowhere", lambda plan, command: None)))
    assert find_level(sys.executable) == NONE


def test_what_is_seen(tmp_path):
    assert is_seen(sys.executable, "/usr/bin/env") and is_seen(sys.executable, os.__file__)
    assert not is_seen(sys.executable, str(tmp_path)) and not is_seen(sys.executable, str(Path.home()))
    assert not is_seen(sys.executable, "/usr/../etc/passwd") and not is_seen(sys.executable, "/usrlocal")


@pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is not installed")
def test_bubblewrap_is_taken_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(sandbox, "LEVELS", tuple(level for level in LEVELS if "another" not in level.words))
    assert find_level(sys.executable).words == "bubblewrap"
