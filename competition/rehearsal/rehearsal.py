"""Run a zip as a scorer would, in a fresh and isolated process, and compare its answers with those expected.

`run_isolated` is the scorer: it unpacks a zip and runs scorer_process.py on it under Conditions. `rehearse` is what
`make submission` asks of a zip of its own.
"""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.base.files import InputError

TOLERANCE = 1e-4  # of probabilities; labels may differ only where the first two classes are closer than that
CPU = "-1"  # CUDA_VISIBLE_DEVICES of the rehearsal: the GPU's memory is this process'
LOOK = 0.05  # seconds between two looks at how much memory the process has; each takes a millisecond from it
START = 120  # seconds that a process may take to import TensorFlow, on a slow machine
MARGIN = 10  # times a scorer's limits that a rehearsal may take before it is stopped
MOST_REHEARSED = 64  # images that a zip is rehearsed on
BUDGET = 60  # seconds that the batch of 300 may take, which shows what smaller ones do as well
SCORER = Path(__file__).with_name("scorer_process.py")
# What a process keeps of the environment, and by which names it gets the folder of its user and one for temporary files.
KEPT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")  # without the last no Python starts on Windows
HOMES = ("HOME", "USERPROFILE") if os.name == "nt" else ("HOME",)
TEMPORARY = ("TMPDIR", "TEMP", "TMP") if os.name == "nt" else ("TMPDIR",)


@dataclass(frozen=True)
class Conditions:
    """What a scorer allows. Of network and files: nothing but reading what the zip holds."""

    python: str = sys.executable  # the interpreter, of any environment that has numpy and what the zip needs
    memory: int = 16 * 10**9  # bytes, of the process and its children
    seconds: float = 3600  # wall time from the start of the interpreter to its end


@dataclass(frozen=True)
class Job:
    """One call of a zip's code, with `count` images from the one numbered `first` on, None for all of these; where there
    are fewer, they repeat."""

    count: int | None
    dtype: str
    tensor: bool = False
    probabilities: bool = True  # ask for predict_proba as well
    times: int = 1  # calls of predict, and of predict_proba, whose answers are to be the same
    budget: float | None = None  # left out where the calls before say that it would take longer, in seconds
    first: int = 0

    def describe(self, n: int) -> str:
        count = n - self.first if self.count is None else self.count
        return f"{count} {self.dtype} {'tensor' if self.tensor else 'array'}"

    def rows(self, n: int) -> np.ndarray:
        """Which of n images it gets, int64."""
        return np.resize(np.arange(self.first, n), n - self.first if self.count is None else self.count)


@dataclass(frozen=True)
class Entry:
    """How a format's scorer makes the class in `model.py`, and what it wants of `predict`."""

    class_name: str = "model"
    with_path: bool = True  # made with the path of the folder that holds the zip's files, or without arguments
    returns: str = "tensor"  # integers as a "tensor" or as a numpy "array"


@dataclass(frozen=True)
class Answers:
    """What a zip's code said to a list of Jobs, and what it took. Of jobs that were left out, None each."""

    labels: list  # what predict returned, as an array, of whatever type and shape
    again: list  # [arrays] of the further calls of a job with `times`
    returned: list  # what that was: "int64 tensor", "float32 array", "str list"
    probabilities: list  # what predict_proba returned, as an array; None where it was not asked
    seconds: list  # of (the last call of) predict
    left_out: list  # the seconds that a job was forecast to take, where it was left out for that
    load_seconds: float  # from the import of model.py to the object
    total_seconds: float  # from the start of the interpreter to its end
    peak_bytes: int  # the most memory of the process
    probabilities_again: list = dataclasses.field(default_factory=list)  # [arrays] of the further calls, as `again`
    versions: dict = dataclasses.field(default_factory=dict)  # of the Python and what the zip's code imported, by name


