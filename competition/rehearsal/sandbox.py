"""How the code of a zip is kept apart from this machine: the strongest way that works here.

A sandbox is a root of its own, which holds what a Python needs, read-only, and nothing else of this machine: no file of
a user, no process, no network. LEVELS are the ways to make one. Each is tried once for each interpreter; where none
works, as on macOS, Windows or in a container that forbids it, the code runs without, and everyone is told.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from competition.base.files import scratch

ENTER = Path(__file__).with_name("enter_sandbox.py")
FOLDER = "/scorer"  # what the job's folder is called inside
HOME, TEMPORARY, SHARED = FOLDER + "/home", "/tmp", "/dev/shm"  # the folders that may be written
USERS = {"root": 0, "scorer": 1000, "nobody": 65534}  # who the process may be inside
SECONDS = 30  # that a trial may take
# What is seen of this machine beside the interpreter.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
SETTINGS = (
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
LINKS = (("/proc/self/fd", "/dev/fd"), ("/proc/self/fd/0", "/dev/stdin"), ("/proc/self/fd/1", "/dev/stdout"))
LINKS += (("/proc/self/fd/2", "/dev/stderr"),)
# What of a prefix belongs to Python: people make environments in the folder of their project, or of all they have.
PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "share", "etc", "ssl", "pyvenv.cfg")
ACCOUNTS = {
    "passwd": "".join(f"{name}:x:{number}:{number}::{HOME}:/bin/sh\n" for name, number in USERS.items()),
    "group": "".join(f"{name}:x:{number}:\n" for name, number in USERS.items()),
    "hosts": "127.0.0.1 localhost scorer\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
ASK = """
import json, sys
print(json.dumps({"executable": sys.executable, "version": sys.version, "paths": sys.path,
                  "prefixes": sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix})}))
"""


@dataclass(frozen=True)
class Plan:
    """What a sandbox holds."""

    binds: tuple[tuple[str, str], ...]  # (what is seen, where), read-only
    links: tuple[tuple[str, str], ...]  # (text, path)
    rooms: tuple[tuple[str, int], ...]  # (path, bytes) of folders in memory that may be written; binds may lie in them
    base: str  # an empty folder
    environment: dict[str, str]


@dataclass(frozen=True)
class Level:
    """A way to keep a process apart."""

    words: str  # what it is, for a table
    wrap: Callable[[Plan, list[str]], list[str] | None] | None  # the command that runs a command so; None: not here
    isolated: bool = True


def _other_user(plan, command):
    """Namespaces, in which root's process is nobody's."""
    return _enter(plan, command, USERS["nobody"]) if _is_root() else None


def _same_user(plan, command):
    """Namespaces, in which the process has no rights but keeps its user."""
    return _enter(plan, command, USERS["root" if _is_root() else "scorer"])


def _is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _enter(plan, command, user):
    told = {
        "base": plan.base,
        "uid": user,
        "gid": user,
        "mapped": _is_root(),
        "binds": plan.binds,
        "links": plan.links,
        "devices": [device for device in DEVICES if os.path.exists(device)],
        "rooms": plan.rooms,
        "folder": HOME,
        "environment": plan.environment,
    }
    return [sys.executable, "-I", "-S", "-B", str(ENTER), json.dumps(told), *command]


def _bubblewrap(plan, command):
    program = shutil.which("bwrap")
    if not program:
        return None
    user = str(USERS["scorer"])
    words = [program, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", user, "--gid", user, "--hostname", "scorer", "--clearenv"]
    can = _bubblewrap_can(program)
    for path, size in plan.rooms:
        words += ["--size", str(size)] * ("--size" in can) + ["--tmpfs", path]
    for source, target in plan.binds:
        words += ["--ro-bind", source, target]
    for text, path in plan.links:
        words += ["--symlink", text, path]
    for device in filter(os.path.exists, DEVICES):
        words += ["--dev-bind", device, device, "--remount-ro", device]
    words += ["--proc", "/proc", "--remount-ro", "/", "--chdir", HOME]
    words += ["--disable-userns"] * ("--disable-userns" in can)
    for name, value in plan.environment.items():
        words += ["--setenv", name, value]
    return [*words, *command]


@functools.cache
def _bubblewrap_can(program):
    return subprocess.run(
        [program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace"
    ).stdout


LEVELS = (
    Level("namespaces, as another user", _other_user),
    Level("bubblewrap", _bubblewrap),
    Level("namespaces", _same_user),
)
NONE = Level("NOT isolated", None, isolated=False)


def find_level(python: str) -> Level:
    """The strongest Level that runs an interpreter here; NONE where none does. OSError where it does not start at all.

    It is found once, by a short trial: the interpreter must come up within and find its libraries.
    """
    return _try_levels(python, LEVELS)


@functools.cache
def _try_levels(python, levels):
    asked = _ask(python)
    for level in levels if sys.platform == "linux" else ():
        with scratch(what="a trial of the sandbox") as folder:
            for part in ("zip", "root"):
                (folder / part).mkdir()
            command, environment = enclose(level, python, folder, ["-I", "-c", ASK], {}, 1 << 20)
            if command and _run(command, environment) == asked:
                return level
    return NONE


def _run(command, environment):
    """What a Python says to ASK; None where it says nothing."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=SECONDS,
            cwd=os.path.abspath(os.sep),
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


