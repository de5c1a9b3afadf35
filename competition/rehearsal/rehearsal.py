"""Run a zip as a scorer would, in a fresh and isolated process, and compare its answers with those expected.

`run_isolated` is the scorer: it unpacks a zip and runs scorer_process.py on it under Conditions, in a sandbox
(sandbox.py). `rehearse` is what `make submission` asks of a zip of its own.
"""

import dataclasses
import lzma
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from competition.base.archives import unpack_all
from competition.base.files import BROKEN, InputError, is_full, scratch
from competition.rehearsal.judged import LONGEST_LINE, Talk, watch, without_network
from competition.rehearsal.sandbox import find_level, is_seen
from competition.rehearsal.terms import Answers, Conditions, Entry, Job, RehearsalError
from competition.rehearsal.wire import show

TOLERANCE = 1e-4  # of probabilities; labels may differ only where the first two classes are closer than that
START = 120  # seconds that a process may take to import TensorFlow, on a slow machine
MARGIN = 10  # times a scorer's limits that a rehearsal may take before it is stopped
MOST_REHEARSED = 64  # images that a zip is rehearsed on
BUDGET = 60  # seconds that the batch of 300 may take, which shows what smaller ones do as well
MOST_UNPACKED = 16 * 10**9  # bytes
MOST_CODE = 10**6  # bytes of a file that is searched for paths
PATH = re.compile(r"/[^\s'\"<>{}|]+")  # in the text of an error
QUOTED = re.compile(r"""["'](/[^"'\n]+)["']""")  # in code

# A zip is rehearsed on these calls. The last but one tells its speed; images beyond those at hand are these once more.
JOBS = (
    Job(1, "float32", tensor=True),
    Job(0, "uint8"),
    Job(7, "float64", times=2),
    Job(37, "uint8", tensor=True, probabilities=False),
    Job(33, "float32", probabilities=False),
    Job(None, "uint8", times=2),
    Job(300, "float32", probabilities=False, budget=BUDGET),
)
SPEED = 5
AGAIN = (Job(16, "uint8"),)  # in a second process, which must say the same as the first


# what a process may not do, in the order in which it is told: kind in `tried`, what of it
FORBIDDEN = {
    "network": lambda what: f"it opens a socket{f' ({what})' * bool(what)}, where scorers have no network",
    "process": lambda what: (
        f"it starts a process ({what}), which a scorer may not allow, and which would not be seen here"
    ),
    "write": lambda what: f"it writes to {what} in its own folder, which scorers keep read-only",
    "read": lambda what: f"it reads {what}, which the scorer does not have",
}


def run_isolated(
    zip_path: str | Path,
    images: np.ndarray,
    jobs: Iterable[Job],
    entry: Entry = Entry(),
    conditions: Conditions = Conditions(),
) -> Answers:
    """Unpack a zip into a folder of its own and run it by `python -I`, without this project, on the CPU: Answers.

    images is uint8 [n, h, w, 3], or float for what a scorer never sends, as check_zip.py does. The process starts in an
    empty folder, which is HOME as well; a socket, a process that the zip's code starts, a change below the zip's folder
    or reading a file of this machine fails, and so does the rehearsal, even where the code goes on. Where this machine
    allows it (sandbox.py) the process sees nothing else of it. Clocks, limits and the verdict are on this side of the
    pipe; all that the process says is read as data. Raises RehearsalError, which says what broke.
    """
    jobs = list(jobs)
    try:
        level = find_level(conditions.python)
    except OSError as error:
        raise RehearsalError(f"{conditions.python} does not start: {error}", "crash", "start") from None
    with scratch(what="the rehearsal of a zip") as folder:
        folder = folder.resolve()
        for part in ("zip", "root") if level.isolated else ("zip", "home", "tmp"):
            (folder / part).mkdir()
        _unpack(zip_path, folder / "zip")
        before = {} if level.isolated else _list_files(folder / "zip")
        talk = Talk(jobs, entry)
        total_seconds, peak, ended = watch(folder, level, talk, images, conditions)
        after = {} if level.isolated else _list_files(folder / "zip")
        if ended and ended.broke in ("time", "memory", "process"):
            raise ended
        _judge(talk, before, after, conditions.python)
        if ended:
            if ended.broke == "error" and level.isolated:
                _name_path(ended, folder / "zip", conditions.python)
            raise ended
    return Answers(
        [call[0] for call in talk.labels],
        [call[1:] for call in talk.labels],
        talk.returned,
        [call[0] for call in talk.probabilities],
        talk.seconds,
        talk.left_out,
        talk.load_seconds,
        total_seconds,
        peak,
        [call[1:] for call in talk.probabilities],
        talk.versions,
    )


