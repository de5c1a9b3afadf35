"""What hostile and careless zips can do while they are judged: `python -m bench.hostile`.

Each attack is a zip that is drawn here and run as `make check` and `make submission` run one. All are harmless: they
reach for a folder, a process, sockets and shared memory that were made for them alone, are bounded in number and size,
and end by themselves. A row an attack says whether it was contained, whether it was seen, and what the verdict was.

Root also runs all of it as an ordinary user (`--python` names an interpreter that any user can start).
"""

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from competition.base.text import shorten, text_table
from competition.rehearsal import judged, sandbox
from competition.rehearsal.rehearsal import run_isolated
from competition.rehearsal.terms import Answers, Conditions, Entry, Job, RehearsalError

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
JOBS = [Job(None, "uint8", probabilities=False), Job(2, "float32", probabilities=False)]
MEMORY, SECONDS, ROOM = 400 * 10**6, 20, 64 * 10**6  # limits of an attack
OTHER_USER = 12345
CAN_RUN = "import sys; from competition.rehearsal import sandbox; sandbox.find_level(sys.executable)"
MODEL = """
import ctypes, os, signal, socket, struct, sys, time
import numpy as np

ARENA, PORT, PID, MARK = {arena!r}, {port}, {pid}, {mark!r}
SECRET, VICTIM, LIBC = ARENA + "/secret.txt", ARENA + "/victim.txt", ctypes.CDLL(None, use_errno=True)
INSIDE = os.uname().nodename == "scorer"  # of a sandbox: these would harm without
if {disarm}:
    sys.modules["__main__"].WATCHED = ()  # what watches in this process is no wall


def send(kind, size, content=b""):
    frame = struct.pack("<B8sQ", kind, bytes(8), size) + content
    for number in range(3, 64):
        try:
            os.write(number, frame)
        except OSError:
            pass


class model:
    def __init__(self, path):
        self.path, self.loot = path, b""
{load}

    def predict(self, X):
{predict}
        return np.frombuffer(self.loot[:1000] or b"0", np.uint8).astype(np.int64)
"""


@dataclass
class World:
    """What an attack reaches for."""

    arena: Path
    secret: bytes
    decoy: subprocess.Popen
    listener: socket.socket
    abstract: socket.socket | None
    shared: Path | None

    def harmed(self) -> list[str]:
        """What the attack has reached or changed, in words."""
        victim = self.arena / "victim.txt"
        found = [] if victim.is_file() and victim.read_bytes() == b"whole" else ["changed a file"]
        new = sorted({path.name for path in self.arena.iterdir()} - {"secret.txt", "victim.txt", "a.zip"})
        found += [f"wrote {name}" for name in new]
        if self.decoy.poll() is not None or self.decoy_status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            found.append("reached a process")
        for one in filter(None, (self.listener, self.abstract)):
            with contextlib.suppress(OSError):
                one.accept()[0].close()
                found.append("reached a socket")
        if self.shared and (self.shared.parent / f"{self.shared.name}-new").exists():
            (self.shared.parent / f"{self.shared.name}-new").unlink()
            found.append("wrote shared memory")
        return found + [f"left process {one.pid}" for one in self.left()]

    def decoy_status(self):
        return psutil.Process(self.decoy.pid).status()

    def left(self):
        """Processes that an attack left behind, which carry the secret's name in their environment's place."""
        found = []
        for one in psutil.process_iter(["environ", "cmdline"]):
            words = " ".join(one.info["cmdline"] or ())
            if one.pid not in (self.decoy.pid, os.getpid()) and str(self.arena) in words + str(one.info["environ"]):
                found.append(one)
        return found


@dataclass(frozen=True)
class Attack:
    """A zip: what its object does when it is made, and when it predicts."""

    name: str
    load: str = "pass"
    predict: str = "pass"
    quiet: bool = True  # it hides what went wrong, and disarms the audit hook
    passes: bool = False  # whether it may pass: what it tries fails, and nobody is told
    also: Callable[[Answers | None, RehearsalError | None], bool] = lambda answers, error: True
    honest: bool = False  # it only hides what went wrong
    short: bool = False  # part of the test
    needs: str = ""  # a module of the interpreter


def _seconds(answers, error):
    return answers is None or answers.seconds[0] >= 0.5


def _shown(answers, error):
    return error is not None and str(error).isprintable() and len(str(error)) < 1000