@functools.cache
def _ask(python):
    """What an interpreter says about itself; OSError where it says nothing."""
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
    done = subprocess.run(
        [python, "-I", "-B", "-c", ASK],
        env=kept,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        return json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"exit code {done.returncode}: {last}") from None


def enclose(
    level: Level, python: str, folder: Path, arguments: list[str], environment: dict[str, str], room: int
) -> tuple[list[str], dict[str, str]]:
    """The command that runs `python` with arguments in a sandbox, and the environment of that command.

    folder       which is seen as FOLDER: what lies in it is read-only. Its folder `root`, empty, is the sandbox's own
    environment  of the Python, beside the folders that the sandbox has
    room         bytes that may be written, in all

    The command is [] where this machine has no such Level.
    """
    binds, links = _find_parts(python)
    (folder / "etc").mkdir(exist_ok=True)
    for name, text in ACCOUNTS.items():
        (folder / "etc" / name).write_text(text, "utf-8")
        (folder / "etc" / name).chmod(0o644)
        binds += ((str(folder / "etc" / name), f"/etc/{name}"),)
    binds += tuple(
        (str(path), f"{FOLDER}/{path.name}") for path in sorted(folder.iterdir()) if path.name not in ("root", "etc")
    )
    rooms = ((TEMPORARY, room // 2), (HOME, room // 4), (SHARED, room // 4))
    executable = _ask(python)["executable"]
    path = dict.fromkeys([os.path.dirname(executable), "/usr/local/bin", "/usr/bin", "/bin"])
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    environment = kept | environment | {"HOME": HOME, "TMPDIR": TEMPORARY, "PATH": os.pathsep.join(path)}
    plan = Plan(binds, links + LINKS, rooms, str(folder / "root"), environment)
    command = level.wrap(plan, [executable, *arguments]) if level.wrap else None
    return command or [], kept


def _find_parts(python):
    """(binds, links) of the system and of an interpreter: what it needs, and none of the folders of people."""
    asked = _ask(python)
    binds: dict[str, str] = {}  # where: what
    links: dict[str, str] = {}

    def covered(path):
        return any(path == known or path.startswith(known + os.sep) for known in [*binds, *links])

    def show(path):
        for place in dict.fromkeys([path, os.path.realpath(path)]):
            if os.path.exists(place) and not covered(place) and not _holds_more(place):
                binds[place] = os.path.realpath(place)

    for path in SYSTEM:
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.isdir(path):
            binds[path] = path
    for path in SETTINGS:
        show(path)
    for prefix in asked["prefixes"]:
        for part in PARTS:
            show(os.path.join(prefix, part))
    for path in asked["paths"]:
        show(os.path.abspath(path))
    for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if os.path.isabs(path):
            show(os.path.normpath(path))
    hop = asked["executable"]
    while os.path.islink(hop):
        if not covered(hop):
            links[hop] = os.readlink(hop)
        hop = os.path.normpath(os.path.join(os.path.dirname(hop), os.readlink(hop)))
    show(hop)
    order = sorted(binds, key=lambda path: path.count(os.sep))
    return tuple((binds[path], path) for path in order), tuple((text, path) for path, text in links.items())


def _holds_more(path):
    """Whether a folder holds more than a Python's libraries: that of the user, of the project, of temporary files."""
    inner = os.path.realpath(path)
    people = (Path.home(), Path.cwd(), tempfile.gettempdir())
    return any(
        os.path.realpath(folder) == inner or os.path.realpath(folder).startswith(inner.rstrip(os.sep) + os.sep)
        for folder in people
    )


def is_seen(python: str, path: str) -> bool:
    """Whether what lies at a path of this machine is seen inside as well."""
    binds, links = _find_parts(python)
    known = [*(place for _, place in binds), *(place for _, place in links), "/proc", "/dev", "/sys"]
    return any((os.path.normpath(path) + os.sep).startswith(one + os.sep) for one in known)