def bound_conditions(
    conditions: Conditions, seconds: float | None = None, memory: float | None = None, count: int = 1
) -> Conditions:
    """Conditions that do not wait for what hangs: a scorer's limits, with margin for what a rehearsal asks beyond them.

    seconds  that loading and `count` images may take, or None; memory: bytes, or None

    A zip that is over its limit by less than MARGIN times is measured still.
    """
    asked = sum(
        (job.count or MOST_REHEARSED) * (job.times + job.probabilities * job.times) for job in JOBS if not job.budget
    )
    if seconds:
        longest = START + BUDGET + MARGIN * seconds * max(1, asked / count)
        conditions = dataclasses.replace(conditions, seconds=min(conditions.seconds, longest))
    if memory:
        conditions = dataclasses.replace(conditions, memory=int(min(conditions.memory, MARGIN * memory)))
    return conditions


def rehearse(
    zip_path: str | Path,
    images: np.ndarray,
    expected: np.ndarray,
    entry: Entry = Entry(),
    conditions: Conditions = Conditions(),
) -> dict[str, Any]:
    """Run a zip on images uint8 [n, h, w, 3] in a fresh process, as `entry` says; what was found, as a dict.

    Raises RehearsalError, one line, where it does not run, where its answers are not the `expected` probabilities
    [n, C] within TOLERANCE and the labels that these give, or where they change from call to call or from process to
    process.
    """
    answers = run_isolated(zip_path, images, JOBS, entry, conditions)
    differences = check_answers(answers, JOBS, expected, entry)
    try:
        again = run_isolated(zip_path, images, AGAIN, entry, conditions)
        check_answers(again, AGAIN, expected, entry)
        count = min(len(images), AGAIN[0].count)  # type: ignore[type-var]
        changed = np.abs(again.probabilities[0][:count] - answers.probabilities[SPEED][:count]).max(initial=0)
        if changed > TOLERANCE / 10:
            raise RehearsalError(f"a second fresh process gives other probabilities (by up to {changed:.2g})")
    except RehearsalError as error:
        error.second = True
        raise
    speed = len(images) / answers.seconds[SPEED]
    level = find_level(conditions.python)
    return {
        "images": len(images),
        "near_ties": int((~_clear(expected)).sum()),
        "probabilities_differ": differences,
        "processes_differ": float(changed),
        "calls": [job.describe(len(images)) for job, late in zip(JOBS, answers.left_out) if late is None],
        "left_out": [
            f"{job.describe(len(images))} (it would take {late:.0f} s)"
            for job, late in zip(JOBS, answers.left_out)
            if late is not None
        ],
        "load_seconds": answers.load_seconds,
        # what the very first call costs beyond others
        "warm_seconds": max(0.0, answers.seconds[0] - JOBS[0].count / speed),
        "images_a_second": speed,
        "total_seconds": answers.total_seconds,
        "peak_bytes": answers.peak_bytes,
        "no_network": "none at all"
        if level.isolated or without_network()
        else "Python's sockets are refused; those of native code would not be seen, as this system cuts no network off",
        "isolated": level.words,
        "versions": answers.versions,
    }


def check_answers(answers: Answers, jobs: Sequence[Job], expected: np.ndarray, entry: Entry = Entry()) -> float:
    """The largest difference of the probabilities; RehearsalError for Answers that are not as `expected` [n, C]."""
    clear, largest = _clear(expected), 0.0
    for number, job in enumerate(jobs):
        if answers.left_out[number] is not None:
            continue
        what = f"for images as {job.describe(len(expected))}"
        rows = job.rows(len(expected))
        labels, probabilities, wanted = answers.labels[number], answers.probabilities[number], expected[rows]
        dtype, kind = answers.returned[number].split(" ", 1)

        def fail(line):
            raise RehearsalError(line, "answer", None, number)

        if kind != entry.returns or np.dtype(labels.dtype).kind not in "iu":
            fail(f"predict returned {answers.returned[number]}, expected an integer {entry.returns}")
        if not job.probabilities:
            probabilities = wanted
        if labels.shape != wanted.shape[:1] or probabilities.shape != wanted.shape:
            fail(
                f"{what} its labels have the shape {list(labels.shape)} "
                f"and its probabilities {list(probabilities.shape)}, expected {list(wanted.shape)}"
            )
        if any(not np.array_equal(labels, other) for other in answers.again[number]):
            fail(f"{what} a second call gives other labels")
        further = answers.probabilities_again[number] if job.probabilities and answers.probabilities_again else []
        if any(not np.allclose(other, probabilities, rtol=0, atol=TOLERANCE / 10, equal_nan=True) for other in further):
            fail(f"{what} a second call gives other probabilities")
        wrong = int((labels != wanted.argmax(1))[clear[rows]].sum())
        difference = float(np.abs(probabilities - wanted).max(initial=0))
        largest = max(largest, difference)
        if wrong or not difference <= TOLERANCE:
            fail(
                f"{what} {wrong} of its labels differ from the toolkit's own average of the same members and views, "
                f"probabilities by up to {difference:.2g} (allowed {TOLERANCE:g})"
            )
    return largest


