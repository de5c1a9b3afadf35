import dataclasses
import errno
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from competition.base.files import InputError
from competition.checking.finding import Reading
from competition.checking.remedies import explain_error
from competition.rehearsal import judged, rehearsal, sandbox
from competition.rehearsal.rehearsal import Answers, Conditions, Entry, Job, RehearsalError, check_answers, run_isolated
from competition.rehearsal.sandbox import find_level

IMAGES = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8)
PLAIN = Job(None, "uint8", probabilities=False)
CLASS = """
import ctypes, os, socket, subprocess, sys, time
import numpy as np

class model:
    def __init__(self, path):
        {load}

    def predict(self, X):
        {predict}
        return np.asarray(X).mean((1, 2)).argmax(1)
"""


@pytest.fixture
def run(tmp_path):
    """Run a zip whose model.py is CLASS with these lines in it; no TensorFlow, so that each takes a blink."""

    def run(load="pass", predict="pass", code=None, jobs=(PLAIN,), **conditions):
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.py", CLASS.format(load=load, predict=predict) if code is None else code)
            archive.writestr("weights/one.txt", "1")
        return run_isolated(path, IMAGES, jobs, conditions=Conditions(**conditions))

    return run


@pytest.fixture
def not_isolated(monkeypatch):
    """Call it, and this machine has no sandbox."""
    return lambda: monkeypatch.setattr(sandbox, "LEVELS", ())


def test_answers(run):
    found = run(
        load="open(path + '/weights/one.txt').read(); assert 'competition' not in sys.modules",
        jobs=[
            Job(3, "float64", probabilities=False, times=2),
            Job(0, "uint8", probabilities=False),
            Job(23, "float32", probabilities=False),
            Job(4, "uint8", probabilities=False, first=8),
            Job(50, "uint8", probabilities=False, budget=1e-12),
        ],
    )
    expected = IMAGES.astype(float).mean((1, 2)).argmax(1)
    assert np.array_equal(found.labels[0], expected[:3]) and np.array_equal(found.again[0][0], expected[:3])
    assert found.labels[1].shape == (0,) and np.array_equal(found.labels[2], np.resize(expected, 23))
    assert np.array_equal(found.labels[3], expected[[8, 9, 8, 9]]) and Job(4, "", first=8).rows(10).tolist() == [
        8,
        9,
        8,
        9,
    ]
    assert found.labels[4] is None and found.left_out[4] > 0 and found.left_out[:4] == [None] * 4
    assert found.returned[:3] == ["int64 array"] * 3
    assert found.total_seconds > found.load_seconds > 0 and found.peak_bytes > 10**7
    assert found.versions["numpy"] == np.__version__ and "tensorflow" not in found.versions


@pytest.mark.parametrize(
    "what, broke, message",
    [
        ({"code": "import nothing_like_that"}, "error", "importing model.py: ModuleNotFoundError.*nothing_like_that"),
        ({"code": "class Model: pass"}, "error", "making its object: AttributeError"),
        ({"predict": "raise ValueError('no\\nway')"}, "error", "predicting: ValueError: no$"),
        ({"predict": "socket.create_connection(('10.1.2.3', 80))"}, "network", r"opens a socket \(10.1.2.3:80\)"),
        ({"load": "\n        try: socket.socket()\n        except OSError: pass"}, "network", "opens a socket, where"),
        ({"load": "open(path + '/log.txt', 'w')"}, "write", "writes to log.txt in its own folder"),
        ({"load": "os.remove(path + '/weights/one.txt')"}, "write", "writes to weights/one.txt"),
        ({"load": "os.chmod(path + '/weights', 0o777)"}, "write", "writes to weights in"),
        ({"load": "ctypes.CDLL(None).socket(2, 1, 0)"}, "network", r"opens a socket \(socket\)"),
        (
            {"load": "import urllib3.util.connection as c; c.create_connection(('10.1.2.3', 80))"},
            "network",
            r"opens a socket \(10.1.2.3:80\)",
        ),
        ({"predict": "subprocess.run(['curl', 'x'])"}, "process", r"starts a process \(curl\)"),
        ({"predict": "os.fork()"}, "process", r"starts a process \(os.fork\)"),
        ({"load": f"open({__file__!r}).read()"}, "read", "reads .*test_rehearsal.py, which the scorer does not have"),
        ({"predict": "time.sleep(60)", "seconds": 0.5}, "time", "longer than the 0.5 s"),
        (
            {"load": "self.x = np.ones(10**7)", "predict": "time.sleep(60)", "memory": 60e6},
            "memory",
            "more than the 60 MB",
        ),
        ({"predict": "os.kill(os.getpid(), 9)"}, "crash", r"exit code -9"),
        ({"predict": "sys.exit(3)"}, "error", "SystemExit"),
        ({"python": "/nowhere/python"}, "crash", "/nowhere/python"),
    ],
)
def test_what_breaks_is_named(run, what, broke, message):
    with pytest.raises(RehearsalError, match=message) as caught:
        run(**what)
    assert caught.value.broke == broke and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "load, changed",
    [
        ("c.chmod(at + b'/weights', 0o777); c.unlink(at + b'/weights/one.txt')", "weights/one.txt"),
        ("c.chmod(at, 0o777); c.mkdir(at + b'/new', 0o777)", "new"),
    ],
)
def test_changes_by_native_code(run, load, changed, not_isolated):
    """Where nothing keeps the zip's code apart they are seen; in a sandbox they do not happen."""
    load = f"c, at = ctypes.CDLL(None), path.encode(); {load}"
    if find_level(sys.executable).isolated:
        run(load)
    not_isolated()
    with pytest.raises(RehearsalError, match=f"writes to {changed}") as caught:
        run(load)
    assert caught.value.broke == "write"


