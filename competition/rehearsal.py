"""Run a zip as a scorer would, in a fresh and isolated process, and compare its answers with those expected.

`run_isolated` is the scorer: it unpacks a zip and runs competition/scorer.py on it under Conditions. `rehearse` is what
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from competition.files import InputError

TOLERANCE = 1e-4  # of probabilities; labels may differ only where the first two classes are closer than that
CPU = "-1"  # CUDA_VISIBLE_DEVICES of the rehearsal: the GPU's memory is this process'
LOOK = 0.02  # seconds between two looks at how much memory the process has
BUDGET = 60  # seconds that the batch of 300 may take, which shows what smaller ones do as well
SCORER = Path(__file__).with_name("scorer.py")


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
    times: int = 1  # calls of predict, whose answers are to be the same
    budget: float | None = None  # left out where the calls before say that it would take longer, in seconds
    first: int = 0

    def describe(self, n):
        count = n - self.first if self.count is None else self.count
        return f"{count} {self.dtype} {'tensor' if self.tensor else 'array'}"

    def rows(self, n):
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


class RehearsalError(Exception):
    """A zip does not do what it must; one line.

    broke  "zip" (cannot be unpacked), "network", "write", "time", "memory", "crash" (the process dies), "error" (an
           exception), "answer" (what it returns is not what it should be)
    stage  "unpack", "start", "import" (of model.py), "load" (making the object), "predict", "predict_proba", "end"
    job    number of the Job at work, or None
    error  of "error": {"type": name of the exception, "text": its message, "trace": the traceback}
    """

    def __init__(self, line, broke="answer", stage=None, job=None, error=None):
        super().__init__(line)
        self.broke, self.stage, self.job, self.error = broke, stage, job, error


def run_isolated(zip_path, images, jobs, entry=Entry(), conditions=Conditions()):
    """Unpack a zip into a folder of its own and run it by `python -I`, without this project, on the CPU: Answers.

    images is uint8 [n, h, w, 3], or float for what a scorer never sends, as check.py does. The process starts in an
    empty folder, which is HOME as well; a socket or a change below the zip's folder fails, and so does the rehearsal,
    even where the code goes on. Where this machine allows it (`unshare`) the process has no network at all. Raises
    RehearsalError, which says what broke.
    """
    jobs = list(jobs)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        for part in ("zip", "home", "out", "tmp"):
            (folder / part).mkdir()
        _unpack(zip_path, folder / "zip")
        before = _list_files(folder / "zip")
        np.save(folder / "images.npy", images)
        (folder / "job.json").write_text(json.dumps({
            "folder": str(folder / "zip"), "images": str(folder / "images.npy"), "out": str(folder / "out"),
            "entry": dataclasses.asdict(entry), "jobs": [dataclasses.asdict(job) for job in jobs]}))
        total_seconds, peak, ended, said = _watch(folder, conditions)
        found = folder / "out" / "found.json"
        if ended or not found.exists():
            raise ended or RehearsalError(f"it fails in a fresh process: {said}", "crash")
        found = json.loads(found.read_text())
        _judge(found, before, _list_files(folder / "zip"))
        with np.load(folder / "out" / "answers.npz") as saved:
            saved = dict(saved)
    calls = [[saved.get(f"labels{number}.{turn}") for turn in range(job.times)] for number, job in enumerate(jobs)]
    return Answers(
        [call[0] for call in calls], [call[1:] for call in calls], found["returned"],
        [saved.get(f"probabilities{number}") for number in range(len(jobs))], found["seconds"], found["left_out"],
        found["load_seconds"], total_seconds, max(peak, found["peak_bytes"]))


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

    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    quiet = {"CUDA_VISIBLE_DEVICES": CPU, "TF_CPP_MIN_LOG_LEVEL": "3"}
    home = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    command = [*_without_network(), conditions.python, "-I", "-B", str(SCORER), str(folder / "job.json")]
    ended, peak = None, 0
    with open(folder / "said", "wb") as said:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, cwd=folder / "home", env=kept | quiet | home, stdin=subprocess.DEVNULL,
                                       stdout=said, stderr=said)
        except OSError as error:
            raise RehearsalError(f"{conditions.python} does not start: {error}", "crash", "start") from None
        try:
            family = psutil.Process(process.pid)
            while process.poll() is None:
                peak = max(peak, _memory(family))
                if peak > conditions.memory:
                    ended = RehearsalError(
                        f"it takes more than the {conditions.memory / 1e6:.0f} MB of memory that are allowed", "memory")
                elif time.perf_counter() - start > conditions.seconds:
                    ended = RehearsalError(
                        f"it takes longer than the {conditions.seconds:g} s that are allowed", "time")
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
    """What to put before a command so that it has no network; nothing where this machine does not allow that."""
    command = ["unshare", "-n"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "-rn"]
    if not shutil.which("unshare"):
        return []
    allowed = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    return command if allowed else []


def _list_files(folder):
    """{path: what shows that a file was changed} of all files below a folder."""
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file()}


def _judge(found, before, after):
    """Raise the RehearsalError that a process' `found.json` calls for, and the files before and after it; or none."""
    where = found["stage"], found["job"], found["error"]
    tried = {kind: what for kind, what in reversed(found["tried"])}  # the first of each kind
    if "network" in tried:
        whom = f" ({tried['network']})" if tried["network"] else ""
        raise RehearsalError(f"it opens a socket{whom}, where scorers have no network", "network", *where)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    if "write" in tried or changed:
        path = tried.get("write") or min(changed)
        raise RehearsalError(f"it writes to {path} in its own folder, which scorers keep read-only", "write", *where)
    if error := found["error"]:
        text = (error["text"].strip().splitlines() or [""])[0]
        doing = {"import": "importing model.py", "load": "making its object", "predict": "predicting",
                 "predict_proba": "predicting probabilities"}.get(found["stage"])
        raise RehearsalError(f"it fails in a fresh process{f', {doing}' * bool(doing)}: {error['type']}: {text}", "error",
                             *where)


