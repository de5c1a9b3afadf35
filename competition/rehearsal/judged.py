"""The process that runs a zip's code, seen from the side that judges it: what is asked of it, its limits, its end.

The judge holds the clocks and the limits. It asks through one pipe, one request after the other, and reads the answers
from another (wire.py). What the process prints is kept in part, what it says of itself is told as that, and whatever
lacks an answer has failed.
"""

import contextlib
import dataclasses
import functools
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from competition.base.text import one_line
from competition.rehearsal.sandbox import FOLDER, enclose
from competition.rehearsal.scorer_process import LIBRARIES
from competition.rehearsal.terms import Entry, Job, RehearsalError
from competition.rehearsal.wire import Reader, WireError, show, write_request

CPU = "-1"  # CUDA_VISIBLE_DEVICES of the rehearsal: the GPU's memory is this process'
LOOK = 0.05  # seconds between two looks at how much memory the process has; each takes a millisecond from it
GRACE = 5  # seconds for what an ended process has still to say, and for its end
MOST_PROCESSES = 256  # at once
MOST_THREADS = 8192  # of all of them
MOST_SAID = 1 << 16  # bytes that are kept of the beginning of what it prints, and of the end
LONGEST_LINE = 500  # signs of a line that it says
ROOM = 2 * 10**9  # bytes of files that it may write for itself
SLACK = 8 * 10**9  # bytes that a process may ask for beyond those that it may have: stacks, and what it never touches
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


class Talk:
    """What is asked of a process, one request after the other, and what it answers; the clock is on this side."""

    def __init__(self, jobs: list[Job], entry: Entry) -> None:
        count = len(jobs)
        self.jobs, self.entry = jobs, entry
        self.stage = "start"  # what is being done
        self.job: int | None = None
        self.labels: list[list] = [[None] * job.times for job in jobs]
        self.probabilities: list[list] = [[None] * job.times for job in jobs]
        self.returned: list[str | None] = [None] * count
        self.seconds: list[float | None] = [None] * count
        self.left_out: list[float | None] = [None] * count
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
            said = zip(texts[::2], texts[1::2])
            self.versions = {name: one_line(version)[:50] for name, version in said if name in ("python", *LIBRARIES)}
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
        for number, job in enumerate(self.jobs):
            self.job = number
            count = len(job.rows(len(images)))
            if job.budget and speed and count / speed > job.budget:
                self.left_out[number] = count / speed
                continue
            batch = {"first": job.first, "count": job.count, "dtype": job.dtype, "tensor": job.tensor}
            for what, kept in (("predict", self.labels), ("predict_proba", self.probabilities)):
                if what == "predict_proba" and not job.probabilities:
                    continue
                self.stage = what
                for turn in range(job.times):
                    asked = {"do": what, "new": what == "predict" and turn == 0}
                    start = time.perf_counter()
                    described, kept[number][turn] = self._ask(asked | batch)
                    seconds = time.perf_counter() - start
                    if what == "predict":
                        self.returned[number], self.seconds[number] = described, seconds
                        pace = count / max(seconds, 1e-6)
            if count > 16:
                speed = pace

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
        name = one_line(name)  # a class may be called anything
        first = (text.strip().splitlines() or [""])[0]
        doing = DOING.get(self.stage)
        raise RehearsalError(
            f"it fails in a fresh process{f', {doing}' * bool(doing)}: {name}: {first}"[:LONGEST_LINE],
            "error",
            self.stage,
            self.job,
            {"type": name[:LONGEST_LINE], "text": text, "trace": trace},
        )


def watch(folder, level, talk, images, conditions):
    """Run the process to its end, with what the Talk asks of it.

    folder  holds what the process gets: `zip`, and the empty folders `root`, or `home` and `tmp` where it is not isolated

    Returns seconds, the most bytes seen, and the RehearsalError of what ended it, or None.
    """
    import psutil

    room = int(min(ROOM, conditions.memory))  # files in memory are no process', so that the memory is looked at without
    quiet = {"CUDA_VISIBLE_DEVICES": CPU, "TF_CPP_MIN_LOG_LEVEL": "3"}
    shutil.copy(SCORER, folder / SCORER.name)
    inside = FOLDER if level.isolated else str(folder)
    arguments = ["-I", "-B", os.path.join(inside, SCORER.name)]
    if level.isolated:
        command, environment = enclose(level, conditions.python, folder, arguments, quiet, room)
    else:
        kept = {key: os.environ[key] for key in KEPT if key in os.environ}
        home = dict.fromkeys(HOMES, str(folder / "home")) | dict.fromkeys(TEMPORARY, str(folder / "tmp"))
        command = [*without_network(), conditions.python, *arguments]
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
        first = psutil.Process(process.pid)
        while not talk.over.wait(LOOK) and process.poll() is None:
            held, count = _memory(_family(first, level.isolated))
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
            peak = max(peak, _peak(_family(first, level.isolated)))
        elif not ended and not talk.ended:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:  # its pipe is closed, and it goes on
                pass
    finally:
        _end(process)
    for thread, streams in ((listener, [process.stderr]), (speaker, [process.stdin, process.stdout])):
        thread.join(GRACE)
        for stream in filter(None, streams) if not thread.is_alive() else ():  # else what it left behind holds the pipe
            with contextlib.suppress(OSError, ValueError):
                stream.close()
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


def _family(process, isolated):
    """The psutil.Processes that run a zip's code: a process and all below it, without the two that keep a sandbox."""
    import psutil

    family = [] if isolated else [process]
    with contextlib.suppress(psutil.Error):
        for one in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                family += [one] * (not isolated or one.ppid() != process.pid)
    return family


def _memory(family):
    """(bytes that psutil.Processes have in memory, how many they are); 0 when they are gone."""
    import psutil

    total = count = 0
    for one in family:
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
            count += 1
    return total, count


def _peak(family):
    """The most bytes that one of a family had in memory at once, as Linux tells; 0 elsewhere."""
    found = [0]
    for one in family:
        with contextlib.suppress(OSError, ValueError):
            with open(f"/proc/{one.pid}/status", encoding="utf-8", errors="replace") as file:
                found += [int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")]
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
def without_network():
    """What to put before a command so that it has no network; nothing where this machine does not allow that.

    Only Linux does, and not in every container.
    """
    if sys.platform != "linux" or not shutil.which("unshare"):
        return []
    command = ["unshare", "-n"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "-rn"]
    allowed = subprocess.run([*command, "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    return command if allowed else []
