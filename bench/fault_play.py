"""How `bench/faults.py` runs a command that may be killed, and tells whether what it left is what it should be.

A command runs in a fork of this process, which has imported TensorFlow and started nothing: that saves its seconds of
start-up, and everything else is as in a process of its own. Linux alone can do all of it.
"""

import atexit
import ctypes
import hashlib
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from bench import fault_steps
from competition.cli.main import main

NOBODY = 65534  # the user without rights
LONGEST = 240  # seconds for a command; one that takes longer hangs
GRACE = 10  # seconds that the processes which a killed command started have to end
WRITES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
}  # events of sys.audit
PASSING = re.compile(
    r"seconds|(^|[._ ])ms|date|time|memory|took|speed|megabytes"
)  # keys of what differs from run to run
PR_SET_CHILD_SUBREAPER, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH = 36, 8, 47, 2, 2
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 1 << 18


@dataclass(frozen=True)
class Kill:
    """When a command is to be killed: after `seconds`; or when it is about to write for the `event`-th time, and then
    `later` seconds."""

    seconds: float = 0.0
    event: int = 0
    later: float = 0.0

    def __str__(self):
        return f"write {self.event} + {self.later * 1000:.1f} ms" if self.event else f"{self.seconds:.2f} s"


@dataclass
class Outcome:
    """How a command ended. code: its exit code, negative for a signal, None where it hung; left: processes that stayed."""

    code: int | None
    seconds: float
    output: str
    left: list = field(default_factory=list)
    events: int = 0
    read: set = field(default_factory=set)

    @property
    def errors(self):
        return re.findall(r"^error: .*", self.output, re.M)

    @property
    def crashed(self):
        """What tells of an error that nobody foresaw, or ""."""
        found = re.search(
            r"^(Traceback \(most recent call last\)|Fatal Python error|Exception ignored in).*", self.output, re.M
        )
        return found.group() if found else ""

    @property
    def last(self):
        lines = [line for line in self.output.replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "(nothing printed)"


def become_reaper():
    """From now on every process that outlives its parent becomes a child of this one, which can so see it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def begin(step, folder, kill=None, user=None, file_limit=None):
    """Start a command in a fork; returns its process id.

    folder      holds work/, where it runs, tmp/ and home/; what it says goes to said/<pid> beside `folder`
    user        the user id that it runs as; None: this process's
    file_limit  bytes that a file may have
    """
    said = folder.parent / "said"
    said.mkdir(exist_ok=True)
    said.chmod(0o777)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        _enter(folder, said / str(os.getpid()), user, file_limit)
        events = _watch(folder, kill)
        fault_steps.make_small(step.name)
        code = main(fault_steps.split(step.words))
        atexit._run_exitfuncs()  # as at the end of a process of its own
        _report(events, said / f"{os.getpid()}.json")
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def end(pid, folder, kill=None, orphans=True):
    """Wait for the command that `begin` started, kill it if that is wanted; returns its Outcome.

    orphans   whether all processes that run then are what it left
    """
    began = time.monotonic()
    wanted = kill.seconds if kill and not kill.event else None
    code = None
    while code is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        passed = time.monotonic() - began
        if passed > LONGEST or (wanted is not None and passed >= wanted):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            code = -signal.SIGKILL if passed <= LONGEST else None
            if code is None:
                break
        time.sleep(0.002 if wanted is not None else 0.01)
    seconds = time.monotonic() - began
    left = end_orphans() if orphans else []
    said = folder.parent / "said" / str(pid)
    output = said.read_text("utf-8", "replace") if said.exists() else ""
    outcome = Outcome(code, seconds, output, left)
    report = said.with_name(f"{pid}.json")
    if report.exists():
        found = json.loads(report.read_text())
        outcome.events, outcome.read = found["events"], set(found["read"])
    for path in (said, report):
        path.unlink(missing_ok=True)
    return outcome


def play(step, folder, kill=None, **options):
    """Run a command to its end, or until it is killed; returns its Outcome."""
    return end(begin(step, folder, kill, **options), folder, kill)


def end_orphans(patience=GRACE):
    """Wait for the processes that a command left to end; those that do not are killed and named."""
    until = time.monotonic() + patience
    while True:
        _reap()
        left = children()
        if not left or time.monotonic() > until:
            break
        time.sleep(0.02)
    names = []
    for pid in left:
        names.append(_command_line(pid))
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
    return names


def children():
    """The ids of this process's children, zombies apart."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found]


def mount_small(folder, size):
    """Give this process a file system of its own of `size` bytes at `folder`; OSError where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid():
        _check(libc, libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    else:
        _check(libc, libc.unshare(CLONE_NEWNS))
    _check(libc, libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    _check(libc, libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={size},mode=777".encode()))


def grow(folder, size):
    """Give the file system that `mount_small` made another size."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc, libc.mount(b"none", os.fsencode(folder), b"tmpfs", 32, f"size={size}".encode()))  # 32: MS_REMOUNT


def fingerprint(folder):
    """{path below `folder`: {key: text}} of all files: parts of JSON, columns of CSV, members of archives, or a hash.

    Locks are left out: they may stay. So are the files of TensorFlow's that it removes when a process ends by itself.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            if not path.is_dir():
                found[name] = {"": "no file"}
            elif not any(path.iterdir()) and path.parent != folder:
                found[name] = {"": "an empty folder"}
        elif not path.name.endswith(".lock") and not path.name.startswith("__autograph_generated_file"):
            found[name] = _parts(path.name, path.read_bytes())
    return found


def steady(first, second):
    """What two undisturbed runs have in common: {path: {key: text}}; what differs from run to run is left out."""
    return {
        name: {key: text for key, text in parts.items() if second[name].get(key) == text and not PASSING.search(key)}
        for name, parts in first.items()
        if name in second
    }


def differences(expected, found):
    """What is otherwise than it should be, as lines; `expected` of `steady`."""
    lines = [f"left behind: {name}" for name in found if name not in expected]
    lines += [f"missing: {name}" for name in expected if name not in found]
    for name, parts in expected.items():
        other = [key for key, text in parts.items() if name in found and found[name].get(key) != text]
        if other:
            lines.append(f"other content: {name} {', '.join(other)[:80]}")
    return lines


def _enter(folder, said, user, file_limit):
    os.setsid()
    output = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ |= {"TMPDIR": str(folder / "tmp"), "HOME": str(folder / "home"), "COLUMNS": "200"}
    tempfile.tempdir = None
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if user is not None:
        _become(user)
    os.chdir(folder / "work")


def _become(user):
    """Go on as another user; who may still read everything where Python lies in a folder that is closed to others."""
    places = (Path(sys.base_prefix), *Path(sys.base_prefix).parents)
    closed = not all(place.stat().st_mode & 0o001 for place in places)
    libc = ctypes.CDLL(None, use_errno=True)
    if closed:
        _check(libc, libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    if closed:
        rights = (ctypes.c_uint32 * 6)(*[1 << CAP_DAC_READ_SEARCH] * 3, 0, 0, 0)
        _check(libc, libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), rights))
        _check(libc, libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0))


def _watch(folder, kill):
    """Count the writes of this process below `folder`, note what it reads there, and kill it at the one that is wanted."""
    root, found = f"{folder}/", {"events": 0, "read": set()}

    def die():
        time.sleep(kill.later)
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        if event != "open" and event not in WRITES:
            return
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(root):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            found["read"].add(path.removeprefix(root))
            return
        found["events"] += 1
        if kill and found["events"] == kill.event:
            if kill.later:
                threading.Thread(target=die, daemon=True).start()
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return found


def _report(found, path):
    path.write_text(json.dumps({"events": found["events"], "read": sorted(found["read"])}))


def _reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    except OSError:
        return str(pid)


def _check(libc, result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _parts(name, data):
    try:
        if name.endswith(".json"):
            return dict(_flatten(json.loads(data)))
        if name.endswith(".csv"):
            frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
            return {"columns": str(list(frame))} | {str(column): "\n".join(frame[column]) for column in frame}
        if name.endswith(".npz"):
            with np.load(io.BytesIO(data)) as arrays:
                return {key: f"{arrays[key].shape} {_hash(arrays[key].tobytes())}" for key in arrays.files}
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                parts = {member: _parts(member, archive.read(member)) for member in archive.namelist()}
            return {f"{member}/{key}": text for member, some in parts.items() for key, text in some.items()}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):
        pass  # a damaged file
    return {"": _hash(data)}


def _flatten(value, prefix=""):
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _flatten(one, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        for number, one in enumerate(value):
            yield from _flatten(one, f"{prefix}.{number}")
    else:
        yield prefix, json.dumps(value)


def _hash(data):
    return hashlib.sha256(data).hexdigest()