def test_a_path_of_this_machine_is_named(run, tmp_path):
    """Where a file outside the zip is missing inside, the line says which, though the error does not."""
    if not find_level(sys.executable).isolated:
        pytest.skip("this machine has no sandbox")
    mine = tmp_path / "mine.txt"
    mine.write_text("1")
    with pytest.raises(RehearsalError, match=f"TypeError: .* names {mine}, which the scorer does not have") as caught:
        run(load=f"x = None if not os.path.exists({str(mine)!r}) else 1; x + 1")
    assert caught.value.broke == "error" and str(mine) in caught.value.error["text"]
    with pytest.raises(RehearsalError, match=f"it reads {mine}, which the scorer") as caught:
        run(load=f"\n        try: open({str(mine)!r})\n        except OSError: pass")
    assert caught.value.broke == "read"
    with pytest.raises(RehearsalError, match=f"it reads {mine}, which the scorer"):
        run(load=f"\n        try: np.memmap({str(mine)!r})\n        except OSError: pass")
    with pytest.raises(RehearsalError, match=f"FileNotFoundError.*{mine}'$"):
        run(load=f"os.stat({str(mine)!r})")


def test_limits_are_kept_while_it_runs(run, monkeypatch):
    with pytest.raises(RehearsalError, match="more than the 200 MB") as caught:
        run(load="self.x = [np.ones(10**7) for _ in range(12)]; time.sleep(60)", memory=200e6)
    assert (caught.value.broke, caught.value.stage) == ("memory", "load")
    monkeypatch.setattr(judged, "MOST_PROCESSES", 8)
    with pytest.raises(RehearsalError, match="starts processes") as caught:
        run(
            load="sys.modules['__main__'].WATCHED = ()\n"
            "        [os._exit(time.sleep(9) or 0) for _ in range(20) if os.fork() == 0]; time.sleep(9)"
        )
    assert caught.value.broke == "process"


def test_the_clock_is_not_that_of_the_zip(run):
    found = run(load="time.perf_counter = time.time = lambda: 0.0", predict="time.sleep(0.5)")
    assert found.seconds[0] >= 0.5


def test_what_it_prints_is_kept_in_part(run):
    loud = "print('begin'); [print('x' * 10**6) for _ in range(20)]; print('\\x1b[2Jend', flush=True); "
    run(load=loud)
    with pytest.raises(RehearsalError, match=r"exit code 3\): \\x1b\[2Jend$"):
        run(load=loud + "os._exit(3)")


def test_a_zip_that_is_too_large_unpacked(run, monkeypatch):
    monkeypatch.setattr(rehearsal, "MOST_UNPACKED", 10)
    with pytest.raises(RehearsalError, match="cannot be unpacked: unpacked it has 0 MB, more than") as caught:
        run()
    assert caught.value.broke == "zip"


def test_an_error_that_is_called_by_several_lines_is_one(run):
    with pytest.raises(RehearsalError, match=r": No run ok: x$") as caught:
        run(load="raise type('No\\nrun   ok', (Exception,), {})('x')")
    assert caught.value.error["type"] == "No run ok"
    forged = {"type": "KeyError", "text": "name = 'a\nb' not found", "trace": 'File "/zip/a\nb.py", line 3'}
    found = explain_error(RehearsalError("it fails", "error", "load", 0, forged), Reading())
    assert "\n" not in found.found + found.advice and "a b" in found.found


@pytest.mark.parametrize("text", ["No such file " + "/" * 65000, "(" * 65000, "takes " * 10000])
def test_a_text_that_is_slow_to_look_into_is_cut(text):
    start = time.perf_counter()
    explain_error(RehearsalError("it fails", "error", "load", 0, {"type": "E", "text": text, "trace": ""}), Reading())
    assert time.perf_counter() - start < 5


