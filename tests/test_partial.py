"""Temporary files and folders: those of killed processes go with the next write beside them, those at work never do."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from competition.base import files, partial
from competition.base.partial import PARTIAL, partial_file, partial_folder, sweep

ROOT = Path(__file__).parents[1]
AT_WORK = """
import sys, time
from pathlib import Path
from competition.base import files
from competition.base.partial import partial_folder

def slow(temporary):
    Path(temporary).write_text("half")
    with partial_folder(sys.argv[1]) as folder:
        (folder / "half").write_text("half")
        print("half", flush=True)
        time.sleep(60)

files.write_with(Path(sys.argv[1], "plants.zip"), slow)
"""


def left(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.name.startswith(PARTIAL))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
def test_the_next_write_sweeps_what_a_kill_left_and_nothing_of_another_process(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", AT_WORK, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    there = left(tmp_path)
    files.write_text(tmp_path / "other.json", "{}")
    files.remove_partial(tmp_path)
    with partial_folder(tmp_path):
        pass
    assert left(tmp_path) == there and len(there) == 2, "it is at work"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert left(tmp_path) == there, "a kill leaves them"
    files.write_text(tmp_path / "other.json", "{}")
    assert left(tmp_path) == [] and not (tmp_path / "plants.zip").exists()


def test_what_is_not_named_as_the_toolkit_names_it_is_left_alone(tmp_path):
    (tmp_path / f"{PARTIAL}of-another").write_text("of another program")
    (tmp_path / "elsewhere").write_text("stays")
    (tmp_path / f"{PARTIAL}abcd1234-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"{PARTIAL}abcd1234-x.npz").write_text("left by a kill")
    files.write_text(tmp_path / "x.npz", "")
    assert left(tmp_path) == [f"{PARTIAL}abcd1234-link", f"{PARTIAL}of-another"]
    assert (tmp_path / "elsewhere").read_text() == "stays"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
@pytest.mark.parametrize("days, stays", [(0.9, True), (1.1, False)])
def test_without_locks_only_what_is_a_day_old_goes(tmp_path, monkeypatch, days, stays):
    import fcntl

    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    old = tmp_path / f"{PARTIAL}abcd1234-x.npz"
    old.write_text("whose?")
    then = time.time() - days * partial.DAY
    os.utime(old, (then, then))
    files.write_text(tmp_path / "x.npz", "new")
    assert (tmp_path / "x.npz").read_text() == "new" and old.exists() == stays


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
@pytest.mark.parametrize("make", [lambda folder: partial_file(folder, "x"), partial_folder])
def test_what_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch, make):
    import fcntl

    flock, taken = fcntl.flock, []

    def late(handle, how):
        if not taken:
            path = next(tmp_path.iterdir())
            taken.append(path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with make(tmp_path) as path:
        assert path.exists() and path != taken[0]
        monkeypatch.undo()
        sweep(tmp_path)
        assert path.exists(), "it is locked"
    assert list(tmp_path.iterdir()) == []
