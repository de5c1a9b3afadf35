"""Locks between processes: one at a time, gone with their process, and other failures named as what they are."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from competition.base.files import InputError
from competition.base.locks import Held, hold

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from competition.base.locks import hold

with hold(sys.argv[1], wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_holds_it_and_others_are_told(tmp_path):
    path = tmp_path / "new" / "a.lock"
    for _ in range(2):
        with hold(path, wait=False):
            with pytest.raises(Held), hold(path, wait=False):
                pytest.fail("two hold it")


def test_a_lock_goes_with_its_process(tmp_path):
    path = tmp_path / "a.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Held), hold(path, wait=False):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with hold(path, wait=False):
        pass


def test_waiters_come_one_by_one_and_no_file_stays(tmp_path):
    path, inside, most = tmp_path / "a.lock", [], []

    def work():
        for _ in range(5):
            with hold(path, wait=True, remove=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20 and os.listdir(tmp_path) == []


def test_what_holds_it_may_fail(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "a.lock", wait=False, remove=True):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_not_called_another_process(tmp_path, monkeypatch, number):
    """Nor is a file that is merely there taken for a lock, which would outlive a killed process."""
    import fcntl

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    for wait in (False, True):
        with pytest.raises(InputError, match=rf"a.lock: cannot be locked \({os.strerror(number)}\): its disk has no"):
            with hold(tmp_path / "a.lock", wait):
                pytest.fail("it is not held")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"x.lock: cannot be locked \(.+\)") as error:
        with hold(tmp_path / "file" / "x.lock", wait=False):
            pytest.fail("it is not held")
    assert "\n" not in str(error.value)