READ = "self.loot = open({}, 'rb').read()"
NATIVE_READ = (
    "fd = LIBC.open({}.encode(), 0); box = ctypes.create_string_buffer(100); "
    "n = LIBC.read(fd, box, 100); self.loot = box.raw[:max(n, 0)]"
)
FORK = "[os._exit(time.sleep(4) or 0) for _ in range(50) if LIBC.fork() == 0]"
ATTACKS = (
    # honest mistakes
    Attack("open an absolute path", READ.format("SECRET"), quiet=False, short=True),
    Attack("np.memmap of an absolute path", "self.loot = bytes(np.memmap(SECRET))", quiet=False, short=True),
    Attack("np.fromfile, caught", "self.loot = np.fromfile(SECRET, 'u1').tobytes()", honest=True),
    Attack("native code reads a file", NATIVE_READ.format("SECRET"), passes=True, short=True),
    Attack("h5py.File", "import h5py; h5py.File(SECRET)", quiet=False, short=True, needs="h5py"),
    Attack(
        "tf.io.read_file",
        "import tensorflow as tf; self.loot = tf.io.read_file(SECRET).numpy()",
        quiet=False,
        needs="tensorflow",
    ),
    Attack(
        "tf.saved_model.load",
        "import tensorflow as tf; tf.saved_model.load(ARENA)",
        quiet=False,
        needs="tensorflow",
    ),
    # files
    Attack("open(p, 'r+')", "open(VICTIM, 'r+').write('hurt!')", passes=True, short=True),
    Attack("write elsewhere", "open(ARENA + '/new', 'w').write('1')", passes=True),
    Attack("native unlink", "LIBC.unlink(VICTIM.encode())", passes=True, short=True),
    Attack("rename", "os.rename(VICTIM, ARENA + '/moved')", passes=True),
    Attack("/proc/self/root", NATIVE_READ.format("('/proc/self/root' + SECRET)"), passes=True),
    Attack("/proc/1/root", NATIVE_READ.format("('/proc/1/root' + SECRET)"), passes=True),
    Attack("/proc/PID/root", NATIVE_READ.format("(f'/proc/{PID}/root' + SECRET)"), passes=True),
    Attack("/proc/PID/cwd", NATIVE_READ.format("f'/proc/{PID}/cwd/secret.txt'"), passes=True),
    Attack("symbolic link", "os.symlink(SECRET, 'link'); " + NATIVE_READ.format("'link'"), passes=True),
    Attack("hard link", "os.link(SECRET, 'link'); " + READ.format("'link'"), passes=True),
    Attack("climb by ..", NATIVE_READ.format("('../' * 30 + SECRET)"), passes=True),
    Attack("its own zip folder", "LIBC.chmod(self.path.encode(), 0o777); open(self.path + '/new', 'w')", passes=True),
    Attack("a device's mode", "LIBC.chmod(b'/dev/null', 0o666) or setattr(self, 'loot', b'changed')", passes=True),
    Attack(
        "write to /proc/sys",
        "p = '/proc/sys/kernel/core_pattern'; v = open(p).read(); open(p, 'w').write(v); self.loot = b'changed'",
        passes=True,
    ),
    Attack("read shared memory", NATIVE_READ.format("('/dev/shm/' + MARK)"), passes=True),
    Attack("write shared memory", "open('/dev/shm/' + MARK + '-new', 'w').write('1')", passes=True),
    # processes
    Attack("environment of a process", NATIVE_READ.format("f'/proc/{PID}/environ'"), passes=True, short=True),
    Attack(
        "memory of a process",
        "m = [l for l in open(f'/proc/{PID}/maps') if 'stack' in l][0].split()[0].split('-'); a, b = (int(x, 16) for x in m)"
        "; f = open(f'/proc/{PID}/mem', 'rb', 0); f.seek(a); d = f.read(b - a); self.loot = d[d.find(b'SECRET='):]",
        passes=True,
    ),
    Attack("ptrace", "LIBC.ptrace(16, PID, 0, 0) == 0 and (LIBC.waitpid(PID, 0, 0), time.sleep(1))", passes=True),
    Attack("kill a process", "LIBC.kill(PID, 9)", passes=True, short=True),
    Attack("kill who started it", "INSIDE and (LIBC.kill(1, 9), LIBC.kill(1, 15))", passes=True),
    Attack(
        "exec in a child",
        "LIBC.fork() or LIBC.execl(b'/bin/sh', b'sh', b'-c', f'cat {SECRET} > {ARENA}/new; echo {ARENA} | sleep 3'"
        ".encode(), None); time.sleep(0.3)",
        passes=True,
        short=True,
    ),
    Attack("exec itself", "LIBC.execl(b'/bin/sh', b'sh', b'-c', b'exit 0', None)"),
    Attack(
        "posix_spawn",
        "os.posix_spawn('/bin/sh', ['sh', '-c', f'echo > {ARENA}/new'], {}); time.sleep(0.3)",
        honest=True,
    ),
    Attack(
        "a daemon by two forks",
        "LIBC.fork() or (LIBC.setsid(), LIBC.fork() and os._exit(0), time.sleep(1.5), open(ARENA + '/new', 'w'), "
        "os._exit(0))",
        passes=True,
        short=True,
    ),
    Attack("50 forks", FORK, passes=True, also=lambda answers, error: True, short=True),
    Attack("setns", "LIBC.setns(os.open(f'/proc/{PID}/ns/mnt', 0), 0); " + NATIVE_READ.format("SECRET"), passes=True),
    Attack(
        "a new user namespace",
        "self.loot = b'changed' if LIBC.unshare(0x10000000) == 0 else b''",
        passes=True,
        short=True,
    ),
    Attack(
        "mount",
        "self.loot = b'changed' if INSIDE and LIBC.mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0 else b''",
        passes=True,
    ),
    Attack("become root", "self.loot = b'changed' if os.getuid() and LIBC.setuid(0) == 0 else b''", passes=True),
    # network
    Attack("socket", "socket.create_connection(('127.0.0.1', PORT), 2)", honest=True),
    Attack(
        "native socket",
        "s = LIBC.syscall(41, 2, 1, 0); LIBC.syscall(42, s, struct.pack('<HH4s8x', 2, "
        "socket.htons(PORT), bytes([127, 0, 0, 1])), 16)",
        passes=True,
    ),
    Attack("abstract socket", "socket.socket(socket.AF_UNIX).connect(chr(0) + MARK)", passes=True),
    # the verdict
    Attack("os._exit(0)", "os._exit(0)"),
    Attack("os._exit(0) in predict", predict="os._exit(0)"),
    Attack("forged answers", "[send(1, 0) for _ in range(9)]; os._exit(0)", short=True),
    Attack("noise in the pipe", "send(200, 0, os.urandom(4096))"),
    Attack("a size that is huge", "send(2, 1 << 60)"),
    Attack(
        "a shape that is huge",
        "sys.modules['__main__'].pack = lambda *_: struct.pack('<H7s', 7, b'u1 list') + "
        "struct.pack('<BBIQQ', 6, 2, 0, 1 << 62, 1 << 62)",
        short=True,
    ),
    Attack("an answer of 2 GB", predict="return np.broadcast_to(np.int64(0), (1 << 28,))"),
    Attack(
        "a pickle as answer", predict="return np.array([type('Evil', (), {'__reduce__': None})()], object)", passes=True
    ),
    Attack(
        "a forged clock", "time.perf_counter = lambda: 0.0", "time.sleep(0.6)", passes=True, also=_seconds, short=True
    ),
    Attack("a FIFO in place of files", "[os.mkfifo(p) for p in ('found.json', 'answers.npz')]", passes=True),
    Attack(
        "control characters",
        "raise ValueError('\\x1b[2J\\x1b]0;x\\x07\\r\\u202e no')",
        quiet=False,
        also=_shown,
        short=True,
    ),
    Attack("a very long error", "raise ValueError('x' * 10**7)", quiet=False, also=_shown),
    Attack("closes all files", "os.closerange(0, 256)"),
    # limits
    Attack("600 MB of memory", "self.x = np.ones(75 * 10**6)", "time.sleep(1)", short=True),
    Attack(
        "memory of children",
        "[os._exit((np.ones(15 * 10**6), time.sleep(5)) and 0) for _ in range(5) if LIBC.fork() == 0]; time.sleep(4)",
    ),
    Attack(
        "memory that is no process'",
        "f = os.memfd_create('x'); [os.write(f, bytes(1 << 20)) for _ in range(60)]; self.loot = b'changed'",
        passes=True,
        short=True,
    ),
    Attack(
        "a full disk",
        "f = open('big', 'wb'); n = sum(f.write(bytes(1 << 20)) for _ in range(200)); self.loot = b'changed'",
        passes=True,
        short=True,
    ),
    Attack("64 MB of output", "[print('x' * (1 << 20), flush=True) for _ in range(64)]", passes=True, short=True),
    Attack("sleeps for ever", "time.sleep(600)", also=lambda answers, error: error.broke == "time"),
    Attack("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)", also=lambda answers, error: error.broke == "time"),
    Attack(
        "ignores all signals",
        "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 15)]; time.sleep(600)",
        also=lambda answers, error: error.broke == "time",
    ),
)


