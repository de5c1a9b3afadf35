"""Run a zip as a scorer would, in a fresh and isolated process, and compare its answers with those expected.

`run_isolated` is the scorer: it unpacks a zip and runs scorer_process.py on it under Conditions, in a sandbox
(sandbox.py). `rehearse` is what `make submission` asks of a zip of its own.
"""

import dataclasses
import functools
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from competition.base.files import InputError
from competition.rehearsal.sandbox import FOLDER, enclose, find_level, is_seen
from competition.rehearsal.wire import Reader, WireError, show, write_request

TOLERANCE = 1e-4  # of probabilities; labels may differ only where the first two classes are closer than that
CPU = "-1"  # CUDA_VISIBLE_DEVICES of the rehearsal: the GPU's memory is this process'
LOOK = 0.05  # seconds between two looks at how much memory the process has; each takes a millisecond from it
START = 120  # seconds that a process may take to import TensorFlow, on a slow machine
MARGIN = 10  # times a scorer's limits that a rehearsal may take before it is stopped
MOST_REHEARSED = 64  # images that a zip is rehearsed on
BUDGET = 60  # seconds that the batch of 300 may take, which shows what smaller ones do as well
GRACE = 5  # seconds for what an ended process has still to say, and for its end
MOST_PROCESSES = 256  # at once
MOST_THREADS = 8192  # of all of them
MOST_SAID = 1 << 16  # bytes that are kept of the beginning of what it prints, and of the end
LONGEST_LINE = 500  # signs of a line that it says
MOST_UNPACKED = 16 * 10**9  # bytes
ROOM = 2 * 10**9  # bytes of files that it may write for itself
SLACK = 8 * 10**9  # bytes that a process may ask for beyond those that it may have: stacks, and what it never touches
PATH = re.compile(r"/[^\s'\"<>{}|]+")  # in the text of an error
QUOTED = re.compile(r"""["'](/[^"'\n]+)["']""")  # in code
DOING = {
    "import": "importing model.py",
    "load": "making its object",
    "predict": "predicting",
    "predict_proba": "predicting probabilities",
}
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
    allows it (sandbox.py) the process sees nothing else of it. Clocks, limits and the verdict are on this side of the
    pipe; all that the process says is read as data. Raises RehearsalError, which says what broke.
    """
    jobs = list(jobs)
    try:
        level = find_level(conditions.python)
    except OSError as error:
        raise RehearsalError(f"{conditions.python} does not start: {error}", "crash", "start") from None
    # on Windows what a process had open may not be let go at once when it is ended
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=os.name == "nt") as folder:
        folder = Path(folder).resolve()
        for part in ("zip", "root") if level.isolated else ("zip", "home", "tmp"):
            (folder / part).mkdir()
        _unpack(zip_path, folder / "zip")
        before = {} if level.isolated else _list_files(folder / "zip")
        talk = Talk(jobs, entry)
        total_seconds, peak, ended = _watch(folder, level, talk, images, conditions)
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
        if level.isolated or _without_network()
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
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, ValueError, EOFError) as error:
        raise RehearsalError(f"it cannot be unpacked: {error}", "zip", "unpack") from None
    for path in folder.rglob("*"):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    os.chmod(folder, 0o555)


class Talk:
    """What is asked of a process, one request after the other, and what it answers; the clock is on this side."""

    def __init__(self, jobs: list[Job], entry: Entry) -> None:
        count = len(jobs)
        self.jobs, self.entry = jobs, entry
        self.stage, self.job = "start", None  # what is being done
        self.labels: list[list] = [[None] * job.times for job in jobs]
        self.probabilities: list[list] = [[None] * job.times for job in jobs]
        self.returned, self.seconds, self.left_out = [None] * count, [None] * count, [None] * count
        self.load_seconds = 0.0
        self.versions: dict[str, str] = {}
        self.tried: list[tuple[str, str]] = []
        self.ended: RehearsalError | None = None
        self.done, self.over = False, threading.Event()  # whether all was answered; whether no more is asked

    def hold(self, process, images, setup):
        """Ask for everything, and keep the answers or the RehearsalError that ends it. Whatever happens, it is over."""
        self._requests, self._reader = process.stdin, Reader(process.stdout, tried=self.tried)
        try:
            self._ask(setup, images)
            for self.stage in ("import", "load"):
                start = time.perf_counter()
                self._ask({"do": self.stage})
                self.load_seconds += time.perf_counter() - start
            self._ask_jobs(images)
            self.stage = "end"
            texts = self._ask({"do": "end"})
            self.versions = dict(zip(texts[::2], texts[1::2]))
            self.done = True
        except RehearsalError as error:
            self.ended = error
        except WireError as error:
            self.ended = RehearsalError(f"it fails in a fresh process: {error}", "crash", self.stage, self.job)
        except (OSError, EOFError, ValueError, struct.error):  # the process is gone, or was ended
            pass
        finally:
            self.over.set()

    def _ask_jobs(self, images):
        speed = None
        for self.job, job in enumerate(self.jobs):
            count = len(job.rows(len(images)))
            if job.budget and speed and count / speed > job.budget:
                self.left_out[self.job] = count / speed
                continue
            batch = {"first": job.first, "count": job.count, "dtype": job.dtype, "tensor": job.tensor}
            for what, kept in (("predict", self.labels), ("predict_proba", self.probabilities)):
                if what == "predict_proba" and not job.probabilities:
                    continue
                self.stage = what
                for turn in range(job.times):
                    start = time.perf_counter()
                    described, kept[self.job][turn] = self._ask(
                        {"do": what, "new": what == "predict" and not turn} | batch
                    )
                    seconds = time.perf_counter() - start
                    if what == "predict":
                        self.returned[self.job], self.seconds[self.job] = described, seconds
            if count > 16:
                speed = count / max(self.seconds[self.job], 1e-6)

    def _ask(self, content, images=None):
        """What the process answers; RehearsalError where it says that it failed."""
        token = os.urandom(8)
        write_request(self._requests, token, content, images)
        kind, found = self._reader.read(token)
        if kind == "answer" and content.get("do") in ("predict", "predict_proba"):
            return found
        if kind == "done" and content.get("do") not in ("predict", "predict_proba"):
            return found
        if kind != "failed" or len(found) != 3:
            raise WireError("what it sends is no answer to what it was asked")
        name, text, trace = found
        first = (text.strip().splitlines() or [""])[0]
        doing = DOING.get(self.stage)
        raise RehearsalError(
            f"it fails in a fresh process{f', {doing}' * bool(doing)}: {name}: {first}"[:LONGEST_LINE],
            "error",
            self.stage,
            self.job,
            {"type": name, "text": text, "trace": trace},
        )


def _watch(folder, level, talk, images, conditions):
    """Run the process to its end, with what the Talk asks of it: seconds, the most bytes seen, and the RehearsalError of
    what ended it, or None."""
    import psutil

    quiet = {"CUDA_VISIBLE_DEVICES": CPU, "TF_CPP_MIN_LOG_LEVEL": "3"}
    shutil.copy(SCORER, folder / SCORER.name)
    arguments = ["-I", "-B"]
    if level.isolated:
        inside = FOLDER
        arguments.append(f"{FOLDER}/{SCORER.name}")
        command, environment = enclose(level, conditions.python, folder, arguments, quiet, ROOM)
    else:
        inside = str(folder)
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        home = dict.fromkeys(HOMES, str(folder / "home")) | dict.fromkeys(TEMPORARY, str(folder / "tmp"))
        command = [*_without_network(), conditions.python, *arguments, str(folder / SCORER.name)]
        environment = kept | quiet | home
    setup = {
        "folder": os.path.join(inside, "zip"),
        "entry": dataclasses.asdict(talk.entry),
        "shape": images.shape,
        "dtype": images.dtype.str,
        "isolated": level.isolated,
        "limits": _limits(level, conditions),
    }
    ended, peak, said = None, 0, Said()
    start = time.perf_counter()
    try:
        process = subprocess.Popen(
            command,
            cwd=folder if level.isolated else folder / "home",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=level.isolated,
        )
    except OSError as error:
        raise RehearsalError(f"{conditions.python} does not start: {error}", "crash", "start") from None
    try:
        listener = threading.Thread(target=said.listen, args=(process.stderr,), daemon=True)
        speaker = threading.Thread(target=talk.hold, args=(process, images, setup), daemon=True)
        listener.start()
        speaker.start()
        family = psutil.Process(process.pid)
        while not talk.over.wait(LOOK) and process.poll() is None:
            held, count = _memory(family)
            peak = max(peak, held)
            if peak > conditions.memory:
                line = f"it takes more than the {conditions.memory / 1e6:.0f} MB of memory that are allowed"
                ended = RehearsalError(line, "memory", talk.stage, talk.job)
            elif count > MOST_PROCESSES:
                line = f"it starts processes, {count} at once, which a scorer may not allow"
                ended = RehearsalError(line, "process", talk.stage, talk.job)
            elif time.perf_counter() - start > conditions.seconds:
                line = f"it takes longer than the {conditions.seconds:g} s that are allowed"
                ended = RehearsalError(line, "time", talk.stage, talk.job)
            if ended:
                break
        talk.over.wait(0 if ended else GRACE)  # what an ended process had still written
        seconds = time.perf_counter() - start
        if talk.done and process.poll() is None:
            peak = max(peak, _peak(family))
        elif not ended and not talk.ended:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:  # its pipe is closed, and it goes on
                pass
    finally:
        _end(process)
    listener.join(GRACE)
    if not ended and not talk.done:
        code = process.returncode
        code = 128 - code if level.isolated and code > 128 else code
        ended = talk.ended or RehearsalError(
            f"it fails in a fresh process: it ends by itself (exit code {code}): {said.last()}",
            "crash",
            talk.stage,
            talk.job,
        )
    return seconds, peak, ended


class Said:
    """What a process prints: its beginning and its end, however much it is."""

    def __init__(self) -> None:
        self.head, self.tail = b"", b""

    def listen(self, stream):
        try:
            while part := stream.read1(1 << 16):
                kept = part[: MOST_SAID - len(self.head)]
                self.head += kept
                self.tail = (self.tail + part[len(kept) :])[-MOST_SAID:]
        except (OSError, ValueError):  # the pipe is closed
            pass

    def last(self):
        """Its last line that is not empty."""
        lines = (self.head + self.tail).decode("utf-8", "replace").splitlines()
        return show(([line for line in lines if line.strip()] or ["no message"])[-1], LONGEST_LINE)


def _limits(level, conditions):
    """Limits that the system keeps, as a backstop to what is watched: {name of them in `resource`: most}."""
    seconds = int(conditions.seconds * (os.cpu_count() or 1)) + 60
    found = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": seconds,
        "RLIMIT_FSIZE": ROOM,
        "RLIMIT_NOFILE": 4096,
        "RLIMIT_DATA": int(conditions.memory) + SLACK,
    }
    return found | ({"RLIMIT_NPROC": MOST_THREADS} if level.isolated else {})  # else it counts all of the user's


def _memory(process):
    """(bytes that a psutil.Process and its children have in memory, how many they are); 0 when they are gone."""
    import psutil

    total = count = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
            count += 1
    except psutil.Error:
        pass
    return total, count


def _peak(process):
    """The most bytes that one of a family had in memory at once, as Linux tells; 0 elsewhere."""
    import psutil

    found = [0]
    try:
        for one in (process, *process.children(recursive=True)):
            with open(f"/proc/{one.pid}/status", encoding="utf-8", errors="replace") as file:
                found += [int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")]
    except (OSError, ValueError, psutil.Error):
        pass
    return max(found)


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
    psutil.wait_procs(family, GRACE)


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
    for file in sorted(folder.rglob("*.py")):
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
