"""The set-up of .venv: the product alone, and what tests and docs add to it, each once."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
TEST = ["requirements-test.txt", "requirements-cluster.txt", "requirements-hub.txt"]


@pytest.fixture
def make(tmp_path):
    """A make in a folder whose pip does nothing but note what it was asked to install; it returns that."""
    if not shutil.which("make"):
        pytest.skip("no make on this machine")
    for name in ("Makefile", *REQUIREMENTS):
        shutil.copy(ROOT / name, tmp_path)
    pip = tmp_path / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\necho "$@" >> calls\n')
    for name in ("python", "ruff", "mypy", "mkdocs"):
        (pip.parent / name).write_text("#!/bin/sh\n")
    for program in pip.parent.iterdir():
        program.chmod(0o755)

    def run(*arguments):
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {"PATH": os.environ["PATH"]}
        result = subprocess.run(["make", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        time.sleep(0.02)  # what is touched next is newer by the clock of any file system
        return re.findall(r"-r (?:\.venv/)?(\S+)", calls.read_text())

    return run


def test_a_submission_needs_the_product_alone_and_tests_their_own_besides(make):
    assert make("demo") == ["requirements.txt"] and make("setup") == []
    assert make("test") == TEST and make("lint") == [] and make("test") == []
    assert make("docs") == ["requirements-docs.txt"] and make("docs") == []


def test_keras_hub_is_added_when_it_is_asked_for_and_stays(make, tmp_path):
    """It comes without what it depends on (a second TensorFlow), so that its list must be whole; later setups keep it."""
    assert make("setup") == ["requirements.txt"]
    assert make("setup", "HUB=1") == ["requirements.txt", "requirements-hub.txt"]
    assert "--no-deps -r requirements-hub.txt" in (tmp_path / "calls").read_text()
    assert make("setup") == make("setup", "HUB=1") == []
    os.utime(tmp_path / "requirements.txt")
    assert make("demo") == ["requirements.txt", "requirements-hub.txt"]
    (tmp_path / ".venv/.hub").unlink()
    assert make("setup", "HUB=0") == []


def test_ray_is_added_when_it_is_asked_for_and_stays(make, tmp_path):
    """CLUSTER= says so to `setup` alone: to a command it is an option, the address of a cluster."""
    assert make("setup", "CLUSTER=1") == ["requirements.txt", "requirements-cluster.txt"]
    assert make("setup") == make("setup", "CLUSTER=1") == []
    os.utime(tmp_path / "requirements.txt")
    assert make("train", "CLUSTER=auto") == ["requirements.txt", "requirements-cluster.txt"]
    (tmp_path / ".venv/.cluster").unlink()
    assert make("train", "CLUSTER=auto") == []


def test_tests_alone_set_everything_up(make):
    assert make("lint") == ["requirements.txt", *TEST]


def test_docs_need_no_product(make):
    assert make("docs") == ["requirements-docs.txt"]


def test_a_package_is_pinned_in_one_place():
    """Tests and docs add to the product's packages, and take the versions of those that they share from there."""
    names = []
    for name in REQUIREMENTS:
        lines = (ROOT / name).read_text("utf-8").splitlines()
        lines = [line for line in lines if line and not line.startswith("#")]
        shared = [line for line in lines if line.startswith("-c ")]
        assert ("-c requirements.txt" in shared) == (name != "requirements.txt"), name
        pins = {line: re.fullmatch(r"([\w-]+)==[\w.]+(?:; .+)?", line) for line in lines if line not in shared}
        assert all(pins.values()), (name, pins)
        names += [pin[1].lower().replace("_", "-") for pin in pins.values()]
    assert len(REQUIREMENTS) == 5 and sorted(names) == sorted(set(names))