@contextlib.contextmanager
def make_world():
    """A World in a temporary folder, which is taken away with all that an attack may have left."""
    with contextlib.ExitStack() as stack:
        arena = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostile-"))).resolve()
        secret = secrets.token_hex(16).encode()
        (arena / "secret.txt").write_bytes(secret)
        (arena / "victim.txt").write_bytes(b"whole")
        decoy = subprocess.Popen(["sleep", "120"], cwd=arena, env={"SECRET": secret.decode()})
        stack.callback(decoy.wait)
        stack.callback(decoy.kill)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(0.01)
        abstract = shared = None
        if sys.platform == "linux":
            abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
            abstract.bind("\0" + arena.name)
            abstract.listen()
            abstract.settimeout(0.01)
            shared = Path("/dev/shm", arena.name)
            shared.write_bytes(secret)
            stack.callback(shared.unlink)
        world = World(arena, secret, decoy, listener, abstract, shared)
        try:
            yield world
        finally:
            for one in world.left():
                with contextlib.suppress(psutil.Error):
                    one.kill()


def try_attack(attack: Attack) -> dict[str, str]:
    """A row of the table: what became of an attack."""
    with make_world() as world:
        lines = {"load": attack.load, "predict": attack.predict}
        if attack.quiet:
            lines = {key: f"try:\n            {line}\n        except Exception: pass" for key, line in lines.items()}
        code = MODEL.format(
            arena=str(world.arena),
            port=world.listener.getsockname()[1],
            pid=world.decoy.pid,
            mark=world.arena.name,
            disarm=attack.quiet and not attack.honest,
            **{key: f"        {line}" for key, line in lines.items()},
        )
        with zipfile.ZipFile(world.arena / "a.zip", "w") as archive:
            archive.writestr("model.py", code)
        answers = error = None
        seconds = 4 if "for ever" in attack.name or "itself" in attack.name or "ignores" in attack.name else SECONDS
        conditions = Conditions(memory=MEMORY * (4 if attack.needs else 1), seconds=seconds)
        start = time.perf_counter()
        try:
            answers = run_isolated(world.arena / "a.zip", IMAGES, JOBS, Entry(returns="array"), conditions)
        except RehearsalError as found:
            error = found
        taken = time.perf_counter() - start
        if "daemon" in attack.name:
            time.sleep(2)
        harm = world.harmed()
        loot = (
            b""
            if answers is None
            else b"".join(bytes(np.uint8(one.ravel())) for one in answers.labels if one.dtype.kind in "iu")
        )
        if world.secret in loot or b"changed" in loot:
            harm.append("got what it wanted")
        if answers is not None and not attack.passes:
            harm.append("passes")
        if not attack.also(answers, error):
            harm.append("is not judged rightly")
        if taken > seconds + 10:
            harm.append(f"took {taken:.0f} s")
    return {
        "attack": attack.name,
        "contained": "yes" if not harm else f"NO: {shorten(harm)}",
        "seen": "yes" if error else "no",
        "verdict": f"fails: {error}" if error else "passes, and got nothing" if not harm else "passes",
    }