# A zip is rehearsed on these calls. The last but one tells its speed; images beyond those at hand are these once more.
JOBS = (
    Job(1, "float32", tensor=True),
    Job(0, "uint8"),
    Job(7, "float64", times=2),
    Job(37, "uint8", tensor=True, probabilities=False),
    Job(None, "uint8", times=2),
    Job(300, "float32", probabilities=False, budget=BUDGET),
)
SPEED = 4
AGAIN = (Job(16, "uint8"),)  # in a second process, which must say the same as the first


def rehearse(zip_path, images, expected, entry=Entry(), conditions=Conditions()):
    """Run a zip on images uint8 [n, h, w, 3] in a fresh process, as `entry` says; what was found, as a dict.

    Raises RehearsalError, one line, where it does not run, where its answers are not the `expected` probabilities
    [n, C] within TOLERANCE and the labels that these give, or where they change from call to call or from process to
    process.
    """
    answers = run_isolated(zip_path, images, JOBS, entry, conditions)
    differences = check_answers(answers, JOBS, expected, entry)
    again = run_isolated(zip_path, images, AGAIN, entry, conditions)
    check_answers(again, AGAIN, expected, entry)
    count = min(len(images), AGAIN[0].count)
    changed = np.abs(again.probabilities[0][:count] - answers.probabilities[SPEED][:count]).max(initial=0)
    if changed > TOLERANCE / 10:
        raise RehearsalError(f"a second fresh process gives other probabilities (by up to {changed:.2g})")
    return {
        "images": len(images),
        "near_ties": int((~_clear(expected)).sum()),
        "probabilities_differ": differences,
        "processes_differ": float(changed),
        "calls": [job.describe(len(images)) for job, late in zip(JOBS, answers.left_out) if late is None],
        "left_out": [f"{job.describe(len(images))} (it would take {late:.0f} s)"
                     for job, late in zip(JOBS, answers.left_out) if late is not None],
        "load_seconds": answers.load_seconds,
        "images_a_second": len(images) / answers.seconds[SPEED],
        "total_seconds": answers.total_seconds,
        "peak_bytes": answers.peak_bytes,
        "no_network": "none at all" if _without_network() else "sockets are refused",
    }


def check_answers(answers, jobs, expected, entry=Entry()):
    """The largest difference of the probabilities; RehearsalError for Answers that are not as `expected` [n, C]."""
    clear, largest = _clear(expected), 0.0
    for number, job in enumerate(jobs):
        if answers.left_out[number] is not None:
            continue
        what = f"for images as {job.describe(len(expected))}"
        rows = job.rows(len(expected))
        labels, probabilities, wanted = answers.labels[number], answers.probabilities[number], expected[rows]
        dtype, kind = answers.returned[number].split(" ", 1)
        if kind != entry.returns or np.dtype(labels.dtype).kind not in "iu":
            raise RehearsalError(f"predict returned {answers.returned[number]}, expected an integer {entry.returns}")
        if not job.probabilities:
            probabilities = wanted
        if labels.shape != wanted.shape[:1] or probabilities.shape != wanted.shape:
            raise RehearsalError(
                f"{what} its labels have the shape {list(labels.shape)} "
                f"and its probabilities {list(probabilities.shape)}, expected {list(wanted.shape)}"
            )
        if any(not np.array_equal(labels, other) for other in answers.again[number]):
            raise RehearsalError(f"{what} a second call gives other labels")
        wrong = int((labels != wanted.argmax(1))[clear[rows]].sum())
        difference = float(np.abs(probabilities - wanted).max(initial=0))
        largest = max(largest, difference)
        if wrong or not difference <= TOLERANCE:
            raise RehearsalError(
                f"{what} {wrong} of its labels differ from the toolkit's "
                f"own average of the same members and views, probabilities by up to {difference:.2g} "
                f"(allowed {TOLERANCE:g})"
            )
    return largest


def _clear(expected):
    """Of which images [n] the label is beyond doubt: no near-tie of the first two classes."""
    order = np.sort(expected, axis=1)
    return order[:, -1] - order[:, -2] >= TOLERANCE


def predict_zip(zip_path, images, entry=Entry()):
    """Class ids int64 [n] of images uint8 [n, h, w, 3], by a zip's own code in a fresh, isolated process.

    InputError when that fails.
    """
    job = Job(None, "uint8", probabilities=False)
    try:
        return run_isolated(zip_path, images, [job], entry).labels[0].astype(np.int64)
    except RehearsalError as error:
        raise InputError(f"{zip_path}: {error}") from None