def test_a_zip_whose_paths_leave_its_folder(tmp_path):
    for name in ("../out.txt", "/tmp/out.txt", "a/" * 200 + "x"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(name, "1")
        with pytest.raises(RehearsalError, match="cannot be unpacked") as caught:
            run_isolated(tmp_path / "a.zip", IMAGES, [PLAIN])
        assert caught.value.broke == "zip" and not (tmp_path.parent / "out.txt").exists()


def test_a_disk_that_is_full_is_no_broken_zip(run, monkeypatch):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(rehearsal, "unpack_all", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(InputError, match="no space left on its disk.*the rehearsal of a zip needs"):
        run()


def test_links_that_lead_nowhere_are_changes(tmp_path):
    before = rehearsal._list_files(tmp_path)
    (tmp_path / "new").symlink_to("/nowhere")
    assert before == {} and list(rehearsal._list_files(tmp_path)) == ["new"]


def test_what_libraries_and_the_interpreter_do_is_no_failure(run):
    """urllib3's probe for IPv6, `uname` by platform, reading what is installed, what is not there or in HOME and TMPDIR."""
    run(
        load="import platform, tempfile, traceback, urllib3.util.connection; platform.processor()\n"
        "        open(np.__file__).read(); open('/proc/self/status').read(); open(__file__).read()\n"
        "        open('mine', 'w').write('1'); open('mine').read(); tempfile.TemporaryFile().read()\n"
        "        traceback.extract_stack()[0].line\n"
        "        try: open('/nowhere/file')\n"
        "        except FileNotFoundError: pass"
    )


def test_the_scorer_is_bare(run, monkeypatch):
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    run(load="assert 'SECRET' not in os.environ and not os.listdir('.') and os.getcwd() == os.environ['HOME']")
    with pytest.raises(RehearsalError, match="No module named 'competition'"):
        run(load="import competition")


@pytest.mark.parametrize("levels", ["sandbox.LEVELS", "()"])
def test_it_ends_with_who_started_it(tmp_path, levels):
    """A rehearsal that is killed leaves no scorer at work."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "import numpy as np\nfrom competition.rehearsal.rehearsal import *\nfrom competition.rehearsal import sandbox\n"
        f"sandbox.LEVELS = {levels}\n"
        "run_isolated('a.zip', np.zeros((1, 8, 8, 3), np.uint8), [Job(1, 'uint8')])"
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(
            "model.py",
            CLASS.format(load="time.sleep(60)", predict="pass"),
        )
    started = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)

    def wait(found):
        end = time.monotonic() + 60
        while not found() and time.monotonic() < end:
            time.sleep(0.05)
        return found()

    def judged():
        family = psutil.Process(started.pid).children(recursive=True)
        return [one for one in family if any("scorer_process.py" in word for word in one.cmdline()[-1:])]

    assert wait(judged)
    time.sleep(0.5)
    family = psutil.Process(started.pid).children(recursive=True)
    assert judged()
    started.kill()
    started.wait()
    assert wait(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family))


def test_no_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.py", CLASS)
    spoilt = bytearray((tmp_path / "a.zip").read_bytes())
    spoilt[50:60] = b"damaged!!!"
    for content in (b"no zip", bytes(spoilt)):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(RehearsalError, match="cannot be unpacked") as caught:
            run_isolated(tmp_path / "a.zip", IMAGES, [PLAIN])
        assert (caught.value.broke, caught.value.stage) == ("zip", "unpack")


# ------------------------------------------------------------------------------------- the answers, without a process

EXPECTED = np.array([[0.6, 0.3, 0.1], [0.50002, 0.49998, 0.0]])


def answers_as_expected(jobs=rehearsal.JOBS):
    rows = [job.rows(len(EXPECTED)) for job in jobs]
    labels = [EXPECTED[row].argmax(1) for row in rows]
    count = len(jobs)
    return Answers(
        labels,
        [[label] * (job.times - 1) for label, job in zip(labels, jobs)],
        ["int64 tensor"] * count,
        [EXPECTED[row] if job.probabilities else None for row, job in zip(rows, jobs)],
        [1.0] * count,
        [None] * count,
        1.0,
        2.0,
        10**9,
        [[EXPECTED[row]] * (job.times - 1) for row, job in zip(rows, jobs)],
    )


def changed(name, value, job=rehearsal.SPEED):
    found = answers_as_expected()
    values = list(getattr(found, name))
    values[job] = value
    return dataclasses.replace(found, **{name: values})


def test_near_ties_may_differ_in_label():
    swapped = dataclasses.replace(changed("labels", np.array([0, 1])), again=[[]] * len(rehearsal.JOBS))
    assert check_answers(swapped, rehearsal.JOBS, EXPECTED) == 0


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("labels", np.array([1, 0]), "as 2 uint8 array a second call gives other labels"),
        ("labels", np.array([0]), "its labels have the shape"),
        ("probabilities_again", [EXPECTED + 2e-5], "as 2 uint8 array a second call gives other probabilities"),
        ("returned", "float32 tensor", "predict returned float32 tensor, expected an integer tensor"),
        ("returned", "int64 array", "predict returned int64 array, expected an integer tensor"),
        ("probabilities", EXPECTED + 2e-4, "by up to 0.0002"),
        ("probabilities", EXPECTED * np.nan, "nan"),
    ],
)
def test_answers_are_judged_one_by_one(name, value, message):
    found = changed(name, value)
    if name == "returned" and value.startswith("float"):
        found.labels[rehearsal.SPEED] = EXPECTED[:, 0]
    if name == "probabilities":
        found.probabilities_again[rehearsal.SPEED] = [value]
    with pytest.raises(RehearsalError, match=message) as caught:
        check_answers(found, rehearsal.JOBS, EXPECTED)
    checks = dict(rehearsal.list_checks(caught.value, 2))
    assert checks["predicts 2 uint8 array"] == f"FAILS: {caught.value}"
    assert checks["predicts 33 float32 array"] == "ok" and checks["predicts 300 float32 array"] == "not reached"


def test_wrong_labels():
    found = changed("labels", np.array([1, 0]))
    found.again[rehearsal.SPEED] = []
    with pytest.raises(RehearsalError, match="as 2 uint8 array 1 of its labels differ"):
        check_answers(found, rehearsal.JOBS, EXPECTED)


def test_second_process_must_say_the_same(monkeypatch):
    first, second = answers_as_expected(), answers_as_expected(rehearsal.AGAIN)
    images = IMAGES[:2]
    given = iter([first, second])
    monkeypatch.setattr(rehearsal, "run_isolated", lambda *_: next(given))
    found = rehearsal.rehearse("a.zip", images, EXPECTED)
    assert (found["near_ties"], found["probabilities_differ"], found["processes_differ"]) == (1, 0, 0)
    assert found["warm_seconds"] == 0.5  # of a call of one image that took 1 s, where 2 a second are usual
    assert found["calls"][:2] == ["1 float32 tensor", "0 uint8 array"] and found["images_a_second"] == 2
    second.probabilities[0][0, 0] += 5e-5
    given = iter([first, second])
    with pytest.raises(RehearsalError, match="second fresh process gives other probabilities"):
        rehearsal.rehearse("a.zip", images, EXPECTED)


def test_what_was_checked_when_it_failed():
    def found(*error, second=False):
        error = RehearsalError("x", *error)
        error.second = second
        return [value.split(":")[0] for _, value in rehearsal.list_checks(error, 2)]

    assert found("zip", "unpack") == ["FAILS"] + ["not reached"] * 12
    assert found("error", "load") == ["ok"] * 3 + ["FAILS"] + ["not reached"] * 9
    assert found("network", "end") == ["ok"] * 11 + ["FAILS", "not reached"]
    assert found("read", "import", None) == ["ok"] * 2 + ["not reached"] * 9 + ["FAILS", "not reached"]
    assert found("crash", None, None, None) == ["ok", "FAILS"] + ["not reached"] * 11
    assert found(second=True) == ["ok"] * 12 + ["FAILS"]


def test_a_scorer_s_limits_bound_the_rehearsal():
    assert rehearsal.bound_conditions(Conditions()) == Conditions()
    tight = rehearsal.bound_conditions(Conditions(), 1.0, 10**8, 10**6)
    assert tight.seconds == rehearsal.START + rehearsal.BUDGET + rehearsal.MARGIN and tight.memory == 10**9
    assert tight.seconds < rehearsal.bound_conditions(Conditions(), 1.0, None, 100).seconds < 3600
    assert rehearsal.bound_conditions(Conditions(), 1e9, 10**12) == Conditions()


def test_array_formats():
    found = dataclasses.replace(answers_as_expected(), returned=["int32 array"] * len(rehearsal.JOBS))
    assert check_answers(found, rehearsal.JOBS, EXPECTED, Entry(returns="array")) == 0
    assert sys.executable == Conditions().python


def test_what_a_killed_rehearsal_left_is_swept_by_the_next(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there"))
    left = tmp_path / "there" / "competition-partial-abcdefgh"
    (left / "zip").mkdir(parents=True)
    run()
    assert list((tmp_path / "there").iterdir()) == []