def list_checks(error: RehearsalError, n: int) -> list[tuple[str, str]]:
    """[(check, "ok", "FAILS: why" or "not reached")] of a rehearsal on n images that ended in a RehearsalError."""
    forbidden = "network, processes, changes of its folder, files elsewhere"
    checks = [
        "unpacked; no pickle, Lambda, path or user name",
        "a fresh process starts",
        "model.py is imported",
        "its object is made",
        *(f"predicts {job.describe(n)}" for job in JOBS),
        f"nothing forbidden ({forbidden})",
        "a second fresh process says the same",
    ]
    stages = {"unpack": 0, "start": 1, "import": 2, "load": 3}
    if error.second:
        at = len(checks) - 1
    elif error.broke in FORBIDDEN:
        at = len(checks) - 2
    elif error.job is not None:
        at = 4 + error.job
    else:
        at = stages.get(error.stage, 1)  # type: ignore[arg-type]
    seen = len(checks)
    if error.broke in FORBIDDEN and not error.second:  # what came before it, by the stage that it had come to
        seen = stages.get(error.stage, 4 + (error.job or 0) if error.stage != "end" else seen)  # type: ignore[arg-type]
    return [
        (check, f"FAILS: {error}" if number == at else "ok" if number < min(at, seen) else "not reached")
        for number, check in enumerate(checks)
    ]


def predict_zip(zip_path: str | Path, images: np.ndarray, entry: Entry = Entry()) -> np.ndarray:
    """Class ids int64 [n] of images uint8 [n, h, w, 3], by a zip's own code in a fresh, isolated process.

    InputError when that fails.
    """
    job = Job(None, "uint8", probabilities=False)
    try:
        return run_isolated(zip_path, images, [job], entry).labels[0].astype(np.int64)
    except RehearsalError as error:
        raise InputError(f"{zip_path}: {error}") from None


def _unpack(zip_path, folder):
    try:
        with zipfile.ZipFile(zip_path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            room = min(MOST_UNPACKED, shutil.disk_usage(folder).free)
            if size > room:
                raise ValueError(f"unpacked it has {size / 1e6:.0f} MB, more than the {room / 1e6:.0f} MB there may be")
            unpack_all(archive, folder)
    except (*BROKEN, lzma.LZMAError) as error:
        if is_full(error):  # of which `scratch` tells
            raise
        raise RehearsalError(f"it cannot be unpacked: {error}", "zip", "unpack") from None
    for path in folder.rglob("*"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    os.chmod(folder, 0o555)


def _list_files(folder):
    """{path: what shows that it was changed} of all files, links and folders below a folder."""
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in sorted(folder.rglob("*"))}
    return {name: () if stat.S_ISDIR(one.st_mode) else (one.st_size, one.st_mtime_ns) for name, one in found.items()}


def _judge(talk, before, after, python):
    """Raise the RehearsalError that calls for what the process said it tried, or for files that changed."""
    tried = {}  # the first of each kind
    for kind, what in talk.tried:
        what = show(what.replace("\n", " "), LONGEST_LINE)
        if kind == "missing" and os.path.isfile(what) and not is_seen(python, what):
            kind = "read"  # it was not there, and would have been without the sandbox
        tried.setdefault(kind, what)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    if changed:
        tried.setdefault("write", min(changed))
    for kind, line in FORBIDDEN.items():
        if kind in tried:
            error = talk.ended.error if talk.ended else None
            raise RehearsalError(line(tried[kind]), kind, talk.stage, talk.job, error)


def _name_path(error, folder, python):
    """Add to an error which path of this machine the zip's code names, where the text does not say it."""

    def is_here(path):
        return len(path) > 1 and os.path.exists(path) and not is_seen(python, path)

    assert error.error is not None
    text = error.error["text"]
    if any(is_here(path.rstrip("/.,;:")) for path in PATH.findall(text)):
        return
    for file in sorted(file for file in folder.rglob("*.py") if file.stat().st_size <= MOST_CODE):
        for path in QUOTED.findall(file.read_text("utf-8", "replace")):
            if is_here(path):
                named = (
                    f" ({file.relative_to(folder).as_posix()} names {show(path, 200)}, which the scorer does not have)"
                )
                first, end, rest = text.partition("\n")
                error.error["text"] = first + named + end + rest
                error.args = (f"{error}{named}",)
                return


def _clear(expected):
    """Of which images [n] the label is beyond doubt: no near-tie of the first two classes."""
    order = np.sort(expected, axis=1)
    return order[:, -1] - order[:, -2] >= TOLERANCE