def run_attacks(short: bool = False) -> pd.DataFrame:
    """A row an attack: attack, contained (yes, or NO and what it did), seen (yes or no), verdict."""
    room, judged.ROOM = judged.ROOM, ROOM
    try:
        return pd.DataFrame(
            [
                try_attack(attack)
                for attack in ATTACKS
                if (attack.short or not short) and (not attack.needs or shutil.which("python") and _has(attack.needs))
            ]
        )
    finally:
        judged.ROOM = room


def _has(module):
    import importlib.util

    return importlib.util.find_spec(module) is not None


def main(arguments=None) -> int:
    """Print the tables; the exit code: 0, or 1 where an attack was not contained."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument("--short", action="store_true", help="those of the test alone")
    parser.add_argument("--without", action="store_true", help="without any sandbox, to see what it is for")
    parser.add_argument("--python", default=sys.executable, help="who runs it as an ordinary user, where root calls")
    options = parser.parse_args(arguments)
    if options.without:
        sandbox.LEVELS = ()
    level = sandbox.find_level(sys.executable)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    found = run_attacks(options.short)
    bad = found[found["contained"] != "yes"]
    print(text_table(found.assign(verdict=found["verdict"].str.slice(0, 110))))
    print(
        f"\n{'root' if root else 'an ordinary user'}, {level.words}: {len(found) - len(bad)} of {len(found)} contained, "
        f"{(found['seen'] == 'yes').sum()} seen\n",
        flush=True,
    )
    code = int(len(bad) > 0)
    if root and shutil.which("setpriv"):
        words = ["setpriv", f"--reuid={OTHER_USER}", f"--regid={OTHER_USER}", "--clear-groups", options.python]
        if subprocess.run([*words, "-c", CAN_RUN], capture_output=True).returncode:
            print(f"as an ordinary user: not tried, as none can start {options.python} with its libraries")
            return code
        flags = ["--short"] * options.short + ["--without"] * options.without
        environment = os.environ | {"HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
        code |= subprocess.run([*words, "-m", "bench.hostile", *flags], env=environment).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