class RehearsalError(Exception):
    """A zip does not do what it must; one line.

    broke  "zip" (cannot be unpacked), "network", "process" (it starts one), "write", "read" (a file of this machine),
           "time", "memory", "crash" (the process dies), "error" (an exception), "answer" (what it returns is not what it
           should be)
    stage  "unpack", "start", "import" (of model.py), "load" (making the object), "predict", "predict_proba", "end"
    job    number of the Job at work, or None
    error  of "error": {"type": name of the exception, "text": its message, "trace": the traceback}
    """

    def __init__(
        self,
        line: str,
        broke: str = "answer",
        stage: str | None = None,
        job: int | None = None,
        error: dict[str, str] | None = None,
    ) -> None:
        super().__init__(line)
        self.broke, self.stage, self.job, self.error = broke, stage, job, error
        self.second = False  # whether it was in the second process of `rehearse`


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
    allows it (`unshare`) the process has no network at all. Raises RehearsalError, which says what broke.
    """
    jobs = list(jobs)
    # on Windows what a process had open may not be let go at once when it is ended
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=os.name == "nt") as folder:
        folder = Path(folder).resolve()
        for part in ("zip", "home", "out", "tmp"):
            (folder / part).mkdir()
        _unpack(zip_path, folder / "zip")
        before = _list_files(folder / "zip")
        np.save(folder / "images.npy", images)
        (folder / "job.json").write_text(
            json.dumps(
                {
                    "folder": str(folder / "zip"),
                    "images": str(folder / "images.npy"),
                    "out": str(folder / "out"),
                    "entry": dataclasses.asdict(entry),
                    "jobs": [dataclasses.asdict(job) for job in jobs],
                }
            ),
            "utf-8",
        )
        total_seconds, peak, ended, said = _watch(folder, conditions)
        found = folder / "out" / "found.json"
        if ended or not found.exists():
            raise ended or RehearsalError(f"it fails in a fresh process: {said}", "crash")
        found = json.loads(found.read_text("utf-8"))
        _judge(found, before, _list_files(folder / "zip"))
        with np.load(folder / "out" / "answers.npz") as saved:
            saved = dict(saved)
    labels, probabilities = (
        [[saved.get(f"{what}{number}.{turn}") for turn in range(job.times)] for number, job in enumerate(jobs)]
        for what in ("labels", "probabilities")
    )
    return Answers(
        [call[0] for call in labels],
        [call[1:] for call in labels],
        found["returned"],
        [call[0] for call in probabilities],
        found["seconds"],
        found["left_out"],
        found["load_seconds"],
        total_seconds,
        max(peak, found["peak_bytes"]),
        [call[1:] for call in probabilities],
        found["versions"],
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
        if _without_network()
        else "Python's sockets are refused; those of native code would not be seen, as this system cuts no network off",
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
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, ValueError, EOFError) as error:
        raise RehearsalError(f"it cannot be unpacked: {error}", "zip", "unpack") from None
    for path in folder.rglob("*"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    os.chmod(folder, 0o555)


def _watch(folder, conditions):
    """Run the process to its end: seconds, the most bytes seen, a RehearsalError for a limit that it broke or None, and
    how it ended in words."""
    import psutil

    kept = {key: os.environ[key] for key in KEPT if key in os.environ}
    quiet = {"CUDA_VISIBLE_DEVICES": CPU, "TF_CPP_MIN_LOG_LEVEL": "3"}
    home = dict.fromkeys(HOMES, str(folder / "home")) | dict.fromkeys(TEMPORARY, str(folder / "tmp"))
    command = [*_without_network(), conditions.python, "-I", "-B", str(SCORER), str(folder / "job.json")]
    ended, peak = None, 0
    with open(folder / "said", "wb") as said:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                command,
                cwd=folder / "home",
                env=kept | quiet | home,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        except OSError as error:
            raise RehearsalError(f"{conditions.python} does not start: {error}", "crash", "start") from None
        try:
            family = psutil.Process(process.pid)
            while process.poll() is None:
                peak = max(peak, _memory(family))
                if peak > conditions.memory:
                    ended = RehearsalError(
                        f"it takes more than the {conditions.memory / 1e6:.0f} MB of memory that are allowed", "memory"
                    )
                elif time.perf_counter() - start > conditions.seconds:
                    ended = RehearsalError(
                        f"it takes longer than the {conditions.seconds:g} s that are allowed", "time"
                    )
                if ended:
                    break
                time.sleep(LOOK)
            seconds = time.perf_counter() - start
        finally:
            _end(process)
    lines = (folder / "said").read_text("utf-8", errors="replace").splitlines()
    last = ([line for line in lines if line.strip()] or ["no message"])[-1]
    return seconds, peak, ended, f"it ends by itself (exit code {process.returncode}): {last}"


def _memory(process):
    """Bytes that a psutil.Process and its children have in memory; 0 when they are gone."""
    import psutil

    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        pass
    return total


def _end(process):
    """End a process that we started, and its children, whatever they are doing."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        family = []
    if process.poll() is None:
        process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.Error:
            pass
    process.wait()


@functools.cache
def _without_network():
    """What to put before a command so that it has no network; nothing where this machine does not allow that.

    Only Linux does, and not in every container.
    """
    if sys.platform != "linux" or not shutil.which("unshare"):
        return []
    command = ["unshare", "-n"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "-rn"]
    allowed = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    return command if allowed else []


def _list_files(folder):
    """{path: what shows that it was changed} of all files and folders below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) * path.is_file()
        for path in sorted(folder.rglob("*"))
    }


def _judge(found, before, after):
    """Raise the RehearsalError that a process' `found.json` calls for, and the files before and after it; or none."""
    where = found["stage"], found["job"], found["error"]
    tried = {kind: what for kind, what in reversed(found["tried"])}  # the first of each kind
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    if changed:
        tried.setdefault("write", min(changed))
    for kind, line in FORBIDDEN.items():
        if kind in tried:
            raise RehearsalError(line(tried[kind]), kind, *where)
    if error := found["error"]:
        text = (error["text"].strip().splitlines() or [""])[0]
        doing = {
            "import": "importing model.py",
            "load": "making its object",
            "predict": "predicting",
            "predict_proba": "predicting probabilities",
        }.get(found["stage"])
        raise RehearsalError(
            f"it fails in a fresh process{f', {doing}' * bool(doing)}: {error['type']}: {text}", "error", *where
        )


def _clear(expected):
    """Of which images [n] the label is beyond doubt: no near-tie of the first two classes."""
    order = np.sort(expected, axis=1)
    return order[:, -1] - order[:, -2] >= TOLERANCE
